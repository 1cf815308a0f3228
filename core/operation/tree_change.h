// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What each operation does to a domain's snapshots and to what they refer to: the rules, without the doing.
 *
 * All of these look first and change then: what is refused, and what runs out of memory, leaves tree and
 * layers as they were. Trees have passed tree_check. A plan is made on copies (tree_copy, layer_set_copy),
 * carried out, and then the copies are kept.
 *
 * Deleting removes references only, so that it takes no time and no other content changes. What nobody needs
 * any more is found by reclaim.h.
 *
 * The present state counts as a child of the current snapshot.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "operation/command.h"
#include "operation/layer_set.h"
#include "operation/tree.h"

/* A disk of a new snapshot. Disks that are left out are not listed, or DISK_NO. */
struct tree_part {
    unsigned disk;         /* position */
    enum disk_choice kind; /* never DISK_OMITTED */
    bool reused;           /* the overlay is a file of the user's, which is then never written by us */
};

/*
 * A new snapshot: child of the current one, and current. An internal part adds an internal snapshot to the
 * active layer; an external one freezes it under a new layer, which is active then. `serial` is greater than
 * all that are there. Errors: EEXIST, EINVAL, ENAMETOOLONG (name); EINVAL (nothing in it, a disk twice);
 * ENOENT (no such disk); EPERM (a layer that may not be written; files that may not be switched); ENOMEM.
 */
int tree_create(struct tree *tree, struct layer_set *layers, uint64_t serial, const char *name,
                bool has_memory, const struct tree_part *parts, size_t part_count, struct error *err);

/* ENOENT; EINVAL, ENAMETOOLONG; EPERM: the name is taken. To its own name: nothing happens. */
int tree_rename(struct tree *tree, uint64_t serial, const char *name, struct error *err);

/* ENOENT */
int tree_protect(struct tree *tree, uint64_t serial, bool is_protected, struct error *err);

/* How a disk comes to a snapshot's content. */
enum revert_how {
    REVERT_KEPT,     /* the snapshot left it out: it stays as it is */
    REVERT_OVERLAY,  /* a new, empty layer on the frozen one becomes active */
    REVERT_APPLY,    /* the active layer goes back to an internal snapshot that it holds */
    REVERT_COPY_OUT, /* an internal snapshot is copied into a new layer of its own, which becomes active */
};

struct revert_disk {
    unsigned disk;
    enum revert_how how;
    struct content from;
    uint64_t was_active;
    uint64_t active; /* from now on */
};

struct tree_reversion {
    struct revert_disk *disks; /* all of the domain's, in their order */
    size_t count;
};

void tree_reversion_done(struct tree_reversion *reversion);

/* What only the domain itself can tell of a revert. */
struct revert_circumstances {
    bool force;                     /* do it, whatever the rest of these says */
    bool machine_changed;           /* the definition is not the one that the memory was saved with */
    bool left_out_may_have_changed; /* disks that the snapshot left out may have been written since */
};

/*
 * The snapshot becomes current, and its disks' content the present one. Snapshots stay as they are. Errors:
 * ENOENT; EINVAL where only `force` does it (a disk of the snapshot is gone, or its memory would not fit);
 * EPERM (files that may not be switched); EIO (a layer that it needs was changed by someone else); ENOMEM.
 * `*reversion` is the caller's.
 */
int tree_revert(struct tree *tree, struct layer_set *layers, uint64_t serial,
                const struct revert_circumstances *circumstances, struct tree_reversion *reversion,
                struct error *err);

/* Can the disks of these contents be brought to them, and how? For the deletes that go back; errors as above.
 */
int tree_plan_reversion(const struct tree *tree, const struct layer_set *layers,
                        const struct tree_snapshot *to, struct tree_reversion *reversion, struct error *err);

/* Carries that out. Room for reversion->count layers was reserved: it can't fail. */
void tree_apply_reversion(struct tree *tree, struct layer_set *layers, struct tree_reversion *reversion);

/* What a delete did. */
struct tree_deletion {
    uint64_t *gone; /* serials, rising */
    size_t gone_count;
    uint64_t merged_into; /* serial of the parent that took over the state of `merged_from`; 0: none did */
    uint64_t merged_from;
    bool reverts; /* the domain goes to another state: `reversion` says how */
    struct tree_reversion reversion;
};

void tree_deletion_done(struct tree_deletion *deletion);

/*
 * The seven kinds. Errors: ENOENT; EINVAL (merge of a snapshot without parent); ENOTEMPTY; EBUSY (a snapshot
 * that goes, or the parent that a merge overwrites, is open; `discard` of the current one; a domain that is
 * active where a merge would revert it; nothing to go back to); EPERM (one of these is protected; an internal
 * snapshot in a file that is never written; files that may not be switched); EIO as tree_revert; ENOMEM.
 * `*deletion` is the caller's.
 */
int tree_delete(struct tree *tree, struct layer_set *layers, uint64_t serial, enum delete_kind kind,
                struct tree_deletion *deletion, struct error *err);

/*
 * A new domain, without snapshots, whose disks begin with the snapshot's content: new layers on the frozen
 * ones, or, for internal snapshots and where `full`, copies that stand alone. Its definition will name these
 * layers. `domain` is its serial. Errors: ENOENT; EINVAL (a snapshot without disks); EIO; ENOMEM. `*clone` is
 * the caller's.
 */
int tree_clone(const struct tree *tree, struct layer_set *layers, uint64_t serial, uint64_t domain, bool full,
               struct tree *clone, struct error *err);
