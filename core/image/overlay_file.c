// SPDX-License-Identifier: LGPL-2.1-or-later
/* See overlay_file.h. */
#include "image/overlay_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/new_file.h"
#include "image/qcow2_create.h"

#define ACCESS_ACL          "system.posix_acl_access"
#define SECURITY            "security."
#define ATTRIBUTE_BYTES_MAX 65536 /* XATTR_SIZE_MAX and XATTR_LIST_MAX of Linux */

/* ---- as the layer below ---- */

static bool is_lacking(int code)
{
    return code == ENOTSUP || code == ENOSYS;
}

/* On btrfs copying on write would spread each write of a guest; the flag can only be set on an empty file. */
static int copy_nocow(int below, int fd)
{
    int flags = 0, own = 0;
    if (ioctl(below, FS_IOC_GETFLAGS, &flags) < 0 || !(flags & FS_NOCOW_FL))
        return 0; /* no such flag there */
    if (ioctl(fd, FS_IOC_GETFLAGS, &own) < 0 || (own & FS_NOCOW_FL))
        return 0; /* another file system, or inherited */
    own |= FS_NOCOW_FL;
    return ioctl(fd, FS_IOC_SETFLAGS, &own) < 0 && !is_lacking(errno) && errno != ENOTTY ? -errno : 0;
}

static int copy_attribute(int below, int fd, const char *key)
{
    cleanup_free char *value = malloc(ATTRIBUTE_BYTES_MAX);
    if (!value)
        return -ENOMEM;
    ssize_t size = fgetxattr(below, key, value, ATTRIBUTE_BYTES_MAX);
    if (size < 0)
        return errno == ENODATA || is_lacking(errno) ? 0 : -errno;
    return fsetxattr(fd, key, value, (size_t)size, 0) < 0 && !is_lacking(errno) ? -errno : 0;
}

/* What tells by whom it may be opened; not what signs its content, or gives a program privileges. */
static bool is_label(const char *key)
{
    return strncmp(key, SECURITY, sizeof SECURITY - 1) == 0 && strcmp(key, SECURITY "ima") != 0 &&
           strcmp(key, SECURITY "evm") != 0 && strcmp(key, SECURITY "capability") != 0;
}

static int copy_labels(int below, int fd)
{
    cleanup_free char *keys = malloc(ATTRIBUTE_BYTES_MAX);
    if (!keys)
        return -ENOMEM;
    ssize_t length = flistxattr(below, keys, ATTRIBUTE_BYTES_MAX);
    if (length < 0)
        return is_lacking(errno) ? 0 : -errno;
    int rc = 0;
    for (const char *key = keys; rc == 0 && key < keys + length; key += strlen(key) + 1)
        if (is_label(key))
            rc = copy_attribute(below, fd, key);
    return rc;
}

/* One that the directory has given it is taken away where the layer below has none. */
static int copy_acl(int below, int fd)
{
    if (fremovexattr(fd, ACCESS_ACL) < 0 && errno != ENODATA && !is_lacking(errno))
        return -errno;
    return copy_attribute(below, fd, ACCESS_ACL);
}

static int copy_owner(const struct stat *below, int fd)
{
    struct stat own;
    if (fstat(fd, &own) < 0)
        return -errno;
    if (own.st_uid == below->st_uid && own.st_gid == below->st_gid)
        return 0;
    return fchown(fd, below->st_uid, below->st_gid) < 0 ? -errno : 0;
}

