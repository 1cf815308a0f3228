// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * New files beside the layer that they will be put on, which whoever runs the domain can open as he could
 * open that one; and overlays in them, all of one operation at once, by the steps of new_file.h.
 *
 * Any thread.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "image/new_file.h"

/*
 * Makes an empty file with an owner, group, mode, POSIX ACL, security attributes (but those that sign the
 * content) and the NOCOW flag as those of the file open as `below`, and writable for its owner. Of a block
 * device owner, group and mode count. `name` is for texts; `*fd` (O_RDWR) is the caller's. What the file
 * system does not have is no error.
 * Errors, after which there is no such file: EEXIST; EPERM where the owner can't be given away; what openat,
 * fchown, fsetxattr give.
 */
int overlay_file_reserve(int directory, const char *temporary_name, int below, const char *name, int *fd,
                         struct error *err);

struct overlay_file {
    int directory;              /* where it is to be */
    const char *temporary_name; /* that only we use */
    const char *final_name;     /* of overlay_name_choose; also for texts */
    int below;                  /* the file that it is put on, open */
    const char *backing_name;   /* the rest as in struct qcow2_create */
    const char *backing_format;
    uint64_t size_bytes;

    /* What was made, from overlay_files_make to overlay_files_close. `fd` has to start as -1. */
    int fd;
    struct new_file_mark mark;
};

/* Makes one under its temporary name, empty, and notes which file it is. Errors, after which there is none:
 * as overlay_file_reserve, fstat. */
int overlay_file_begin(struct overlay_file *file, struct error *err);

/*
 * Makes all of them under their temporary names, their content durably. After an error nothing of them is
 * left, unless we are killed: then overlay_file_undo. Errors: as overlay_file_reserve, qcow2_create,
 * new_file_flush.
 */
int overlay_files_make(struct overlay_file *files, size_t count, struct error *err);

/*
 * Gives them their final names, durably. After an error all are gone; where one had been given its name
 * before, by overlay_file_undo. Errors: EEXIST and others of new_file_publish.
 */
int overlay_files_publish(const struct overlay_file *files, size_t count, struct error *err);

/* Closes the descriptors. */
void overlay_files_close(struct overlay_file *files, size_t count);

/*
 * Removes what an operation that was killed has left of one, durably: the temporary name, and the final name
 * if it is that very file; another file of that name stays. `final_name` may be NULL. 0 also where there is
 * neither. Errors: what unlinkat and fsync give.
 */
int overlay_file_undo(int directory, const char *temporary_name, const char *final_name,
                      const struct new_file_mark *mark, struct error *err);
