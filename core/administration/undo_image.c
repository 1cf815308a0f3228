// SPDX-License-Identifier: LGPL-2.1-or-later
/* Undoing inside of images; see undo_image.h. */
#include "administration/undo_image.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "administration/images.h"
#include "base/cleanup.h"
#include "hypervisor/block_snapshot.h"
#include "hypervisor/qemu_img.h"
#include "hypervisor/stopped_images.h"

static void info_drop(const struct image_info **info)
{
    image_info_unref(*info);
}

/* `*id` is empty where the image has no such snapshot, or is gone. */
static int find(const char *path, const char *tag, int *fd, char *id, size_t size, struct error *err)
{
    *id = '\0';
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (*fd < 0)
        return errno == ENOENT ? 0 : error_set(err, errno, "%s: %m", path);
    cleanup(info_drop) const struct image_info *info = NULL;
    int r = image_read_info(*fd, path, &info, err);
    if (r < 0)
        return r;
    const struct internal_snapshot *internal = image_find_tag(info, tag);
    if (internal && strlen(internal->id) < size)
        strcpy(id, internal->id);
    return 0;
}

static int delete (const char *path, enum image_format format, int fd, const char *id, const char *tag,
                   struct error *err)
{
    const struct stopped_image image = {
        .name = path, .fd = fd, .format = format, .writable = true, .backing = -1, .data_fd = -1};
    const struct stopped_images_spec spec = {.images = &image, .count = 1, .timeout_ms = IMAGE_TIMEOUT_MS};
    struct stopped_images *images = NULL;
    int r = stopped_images_begin(&spec, &images, err);
    if (r < 0)
        return r;
    r = block_snapshot_delete(stopped_images_engine(images), stopped_images_node(images, 0), id, tag, err);
    int ended = stopped_images_end(images, r < 0 ? NULL : err);
    return r < 0 && r != -ENOENT ? r : ended;
}

int undo_image_internal(const char *path, const char *format, const char *tag, struct error *err)
{
    char id[64];
    cleanup_close int fd = -1;
    int r = find(path, tag, &fd, id, sizeof id, err);
    if (r < 0 || !*id)
        return r;
    return delete (path, image_format_from_name(format), fd, id, tag, err);
}

int undo_image_point(const char *path, const char *tag, struct error *err)
{
    char id[64];
    cleanup_close int fd = -1;
    int r = find(path, tag, &fd, id, sizeof id, err);
    if (r < 0 || !*id)
        return r;
    const struct qemu_img image = {.path = path, .timeout_ms = IMAGE_TIMEOUT_MS};
    r = qemu_img_apply(&image, id, err);
    return r < 0 ? r : delete (path, IMAGE_FORMAT_QCOW2, fd, id, tag, err);
}
