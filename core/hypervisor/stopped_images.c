// SPDX-License-Identifier: LGPL-2.1-or-later
/* See stopped_images.h. */
#include "hypervisor/stopped_images.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "format/json_parse.h"
#include "hypervisor/image_claim.h"
#include "hypervisor/image_locks.h"
#include "hypervisor/qmp_arguments.h"

/* What it may allocate: its start, copying, and the tables of each image that it keeps (at most 32 MiB). */
#define MEMORY_BYTES       ((size_t)1 << 30)
#define MEMORY_BYTES_IMAGE ((size_t)64 << 20)

#define PATH_SIZE sizeof "/proc/self/fd/4294967295"

struct node {
    char name[16];
    char path[PATH_SIZE]; /* in the daemon */
    char data_path[PATH_SIZE];
    bool owns; /* image_locks_begin_own was told of these: */
    dev_t owned_device;
    ino_t owned_inode;
};

struct stopped_images {
    struct stopped_images_spec spec;
    struct block_engine engine;
    struct node *nodes; /* spec.count */
};

/* ---- which files ---- */

/* The descriptors that the daemon gets, and those of them that it may write to, as paths here. */
struct files {
    int *fds;
    char (*texts)[PATH_SIZE];
    const char **write_paths;
    size_t count, writable;
};

static void files_done(struct files *files)
{
    free(files->fds);
    free(files->texts);
    free(files->write_paths);
}

static void add_file(struct files *files, int fd, bool writable, char path[PATH_SIZE])
{
    if (writable) {
        char *text = files->texts[files->writable];
        snprintf(text, PATH_SIZE, "/proc/self/fd/%d", fd);
        files->write_paths[files->writable++] = text;
    }
    snprintf(path, PATH_SIZE, "/proc/self/fd/%zu", STORAGE_DAEMON_FIRST_FD + files->count);
    files->fds[files->count++] = fd;
}

static int collect_files(struct stopped_images *images, struct files *files)
{
    const struct stopped_images_spec *spec = &images->spec;
    size_t most = 2 * spec->count;
    files->fds = calloc(most + 1, sizeof *files->fds);
    files->texts = calloc(most + 1, sizeof *files->texts);
    files->write_paths = calloc(most + 1, sizeof *files->write_paths);
    if (!files->fds || !files->texts || !files->write_paths)
        return -ENOMEM;
    for (size_t i = 0; i < spec->count; i++) {
        const struct stopped_image *image = &spec->images[i];
        add_file(files, image->fd, image->writable, images->nodes[i].path);
        if (image->data_fd >= 0)
            add_file(files, image->data_fd, image->writable, images->nodes[i].data_path);
    }
    return 0;
}

/* ---- nodes ---- */

/* In the order in which they are opened. */
struct node_list {
    struct json_object **nodes;
    size_t count;
};

static void node_list_done(struct node_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        json_object_put(list->nodes[i]);
    free(list->nodes);
}

static int append_node(struct node_list *list, struct json_object *node, struct error *err)
{
    if (!node)
        return error_set(err, ENOMEM, "out of memory");
    list->nodes[list->count++] = node;
    return 0;
}

static struct json_object *new_node(const char *driver, const char *name, bool writable)
{
    struct json_object *node = json_object_new_object();
    qmp_add_string(&node, "driver", driver);
    qmp_add_string(&node, "node-name", name);
    qmp_add_bool(&node, "read-only", !writable);
    qmp_add_string(&node, "discard", "unmap");
    return node;
}

static int append_file(struct node_list *list, const struct stopped_image *image, int fd, const char *name,
                       const char *path, struct error *err)
{
    struct stat file;
    if (fstat(fd, &file) < 0)
        return error_set(err, errno, "%s: %m", image->name);
    if (!S_ISREG(file.st_mode) && !S_ISBLK(file.st_mode))
        return error_set(err, EINVAL, "%s: neither a file nor a block device", image->name);
    struct json_object *node =
        new_node(S_ISBLK(file.st_mode) ? "host_device" : "file", name, image->writable);
    qmp_add_string(&node, "filename", path);
    return append_node(list, node, err);
}

static int append_image(const struct stopped_images *images, size_t index, struct node_list *list,
                        struct error *err)
{
    const struct stopped_image *image = &images->spec.images[index];
    const struct node *made = &images->nodes[index];
    char file[24], data[24];
    snprintf(file, sizeof file, "f%zu", index);
    snprintf(data, sizeof data, "d%zu", index);
    int rc = append_file(list, image, image->fd, file, made->path, err);
    if (rc == 0 && image->data_fd >= 0)
        rc = append_file(list, image, image->data_fd, data, made->data_path, err);
    if (rc < 0)
        return rc;
    struct json_object *node = new_node(image_format_name(image->format), made->name, image->writable);
    qmp_add_string(&node, "file", file);
    if (image->data_fd >= 0)
        qmp_add_string(&node, "data-file", data);
    const char *backing = stopped_images_backing_node(images, index);
    if (backing)
        qmp_add_string(&node, "backing", backing);
    else if (image_format_knows_backing(image->format) && node)
        json_object_object_add(node, "backing", NULL);
    return append_node(list, node, err);
}

