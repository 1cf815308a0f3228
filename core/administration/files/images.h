// SPDX-License-Identifier: LGPL-2.1-or-later
/* The image files of a domain that is being changed: opening them, and finding internal snapshots in them. */
#pragma once

#include "administration/change.h"
#include "catalog/image_info.h"
#include "image/overlay_name.h"
#include "image/qcow2_snapshot_table.h"

/* QEMU's answers come in milliseconds; a disk that is being woken takes seconds. */
#define IMAGE_TIMEOUT_MS 60000

/*
 * Opens a layer of the change's domain for reading. Errors: EOPNOTSUPP for a disk on the network; as
 * locate_open.
 */
int image_open(const struct change *change, const struct layer *layer, int *fd, struct error *err);

/*
 * The directory in which a new file of this absolute path is to lie, opened, and its resolved path, which the
 * caller frees. Errors: EPERM where what lies there could not be read again, or is for our own files; ENOENT
 * and others of open.
 */
int image_open_directory(const struct change *change, const char *path, char **directory_path, int *directory,
                         struct error *err);

/*
 * The name that a person gives a new file, which ends `path`, for all kinds of files alike: EINVAL where it
 * is none, or means something in the source (a definition's), or to us (a leading dot: we clean up after
 * ourselves); ENAMETOOLONG.
 */
int image_check_name(const char *path, char name[OVERLAY_NAME_SIZE], struct error *err);

/* What the qcow2 image says of itself; to be given back. EIO with its problem; ENOMEM. */
int image_read_info(int fd, const char *path, const struct image_info **info, struct error *err);

/*
 * To be called where QEMU has failed to change the image's internal snapshots, with a mark from before:
 * brings back the table that it has lost, if it has. Errors: EBUSY, somebody has the image open for writing;
 * EIO.
 */
int image_mend_table(int fd, const char *path, const struct qcow2_table_mark *mark, struct error *err);

/* The internal snapshot of this tag, borrowed from `info`; NULL: there is none. */
const struct internal_snapshot *image_find_tag(const struct image_info *info, const char *tag);

/* As the store keeps it: a whole layer as it is now, on which `overlay` (may be -1) lies. */
int image_record_layer(const struct change *change, unsigned disk, const struct layer *layer, int fd,
                       int overlay, struct state_frozen *record, struct error *err);

/* Likewise an internal snapshot in it. */
int image_record_internal(const struct change *change, unsigned disk, const struct layer *layer,
                          const struct internal_snapshot *internal, struct state_frozen *record,
                          struct error *err);
