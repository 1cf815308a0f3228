// SPDX-License-Identifier: LGPL-2.1-or-later
/* See overlay_file.h. */
#include "hypervisor/overlay_file.h"

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
#include "hypervisor/block_overlay.h"
#include "hypervisor/stopped_images.h"

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
    int rc = block_overlay_reserve(directory, temporary_name, &made, err);
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

static int reserve(struct overlay_file *file, struct error *err)
{
    struct stat stat;
    int rc = overlay_file_reserve(file->directory, file->temporary_name, file->below, file->final_name,
                                  &file->fd, err);
    if (rc < 0)
        return rc;
    if (fstat(file->fd, &stat) < 0) {
        rc = error_set(err, errno, "%s: %m", file->final_name);
        block_overlay_abandon(file->directory, file->temporary_name, NULL);
        return rc;
    }
    file->device = stat.st_dev;
    file->inode = stat.st_ino;
    return 0;
}

/* `paths` are those by which the engine can open the files. */
static int create_in(const struct block_engine *engine, const struct overlay_file *files, char *const *paths,
                     size_t count, int timeout_ms, struct error *err)
{
    const struct qmp_job_watch watch = {.timeout_ms = timeout_ms};
    cleanup_free struct block_overlay_spec *specs = calloc(count + 1, sizeof *specs);
    if (!specs)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < count; i++)
        specs[i] = (struct block_overlay_spec){
            .path = paths[i],
            .backing_name = files[i].backing_name,
            .backing_format = files[i].backing_format,
            .size_bytes = files[i].size_bytes,
            .cluster_bytes = files[i].cluster_bytes,
            .job_id = files[i].job,
        };
    return block_overlay_create_all(engine, specs, count, &watch, err);
}

static void free_paths(char ***paths)
{
    for (char **path = *paths; path && *path; path++)
        free(*path);
    free(*paths);
}

static int create_there(const struct block_engine *engine, const struct overlay_file *files, size_t count,
                        int timeout_ms, struct error *err)
{
    cleanup(free_paths) char **paths = calloc(count + 1, sizeof *paths);
    for (size_t i = 0; paths && i < count; i++)
        if (asprintf(&paths[i], "%s/%s", files[i].directory_path, files[i].temporary_name) < 0)
            return paths[i] = NULL, error_set(err, ENOMEM, "out of memory");
    return paths ? create_in(engine, files, paths, count, timeout_ms, err)
                 : error_set(err, ENOMEM, "out of memory");
}

static int create(const struct overlay_file *files, size_t count, int timeout_ms, struct error *err)
{
    cleanup_free int *fds = calloc(count + 1, sizeof *fds);
    cleanup_free char **paths = calloc(count + 1, sizeof *paths);
    if (!fds || !paths)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < count; i++)
        fds[i] = files[i].fd;
    const struct stopped_images_spec spec = {.create = fds, .create_count = count, .timeout_ms = timeout_ms};
    cleanup(stopped_images_drop) struct stopped_images *daemon = NULL;
    int rc = stopped_images_begin(&spec, &daemon, err);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < count; i++)
        paths[i] = (char *)stopped_images_new_path(daemon, i);
    rc = create_in(stopped_images_engine(daemon), files, paths, count, timeout_ms, err);
    if (rc < 0)
        stopped_images_clean(daemon, err);
    return rc;
}

int overlay_files_make(struct overlay_file *files, size_t count, const struct block_engine *engine,
                       int timeout_ms, struct error *err)
{
    size_t reserved = 0;
    int rc = 0;
    for (; reserved < count && rc == 0; reserved += rc == 0)
        rc = reserve(&files[reserved], err);
    if (rc == 0)
        rc = engine ? create_there(engine, files, count, timeout_ms, err)
                    : create(files, count, timeout_ms, err);
    for (size_t i = 0; i < count && rc == 0; i++)
        rc = block_overlay_flush(files[i].directory, files[i].fd, err);
    if (rc == 0)
        return 0;
    for (size_t i = 0; i < reserved; i++)
        block_overlay_abandon(files[i].directory, files[i].temporary_name, NULL);
    overlay_files_close(files, count);
    return rc;
}

int overlay_files_publish(const struct overlay_file *files, size_t count, struct error *err)
{
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0; i++)
        rc = block_overlay_publish(files[i].directory, files[i].temporary_name, files[i].final_name, err);
    for (size_t i = 0; i < count && rc < 0; i++)
        overlay_file_undo(files[i].directory, files[i].temporary_name, files[i].final_name, files[i].device,
                          files[i].inode, NULL);
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

int overlay_file_undo(int directory, const char *temporary_name, const char *final_name, dev_t device,
                      ino_t inode, struct error *err)
{
    struct stat file;
    if (final_name && fstatat(directory, final_name, &file, AT_SYMLINK_NOFOLLOW) == 0 &&
        file.st_dev == device && file.st_ino == inode && unlinkat(directory, final_name, 0) < 0 &&
        errno != ENOENT)
        return error_set(err, errno, "%s can't be removed: %m", final_name);
    return block_overlay_abandon(directory, temporary_name, err);
}
