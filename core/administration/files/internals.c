// SPDX-License-Identifier: LGPL-2.1-or-later
/* Internal snapshots of several disks; see internals.h. */
#include "administration/files/internals.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "administration/files/images.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "domain/name.h"
#include "hypervisor/block_snapshot.h"

/* Room for "~" and a serial number after a name that is cut. */
#define TAG_BYTES_MAX 200

int internals_add(struct internals *internals, const struct change *change, const struct disk *disk,
                  struct error *err)
{
    struct internal_image *grown = realloc(internals->list, (internals->count + 1) * sizeof *grown);
    if (!grown)
        return error_set(err, ENOMEM, "out of memory");
    internals->list = grown;
    struct internal_image *image = &grown[internals->count++];
    *image = (struct internal_image){.disk = disk, .fd = -1};
    int r = image_open(change, disk->active, &image->fd, err);
    return r < 0 ? r : image_read_info(image->fd, disk->active->path, &image->info, err);
}

static bool is_taken(const struct internals *internals, const char *tag)
{
    for (size_t i = 0; i < internals->count; i++)
        if (image_find_tag(internals->list[i].info, tag))
            return true;
    return false;
}

int internals_choose_tag(struct internals *internals, const char *name, uint64_t serial, struct error *err)
{
    char suffix[24];
    if (strlen(name) <= TAG_BYTES_MAX && name[strspn(name, "0123456789")] && !is_taken(internals, name)) {
        strcpy(internals->tag, name);
        return 0;
    }
    snprintf(suffix, sizeof suffix, "%" PRIu64, serial);
    cleanup_free char *other = name_with_suffix(name, suffix);
    if (!other)
        return error_set(err, ENOMEM, "out of memory");
    if (is_taken(internals, other))
        return error_set(err, EEXIST, "an image has internal snapshots called %s and %s already", name,
                         other);
    snprintf(internals->tag, sizeof internals->tag, "%s", other);
    return 0;
}

int internals_launch(struct internals *internals, struct error *err)
{
    if (internals->count == 0)
        return 0;
    internals->nodes = calloc(internals->count, sizeof *internals->nodes);
    if (!internals->nodes)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < internals->count; i++)
        internals->nodes[i] = (struct stopped_image){
            .name = internals->list[i].disk->active->path,
            .fd = internals->list[i].fd,
            .format = internals->list[i].disk->active->format,
            .writable = true,
            .backing = -1,
            .data_fd = -1,
        };
    const struct stopped_images_spec spec = {
        .images = internals->nodes, .count = internals->count, .timeout_ms = IMAGE_TIMEOUT_MS};
    return stopped_images_launch(&spec, &internals->images, err);
}

int internals_open(struct internals *internals, struct error *err)
{
    return internals->count == 0 ? 0 : stopped_images_await(internals->images, err);
}

void internals_note(const struct internals *internals, struct undo_list *list)
{
    for (size_t i = 0; i < internals->count; i++) {
        undo_add_internal(list, internals->list[i].disk->active->path, internals->tag, internals->list[i].fd);
    }
}

int internals_find(struct internals *internals, struct error *err)
{
    for (size_t i = 0; i < internals->count; i++) {
        struct internal_image *image = &internals->list[i];
        const struct image_info *after = NULL;
        int r = image_read_info(image->fd, image->disk->active->path, &after, err);
        if (r < 0)
            return r;
        image_info_unref(image->info);
        image->info = after;
        image->made = image_find_tag(after, internals->tag);
        if (!image->made)
            return error_set(err, EIO, "%s: the internal snapshot that was just made is not there",
                             image->disk->active->path);
    }
    return 0;
}

int internals_snapshot(struct internals *internals, struct error *err)
{
    if (internals->count == 0)
        return 0;
    cleanup_free const char **nodes = calloc(internals->count, sizeof *nodes);
    if (!nodes)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < internals->count; i++)
        nodes[i] = stopped_images_node(internals->images, i);
    const struct block_engine *engine = stopped_images_engine(internals->images);
    internals->is_touched = true;
    int r = block_snapshot_internal(engine, nodes, internals->count, internals->tag, err);
    if (r < 0) {
        internals->is_touched = r != -EEXIST; /* that one is another program's, and nothing was begun */
        stopped_images_clean(internals->images, err);
        return r;
    }
    crash_point("snapshotted");
    /* They are in the files; what is left to be done does not need to be waited for. */
    stopped_images_begin_end(internals->images);
    internals->is_ending = true;
    return internals_find(internals, err);
}

void internals_done(struct internals *internals)
{
    struct error why = {.text = "they were not closed in time"};
    bool is_closed = internals->is_ending ? stopped_images_leave(internals->images)
                                          : stopped_images_end(internals->images, &why) == 0;
    if (!is_closed && internals->is_touched)
        log_warning(
            "the images were not closed as they should be, and may have leaks, which is no damage: %s",
            why.text);
    for (size_t i = 0; i < internals->count; i++) {
        image_info_unref(internals->list[i].info);
        if (internals->list[i].fd >= 0)
            close(internals->list[i].fd);
    }
    free(internals->list);
    free(internals->nodes);
    *internals = (struct internals){0};
}
