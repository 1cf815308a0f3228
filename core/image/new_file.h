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

#include "base/error.h"

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

/* Removes the temporary file, durably. 0 also where there is none. */
int new_file_abandon(int directory, const char *temporary_name, struct error *err);
