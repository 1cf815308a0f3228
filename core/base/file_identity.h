// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What tells whether a file is still the one that it was, with the bytes that it had.
 *
 * Size and mtime tell whether its content changed. Device and inode tell whether it is the same file; they
 * alone change when a store is copied, or when a device gets another number at boot, and that is no change of
 * content.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

struct file_identity {
    uint64_t device;
    uint64_t inode;
    uint64_t size; /* bytes */
    int64_t mtime_sec;
    uint32_t mtime_nsec;
};

static inline struct file_identity file_identity_of(const struct stat *stat)
{
    return (struct file_identity){
        .device = stat->st_dev,
        .inode = stat->st_ino,
        .size = (uint64_t)stat->st_size,
        .mtime_sec = stat->st_mtim.tv_sec,
        .mtime_nsec = (uint32_t)stat->st_mtim.tv_nsec,
    };
}

static inline bool file_identity_same_content(const struct file_identity *a, const struct file_identity *b)
{
    return a->size == b->size && a->mtime_sec == b->mtime_sec && a->mtime_nsec == b->mtime_nsec;
}

static inline bool file_identity_same_file(const struct file_identity *a, const struct file_identity *b)
{
    return a->device == b->device && a->inode == b->inode;
}
