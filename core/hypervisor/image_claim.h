// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Taking part in QEMU's image locking, for images that are read or changed here without a QEMU of ours.
 *
 * QEMU (block/file-posix.c, raw_check_lock_bytes) holds shared OFD locks on bytes of an image file: on byte
 * 100 + P while it uses it with permission P, on byte 200 + P while it lets nobody else do so, and after
 * taking its own looks at the opposite bytes. A claim looks like a QEMU that has opened the image read-only
 * and lets nobody write or resize: one that starts meanwhile and wants to write fails with
 * 'Failed to get "write" lock', and readers are let in.
 *
 * Any thread.
 */
#pragma once

#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/error.h"

/*
 * Whether who runs the monitor has the very file open that `file` is of, whatever its name leads to by now:
 * 1, 0; -EAGAIN where that can't be seen (another user's, another host's), and no lock tells either. A QEMU
 * that got its monitor from somebody else is searched for among all processes.
 */
int image_claim_is_open(pid_t process, const struct stat *file);

/*
 * Claims the image that is open as `fd` (in any mode; it is opened anew): nobody else may open it for writing
 * until `*claim` is closed, which is all that ends the claim. `name` is for texts. Of a block device there is
 * no claim: then `*claim` is -1. Whoever opens an image for writing, also in a storage daemon of ours, has to
 * end his claim on it first.
 * Errors: EBUSY where somebody has it open for writing, with who that may be; EACCES and what open and fcntl
 * give: ENOLCK and others for a file system without locks, where no QEMU opens images either.
 */
int image_claim_take(const char *name, int fd, int *claim, struct error *err);

/*
 * Writes into `text` who has the file open (by device and inode), for the error that says that it is in use:
 * "qemu-system-x86_64 (process 123) and 2 others". Looks at the descriptors of all processes but this one,
 * which takes milliseconds. Where none can be seen it says so: "a process that can't be seen from here".
 * Returns how many were found. `size` is at least 1.
 */
size_t image_claim_holders(int fd, char *text, size_t size);
