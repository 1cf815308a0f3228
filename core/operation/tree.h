// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * One domain's snapshots as administration sees them: their names, parents and what each disk's content at
 * them is, and the layers that the domain writes to now.
 *
 * Values only, changed by tree_change.h. Several domains share one layer_set. Not locked.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "operation/layer_set.h"

/* A disk's content at a snapshot: a whole frozen layer, or an internal snapshot in one. */
struct content {
    unsigned disk; /* position */
    uint64_t layer;
    uint64_t internal; /* 0: the whole layer */
};

struct tree_snapshot {
    uint64_t serial; /* not 0 */
    uint64_t parent; /* serial; 0: a root */
    char *name;
    struct content *contents; /* of the disks that it includes, each once */
    size_t content_count;
    bool has_memory;
    uint64_t state_of; /* serial of the one whose state, and memory, it has taken over; 0: it has its own */
    bool is_protected;
    bool is_open; /* somebody has one of its frozen files open */
};

struct tree_disk {
    unsigned position;
    char *target;
    uint64_t active; /* the layer that the domain writes to */
};

struct tree {
    uint64_t domain;                 /* serial, not 0 */
    bool is_active;                  /* running or paused */
    bool may_switch_files;           /* as in snapshot_choice.h */
    struct tree_snapshot *snapshots; /* by serial */
    size_t count;
    uint64_t current; /* serial of the snapshot that the present state descends from; 0: none */
    struct tree_disk *disks;
    size_t disk_count;
};

void tree_done(struct tree *tree);

/* -ENOMEM */
int tree_copy(const struct tree *from, struct tree *to);

/*
 * Adds a disk, or a snapshot, that is there already (as loading does). The snapshot's serial is greater than
 * all that are there. Strings and contents are copied. -ENOMEM, -EINVAL.
 */
int tree_add_disk(struct tree *tree, unsigned position, const char *target, uint64_t active);
int tree_add_snapshot(struct tree *tree, const struct tree_snapshot *snapshot);

/* NULL if there is none. Good until a snapshot is added or removed. */
struct tree_snapshot *tree_find(const struct tree *tree, uint64_t serial);
const struct tree_snapshot *tree_find_name(const struct tree *tree, const char *name);
struct tree_disk *tree_find_disk(const struct tree *tree, unsigned position);
const struct content *tree_snapshot_content(const struct tree_snapshot *snapshot, unsigned disk);

/*
 * Is all of it as it must be? Serials rise, names are legal and each there once, parents exist and there are
 * no rings, so does the current snapshot, and every content is in the set. EIO with a sentence that says what
 * is wrong: it came from a damaged state file. ENOMEM.
 */
int tree_check(const struct tree *tree, const struct layer_set *layers, struct error *err);

/*
 * Which snapshots are `root` or descend from it: `*marks` is an array of as many as the tree has snapshots,
 * in their order, the caller's. `root` is in the tree, which has passed tree_check. -ENOMEM
 */
int tree_mark_branch(const struct tree *tree, uint64_t root, bool **marks);
