// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The system calls that what is durable is made of, in a table, so that a test can put a layer in between
 * that fails them, or loses what was not flushed. Each returns what the system call returns, with errno.
 */
#pragma once

#include <stddef.h>
#include <sys/types.h>

struct file_calls {
    void *layer; /* passed to each */
    /* Makes the file, or empties it, for writing; never follows a link. The caller closes it. */
    int (*open)(void *layer, int directory, const char *name);
    ssize_t (*write)(void *layer, int fd, const void *bytes, size_t length);
    int (*fsync)(void *layer, int fd);
    int (*rename)(void *layer, int directory, const char *from, const char *to);
    int (*unlink)(void *layer, int directory, const char *name);
    int (*fsync_directory)(void *layer, int directory);
};

/* The kernel's. */
extern const struct file_calls file_calls_system;