/* Each image after its backing, in whatever order they are given. */
static int make_nodes(const struct stopped_images *images, struct node_list *list, struct error *err)
{
    const struct stopped_images_spec *spec = &images->spec;
    cleanup_free bool *done = calloc(spec->count + 1, sizeof *done);
    list->nodes = calloc(3 * spec->count + 1, sizeof *list->nodes);
    if (!done || !list->nodes)
        return error_set(err, ENOMEM, "out of memory");
    size_t left = spec->count;
    while (left > 0) {
        size_t before = left;
        for (size_t i = 0; i < spec->count; i++) {
            int backing = spec->images[i].backing;
            if (done[i] || (backing >= 0 && !done[backing]))
                continue;
            int rc = append_image(images, i, list, err);
            if (rc < 0)
                return rc;
            done[i] = true;
            left--;
        }
        if (left == before)
            return error_set(err, EINVAL, "images that are each other's backing files");
    }
    return 0;
}

/* The image can't be opened: says which one, and who has it where that is the reason. Our own daemon, which
 * would be among those, has to have ended. */
static int explain(const struct stopped_images *images, size_t index, struct error *err)
{
    const struct stopped_image *image = &images->spec.images[index];
    if (err->code != EBUSY) {
        stopped_images_clean(images, err);
        return strstr(err->text, image->name) ? -err->code : error_prefix(err, "%s", image->name);
    }
    char holders[ERROR_TEXT_MAX / 2], others[ERROR_TEXT_MAX / 4];
    size_t found = image_claim_holders(image->fd, holders, sizeof holders);
    if (found == 0 && image->data_fd >= 0 && image_claim_holders(image->data_fd, others, sizeof others) > 0)
        return error_set(err, EBUSY, "the data file of %s is in use by %s", image->name, others);
    return error_set(err, EBUSY, "%s is in use by %s", image->name, holders);
}

/* ---- beginning and end ---- */

/* Tells that it is us who will write to the images; before they are opened, or it would look like another. */
static void begin_to_own(struct stopped_images *images)
{
    for (size_t i = 0; i < images->spec.count; i++) {
        struct node *node = &images->nodes[i];
        struct stat file;
        if (!images->spec.images[i].writable || fstat(images->spec.images[i].fd, &file) < 0)
            continue;
        node->owns = image_locks_begin_own(file.st_dev, file.st_ino);
        node->owned_device = file.st_dev;
        node->owned_inode = file.st_ino;
    }
}

static void own(const struct stopped_images *images)
{
    for (size_t i = 0; i < images->spec.count; i++)
        if (images->nodes[i].owns)
            image_locks_own(images->nodes[i].owned_device, images->nodes[i].owned_inode);
}

static void free_images(struct stopped_images *images)
{
    for (size_t i = 0; i < images->spec.count; i++)
        if (images->nodes && images->nodes[i].owns)
            image_locks_disown(images->nodes[i].owned_device, images->nodes[i].owned_inode);
    free(images->nodes);
    free(images);
}

static int check(const struct stopped_images_spec *spec, struct error *err)
{
    for (size_t i = 0; i < spec->count; i++) {
        const struct stopped_image *image = &spec->images[i];
        bool has_backing = image->backing >= 0;
        if (image->backing >= (int)spec->count || (has_backing && !image_format_knows_backing(image->format)))
            return error_set(err, EINVAL, "%s can't have that backing file", image->name);
    }
    return 0;
}

static int launch(struct stopped_images *images, struct error *err)
{
    cleanup(files_done) struct files files = {0};
    cleanup(node_list_done) struct node_list list = {0};
    if (collect_files(images, &files) < 0)
        return error_set(err, ENOMEM, "out of memory");
    int rc = make_nodes(images, &list, err);
    if (rc < 0)
        return rc;
    const struct storage_daemon_spec daemon = {
        .write_paths = files.write_paths,
        .pass_fds = files.fds,
        .pass_fd_count = files.count,
        .nodes = list.nodes,
        .node_count = list.count,
        .memory_bytes = MEMORY_BYTES + images->spec.count * MEMORY_BYTES_IMAGE,
        .timeout_ms = images->spec.timeout_ms,
    };
    return storage_daemon_launch(&daemon, &images->engine.daemon, err);
}

int stopped_images_launch(const struct stopped_images_spec *spec, struct stopped_images **images,
                          struct error *err)
{
    int rc = check(spec, err);
    if (rc < 0)
        return rc;
    cleanup(stopped_images_drop) struct stopped_images *made = calloc(1, sizeof *made);
    if (!made)
        return error_set(err, ENOMEM, "out of memory");
    made->spec = *spec;
    made->engine.timeout_ms = spec->timeout_ms;
    made->nodes = calloc(spec->count + 1, sizeof *made->nodes);
    if (!made->nodes)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < spec->count; i++)
        snprintf(made->nodes[i].name, sizeof made->nodes[i].name, "n%u", (unsigned)i);
    begin_to_own(made);
    rc = launch(made, err);
    if (rc < 0)
        return rc;
    *images = steal_pointer(made);
    return 0;
}