/* The mode comes last: it is part of an ACL, and a change of the owner can take bits out of it. */
static int copy_access(int below, int fd, const char *name, struct error *err)
{
    struct stat file;
    if (fstat(below, &file) < 0)
        return error_set(err, errno, "%s: %m", name);
    bool is_file = S_ISREG(file.st_mode);
    int rc = is_file ? copy_nocow(below, fd) : 0;
    if (rc < 0)
        return error_set(err, -rc, "%s: its overlay can't be given the flag NOCOW: %s", name, strerror(-rc));
    rc = copy_owner(&file, fd);
    if (rc < 0)
        return error_set(err, -rc, "%s: its overlay can't be given its owner %u and group %u: %s", name,
                         file.st_uid, file.st_gid, strerror(-rc));
    rc = is_file ? copy_labels(below, fd) : 0;
    if (rc < 0)
        return error_set(err, -rc, "%s: its overlay can't be given its security attributes: %s", name,
                         strerror(-rc));
    rc = is_file ? copy_acl(below, fd) : 0;
    if (rc < 0)
        return error_set(err, -rc, "%s: its overlay can't be given its ACL: %s", name, strerror(-rc));
    if (fchmod(fd, (file.st_mode & 0777) | S_IRUSR | S_IWUSR) < 0)
        return error_set(err, errno, "%s: its overlay can't be given its mode: %m", name);
    return 0;
}

int overlay_file_reserve(int directory, const char *temporary_name, int below, const char *name, int *fd,
                         struct error *err)
{
    cleanup_close int made = -1;
    int rc = new_file_reserve(directory, temporary_name, &made, err);
    if (rc < 0)
        return rc;
    rc = copy_access(below, made, name, err);
    if (rc < 0) {
        unlinkat(directory, temporary_name, 0);
        return rc;
    }
    *fd = steal_fd(&made);
    return 0;
}

/* ---- all of an operation ---- */

int overlay_file_begin(struct overlay_file *file, struct error *err)
{
    int rc = overlay_file_reserve(file->directory, file->temporary_name, file->below, file->final_name,
                                  &file->fd, err);
    if (rc < 0)
        return rc;
    rc = new_file_mark(file->fd, &file->mark, err);
    if (rc < 0)
        new_file_abandon(file->directory, file->temporary_name, NULL);
    return rc;
}

static int make(struct overlay_file *file, struct error *err)
{
    const struct qcow2_create content = {.size_bytes = file->size_bytes,
                                         .backing_name = file->backing_name,
                                         .backing_format = file->backing_format};
    int rc = qcow2_create(file->fd, &content, err);
    if (rc == 0)
        rc = new_file_flush(file->fd, err);
    return rc < 0 ? error_prefix(err, "%s", file->final_name), rc : 0;
}

int overlay_files_make(struct overlay_file *files, size_t count, struct error *err)
{
    size_t reserved = 0;
    int rc = 0;
    for (; reserved < count && rc == 0; reserved += rc == 0)
        rc = overlay_file_begin(&files[reserved], err);
    for (size_t i = 0; i < count && rc == 0; i++)
        rc = make(&files[i], err);
    if (rc == 0)
        return 0;
    for (size_t i = 0; i < reserved; i++)
        new_file_abandon(files[i].directory, files[i].temporary_name, NULL);
    overlay_files_close(files, count);
    return rc;
}

static bool is_same_directory(int one, int other)
{
    struct stat first, second;
    return fstat(one, &first) == 0 && fstat(other, &second) == 0 && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

/* Each directory once. */
static int flush_directories(const struct overlay_file *files, size_t count, struct error *err)
{
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0; i++) {
        size_t before = 0;
        while (before < i && !is_same_directory(files[before].directory, files[i].directory))
            before++;
        if (before == i)
            rc = new_file_flush_directory(files[i].directory, err);
    }
    return rc;
}

int overlay_files_publish(const struct overlay_file *files, size_t count, struct error *err)
{
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0; i++)
        rc = new_file_rename(files[i].directory, files[i].temporary_name, files[i].final_name, err);
    if (rc == 0)
        rc = flush_directories(files, count, err);
    for (size_t i = 0; i < count && rc < 0; i++)
        overlay_file_undo(files[i].directory, files[i].temporary_name, files[i].final_name, &files[i].mark,
                          NULL);
    return rc;
}

void overlay_files_close(struct overlay_file *files, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (files[i].fd >= 0)
            close(files[i].fd);
        files[i].fd = -1;
    }
}

int overlay_file_undo(int directory, const char *temporary_name, const char *final_name,
                      const struct new_file_mark *mark, struct error *err)
{
    int rc = final_name ? new_file_remove(directory, final_name, mark, err) : 0;
    return rc < 0 ? rc : new_file_abandon(directory, temporary_name, err);
}
