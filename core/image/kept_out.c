// SPDX-License-Identifier: LGPL-2.1-or-later
/* See kept_out.h. */
#include "image/kept_out.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

#define NAME "/.vmsnapfs/"

int kept_out_add(struct kept_out *kept_out, const char *directory, struct error *err)
{
    struct stat stat;
    if (lstat(directory, &stat) < 0)
        return errno == ENOENT ? 0 : error_set(err, errno, "%s: %m", directory);
    if (kept_out->count == KEPT_OUT_MAX)
        return error_set(err, E2BIG, "%s: too many directories", directory);
    kept_out->list[kept_out->count].device = stat.st_dev;
    kept_out->list[kept_out->count++].inode = stat.st_ino;
    return 0;
}

static bool is_one(const struct kept_out *kept_out, const struct stat *stat)
{
    for (size_t i = 0; i < kept_out->count; i++)
        if (kept_out->list[i].device == stat->st_dev && kept_out->list[i].inode == stat->st_ino)
            return true;
    return false;
}

/* Goes up to the root of all: a directory's `..` is another one everywhere else. */
static bool climb(const struct kept_out *kept_out, int directory)
{
    cleanup_close int at = fcntl(directory, F_DUPFD_CLOEXEC, 0);
    struct stat here, above;
    if (at < 0 || fstat(at, &here) < 0)
        return false;
    for (;;) {
        if (is_one(kept_out, &here))
            return true;
        int up = openat(at, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
        close(at);
        at = up;
        if (up < 0 || fstat(up, &above) < 0 || (above.st_dev == here.st_dev && above.st_ino == here.st_ino))
            return false;
        here = above;
    }
}

/* Anybody may call a directory so; one that holds a store has a version. */
static bool is_named(char *path)
{
    for (char *found = path; (found = strstr(found, NAME)); found++) {
        char version[PATH_MAX + 16];
        snprintf(version, sizeof version, "%.*s/version", (int)(found - path + sizeof NAME - 2), path);
        if (access(version, F_OK) == 0)
            return true;
    }
    return false;
}

bool kept_out_holds(const struct kept_out *kept_out, int fd)
{
    char given[64], path[PATH_MAX + 1];
    struct stat stat;
    snprintf(given, sizeof given, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(given, path, sizeof path - 2);
    if (length <= 0 || *path != '/' || fstat(fd, &stat) < 0)
        return false;
    path[length] = '/';
    path[length + 1] = '\0';
    if (is_named(path))
        return true;
    if (S_ISDIR(stat.st_mode))
        return climb(kept_out, fd);
    path[length] = '\0';
    char *slash = strrchr(path, '/');
    slash[slash == path ? 1 : 0] = '\0';
    cleanup_close int directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return directory >= 0 && climb(kept_out, directory);
}
