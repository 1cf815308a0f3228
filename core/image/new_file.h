// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * New files, made so that no file that is there is ever touched, and that a power cut leaves either nothing
 * under the final name or the whole file:
 *
 *     reserve   a temporary name, with O_EXCL    the caller then gives it owner, mode, attributes, content
 *     flush     its content                      the caller then writes his intent
 *     publish   rename to the final name         never over a file that is there
 *
 * Killed anywhere before publish, a file under the temporary name is left, which new_file_abandon removes.
 */
#pragma once

#include <stdint.h>

#include "base/error.h"

/*
 * Tells a file that was made from another one that is at its place later. A device may have another number
 * after a boot, some file systems' after each mount; so what counts beside the inode is when it was made
 * (statx(2), STATX_BTIME), and where its file system does not tell that, the device.
 */
struct new_file_mark {
    uint64_t device, inode;
    uint64_t made_ns; /* since 1970; 0: not known */
};

/* Errors: what statx gives. */
int new_file_mark(int fd, struct new_file_mark *mark, struct error *err);

/* Makes an empty file, mode 0600. `*fd` (O_RDWR) is the caller's. Errors: EEXIST and what openat gives. */
int new_file_reserve(int directory, const char *temporary_name, int *fd, struct error *err);

/*
 * Makes its content survive a power cut. Its temporary name may not: then there is nothing, and nothing that
 * has to be taken back. Errors: what fsync gives.
 */
int new_file_flush(int fd, struct error *err);

/*
 * Gives it its name. Can be repeated after a crash: ENOENT says that the temporary name is gone. Durable
 * after new_file_flush_directory alone, one for any number of names. Errors: EEXIST where there is another
 * file of that name, which stays; what rename gives.
 */
int new_file_rename(int directory, const char *temporary_name, const char *name, struct error *err);
int new_file_flush_directory(int directory, struct error *err);

/* Both. */
int new_file_publish(int directory, const char *temporary_name, const char *name, struct error *err);

/* Removes the file of that name if it is the one marked; not durably. 0 also where it is not. Errors: what
 * unlinkat gives. */
int new_file_remove(int directory, const char *name, const struct new_file_mark *mark, struct error *err);

/* Removes the temporary file, durably. 0 also where there is none. */
int new_file_abandon(int directory, const char *temporary_name, struct error *err);
