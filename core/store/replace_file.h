// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Replacing small files whole: at any instant, also after a power cut, a file's name leads to the old content
 * or to the new one, never to a part.
 *
 * A temporary file beside it is written and flushed, renamed over the name, and the directory is flushed. One
 * writer at a time for each directory (the store's lock sees to that); what a killed writer left behind is
 * removed by replace_file_clean.
 */
#pragma once

#include <stddef.h>

#include "base/error.h"
#include "store/file_calls.h"

struct replacement {
    const char *name; /* in the directory; no slash */
    const void *bytes;
    size_t length;
};

/* Replaces or makes one file of the directory, durably. Errors: what open, write, fsync and rename give. */
int replace_file(int directory, const char *name, const void *bytes, size_t length, struct error *err);

/*
 * The same for several (at most REPLACE_FILES_MAX), with about as many waits for the disk as for one. On
 * failure some may have been replaced, each of them whole.
 */
#define REPLACE_FILES_MAX 64
int replace_files(int directory, const struct replacement *files, size_t count, struct error *err);

/* The same through a layer (file_calls.h). */
int replace_files_through(const struct file_calls *calls, int directory, const struct replacement *files,
                          size_t count, struct error *err);

/*
 * Reads a whole file that was made so; a zero byte, which `*length` does not count, follows. The caller frees
 * it. Errors: EINVAL for what is no regular file, E2BIG, ENOMEM, and what open and read give.
 */
int replace_file_read(int directory, const char *name, size_t bytes_max, char **bytes, size_t *length,
                      struct error *err);

/* Removes the temporary files that a killed writer left in the directory. */
void replace_file_clean(int directory);
