// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Bringing the disks of an inactive domain to what a plan (tree_reversion) says: new overlays on frozen
 * layers, internal snapshots applied in the active image, or copied out of a frozen one into a new image.
 *
 * What is applied can be undone: an internal snapshot of all these images, in one transaction, keeps what
 * they held; it is dropped when the change has been committed.
 */
#pragma once

#include "administration/change.h"
#include "administration/overlays.h"
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

struct reversion {
    struct overlays overlays; /* of overlays and copies: a copy begins as an overlay's file does */
    struct applied *applied;
    size_t applied_count;
    int *claims; /* on what is active now and will not be: whoever writes there would lose it */
    size_t claim_count;
    struct undo_list undo;
    char tag[64]; /* of the undo point */
};

/*
 * Does all of it, up to the change's commit, with `kind` in the journal. New files are called after `name`.
 * Tells the plan of new layers and of those that are active no more. Errors: EBUSY; ENOSPC; EINTR; as
 * overlays_add, qemu_img_apply and others.
 */
int reversion_make(struct reversion *reversion, struct change *change, const struct tree_reversion *plan,
                   const char *name, const char *kind, struct error *err);
void reversion_done(struct reversion *reversion);
