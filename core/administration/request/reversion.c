// SPDX-License-Identifier: LGPL-2.1-or-later
/* Bringing disks to another state; see reversion.h. */
#include "administration/request/reversion.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "administration/files/images.h"
#include "administration/files/room.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "hypervisor/image_claim.h"
#include "hypervisor/internal_undo.h"
#include "hypervisor/qemu_img.h"

/* For the undo point in each image: a copy of its L1 table, and refcounts. */
#define POINT_BYTES (1024 * 1024)

static const struct disk *disk_at(const struct domain *domain, unsigned position)
{
    for (size_t i = 0; i < domain->disk_count; i++)
        if (domain->disks[i].position == position)
            return &domain->disks[i];
    return NULL;
}

/* ---- The plan, as files ---- */

static int add_applied(struct reversion *reversion, const struct change *change, const struct disk *disk,
                       const struct internal_snapshot *to, struct error *err)
{
    struct applied *grown = realloc(reversion->applied, (reversion->applied_count + 1) * sizeof *grown);
    if (!grown)
        return error_set(err, ENOMEM, "out of memory");
    reversion->applied = grown;
    struct applied *applied = &grown[reversion->applied_count++];
    *applied = (struct applied){.disk = disk, .to = to, .fd = -1};
    int r = image_open(change, disk->active, &applied->fd, err);
    return r < 0 ? r : room_for_bytes(applied->fd, disk->active->path, POINT_BYTES, err);
}

static int add_replaced(struct reversion *reversion, const struct disk *disk, uint64_t layer,
                        struct error *err)
{
    struct replaced *grown = realloc(reversion->replaced, (reversion->replaced_count + 1) * sizeof *grown);
    if (!grown)
        return error_set(err, ENOMEM, "out of memory");
    reversion->replaced = grown;
    grown[reversion->replaced_count++] = (struct replaced){disk, layer};
    return 0;
}

static int plan_disk(struct reversion *reversion, struct change *change, const struct revert_disk *plan,
                     const char *name, struct error *err)
{
    const struct disk *disk = disk_at(change->domain, plan->disk);
    const struct world_file *from = world_find_file(&change->world, plan->from.layer);
    const struct world_internal *internal =
        plan->from.internal ? world_find_internal(&change->world, plan->from.internal) : NULL;
    if (plan->how == REVERT_KEPT)
        return 0;
    if (!disk || !disk->active || !from || (plan->from.internal && !internal))
        return error_set(err, EIO, "what the snapshot holds of disk %s can't be found",
                         disk ? disk->target : "");
    if (plan->how == REVERT_APPLY)
        return add_applied(reversion, change, disk, internal->internal, err);
    const struct overlay_place place = {.snapshot = name,
                                        .copy = plan->how == REVERT_COPY_OUT,
                                        .is_written = reversion->is_running && from->layer->active,
                                        .internal = internal ? internal->internal : NULL};
    int r = overlays_add(&reversion->overlays, change, from->layer, plan->disk, plan->active, &place, err);
    return r < 0 ? r : add_replaced(reversion, disk, plan->was_active, err);
}

/* ---- What is written to now ---- */

/* What was active is needed no more; the store has to know of it until it is given back. */
static int claim_replaced(struct reversion *reversion, struct change *change, const struct replaced *replaced,
                          struct error *err)
{
    const struct disk *disk = replaced->disk;
    cleanup_close int fd = -1;
    struct state_frozen record;
    int r = image_open(change, disk->active, &fd, err);
    if (r == 0)
        r = image_claim_take(disk->active->path, fd, &reversion->claims[reversion->claim_count], err);
    if (r < 0)
        return r;
    reversion->claim_count++;
    r = image_record_layer(change, disk->position, disk->active, fd, -1, &record, err);
    return r < 0 ? r : change_add_content(change, replaced->layer, 0, &record, err);
}

/* Whoever writes to an image that is to be left, or changed in place, is found before anything is done. */
static int claim_all(struct reversion *reversion, struct change *change, struct error *err)
{
    int r = 0;
    reversion->claims = calloc(reversion->replaced_count + 1, sizeof *reversion->claims);
    if (!reversion->claims)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; r == 0 && i < reversion->replaced_count; i++)
        r = claim_replaced(reversion, change, &reversion->replaced[i], err);
    for (size_t i = 0; r == 0 && i < reversion->applied_count; i++) {
        cleanup_close int claim = -1;
        r = image_claim_take(reversion->applied[i].disk->active->path, reversion->applied[i].fd, &claim, err);
    }
    return r;
}

/* Does a copy come out of what the QEMU that runs writes to? */
static bool copies_wait(const struct reversion *reversion)
{
    for (size_t i = 0; reversion->is_running && i < reversion->overlays.count; i++)
        if (reversion->overlays.list[i].is_copy && reversion->overlays.list[i].below->active)
            return true;
    return false;
}

/* ---- In place ---- */

