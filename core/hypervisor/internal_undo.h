// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A point to go back to, on several images at once, for what applies internal snapshots to one after the
 * other: qemu-img can't do that in a transaction.
 *
 *     make      an internal snapshot with the same tag in all images, or in none
 *     ...       qemu_img_apply on each of them
 *     forget    where all went well;  or
 *     back      where something failed: all are as they were, and the point is gone
 *
 * Killed anywhere, either of the last two can be done, and repeated, by who knows images and tag; which of
 * them is his decision. He should have the images cleaned up then, by qemu_img_free_leaks, as well. Until
 * then the tag is in the snapshot tables, so it should be one that is not shown.
 *
 * One thread at a time.
 */
#pragma once

#include <stddef.h>

#include "base/error.h"
#include "hypervisor/stopped_images.h"

struct internal_undo {
    const struct stopped_image *images; /* qcow2 images, `writable`, each without a backing here (-1) */
    size_t count;
    const char *tag; /* as block_snapshot_internal wants it, and of this operation only */
    int timeout_ms;  /* for each command of QEMU's */
};

/* Errors, after which no image has the point: EEXIST where one has the tag; as stopped_images_begin and
 * block_snapshot_internal. */
int internal_undo_make(const struct internal_undo *undo, struct error *err);

/*
 * Applies the point to each image that has it, with its virtual size, and deletes it there, durably. What was
 * done meanwhile is lost. An image without it is left as it is. Errors, after which it is to be repeated: as
 * stopped_images_begin, qemu_img_apply, block_snapshot_delete.
 */
int internal_undo_back(const struct internal_undo *undo, struct error *err);

/* Deletes the point in each image that has it, durably. Errors, after which it is to be repeated: the same.
 */
int internal_undo_forget(const struct internal_undo *undo, struct error *err);
