// SPDX-License-Identifier: LGPL-2.1-or-later
/* Those of a change's new files that are copies, filled; see overlays_copy in overlays.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "administration/files/images.h"
#include "administration/files/overlays.h"
#include "administration/files/room.h"
#include "base/cleanup.h"
#include "hypervisor/free_space.h"
#include "hypervisor/qemu_img_copy.h"
#include "image/qcow2_snapshot_view.h"

static bool copy_progress(void *opaque, unsigned percent)
{
    return work_progress(opaque, percent, 100);
}

static void close_all(int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

static int copy_one(const struct overlays *overlays, struct change *change, const struct overlay *overlay,
                    struct work_watch *watch, struct error *err)
{
    size_t count = 0;
    for (const struct layer *layer = overlay->below; layer; layer = layer->backing)
        count++;
    cleanup_free struct stopped_image *images = calloc(count, sizeof *images);
    cleanup_free int *fds = calloc(count, sizeof *fds);
    if (!images || !fds)
        return error_set(err, ENOMEM, "out of memory");
    uint64_t bytes = 0;
    size_t at = 0;
    int r = 0;
    memset(fds, 0xff, count * sizeof *fds);
    for (const struct layer *layer = overlay->below; r == 0 && layer; layer = layer->backing, at++) {
        r = image_open(change, layer, &fds[at], err);
        images[at] = (struct stopped_image){.name = layer->path,
                                            .fd = fds[at],
                                            .format = layer->format,
                                            .backing = layer->backing ? (int)at + 1 : -1,
                                            .data_fd = -1};
        bytes += r == 0 ? free_space_taken(fds[at]) : 0;
    }
    int target = overlay_fd(overlays, overlay);
    if (r == 0)
        r = room_for_bytes(target, overlay->directory_path, bytes, err);
    cleanup_close int view = -1;
    if (r == 0 && overlay->internal)
        r = qcow2_snapshot_view_open(fds[0], overlay->internal, &view, err);
    const struct qemu_img_copy copy = {.images = images,
                                       .count = count,
                                       .view = view,
                                       .target_name = overlay->final,
                                       .target_fd = target,
                                       .target_format = IMAGE_FORMAT_QCOW2,
                                       .progress = copy_progress,
                                       .opaque = watch};
    if (r == 0)
        r = qemu_img_copy(&copy, err);
    close_all(fds, count);
    return r == -ECANCELED ? error_set(err, EINTR, "it was cancelled, and everything was undone") : r;
}

int overlays_copy(struct overlays *overlays, struct change *change, struct error *err)
{
    size_t done = 0;
    for (size_t i = 0; i < overlays->count; i++) {
        if (!overlays->list[i].is_copy)
            continue;
        struct work_watch watch = {.administration = change->administration,
                                   .work = change->work,
                                   .from = (unsigned)(done * 100 / overlays->copy_count),
                                   .to = (unsigned)((done + 1) * 100 / overlays->copy_count)};
        int r = copy_one(overlays, change, &overlays->list[i], &watch, err);
        if (r < 0)
            return r;
        done++;
    }
    return 0;
}
