// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Opening or reading files fails while a test wants that: these stand before the functions of libc for all
 * that the test is linked with.
 */
#pragma once

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

/* Part of the paths of the files that can't be opened, or read, and at which offsets with pread. */
static const char *_Atomic failing_open, *_Atomic failing_read;
static _Atomic off_t failing_from;
static const char *_Atomic failing_stat; /* the next fstat of such a file, and only that */
static atomic_uint failures;

static bool fails_now(const char *wanted, const char *path)
{
    if (!wanted || !strstr(path, wanted))
        return false;
    atomic_fetch_add(&failures, 1);
    errno = EIO;
    return true;
}

static bool read_fails(int fd, off_t offset)
{
    char link[64], path[1024];
    if (!atomic_load(&failing_read) || offset < atomic_load(&failing_from))
        return false;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = '\0';
    return fails_now(atomic_load(&failing_read), path);
}

/* As the headers name them with 64-bit offsets. */
#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name "64"))

int fstat(int fd, struct stat *found)
{
    char link[64], path[1024];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = atomic_load(&failing_stat) ? readlink(link, path, sizeof path - 1) : 0;
    path[length < 0 ? 0 : length] = '\0';
    if (!fails_now(atomic_load(&failing_stat), path))
        return NEXT(fstat)(fd, found);
    atomic_store(&failing_stat, NULL);
    return -1;
}

ssize_t pread(int fd, void *buffer, size_t length, off_t offset)
{
    return read_fails(fd, offset) ? -1 : NEXT(pread)(fd, buffer, length, offset);
}

ssize_t read(int fd, void *buffer, size_t length)
{
    __typeof__(&read) real = (__typeof__(&read))dlsym(RTLD_NEXT, "read");
    return read_fails(fd, 0) ? -1 : real(fd, buffer, length);
}

int openat(int directory, const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return fails_now(atomic_load(&failing_open), path) ? -1 : NEXT(openat)(directory, path, flags, mode);
}
