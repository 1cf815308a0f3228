// SPDX-License-Identifier: LGPL-2.1-or-later
/* Changing image files in the background; see reclaim_files.h. */
#include "administration/reclaim/reclaim_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "administration/files/images.h"
#include "administration/files/room.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "hypervisor/block_snapshot.h"
#include "hypervisor/free_space.h"
#include "hypervisor/image_claim.h"
#include "hypervisor/qemu_img.h"
#include "hypervisor/qemu_img_copy.h"
#include "hypervisor/stopped_merge.h"

int reclaim_open(struct administration *administration, const struct world *world, const char *path, int *fd,
                 struct error *err)
{
    char *const named[] = {(char *)path, NULL};
    if (!world_layer_at(world, path))
        return error_set(err, ENOENT, "%s: no layer of any domain", path);
    return locate_open(administration->options.locate, named, path, fd, err);
}

static const struct layer *layer_at(const struct world *world, const char *path)
{
    const struct world_file *file = world_find_file(world, world_layer_at(world, path));
    return file ? file->layer : NULL;
}

/* ---- A chain, opened ---- */

struct chain_images {
    struct stopped_image *list;
    size_t count;
};

static void chain_images_done(struct chain_images *chain)
{
    for (size_t i = 0; i < chain->count; i++)
        if (chain->list[i].fd >= 0)
            close(chain->list[i].fd);
    free(chain->list);
    *chain = (struct chain_images){0};
}

static int chain_open(struct administration *administration, const struct world *world,
                      const struct layer *top, struct chain_images *chain, struct error *err)
{
    size_t count = 0;
    for (const struct layer *layer = top; layer; layer = layer->backing)
        count++;
    chain->list = calloc(count + 1, sizeof *chain->list);
    if (!chain->list)
        return error_set(err, ENOMEM, "out of memory");
    for (const struct layer *layer = top; layer; layer = layer->backing) {
        struct stopped_image *image = &chain->list[chain->count];
        *image = (struct stopped_image){.name = layer->path,
                                        .fd = -1,
                                        .format = layer->format,
                                        .backing = layer->backing ? (int)chain->count + 1 : -1,
                                        .data_fd = -1};
        if (layer->remote)
            return error_set(err, EOPNOTSUPP, "%s lies on the network, where nothing is changed",
                             layer->path);
        int r = reclaim_open(administration, world, layer->path, &image->fd, err);
        if (r < 0)
            return r;
        chain->count++;
    }
    return 0;
}

/* ---- Small things ---- */

static int delete_internal(int fd, const char *path, const struct internal_snapshot *internal,
                           struct error *err)
{
    const struct stopped_image image = {
        .name = path, .fd = fd, .format = IMAGE_FORMAT_QCOW2, .writable = true, .backing = -1, .data_fd = -1};
    const struct stopped_images_spec spec = {.images = &image, .count = 1, .timeout_ms = IMAGE_TIMEOUT_MS};
    cleanup(stopped_images_drop) struct stopped_images *images = NULL;
    int r = stopped_images_begin(&spec, &images, err);
    if (r == 0)
        r = block_snapshot_delete(stopped_images_engine(images), stopped_images_node(images, 0), internal->id,
                                  internal->name, err);
    if (r < 0 && r != -ENOENT)
        return r;
    return stopped_images_end(steal_pointer(images), err);
}

int reclaim_drop(struct administration *administration, const struct world *world, const char *path,
                 const struct internal_snapshot *internal, struct error *err)
{
    cleanup_close int fd = -1;
    const struct image_info *info;
    int r = reclaim_open(administration, world, path, &fd, err);
    if (r == 0)
        r = image_read_info(fd, path, &info, err);
    if (r < 0)
        return r;
    bool is_there = false;
    for (size_t i = 0; i < info->snapshot_count; i++)
        is_there |= internal_snapshot_equal(info->snapshots[i], internal);
    image_info_unref(info);
    if (!is_there) { /* who took it out was killed before the store knew, and may have left something */
        const struct qemu_img image = {.path = path, .fd = fd, .timeout_ms = IMAGE_TIMEOUT_MS};
        return qemu_img_free_leaks(&image, err);
    }
    const struct qcow2_table_mark mark = qcow2_table_mark(fd);
    struct error why;
    r = delete_internal(fd, path, internal, err);
    if (r < 0 && image_mend_table(fd, path, &mark, &why) < 0)
        log_warning("%s", why.text);
    return r;
}

