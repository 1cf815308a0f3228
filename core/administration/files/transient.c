// SPDX-License-Identifier: LGPL-2.1-or-later
/* See transient.h. */
#include "administration/files/transient.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "administration/files/images.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "image/overlay_file.h"

int transient_plan(struct transient *transient, const struct change *change, const struct layer *below,
                   unsigned index, struct error *err)
{
    char name[OVERLAY_NAME_SIZE];
    const char *slash = strrchr(below->path, '/');
    temporary_name(change->administration, change->operation, TEMPORARY_OVERLAYS + (size_t)index, name);
    *transient = (struct transient){.below = below};
    if (asprintf(&transient->path, "%.*s/%s", (int)(slash - below->path), below->path, name) < 0)
        return transient->path = NULL, error_set(err, ENOMEM, "out of memory");
    return 0;
}

/* How long the disk is, as the image itself says: it may have been made a moment ago. */
static int size_of(const struct layer *below, int fd, uint64_t *size, struct error *err)
{
    const struct image_info *info;
    if (below->format != IMAGE_FORMAT_QCOW2) {
        *size = below->size;
        return 0;
    }
    int r = image_read_info(fd, below->path, &info, err);
    if (r < 0)
        return r;
    *size = info->size;
    image_info_unref(info);
    return 0;
}

static int fill(const struct transient *transient, const struct change *change, struct overlay_file *file,
                struct error *err)
{
    const struct layer *below = transient->below;
    const char *slash = strrchr(transient->path, '/');
    uint64_t size = 0;
    cleanup_free char *directory = strndup(transient->path, (size_t)(slash - transient->path) + 1);
    *file = (struct overlay_file){.directory = -1, .below = -1, .fd = -1};
    if (!directory)
        return error_set(err, ENOMEM, "out of memory");
    file->directory = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file->directory < 0)
        return error_set(err, errno, "%s: %m", directory);
    char *const named[] = {below->path, NULL};
    int r = locate_open(change->administration->options.locate, named, below->path, &file->below, err);
    if (r == 0)
        r = size_of(below, file->below, &size, err);
    if (r == 0 && !align_up_checked(size, 512, &size))
        r = error_set(err, EINVAL, "%s is too long", below->path);
    if (r < 0)
        return r;
    file->temporary_name = file->final_name = slash + 1;
    file->backing_name = below->path;
    file->backing_format = image_format_name(below->format);
    file->size_bytes = size;
    return 0;
}

int transients_make(struct transient *list, size_t count, const struct change *change, struct error *err)
{
    cleanup_free struct overlay_file *files = calloc(count + 1, sizeof *files);
    size_t filled = 0;
    int r = files ? 0 : error_set(err, ENOMEM, "out of memory");
    for (; r == 0 && filled < count; filled++)
        r = fill(&list[filled], change, &files[filled], err);
    if (r == 0 && count)
        r = overlay_files_make(files, count, err);
    for (size_t i = 0; i < count; i++)
        list[i].is_made = r == 0;
    for (size_t i = 0; i < filled; i++) {
        if (files[i].directory >= 0)
            close(files[i].directory);
        if (files[i].below >= 0)
            close(files[i].below);
    }
    if (files && r == 0)
        overlay_files_close(files, count);
    if (count)
        crash_point("transient");
    return r;
}

void transients_done(struct transient *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (list[i].is_made)
            unlink(list[i].path);
        free(list[i].path);
    }
    free(list);
}
