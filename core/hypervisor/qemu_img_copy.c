// SPDX-License-Identifier: LGPL-2.1-or-later
/* See qemu_img_copy.h. */
#include "hypervisor/qemu_img_copy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "format/json_parse.h"
#include "helper/sandbox.h"
#include "hypervisor/qemu_img_run.h"
#include "hypervisor/qmp_arguments.h"
#include "hypervisor/qmp_job.h"

#define MEMORY_BYTES       ((size_t)1 << 30)
#define MEMORY_BYTES_IMAGE ((size_t)64 << 20)
#define PATH_SIZE          sizeof "/proc/self/fd/18446744073709551615"

/* A descriptor that qemu-img gets, as its texts name it. */
struct file {
    char path[PATH_SIZE];
    const char *name;
};

struct files {
    int *fds;
    struct file *list;
    size_t count;
};

static void files_done(struct files *files)
{
    free(files->fds);
    free(files->list);
}

/* Returns the path by which qemu-img opens it. */
static const char *give(struct files *files, int fd, const char *name)
{
    struct file *file = &files->list[files->count];
    snprintf(file->path, PATH_SIZE, "/proc/self/fd/%zu", SANDBOX_FIRST_FD + files->count);
    file->name = name;
    files->fds[files->count++] = fd;
    return file->path;
}

static bool is_device(int fd)
{
    struct stat stat;
    return fstat(fd, &stat) == 0 && S_ISBLK(stat.st_mode);
}

/* ---- the source, as a graph ---- */

static struct json_object *file_node(struct files *files, int fd, const char *name)
{
    struct json_object *node = json_object_new_object();
    qmp_add_string(&node, "driver", is_device(fd) ? "host_device" : "file");
    qmp_add_string(&node, "filename", give(files, fd, name));
    return node;
}

/* A view is an image whose backing is the file of another, and which itself is the file of a third. */
static struct json_object *view_node(struct files *files, int view, const struct stopped_image *image)
{
    struct json_object *raw = json_object_new_object();
    qmp_add_string(&raw, "driver", "raw");
    qmp_add(&raw, "file", file_node(files, image->fd, image->name));
    struct json_object *node = json_object_new_object();
    qmp_add_string(&node, "driver", "qcow2");
    qmp_add(&node, "file", file_node(files, view, image->name));
    qmp_add(&node, "backing", raw);
    return node;
}

static struct json_object *image_node(struct files *files, const struct qemu_img_copy *copy, size_t index,
                                      struct json_object *backing)
{
    const struct stopped_image *image = &copy->images[index];
    struct json_object *node = json_object_new_object();
    qmp_add_string(&node, "driver", image_format_name(image->format));
    qmp_add_bool(&node, "read-only", true);
    qmp_add(&node, "file",
            copy->view >= 0 && index == copy->top ? view_node(files, copy->view, image)
                                                  : file_node(files, image->fd, image->name));
    if (image->data_fd >= 0)
        qmp_add(&node, "data-file", file_node(files, image->data_fd, image->name));
    if (backing)
        qmp_add(&node, "backing", backing);
    else if (image_format_knows_backing(image->format) && node)
        json_object_object_add(node, "backing", NULL); /* none, whatever it says */
    return node;
}

/* From the top down, where each image is once: `order` has room for all. */
static int find_order(const struct qemu_img_copy *copy, size_t *order, size_t *length, struct error *err)
{
    size_t used = 0;
    for (int at = (int)copy->top; at >= 0; at = copy->images[at].backing) {
        if ((size_t)at >= copy->count || used == copy->count)
            return error_set(err, EINVAL, "%s: images that are no chain", copy->target_name);
        order[used++] = (size_t)at;
    }
    *length = used;
    return 0;
}

