// SPDX-License-Identifier: LGPL-2.1-or-later
/* A window that moves over a table; see table_window.h. */
#include "image/table_window.h"

#include <assert.h>
#include <errno.h>

#include "base/bytes.h"

int table_window_init(struct table_window *window, const struct byte_source *source, void *buffer,
                      size_t capacity)
{
    uint64_t file_size;
    int ret = byte_source_size(source, &file_size);
    if (ret < 0)
        return ret;
    *window = (struct table_window){
        .source = source,
        .file_size = file_size,
        .buffer = buffer,
        .capacity = capacity,
    };
    return 0;
}

int table_window_get(struct table_window *window, uint64_t offset, size_t length, const uint8_t **bytes)
{
    assert(length <= window->capacity);
    if (offset > window->file_size || length > window->file_size - offset)
        return -ENODATA;
    if (offset < window->begin || offset - window->begin > window->length ||
        length > window->length - (offset - window->begin)) {
        size_t fill = (size_t)min_u64(window->capacity, window->file_size - offset);
        window->length = 0;
        int ret = byte_source_read(window->source, offset, window->buffer, fill);
        if (ret < 0)
            return ret;
        window->begin = offset;
        window->length = fill;
    }
    *bytes = window->buffer + (offset - window->begin);
    return 0;
}
