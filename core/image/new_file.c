// SPDX-License-Identifier: LGPL-2.1-or-later
/* See new_file.h. */
#include "image/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static int look(int directory, const char *name, int flags, struct new_file_mark *mark)
{
    struct statx file;
    if (statx(directory, name, flags, STATX_INO | STATX_BTIME, &file) < 0)
        return -errno;
    *mark = (struct new_file_mark){.device = makedev(file.stx_dev_major, file.stx_dev_minor),
                                   .inode = file.stx_ino};
    if (file.stx_mask & STATX_BTIME)
        mark->made_ns = (uint64_t)file.stx_btime.tv_sec * 1000000000 + file.stx_btime.tv_nsec;
    return 0;
}

int new_file_mark(int fd, struct new_file_mark *mark, struct error *err)
{
    int rc = look(fd, "", AT_EMPTY_PATH, mark);
    return rc < 0 ? error_set(err, -rc, "the new file: %s", strerror(-rc)) : 0;
}

static bool is_same(const struct new_file_mark *one, const struct new_file_mark *other)
{
    if (one->inode != other->inode)
        return false;
    return one->made_ns && other->made_ns ? one->made_ns == other->made_ns : one->device == other->device;
}

int new_file_remove(int directory, const char *name, const struct new_file_mark *mark, struct error *err)
{
    struct new_file_mark found;
    if (look(directory, name, AT_SYMLINK_NOFOLLOW, &found) == 0 && is_same(&found, mark) &&
        unlinkat(directory, name, 0) < 0 && errno != ENOENT)
        return error_set(err, errno, "%s can't be removed: %m", name);
    return 0;
}

int new_file_reserve(int directory, const char *temporary_name, int *fd, struct error *err)
{
    int made = openat(directory, temporary_name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (made < 0)
        return error_set(err, errno, "%s can't be made: %m", temporary_name);
    *fd = made;
    return 0;
}

int new_file_flush(int fd, struct error *err)
{
    return fsync(fd) < 0 ? error_set(err, errno, "the new file can't be flushed: %m") : 0;
}

int new_file_flush_directory(int directory, struct error *err)
{
    return fsync(directory) < 0 ? error_set(err, errno, "the directory can't be flushed: %m") : 0;
}

/* Where a file system has no RENAME_NOREPLACE: a link fails over what is there as well. */
static int link_and_unlink(int directory, const char *from, const char *to)
{
    if (linkat(directory, from, directory, to, 0) < 0) {
        struct stat ours, theirs;
        if (errno != EEXIST)
            return -errno;
        /* Killed after the link, and repeated now? */
        if (fstatat(directory, from, &ours, AT_SYMLINK_NOFOLLOW) < 0 ||
            fstatat(directory, to, &theirs, AT_SYMLINK_NOFOLLOW) < 0 || ours.st_dev != theirs.st_dev ||
            ours.st_ino != theirs.st_ino)
            return -EEXIST;
    }
    return unlinkat(directory, from, 0) < 0 ? -errno : 0;
}

int new_file_rename(int directory, const char *temporary_name, const char *name, struct error *err)
{
    int rc = renameat2(directory, temporary_name, directory, name, RENAME_NOREPLACE) < 0 ? -errno : 0;
    if (rc == -EINVAL || rc == -ENOSYS || rc == -EEXIST)
        rc = link_and_unlink(directory, temporary_name, name);
    return rc < 0 ? error_set(err, -rc, "%s can't become %s: %s", temporary_name, name, strerror(-rc)) : 0;
}

int new_file_publish(int directory, const char *temporary_name, const char *name, struct error *err)
{
    int rc = new_file_rename(directory, temporary_name, name, err);
    return rc < 0 ? rc : new_file_flush_directory(directory, err);
}

int new_file_abandon(int directory, const char *temporary_name, struct error *err)
{
    if (unlinkat(directory, temporary_name, 0) < 0 && errno != ENOENT)
        return error_set(err, errno, "%s can't be removed: %m", temporary_name);
    return new_file_flush_directory(directory, err);
}
