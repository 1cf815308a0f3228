// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A window that moves over a table in a file: a parser asks for a few bytes after a few bytes, and the file
 * is read in pieces of the window's size. Nothing is kept for longer than that, so a table's length costs no
 * memory. Belongs to one thread.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "io/byte_source.h"

struct table_window {
    const struct byte_source *source;
    uint64_t file_size; /* as it was when the window was made */
    uint8_t *buffer;
    size_t capacity;
    uint64_t begin; /* where in the file buffer[0] is from */
    size_t length;  /* bytes that are in the buffer */
};

/* `buffer` (`capacity` bytes) and `source` are borrowed. Errors: those of byte_source_size. */
int table_window_init(struct table_window *window, const struct byte_source *source, void *buffer,
                      size_t capacity);

/*
 * `*bytes` is where `length` bytes (not more than the window holds) of the file at `offset` are; right until
 * the next call. -ENODATA where the file ends before that; errors of byte_source_read.
 */
int table_window_get(struct table_window *window, uint64_t offset, size_t length, const uint8_t **bytes);