static int make_source(const struct qemu_img_copy *copy, struct files *files, struct text *source,
                       struct error *err)
{
    cleanup_free size_t *order = calloc(copy->count + 1, sizeof *order);
    size_t length = 0;
    if (!order)
        return error_set(err, ENOMEM, "out of memory");
    int rc = find_order(copy, order, &length, err);
    if (rc < 0)
        return rc;
    cleanup_json struct json_object *graph = NULL;
    for (size_t i = length; i-- > 0;) {
        graph = image_node(files, copy, order[i], graph);
        if (!graph)
            return error_set(err, ENOMEM, "out of memory");
    }
    text_printf(
        source, "json:%s",
        json_object_to_json_string_ext(graph, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    return source->failed ? error_set(err, ENOMEM, "out of memory") : 0;
}

/* ---- the copy ---- */

static bool go_on(void *opaque, unsigned percent)
{
    return true;
}

static int run(const struct qemu_img_copy *copy, const struct files *files, const char *source,
               const char *target, struct error *err)
{
    cleanup_free struct qemu_img_word *words = calloc(files->count + 1, sizeof *words);
    char target_path[PATH_SIZE], in_place[128];
    if (!words)
        return error_set(err, ENOMEM, "out of memory");
    words[0] = (struct qemu_img_word){source, copy->images[copy->top].name};
    /* From the last on: 1 is the beginning of 10. */
    for (size_t i = 0; i < files->count; i++) {
        const struct file *file = &files->list[files->count - 1 - i];
        words[i + 1] = (struct qemu_img_word){file->path, file->name};
    }
    const char *format = image_format_name(copy->target_format);
    snprintf(target_path, sizeof target_path, "/proc/self/fd/%d", copy->target_fd);
    snprintf(in_place, sizeof in_place, "driver=%s,discard=unmap,file.driver=%s,file.filename=%s", format,
             is_device(copy->target_fd) ? "host_device" : "file", target);
    const char *const anew[] = {"qemu-img", "convert", "-p", "-O", format, source, target, NULL};
    const char *const over[] = {"qemu-img", "convert", "-p", "-n", "--target-image-opts",
                                source,     in_place,  NULL};
    const char *const write_paths[] = {target_path, NULL};
    const struct qemu_img_run spec = {
        .argv = copy->in_place ? over : anew,
        .name = copy->target_name,
        .write_paths = write_paths,
        .pass_fds = files->fds,
        .pass_fd_count = files->count,
        .memory_bytes = MEMORY_BYTES + copy->count * MEMORY_BYTES_IMAGE,
        .words = words,
        .word_count = files->count + 1,
        .timeout_ms = -1, /* a copy takes what it takes; who asked for it can cancel */
        .stall_ms = QMP_JOB_STALL_MS,
        .progress = copy->progress ? copy->progress : go_on,
        .opaque = copy->opaque,
    };
    return qemu_img_run(&spec, err);
}

int qemu_img_copy(const struct qemu_img_copy *copy, struct error *err)
{
    if (copy->target_format != IMAGE_FORMAT_RAW && copy->target_format != IMAGE_FORMAT_QCOW2)
        return error_set(err, EINVAL, "%s: disks are copied to raw and qcow2 images", copy->target_name);
    cleanup(files_done) struct files files = {0};
    size_t most = 2 * copy->count + 2;
    files.fds = calloc(most, sizeof *files.fds);
    files.list = calloc(most, sizeof *files.list);
    if (!files.fds || !files.list)
        return error_set(err, ENOMEM, "out of memory");
    cleanup_text struct text source = {0};
    int rc = make_source(copy, &files, &source, err);
    if (rc < 0)
        return rc;
    const char *target = give(&files, copy->target_fd, copy->target_name);
    rc = run(copy, &files, source.data, target, err);
    if (rc < 0)
        return rc;
    /* qemu-img has flushed nothing. */
    if (fsync(copy->target_fd) < 0)
        return error_set(err, errno, "%s can't be flushed: %m", copy->target_name);
    return 0;
}
