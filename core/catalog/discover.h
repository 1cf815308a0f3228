// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Which domains a scan shows, and which image is active on each of their disks. Pure: no I/O, no clock.
 *
 * In the words of the contract ("Starting"): a definition makes a domain; so does every other NAME.qcow2 that
 * is nobody's backing file, or that the store knows as a domain. An overlay whose ending says nothing
 * (web1.snap1) belongs to the domain of the first NAME.qcow2, or the first file that a definition names, that
 * is found below it; the topmost one is active, unless a QEMU writes to what it stands on, and not to it. A
 * top that ends in .qcow2 is a domain of its own, like a clone of a gold image, and what it stands on is
 * frozen in it.
 *
 * Of a domain that is administered the store says which image is active (administered.h).
 */
#pragma once

#include <stddef.h>

#include "base/text.h"
#include "catalog/notices.h"
#include "catalog/scan.h"
#include "store/store.h"

#define DRAFT_NO_LAYER SIZE_MAX

struct draft_layer {
    struct scan_image *image;
    size_t backing; /* index of what it stands on; DRAFT_NO_LAYER: on nothing */
};

struct draft_disk {
    const char *target; /* borrowed, like `source` */
    const char *source; /* absolute path that the definition names, or the image of an implicit domain */
    enum image_format format;
    enum snapshot_preset snapshot;
    bool persistent;
    bool is_of_another;         /* what it names is a layer of another disk: nobody may write to it */
    struct scan_chain chain;    /* top first; without images where the top can't be read */
    struct draft_layer *layers; /* those of the chain, at the same places, then those beside it */
    size_t layer_count;
};

struct draft {
    char *name;
    const struct scan_definition *definition; /* NULL for an implicit domain */
    struct scan_image *implicit;              /* the image that makes that one; NULL for others */
    struct draft_disk *disks;
    size_t disk_count;
    const struct state_domain *state; /* what the store knows of it; NULL: nothing */
    struct text problem;              /* sentences, put together with draft_problem */
    bool is_incomplete;               /* something that the state knows can't be seen now */
};

/* One of several overlays was taken as active for having been written to last: while `other` is older. */
struct contended {
    const struct scan_image *chosen, *other;
};

struct discovery {
    struct draft *drafts; /* by name */
    size_t count;
    struct contended *contended;
    size_t contended_count;
};

/* What to go by. Everything is borrowed for the discovery's life. */
struct discover_input {
    const struct scan *scan;
    struct state_domain *const *states;
    size_t state_count;
    struct notices *notices;
};

/* -ENOMEM */
int discover(const struct discover_input *input, struct discovery *discovery);
void discovery_done(struct discovery *discovery);

/* Adds a sentence to why part of the domain can't be shown. */
void draft_problem(struct draft *draft, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* `path` as the store keeps it: relative to `source` where it lies in it. Borrowed from `path`. */
const char *path_in_store(const char *source, const char *path);

/* The other way round; the caller frees; NULL where memory ran out. */
char *path_from_store(const char *source, const char *stored);
