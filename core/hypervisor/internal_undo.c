// SPDX-License-Identifier: LGPL-2.1-or-later
/* See internal_undo.h. */
#include "hypervisor/internal_undo.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "hypervisor/block_snapshot.h"
#include "hypervisor/qemu_img.h"

static int begin(const struct internal_undo *undo, struct stopped_images **images, struct error *err)
{
    const struct stopped_images_spec spec = {
        .images = undo->images, .count = undo->count, .timeout_ms = undo->timeout_ms};
    return stopped_images_begin(&spec, images, err);
}

int internal_undo_make(const struct internal_undo *undo, struct error *err)
{
    cleanup(stopped_images_drop) struct stopped_images *images = NULL;
    cleanup_free const char **nodes = calloc(undo->count + 1, sizeof *nodes);
    if (!nodes)
        return error_set(err, ENOMEM, "out of memory");
    int rc = begin(undo, &images, err);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < undo->count; i++)
        nodes[i] = stopped_images_node(images, i);
    rc = block_snapshot_internal(stopped_images_engine(images), nodes, undo->count, undo->tag, err);
    if (rc < 0)
        stopped_images_clean(images, err);
    return rc < 0 ? rc : stopped_images_end(steal_pointer(images), err);
}

/* The ids that the point has in the images, each to be freed; NULL: it has none. */
struct ids {
    char **ids;
    size_t count;
};

static void ids_done(struct ids *ids)
{
    for (size_t i = 0; ids->ids && i < ids->count; i++)
        free(ids->ids[i]);
    free(ids->ids);
}

static int find_ids(const struct internal_undo *undo, struct ids *ids, struct error *err)
{
    cleanup(stopped_images_drop) struct stopped_images *images = NULL;
    int rc = begin(undo, &images, err);
    if (rc < 0)
        return rc;
    ids->count = undo->count;
    ids->ids = calloc(undo->count + 1, sizeof *ids->ids);
    if (!ids->ids)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < undo->count && rc == 0; i++) {
        rc = block_snapshot_find(stopped_images_engine(images), stopped_images_node(images, i), undo->tag,
                                 &ids->ids[i], err);
        if (rc == -ENOENT)
            rc = 0;
    }
    return rc < 0 ? rc : stopped_images_end(steal_pointer(images), err);
}

int internal_undo_forget(const struct internal_undo *undo, struct error *err)
{
    cleanup(stopped_images_drop) struct stopped_images *images = NULL;
    int rc = begin(undo, &images, err);
    for (size_t i = 0; i < undo->count && rc == 0; i++) {
        rc = block_snapshot_delete(stopped_images_engine(images), stopped_images_node(images, i), NULL,
                                   undo->tag, err);
        if (rc == -ENOENT)
            rc = 0;
    }
    if (rc < 0 && images)
        stopped_images_clean(images, err);
    return rc < 0 ? rc : stopped_images_end(steal_pointer(images), err);
}

/* All are applied before the first is deleted, so that a repetition finds either all or only done ones. */
int internal_undo_back(const struct internal_undo *undo, struct error *err)
{
    cleanup(ids_done) struct ids ids = {0};
    int rc = find_ids(undo, &ids, err);
    for (size_t i = 0; i < undo->count && rc == 0; i++) {
        const struct qemu_img image = {
            .path = undo->images[i].name, .fd = undo->images[i].fd, .timeout_ms = undo->timeout_ms};
        if (ids.ids[i])
            rc = qemu_img_apply(&image, ids.ids[i], err);
    }
    return rc < 0 ? rc : internal_undo_forget(undo, err);
}