int reclaim_unlink(struct administration *administration, const struct world *world, const char *path,
                   struct error *err)
{
    cleanup_close int fd = -1, claim = -1;
    struct stat stat, named;
    const struct layer *layer = layer_at(world, path);
    if (access(path, F_OK) < 0 && errno == ENOENT)
        return 0;
    int r = layer ? reclaim_open(administration, world, path, &fd, err)
                  : error_set(err, ENOENT, "%s: no layer of any domain", path);
    if (r == 0)
        r = image_claim_take(path, fd, &claim, err);
    if (r < 0)
        return r;
    /* The very file that was made, and not one that took its name. */
    if (fstat(fd, &stat) < 0 || lstat(path, &named) < 0 || stat.st_dev != named.st_dev ||
        stat.st_ino != named.st_ino || stat.st_ino != layer->identity.inode)
        return error_set(err, EPERM, "%s is not the file that it was: it is left where it is", path);
    cleanup_free char *directory = strndup(path, (size_t)(strrchr(path, '/') - path));
    cleanup_close int directory_fd =
        directory ? open(*directory ? directory : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (unlink(path) < 0)
        return error_set(err, errno, "%s can't be removed: %m", path);
    if (directory_fd >= 0)
        fsync(directory_fd);
    return 0;
}

int reclaim_name_backing(struct administration *administration, const struct world *world, const char *path,
                         const char *backing, struct error *err)
{
    const struct layer *layer = layer_at(world, backing);
    const struct qemu_img image = {.path = path, .timeout_ms = IMAGE_TIMEOUT_MS};
    if (!layer)
        return error_set(err, ENOENT, "%s: no layer of any domain", backing);
    return qemu_img_name_backing(&image, backing, image_format_name(layer->format), err);
}

char *reclaim_backing_name(struct administration *administration, const struct world *world, const char *path)
{
    cleanup_close int fd = -1;
    const struct image_info *info;
    if (reclaim_open(administration, world, path, &fd, NULL) < 0 ||
        image_read_info(fd, path, &info, NULL) < 0)
        return NULL;
    char *name = info->backing_name ? strdup(info->backing_name) : NULL;
    image_info_unref(info);
    return name;
}

/* ---- Merging ---- */

static int as_interrupted(int r, struct error *err)
{
    return r == -ECANCELED ? error_set(err, EINTR, "it makes way for something else") : r;
}

int reclaim_merge_down(struct administration *administration, const struct world *world, struct work *work,
                       const char *upper, const char *lower, struct error *err)
{
    cleanup(chain_images_done) struct chain_images chain = {0};
    cleanup(stopped_images_drop) struct stopped_images *images = NULL;
    const struct layer *top = layer_at(world, upper);
    if (!top || !top->backing || strcmp(top->backing->path, lower) != 0)
        return error_set(err, EPERM, "%s does not stand on %s any more", upper, lower);
    int r = chain_open(administration, world, top, &chain, err);
    if (r == 0)
        r = room_for_bytes(chain.list[1].fd, lower, free_space_taken(chain.list[0].fd), err);
    if (r < 0)
        return r;
    chain.list[1].writable = true;
    const struct stopped_images_spec spec = {
        .images = chain.list, .count = chain.count, .timeout_ms = IMAGE_TIMEOUT_MS};
    struct work_watch watching = {.administration = administration, .work = work, .to = 100};
    const struct qmp_job_watch watch = {
        .progress = work_progress, .opaque = &watching, .timeout_ms = IMAGE_TIMEOUT_MS};
    r = stopped_images_begin(&spec, &images, err);
    if (r == 0)
        r = stopped_merge_down(images, 0, &watch, err);
    if (r < 0)
        return as_interrupted(r, err);
    return stopped_images_end(steal_pointer(images), err);
}

int reclaim_merge_up(struct administration *administration, const struct world *world, struct work *work,
                     const char *upper, struct error *err)
{
    cleanup(chain_images_done) struct chain_images chain = {0};
    cleanup(stopped_images_drop) struct stopped_images *images = NULL;
    const struct layer *top = layer_at(world, upper);
    if (!top || !top->backing)
        return error_set(err, EPERM, "%s stands on nothing any more", upper);
    const struct layer *base = top->backing->backing;
    int r = chain_open(administration, world, top, &chain, err);
    if (r == 0)
        r = room_for_bytes(chain.list[0].fd, upper, free_space_taken(chain.list[1].fd), err);
    if (r < 0)
        return r;
    chain.list[0].writable = true;
    const struct stopped_images_spec spec = {
        .images = chain.list, .count = chain.count, .timeout_ms = IMAGE_TIMEOUT_MS};
    struct work_watch watching = {.administration = administration, .work = work, .to = 100};
    const struct qmp_job_watch watch = {
        .progress = work_progress, .opaque = &watching, .timeout_ms = IMAGE_TIMEOUT_MS};
    bool changed = false;
    r = stopped_images_begin(&spec, &images, err);
    if (r == 0)
        r = stopped_merge_up(images, 0, base ? base->path : NULL, &watch, &changed, err);
    if (r < 0)
        return as_interrupted(r, err);
    r = stopped_images_end(steal_pointer(images), err);
    /* QEMU writes the image's own format beside the name, whatever the backing file is. */
    return r == 0 && base && base->format != IMAGE_FORMAT_QCOW2
               ? reclaim_name_backing(administration, world, upper, base->path, err)
               : r;
}

static bool copy_progress(void *opaque, unsigned percent)
{
    return work_progress(opaque, percent, 100);
}

int reclaim_copy(struct administration *administration, const struct world *world, struct work *work,
                 const char *from, const char *to, struct error *err)
{
    cleanup(chain_images_done) struct chain_images chain = {0};
    cleanup_close int fd = -1, target = -1;
    const struct layer *top = layer_at(world, from), *home = layer_at(world, to);
    char path[64];
    if (!top || !home)
        return error_set(err, EPERM, "%s and %s are not what they were", from, to);
    int r = chain_open(administration, world, top, &chain, err);
    if (r == 0)
        r = reclaim_open(administration, world, to, &fd, err);
    if (r < 0)
        return r;
    uint64_t bytes = 0, there = free_space_taken(fd);
    for (size_t i = 0; i < chain.count; i++)
        bytes += free_space_taken(chain.list[i].fd);
    r = room_for_bytes(fd, to, bytes > there ? bytes - there : 0, err);
    if (r < 0)
        return r;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    target = open(path, O_RDWR | O_CLOEXEC);
    if (target < 0)
        return error_set(err, errno, "%s: %m", to);
    struct work_watch watch = {.administration = administration, .work = work, .to = 100};
    /* What it stood on would be seen through the copy, so one that stood on something is made anew. */
    bool in_place = home->format == IMAGE_FORMAT_QCOW2 && home->size == top->size && !home->backing;
    const struct qemu_img_copy copy = {.images = chain.list,
                                       .count = chain.count,
                                       .view = -1,
                                       .target_name = to,
                                       .target_fd = target,
                                       .target_format = home->format,
                                       .in_place = in_place,
                                       .progress = copy_progress,
                                       .opaque = &watch};
    return as_interrupted(qemu_img_copy(&copy, err), err);
}
