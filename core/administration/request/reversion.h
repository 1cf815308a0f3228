// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Bringing the disks of a domain, which is inactive then, to what a plan (tree_reversion) says: new overlays
 * on frozen layers, internal snapshots applied in the active image, or copied out of a frozen one into a new
 * image.
 *
 * What is applied can be undone: an internal snapshot of all these images, in one transaction, keeps what
 * they held; it is dropped when the change has been committed.
 */
#pragma once

#include "administration/change.h"
#include "administration/files/overlays.h"
#include "operation/tree_change.h"

struct applied {
    const struct disk *disk;
    const struct internal_snapshot *to;
    int fd;
};

struct copied {
    const struct disk *disk;
    const struct layer *from;
    const struct internal_snapshot *internal;
};

/* What is active now and will not be. */
struct replaced {
    const struct disk *disk;
    uint64_t layer; /* id in the plan */
};

struct reversion {
    struct overlays overlays; /* of overlays and copies: a copy begins as an overlay's file does */
    struct applied *applied;
    size_t applied_count;
    struct replaced *replaced;
    size_t replaced_count;
    bool is_running; /* reversion_prepare was told so */
    bool is_copied;  /* the copies are filled */
    int *claims;     /* on what is replaced: whoever writes there would lose it */
    size_t claim_count;
    struct undo_list undo;
    char tag[64]; /* of the undo point */
};

/*
 * Makes ready what can be without touching what the domain writes to: new files are made, called after
 * `name`, and filled. With `is_running` the domain's QEMU has its images open, and is to be ended before the
 * rest: it is not in the way here. Tells the plan of new layers. Errors: EBUSY; ENOSPC; EINTR; as
 * overlays_add, overlays_copy and others.
 */
int reversion_prepare(struct reversion *reversion, struct change *change, const struct tree_reversion *plan,
                      const char *name, bool is_running, struct error *err);

/*
 * Does the rest, up to the change's commit, with `kind` in the journal. No QEMU has the domain's images open
 * any more. Tells the plan of layers that are active no more. Errors: EBUSY; EINTR; as undo_begin,
 * qemu_img_apply and others.
 */
int reversion_carry_out(struct reversion *reversion, struct change *change, const char *kind,
                        struct error *err);

/* Both, for an inactive domain. */
int reversion_make(struct reversion *reversion, struct change *change, const struct tree_reversion *plan,
                   const char *name, const char *kind, struct error *err);
void reversion_done(struct reversion *reversion);
