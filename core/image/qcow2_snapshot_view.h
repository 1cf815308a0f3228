// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A qcow2 file as it is at one of its internal snapshots, for QEMU's programs, which can't read one as it is:
 * qemu-img convert -l reads as many bytes as the disk has now, so one that was larger is cut off, and one
 * that was smaller gets more (7.2).
 *
 * The view is a qcow2 image of its own, in memory, with the image's file as its backing, in format raw. It
 * differs from that in the header alone, which says that the snapshot's table is the active one. So QEMU's
 * qcow2 driver, opened on it, reads the disk at the snapshot. Only for reading: what would be written to the
 * image through it would damage it.
 */
#pragma once

#include "base/error.h"
#include "domain/domain.h"

/*
 * Makes the view of `internal` in the file open for reading as `fd`, which nobody changes meanwhile, or
 * afterwards. `*view` is a memfd, the caller's. Errors: ESTALE where the snapshot is not in its table; EINVAL
 * for a damaged image; EFBIG; EIO, ENOMEM.
 */
int qcow2_snapshot_view_open(int fd, const struct internal_snapshot *internal, int *view, struct error *err);
