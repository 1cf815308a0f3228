// SPDX-License-Identifier: LGPL-2.1-or-later
/* Bytes of an image file; see byte_source.h. */
#include "io/byte_source.h"

#include <errno.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

int byte_source_read(const struct byte_source *source, uint64_t offset, void *buffer, size_t length)
{
    if (offset > INT64_MAX || length > INT64_MAX - offset)
        return -ENODATA;
    if (source->fd < 0) {
        if (offset > source->memory_size || length > source->memory_size - offset)
            return -ENODATA;
        if (length)
            memcpy(buffer, source->memory + offset, length);
        return 0;
    }
    for (size_t done = 0; done < length;) {
        ssize_t count = pread(source->fd, (char *)buffer + done, length - done, (off_t)(offset + done));
        if (count > 0)
            done += (size_t)count;
        else if (count == 0)
            return -ENODATA;
        else if (errno != EINTR)
            return -errno;
    }
    return 0;
}

int byte_source_size(const struct byte_source *source, uint64_t *size)
{
    if (source->fd < 0) {
        *size = source->memory_size;
        return 0;
    }
    off_t end = lseek(source->fd, 0, SEEK_END);
    if (end < 0)
        return -errno;
    *size = (uint64_t)end;
    return 0;
}
