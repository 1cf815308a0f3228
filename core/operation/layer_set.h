// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The image files of all domains as administration sees them: which lies on which, which internal snapshots
 * lie in them, and which may be written.
 *
 * A layer's id is greater than that of the one below it; ids are never used twice.
 *
 * What may be written is decided here and nowhere else: only files that vmsnapfs made, and the file that was
 * active when its domain was first administered; never one that was a backing file already then, and none
 * that somebody else changed since it was frozen. Only layer_set_administer can make a file of the user's one
 * of these, and it looks for itself whether anything lies on top.
 *
 * Values only: no file is looked at. Not locked.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct layer_node {
    uint64_t id;
    uint64_t backing;       /* the layer below; 0: none */
    uint64_t original_of;   /* the domain (serial) whose first active file it is; 0: none */
    unsigned original_disk; /* position of the disk there */
    bool made_by_us;
    bool changed;  /* by someone else, since it was frozen: never written again, and left where it is */
    uint64_t size; /* bytes that it takes: what merging it copies */
};

/* An internal snapshot in a layer. */
struct internal_node {
    uint64_t id;
    uint64_t layer;
    bool released; /* a snapshot that was deleted had it: where no other has it too, it is to be dropped */
};

struct layer_set {
    struct layer_node *layers; /* by id */
    size_t count, capacity;
    struct internal_node *internals; /* by id */
    size_t internal_count, internal_capacity;
    uint64_t last_id; /* the highest that was ever given, of layers and internal snapshots */
};

void layer_set_done(struct layer_set *set);

/* -ENOMEM */
int layer_set_copy(const struct layer_set *from, struct layer_set *to);

/* Makes room for so many more, so that adding them can't fail. -ENOMEM */
int layer_set_reserve(struct layer_set *set, size_t layers, size_t internals);

/*
 * Adds a file, whose `backing` is in the set or 0, and stores its id. It may be written only if made by us.
 * -ENOMEM; -EINVAL: there is no such backing layer.
 */
int layer_set_add(struct layer_set *set, uint64_t backing, bool made_by_us, uint64_t *id);

/* Adds an internal snapshot in a layer of the set. -ENOMEM, -EINVAL as above. */
int layer_set_add_internal(struct layer_set *set, uint64_t layer, uint64_t *id);

/*
 * A domain is administered for the first time, with the active files of its disks: call it for each, when all
 * images are in the set. From then on the file may be written, unless it is a backing file already, or
 * another domain's first file. True if it may.
 */
bool layer_set_administer(struct layer_set *set, uint64_t layer, uint64_t domain, unsigned disk);

/* A domain is gone for good: no definition names its first files any more. */
void layer_set_forget(struct layer_set *set, uint64_t domain);

/* NULL if there is none. Good until something is added or removed. */
struct layer_node *layer_set_find(const struct layer_set *set, uint64_t id);
struct internal_node *layer_set_find_internal(const struct layer_set *set, uint64_t id);

bool layer_set_has_children(const struct layer_set *set, uint64_t layer);
bool layer_set_has_internals(const struct layer_set *set, uint64_t layer);

/* Takes a layer, with its internal snapshots, or one internal snapshot out of the set. */
void layer_set_remove(struct layer_set *set, uint64_t layer);
void layer_set_remove_internal(struct layer_set *set, uint64_t internal);

/* The rule. */
bool layer_may_be_written(const struct layer_node *layer);

/* A file that a definition names is not unlinked, whoever made it. */
bool layer_may_be_unlinked(const struct layer_node *layer);
