// SPDX-License-Identifier: LGPL-2.1-or-later
/* The kernel's own calls; see file_calls.h. */
#include "store/file_calls.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static int system_open(void *layer, int directory, const char *name)
{
    return openat(directory, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
}

static ssize_t system_write(void *layer, int fd, const void *bytes, size_t length)
{
    return write(fd, bytes, length);
}

static int system_fsync(void *layer, int fd)
{
    return fsync(fd);
}

static int system_rename(void *layer, int directory, const char *from, const char *to)
{
    return renameat(directory, from, directory, to);
}

static int system_unlink(void *layer, int directory, const char *name)
{
    return unlinkat(directory, name, 0);
}

const struct file_calls file_calls_system = {
    .open = system_open,
    .write = system_write,
    .fsync = system_fsync,
    .rename = system_rename,
    .unlink = system_unlink,
    .fsync_directory = system_fsync,
};