/* Which image does one of the three nodes of an image belong to? */
static size_t image_of_node(const struct stopped_images *images, const char *node)
{
    char *end;
    unsigned long index = *node ? strtoul(node + 1, &end, 10) : SIZE_MAX;
    return index < images->spec.count && !*end ? index : SIZE_MAX;
}

int stopped_images_await(struct stopped_images *images, struct error *err)
{
    struct error why = {0};
    int rc = storage_daemon_await(images->engine.daemon, images->spec.timeout_ms, &why);
    if (rc == 0) {
        images->engine.qmp = storage_daemon_qmp(images->engine.daemon);
        own(images);
        return 0;
    }
    size_t failed = image_of_node(images, storage_daemon_failed_node(images->engine.daemon));
    storage_daemon_stop(steal_pointer(images->engine.daemon), images->spec.timeout_ms, NULL);
    if (failed < images->spec.count)
        explain(images, failed, &why);
    return error_set(err, why.code, "%s", why.text);
}

int stopped_images_begin(const struct stopped_images_spec *spec, struct stopped_images **images,
                         struct error *err)
{
    cleanup(stopped_images_drop) struct stopped_images *made = NULL;
    int rc = stopped_images_launch(spec, &made, err);
    if (rc == 0)
        rc = stopped_images_await(made, err);
    if (rc < 0)
        return rc;
    *images = steal_pointer(made);
    return 0;
}

const struct block_engine *stopped_images_engine(const struct stopped_images *images)
{
    return &images->engine;
}

const char *stopped_images_node(const struct stopped_images *images, size_t index)
{
    return images->nodes[index].name;
}

const char *stopped_images_backing_node(const struct stopped_images *images, size_t index)
{
    int backing = images->spec.images[index].backing;
    return backing < 0 ? NULL : images->nodes[backing].name;
}

int stopped_images_backing(const struct stopped_images *images, size_t index)
{
    return images->spec.images[index].backing;
}

int stopped_images_close(struct stopped_images *images, size_t index, struct error *err)
{
    return storage_daemon_delete_node(images->engine.daemon, images->nodes[index].name,
                                      images->spec.timeout_ms, err);
}

/* What the file is called that has this path in the daemon; NULL: it was not given. */
static const char *name_of_path(const struct stopped_images *images, const char *path, size_t length)
{
    for (size_t i = 0; i < images->spec.count; i++) {
        const struct node *node = &images->nodes[i];
        if ((strncmp(node->path, path, length) == 0 && !node->path[length]) ||
            (strncmp(node->data_path, path, length) == 0 && !node->data_path[length]))
            return images->spec.images[i].name;
    }
    return NULL;
}

void stopped_images_clean(const struct stopped_images *images, struct error *err)
{
    static const char prefix[] = "/proc/self/fd/";
    cleanup_text struct text clean = {0};
    if (!err || !strstr(err->text, prefix))
        return;
    const char *from = err->text, *found;
    while ((found = strstr(from, prefix))) {
        size_t length = sizeof prefix - 1 + strspn(found + sizeof prefix - 1, "0123456789");
        const char *name = name_of_path(images, found, length);
        text_append(&clean, from, (size_t)(found - from));
        if (name)
            text_append_string(&clean, name);
        else
            text_append(&clean, found, length);
        from = found + length;
    }
    text_append_string(&clean, from);
    if (!clean.failed)
        error_set(err, err->code, "%s", clean.data);
}

void stopped_images_begin_end(struct stopped_images *images)
{
    storage_daemon_begin_stop(images->engine.daemon, images->spec.timeout_ms);
}

int stopped_images_end(struct stopped_images *images, struct error *err)
{
    if (!images)
        return 0;
    int rc = storage_daemon_stop(images->engine.daemon, images->spec.timeout_ms, err);
    free_images(images);
    return rc;
}

/* The locks of QEMU's that an image has which is open (block/file-posix.c: RAW_LOCK_PERM_BASE,
 * RAW_LOCK_SHARED_BASE), whoever has it. */
static bool is_locked(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 200};
    return fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type != F_UNLCK;
}

static bool is_any_open(void *opaque)
{
    const struct stopped_images *images = opaque;
    for (size_t i = 0; i < images->spec.count; i++) {
        const struct stopped_image *image = &images->spec.images[i];
        if (is_locked(image->fd) || (image->data_fd >= 0 && is_locked(image->data_fd)))
            return true;
    }
    return false;
}

bool stopped_images_leave(struct stopped_images *images)
{
    bool is_closed =
        storage_daemon_leave(images->engine.daemon, is_any_open, images, images->spec.timeout_ms);
    free_images(images);
    return is_closed;
}

void stopped_images_drop(struct stopped_images **images)
{
    stopped_images_end(*images, NULL);
}
