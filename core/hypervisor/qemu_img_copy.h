// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Copying what a disk holds, whatever layers it lies in, into one file, by a qemu-img that reaches the files
 * of this copy only. Used for full clones, for going back to an internal snapshot of a frozen layer, and for
 * bringing a disk back into its original file.
 *
 * Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "base/image_format.h"
#include "hypervisor/stopped_images.h"

struct qemu_img_copy {
    /* The chain, in any order; `writable` does not matter. It may not be written to meanwhile. */
    const struct stopped_image *images;
    size_t count;
    size_t top; /* where in the array the image is that is copied, over all below it */

    /* A view of the top, which then is a qcow2 image, at a snapshot (image/qcow2_snapshot_view.h); -1: none,
     * it is copied as it is now. */
    int view;

    const char *target_name;         /* for texts */
    int target_fd;                   /* a file or block device that is none of the chain */
    enum image_format target_format; /* raw or qcow2 */
    /*
     * False: what is in the target is thrown away, and it becomes an image of the disk's size with no backing
     * file. True: it is such an image already, with the same virtual size, and gets other content: its
     * snapshots and options stay.
     */
    bool in_place;

    /* How much is done; called at least each 200 ms. Returns false to cancel. NULL: nobody asks. */
    bool (*progress)(void *opaque, unsigned percent);
    void *opaque;
};

/*
 * Copies, with holes where there are zeros, and flushes the target. A raw disk has whole sectors of 512 bytes
 * afterwards. After an error, and killed half way, the target is garbage; nothing else is touched.
 * Errors: ECANCELED; ETIMEDOUT where qemu-img did nothing for QMP_JOB_STALL_MS; ENOSPC; EBUSY where somebody
 * writes to an image, or has the target open; EINVAL; EIO for damage; ENOENT (not installed), EOPNOTSUPP (no
 * Landlock); as the target's format and file system give them.
 */
int qemu_img_copy(const struct qemu_img_copy *copy, struct error *err);
