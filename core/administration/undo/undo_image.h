// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Undoing what was done inside an image file; both can be repeated. `before` is the mark of its snapshot
 * table from before. Inside of undo.h.
 */
#pragma once

#include "base/error.h"
#include "image/qcow2_snapshot_table.h"

/* Takes the internal snapshot of this tag out of the qcow2 image, if it is there. Errors: as
 * internal_undo_forget and qemu_img_free_leaks. */
int undo_image_internal(const char *path, const char *tag, const struct qcow2_table_mark *before,
                        struct error *err);

/*
 * If the image has an internal snapshot of this tag: goes back to it, and takes it out. Errors: as
 * internal_undo_back and qemu_img_free_leaks.
 */
int undo_image_point(const char *path, const char *tag, const struct qcow2_table_mark *before,
                     struct error *err);
