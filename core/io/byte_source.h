// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Bytes of an image file for its parsers: from a descriptor, or from memory, so that unit tests and fuzzers
 * need no disk. A plain value; whoever made it keeps the descriptor or memory alive.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct byte_source {
    int fd; /* -1: read from memory */
    const uint8_t *memory;
    size_t memory_size;
};

static inline struct byte_source byte_source_fd(int fd)
{
    return (struct byte_source){.fd = fd};
}

static inline struct byte_source byte_source_memory(const void *memory, size_t size)
{
    return (struct byte_source){.fd = -1, .memory = memory, .memory_size = size};
}

/*
 * Reads exactly `length` bytes at `offset`. Returns 0; -ENODATA where the file ends before that (or the
 * offset is beyond what a file can have), -EIO and others as pread gives them. Any thread.
 */
int byte_source_read(const struct byte_source *source, uint64_t offset, void *buffer, size_t length);

/* The length of the file in bytes (block devices too); negative errno on failure. */
int byte_source_size(const struct byte_source *source, uint64_t *size);
