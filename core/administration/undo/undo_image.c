// SPDX-License-Identifier: LGPL-2.1-or-later
/* Undoing inside of images; see undo_image.h. */
#include "administration/undo/undo_image.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "administration/files/images.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "hypervisor/internal_undo.h"
#include "hypervisor/qemu_img.h"

/* -1 where the image is gone. */
static int open_image(const char *path, int *fd, struct error *err)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    return *fd < 0 && errno != ENOENT ? error_set(err, errno, "%s: %m", path) : 0;
}

/* Has the image an internal snapshot of this tag? Only read: somebody else may have it open. */
static int has_tag(const char *path, int fd, const char *tag, bool *found, struct error *err)
{
    const struct image_info *info;
    int r = image_read_info(fd, path, &info, err);
    if (r < 0)
        return r;
    *found = image_find_tag(info, tag);
    image_info_unref(info);
    return 0;
}

/* What a killed command has left in the tables, which only looks like damage. */
static int tidy(const char *path, int fd, struct error *err)
{
    const struct qemu_img image = {.path = path, .fd = fd, .timeout_ms = IMAGE_TIMEOUT_MS};
    int r = qemu_img_free_leaks(&image, err);
    return r == -EBUSY ? 0 : r; /* what is left over does no harm */
}

/* Does `undo_with` to the image if it has the tag. */
static int undo_image(const char *path, const char *tag, const struct qcow2_table_mark *before,
                      int (*undo_with)(const struct internal_undo *undo, struct error *err),
                      struct error *err)
{
    cleanup_close int fd = -1;
    bool found = false;
    int r = open_image(path, &fd, err);
    if (r == 0 && fd >= 0)
        r = image_mend_table(fd, path, before, err);
    if (r == 0 && fd >= 0)
        r = has_tag(path, fd, tag, &found, err);
    if (r < 0 || fd < 0)
        return r;
    const struct stopped_image image = {
        .name = path, .fd = fd, .format = IMAGE_FORMAT_QCOW2, .writable = true, .backing = -1, .data_fd = -1};
    const struct internal_undo undo = {
        .images = &image, .count = 1, .tag = tag, .timeout_ms = IMAGE_TIMEOUT_MS};
    const struct qcow2_table_mark mark = qcow2_table_mark(fd);
    struct error why;
    if (found)
        r = undo_with(&undo, err);
    if (r == 0)
        return tidy(path, fd, err);
    if (image_mend_table(fd, path, &mark, &why) < 0)
        log_warning("%s", why.text);
    return r;
}

int undo_image_internal(const char *path, const char *tag, const struct qcow2_table_mark *before,
                        struct error *err)
{
    return undo_image(path, tag, before, internal_undo_forget, err);
}

int undo_image_point(const char *path, const char *tag, const struct qcow2_table_mark *before,
                     struct error *err)
{
    return undo_image(path, tag, before, internal_undo_back, err);
}
