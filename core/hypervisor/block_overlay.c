// SPDX-License-Identifier: LGPL-2.1-or-later
/* See block_overlay.h. */
#include "hypervisor/block_overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "hypervisor/qmp_arguments.h"

#define BACKING_NAME_BYTES_MAX 1023 /* QEMU's docs/interop/qcow2.txt */
#define SECTOR_BYTES           512

int block_overlay_reserve(int directory, const char *temporary_name, int *fd, struct error *err)
{
    int made = openat(directory, temporary_name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (made < 0)
        return error_set(err, errno, "%s can't be made: %m", temporary_name);
    *fd = made;
    return 0;
}

static int check(const struct block_overlay_spec *spec, struct error *err)
{
    if (!block_node_name_is_legal(spec->job_id))
        return error_set(err, EINVAL, "not a job's name");
    if (*spec->path != '/')
        return error_set(err, EINVAL, "%s: not an absolute path", spec->path);
    if (spec->backing_name && (!*spec->backing_name || !spec->backing_format))
        return error_set(err, EINVAL, "%s: an overlay without the name and format of its backing file",
                         spec->path);
    if (spec->backing_name && strlen(spec->backing_name) > BACKING_NAME_BYTES_MAX)
        return error_set(err, ENAMETOOLONG, "%s: the name of its backing file has more than %d bytes",
                         spec->path, BACKING_NAME_BYTES_MAX);
    if (spec->size_bytes % SECTOR_BYTES || spec->size_bytes > INT64_MAX)
        return error_set(err, EINVAL, "%s: not a disk's size", spec->path);
    return 0;
}

/* QEMU reads commands byte by byte, slowly: so its file is part of the command that makes the overlay. */
static int start_create(const struct block_engine *engine, const struct block_overlay_spec *spec,
                        struct error *err)
{
    struct json_object *cache = json_object_new_object();
    qmp_add_bool(&cache, "no-flush", true); /* block_overlay_flush does it, once */
    struct json_object *file = json_object_new_object();
    qmp_add_string(&file, "driver", "file");
    qmp_add_string(&file, "filename", spec->path);
    qmp_add(&file, "cache", cache);
    struct json_object *options = json_object_new_object();
    qmp_add_string(&options, "driver", "qcow2");
    qmp_add(&options, "file", file);
    qmp_add(&options, "size", json_object_new_int64((int64_t)spec->size_bytes));
    if (spec->backing_name) {
        qmp_add_string(&options, "backing-file", spec->backing_name);
        qmp_add_string(&options, "backing-fmt", spec->backing_format);
    }
    if (spec->cluster_bytes)
        qmp_add(&options, "cluster-size", json_object_new_int64(spec->cluster_bytes));
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add(&arguments, "options", options);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    return qmp_job_start(engine->qmp, "blockdev-create", arguments, spec->job_id, QMP_JOB_PLAIN,
                         engine->timeout_ms, err);
}

int block_overlay_create_all(const struct block_engine *engine, const struct block_overlay_spec *specs,
                             size_t count, const struct qmp_job_watch *watch, struct error *err)
{
    size_t started = 0;
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0; i++)
        rc = check(&specs[i], err);
    for (; started < count && rc == 0; started += rc == 0)
        rc = start_create(engine, &specs[started], err);
    for (size_t i = 0; i < started; i++) {
        if (rc == 0)
            rc = qmp_job_wait(engine->qmp, specs[i].job_id, watch, NULL, err);
        if (rc == 0)
            rc = qmp_job_dismiss(engine->qmp, specs[i].job_id, watch->timeout_ms, err);
        else
            qmp_job_abort(engine->qmp, specs[i].job_id, watch->timeout_ms, NULL);
    }
    return rc;
}

int block_overlay_create(const struct block_engine *engine, const struct block_overlay_spec *spec,
                         const struct qmp_job_watch *watch, struct error *err)
{
    return block_overlay_create_all(engine, spec, 1, watch, err);
}

static int flush_directory(int directory, struct error *err)
{
    return fsync(directory) < 0 ? error_set(err, errno, "the directory can't be flushed: %m") : 0;
}

int block_overlay_flush(int directory, int fd, struct error *err)
{
    if (fsync(fd) < 0)
        return error_set(err, errno, "the new overlay can't be flushed: %m");
    return flush_directory(directory, err);
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

int block_overlay_publish(int directory, const char *temporary_name, const char *name, struct error *err)
{
    int rc = renameat2(directory, temporary_name, directory, name, RENAME_NOREPLACE) < 0 ? -errno : 0;
    if (rc == -EINVAL || rc == -ENOSYS || rc == -EEXIST)
        rc = link_and_unlink(directory, temporary_name, name);
    if (rc < 0)
        return error_set(err, -rc, "%s can't become %s: %s", temporary_name, name, strerror(-rc));
    return flush_directory(directory, err);
}

int block_overlay_abandon(int directory, const char *temporary_name, struct error *err)
{
    if (unlinkat(directory, temporary_name, 0) < 0 && errno != ENOENT)
        return error_set(err, errno, "%s can't be removed: %m", temporary_name);
    return flush_directory(directory, err);
}

/* ---- in a running QEMU ---- */

static int close_node(const struct block_engine *engine, const char *name, struct error *err)
{
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&arguments, "node-name", name);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    return qmp_command(engine->qmp, "blockdev-del", arguments, engine->timeout_ms, NULL, err);
}

int block_overlay_open(const struct block_engine *engine, const char *name, const char *file_name,
                       const char *path, struct error *err)
{
    cleanup_json struct json_object *file = json_object_new_object(), *node = json_object_new_object();
    qmp_add_string(&file, "driver", "file");
    qmp_add_string(&file, "node-name", file_name);
    qmp_add_string(&file, "filename", path);
    qmp_add_string(&file, "discard", "unmap");
    qmp_add_string(&node, "driver", "qcow2");
    qmp_add_string(&node, "node-name", name);
    qmp_add_string(&node, "file", file_name);
    qmp_add_string(&node, "discard", "unmap");
    if (!file || !node || json_object_object_add(node, "backing", NULL) < 0)
        return error_set(err, ENOMEM, "out of memory");
    int rc = qmp_command(engine->qmp, "blockdev-add", file, engine->timeout_ms, NULL, err);
    if (rc < 0)
        return rc;
    rc = qmp_command(engine->qmp, "blockdev-add", node, engine->timeout_ms, NULL, err);
    if (rc < 0)
        close_node(engine, file_name, NULL);
    return rc;
}

int block_overlay_close(const struct block_engine *engine, const char *name, const char *file_name,
                        struct error *err)
{
    int rc = close_node(engine, name, err);
    return rc < 0 ? rc : close_node(engine, file_name, err);
}
