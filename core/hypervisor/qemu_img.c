// SPDX-License-Identifier: LGPL-2.1-or-later
/* See qemu_img.h. */
#include "hypervisor/qemu_img.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "format/json_parse.h"
#include "helper/sandbox.h"
#include "hypervisor/image_claim.h"
#include "hypervisor/image_locks.h"
#include "hypervisor/qemu_img_run.h"
#include "hypervisor/qmp_arguments.h"

#define MEMORY_BYTES           ((size_t)1 << 30)
#define BACKING_NAME_BYTES_MAX 1023 /* QEMU's docs/interop/qcow2.txt */

/* An image that is given as a descriptor: what qemu-img calls it. */
_Static_assert(SANDBOX_FIRST_FD == 3, "the first descriptor that it gets");
#define GIVEN_PATH "/proc/self/fd/3"

/* The image's graph as a file name of QEMU's: a file and qcow2, and nothing that the image names. */
static int make_name(const struct qemu_img *image, struct text *name)
{
    struct stat stat;
    bool is_device = image->fd > 0 && fstat(image->fd, &stat) == 0 && S_ISBLK(stat.st_mode);
    struct json_object *file = json_object_new_object();
    qmp_add_string(&file, "driver", is_device ? "host_device" : "file");
    qmp_add_string(&file, "filename", image->fd > 0 ? GIVEN_PATH : image->path);
    cleanup_json struct json_object *graph = json_object_new_object();
    qmp_add_string(&graph, "driver", "qcow2");
    qmp_add(&graph, "file", file);
    if (!graph || json_object_object_add(graph, "backing", NULL) < 0)
        return -ENOMEM;
    text_printf(
        name, "json:%s",
        json_object_to_json_string_ext(graph, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    return name->failed ? -ENOMEM : 0;
}

static int run(const struct qemu_img *image, const char *const *argv, const char *graph, struct error *err)
{
    char given[sizeof "/proc/self/fd/" + 3 * sizeof(int)];
    snprintf(given, sizeof given, "/proc/self/fd/%d", image->fd);
    const char *const write_paths[] = {image->fd > 0 ? given : image->path, NULL};
    const struct qemu_img_word words[] = {{graph, image->path}, {GIVEN_PATH, image->path}};
    const struct qemu_img_run spec = {.argv = argv,
                                      .name = image->path,
                                      .write_paths = write_paths,
                                      .pass_fds = &image->fd,
                                      .pass_fd_count = image->fd > 0,
                                      .memory_bytes = MEMORY_BYTES,
                                      .words = words,
                                      .word_count = image->fd > 0 ? 2 : 1,
                                      .timeout_ms = image->timeout_ms};
    struct stat file;
    bool owns = stat(write_paths[0], &file) == 0 && image_locks_begin_own(file.st_dev, file.st_ino);
    int rc = qemu_img_run(&spec, err);
    if (owns)
        image_locks_disown(file.st_dev, file.st_ino);
    if (rc != -EBUSY || image->fd <= 0)
        return rc;
    char holders[ERROR_TEXT_MAX / 2];
    image_claim_holders(image->fd, holders, sizeof holders);
    return error_set(err, EBUSY, "%s is in use by %s", image->path, holders);
}

static int flush(const struct qemu_img *image, struct error *err)
{
    cleanup_close int opened = image->fd > 0 ? -1 : open(image->path, O_RDONLY | O_CLOEXEC);
    if ((image->fd <= 0 && opened < 0) || fsync(image->fd > 0 ? image->fd : opened) < 0)
        return error_set(err, errno, "%s can't be flushed: %m", image->path);
    return 0;
}

int qemu_img_apply(const struct qemu_img *image, const char *id, struct error *err)
{
    if (!*id || id[strspn(id, "0123456789")])
        return error_set(err, EINVAL, "%s: not a snapshot's id", image->path);
    cleanup_text struct text name = {0};
    if (make_name(image, &name) < 0)
        return error_set(err, ENOMEM, "out of memory");
    const char *const argv[] = {"qemu-img", "snapshot", "-q", "-a", id, name.data, NULL};
    int rc = run(image, argv, name.data, err);
    return rc < 0 ? rc : flush(image, err);
}

int qemu_img_name_backing(const struct qemu_img *image, const char *backing_name, const char *backing_format,
                          struct error *err)
{
    if (!*backing_name || !*backing_format)
        return error_set(err, EINVAL, "%s: a backing file needs a name and a format", image->path);
    if (strlen(backing_name) > BACKING_NAME_BYTES_MAX)
        return error_set(err, ENAMETOOLONG, "%s: the name of its backing file has more than %d bytes",
                         image->path, BACKING_NAME_BYTES_MAX);
    cleanup_text struct text name = {0};
    if (make_name(image, &name) < 0)
        return error_set(err, ENOMEM, "out of memory");
    const char *const argv[] = {"qemu-img",     "rebase", "-q",         "-u",      "-F",
                                backing_format, "-b",     backing_name, name.data, NULL};
    int rc = run(image, argv, name.data, err);
    return rc < 0 ? rc : flush(image, err);
}

int qemu_img_free_leaks(const struct qemu_img *image, struct error *err)
{
    cleanup_text struct text name = {0};
    if (make_name(image, &name) < 0)
        return error_set(err, ENOMEM, "out of memory");
    const char *const argv[] = {"qemu-img", "check", "-q", "-r", "leaks", name.data, NULL};
    int rc = run(image, argv, name.data, err);
    return rc < 0 ? rc : flush(image, err);
}
