// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What is frozen on the disks of one domain, before it is put together into snapshots: internal snapshots and
 * layers, each with what the store knows of it. Inside of assemble.h.
 */
#pragma once

#include "catalog/discover.h"

struct group;

struct entry {
    size_t disk;                              /* index in the draft */
    size_t depth;                             /* of the image among the disk's layers; 0: the active one */
    const struct internal_snapshot *internal; /* NULL: the layer as it is */
    const struct state_snapshot *known;       /* NULL: seen for the first time */
    const struct state_frozen *known_frozen;  /* likewise */
    bool is_touched;     /* a layer that vmsnapfs writes to: it need not be as it was frozen */
    struct group *group; /* the snapshot that it becomes part of */
};

/* A frozen layer's record: what it was when it was frozen, and whether it still is. */
struct freeze {
    struct file_identity layer, overlay;
    struct file_identity data; /* of the layer's external data file; zeros if it has none */
    bool is_settled;
    bool is_changed;
};

struct entries {
    struct entry *list; /* by disk, and on each from the bottom of the chain to its top */
    size_t count;
    struct entry *hidden; /* those of deleted snapshots, which are not shown; `known` is NULL */
    size_t hidden_count;
};

/*
 * All entries of the draft, matched with its state. `positions` are those of the disks. The internal
 * snapshots of an image for which there is no `*room` (counted down) are left out, with a problem. -ENOMEM.
 */
int entries_collect(const char *source, struct draft *draft, const unsigned *positions, size_t *room,
                    struct entries *entries);
void entries_done(struct entries *entries);

const struct scan_image *entry_image(const struct draft *draft, const struct entry *entry);

/* The name that the entry would have by itself; the caller frees; NULL: out of memory. */
char *entry_name(const struct draft *draft, const struct entry *entry);

/* Is the layer the one that the domain writes to? */
bool entry_is_active(const struct draft *draft, const struct entry *entry);

/* What stands on the image of a layer; NULL where that is nothing of this disk. */
const struct scan_image *entry_overlay(const struct draft *draft, const struct entry *entry);

/* Of an entry that is a layer. */
struct freeze entry_freeze(const struct draft *draft, const struct entry *entry);
