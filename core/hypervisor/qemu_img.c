// SPDX-License-Identifier: LGPL-2.1-or-later
/* See qemu_img.h. */
#include "hypervisor/qemu_img.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "format/json_parse.h"
#include "hypervisor/qemu_img_run.h"
#include "hypervisor/qmp_arguments.h"

#define MEMORY_BYTES           ((size_t)1 << 30)
#define BACKING_NAME_BYTES_MAX 1023 /* QEMU's docs/interop/qcow2.txt */

/* The image's graph as a file name of QEMU's: a file and qcow2, and nothing that the image names. */
static int make_name(const char *path, struct text *name)
{
    struct json_object *file = json_object_new_object();
    qmp_add_string(&file, "driver", "file");
    qmp_add_string(&file, "filename", path);
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
    const char *const write_paths[] = {image->path, NULL};
    const struct qemu_img_word word = {graph, image->path};
    const struct qemu_img_run spec = {.argv = argv,
                                      .name = image->path,
                                      .write_paths = write_paths,
                                      .memory_bytes = MEMORY_BYTES,
                                      .words = &word,
                                      .word_count = 1,
                                      .timeout_ms = image->timeout_ms};
    return qemu_img_run(&spec, err);
}

static int flush(const char *path, struct error *err)
{
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 || fsync(fd) < 0 ? error_set(err, errno, "%s can't be flushed: %m", path) : 0;
}

int qemu_img_apply(const struct qemu_img *image, const char *id, struct error *err)
{
    if (!*id || id[strspn(id, "0123456789")])
        return error_set(err, EINVAL, "%s: not a snapshot's id", image->path);
    cleanup_text struct text name = {0};
    if (make_name(image->path, &name) < 0)
        return error_set(err, ENOMEM, "out of memory");
    const char *const argv[] = {"qemu-img", "snapshot", "-q", "-a", id, name.data, NULL};
    int rc = run(image, argv, name.data, err);
    return rc < 0 ? rc : flush(image->path, err);
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
    if (make_name(image->path, &name) < 0)
        return error_set(err, ENOMEM, "out of memory");
    const char *const argv[] = {"qemu-img",     "rebase", "-q",         "-u",      "-F",
                                backing_format, "-b",     backing_name, name.data, NULL};
    int rc = run(image, argv, name.data, err);
    return rc < 0 ? rc : flush(image->path, err);
}
