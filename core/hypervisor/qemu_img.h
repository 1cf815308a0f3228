// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What only qemu-img can do with a qcow2 image that nobody has open: each call is one process, confined to
 * write that one file (helper/sandbox.h). Backing files are not opened. Any thread.
 */
#pragma once

#include "base/error.h"

struct qemu_img {
    const char *path; /* of the image, absolute; with `fd`, a name for texts */
    int fd;           /* the image itself, open in any mode; 0: the path is opened */
    int timeout_ms;   /* after which it is killed. For what was begun then, see each call */
};

/*
 * Makes the image's content that of an internal snapshot (with its virtual size), durably. `id` is the
 * snapshot's id, not its tag: QEMU looks for an id first, so a tag could name another one.
 * Killed half way, the image can have leaks and either content; repeated, it is right.
 * Errors: ENOENT (no such snapshot; not installed), EBUSY (open elsewhere), EINVAL, EOPNOTSUPP, EIO,
 * ETIMEDOUT.
 */
int qemu_img_apply(const struct qemu_img *image, const char *id, struct error *err);

/*
 * Changes what the image's header says its backing file and that one's format are, durably, and nothing else.
 * The caller knows that both files hold the same. Errors: ENAMETOOLONG and EINVAL; the same.
 */
int qemu_img_name_backing(const struct qemu_img *image, const char *backing_name, const char *backing_format,
                          struct error *err);

/*
 * Gives back what a killed command has left allocated to nobody, durably: QEMU counts a snapshot's clusters
 * before it notes the snapshot, so that one that is killed between can leave clusters that are counted once
 * too often, and qemu-img check calls the image damaged, though all its content is right. Real damage is not
 * touched, and is EIO. It reads all tables of the image. Errors: the same.
 */
int qemu_img_free_leaks(const struct qemu_img *image, struct error *err);