static void note_points(struct reversion *reversion)
{
    for (size_t i = 0; i < reversion->applied_count; i++)
        undo_add_point(&reversion->undo, reversion->applied[i].disk->active->path, reversion->tag,
                       reversion->applied[i].fd);
}

/* Keeps what all these images hold now, at one instant. */
static int make_points(struct reversion *reversion, struct error *err)
{
    size_t count = reversion->applied_count;
    cleanup_free struct stopped_image *images = calloc(count, sizeof *images);
    if (!images)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < count; i++)
        images[i] = (struct stopped_image){.name = reversion->applied[i].disk->active->path,
                                           .fd = reversion->applied[i].fd,
                                           .format = IMAGE_FORMAT_QCOW2,
                                           .writable = true,
                                           .backing = -1,
                                           .data_fd = -1};
    const struct internal_undo undo = {
        .images = images, .count = count, .tag = reversion->tag, .timeout_ms = IMAGE_TIMEOUT_MS};
    return internal_undo_make(&undo, err);
}

/* The undo point is to be dropped when all is done: the store knows it as what a deleted snapshot left. */
static int note_point(struct change *change, const struct applied *applied, const char *tag, uint64_t number,
                      struct error *err)
{
    const struct image_info *info;
    struct state_frozen record;
    int r = image_read_info(applied->fd, applied->disk->active->path, &info, err);
    if (r < 0)
        return r;
    const struct internal_snapshot *point = image_find_tag(info, tag);
    r = point ? image_record_internal(change, applied->disk->position, applied->disk->active, point, &record,
                                      err)
              : error_set(err, EIO, "%s: the undo point is not there", applied->disk->active->path);
    if (r == 0)
        r = change_add_content(change, 0, number, &record, err);
    image_info_unref(info);
    return r;
}

static int apply(struct reversion *reversion, struct change *change, struct error *err)
{
    int r = 0;
    if (reversion->applied_count == 0)
        return 0;
    r = make_points(reversion, err);
    for (size_t i = 0; r == 0 && i < reversion->applied_count; i++) {
        const struct applied *applied = &reversion->applied[i];
        const struct qemu_img image = {
            .path = applied->disk->active->path, .fd = applied->fd, .timeout_ms = IMAGE_TIMEOUT_MS};
        crash_point("pointed");
        r = qemu_img_apply(&image, applied->to->id, err);
        crash_point("applied");
        /* No content of the plan has a number as high as these. */
        if (r == 0)
            r = note_point(change, applied, reversion->tag, UINT64_MAX - i, err);
    }
    return r;
}

/* ---- All of it ---- */

int reversion_prepare(struct reversion *reversion, struct change *change, const struct tree_reversion *plan,
                      const char *name, bool is_running, struct error *err)
{
    int r = 0;
    reversion->is_running = is_running;
    snprintf(reversion->tag, sizeof reversion->tag, "vmsnapfs-undo-%" PRIu64, change->operation);
    for (size_t i = 0; r == 0 && i < plan->count; i++)
        r = plan_disk(reversion, change, &plan->disks[i], name, err);
    if (r == 0 && !is_running)
        r = claim_all(reversion, change, err);
    if (r == 0)
        r = overlays_make(&reversion->overlays, err);
    if (r == 0 && !copies_wait(reversion)) {
        r = overlays_copy(&reversion->overlays, change, err);
        reversion->is_copied = r == 0;
    }
    return r;
}

int reversion_carry_out(struct reversion *reversion, struct change *change, const char *kind,
                        struct error *err)
{
    int r = reversion->is_running ? claim_all(reversion, change, err) : 0;
    if (r == 0 && !reversion->is_copied)
        r = overlays_copy(&reversion->overlays, change, err);
    if (r == 0 && work_is_cancelled(change->administration, change->work))
        r = error_set(err, EINTR, "it was cancelled, and everything was undone");
    if (r < 0)
        return r;
    overlays_note(&reversion->overlays, &reversion->undo);
    note_points(reversion);
    r = undo_begin(change, kind, change->domain->serial, &reversion->undo, err);
    if (r == 0)
        r = overlays_publish(&reversion->overlays, err);
    return r < 0 ? r : apply(reversion, change, err);
}

int reversion_make(struct reversion *reversion, struct change *change, const struct tree_reversion *plan,
                   const char *name, const char *kind, struct error *err)
{
    int r = reversion_prepare(reversion, change, plan, name, false, err);
    return r < 0 ? r : reversion_carry_out(reversion, change, kind, err);
}

void reversion_done(struct reversion *reversion)
{
    overlays_done(&reversion->overlays);
    for (size_t i = 0; i < reversion->applied_count; i++)
        if (reversion->applied[i].fd >= 0)
            close(reversion->applied[i].fd);
    for (size_t i = 0; i < reversion->claim_count; i++)
        if (reversion->claims[i] >= 0)
            close(reversion->claims[i]);
    free(reversion->claims);
    free(reversion->applied);
    free(reversion->replaced);
    undo_list_done(&reversion->undo);
    *reversion = (struct reversion){0};
}
