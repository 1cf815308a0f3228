// SPDX-License-Identifier: LGPL-2.1-or-later
/* Beginning to copy a disk of a running domain; see mirror.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "administration/files/images.h"
#include "administration/files/room.h"
#include "administration/mirror/mirror_copy.h"
#include "administration/mirror/mirror_watch.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "catalog/discover.h"
#include "hypervisor/free_space.h"
#include "hypervisor/image_claim.h"
#include "hypervisor/image_locks.h"
#include "hypervisor/mirror_target.h"

struct copying {
    struct mirroring mirroring;
    struct overlays files; /* the copy's */
};

static void copying_done(struct copying *copying)
{
    mirroring_end(&copying->mirroring);
    overlays_done(&copying->files);
}

/* ---- What is asked for ---- */

/* Up to which layer, not with it, is copied; NULL: everything is. */
static int find_base(const struct disk *disk, const struct copy_command *command, const struct layer **base,
                     struct error *err)
{
    const struct layer *below = disk->active->backing;
    *base = NULL;
    if (command->shallow)
        *base = below;
    if (!command->base)
        return 0;
    if (below && strcmp(below->path, command->base) == 0) {
        *base = below;
        return 0;
    }
    for (const struct layer *layer = below; layer; layer = layer->backing)
        if (strcmp(layer->path, command->base) == 0)
            return error_set(
                err, EOPNOTSUPP,
                "QEMU copies the top layer or everything, and nothing between: base=%s, or no base",
                below->path);
    return error_set(err, EINVAL, "disk %s does not lie on %s; its layers are in disks/%s/layers",
                     disk->target, command->base, disk->target);
}

static int find_format(const struct change *change, const struct disk *disk,
                       const struct copy_command *command, const struct layer *base,
                       enum image_format *format, struct error *err)
{
    enum image_format found = command->format ? command->format : disk->active->format;
    if (found != IMAGE_FORMAT_RAW && found != IMAGE_FORMAT_QCOW2)
        return error_set(err, EINVAL, "a copy of disk %s can't be %s as it is; add format=qcow2 or raw",
                         disk->target, image_format_name(found));
    if (base && found == IMAGE_FORMAT_RAW)
        return error_set(err, EINVAL, "a raw file lies on no other: copy everything, or into qcow2");
    /* Other files in the source are looked at as what they seem to be, and a guest writes what it likes. */
    if (found == IMAGE_FORMAT_RAW && *path_in_store(change_source(change), command->path) != '/' &&
        image_format_from_ending(command->path) != IMAGE_FORMAT_RAW)
        return error_set(err, EINVAL, "%s: the name of a raw copy in the source ends in .raw or .img",
                         command->path);
    *format = found;
    return 0;
}

static int check_disk(const struct copying *copying, const struct disk *disk, struct error *err)
{
    const struct domain *domain = copying->mirroring.change.domain;
    int r = mirror_refuse(domain, disk, err);
    if (r < 0)
        return r;
    if (!disk->active)
        return error_set(err, EIO, "the image of disk %s can't be read: %s", disk->target,
                         domain->problem ? domain->problem : disk->source);
    if (running_is_active(&copying->mirroring.running))
        return disk->persistent
                   ? 0
                   : error_set(err, EOPNOTSUPP,
                               "disk %s is not persistent: what the domain writes to it is thrown away at "
                               "power-off, and can't be copied; its frozen disks can",
                               disk->target);
    image_locks_forget();
    if (!disk->active->remote &&
        image_locks_written(disk->active->identity.device, disk->active->identity.inode))
        return error_set(
            err, EOPNOTSUPP,
            "%s is running, and nothing is known of its QEMU, which would have to copy the disk: its "
            "definition, which must be trusted, has neither launch nor qmp",
            domain->name);
    return error_set(err, EOPNOTSUPP,
                     "%s is not running, and only a running domain has its disks copied like this: take a "
                     "snapshot, and write NAME full to its clone",
                     domain->name);
}

/* ---- Its file ---- */

/* A file that is there may be of some domain. An image that nobody ever took a snapshot of, or put anything
 * on, is what one makes to copy into. */
int mirror_check_stranger(const struct change *change, const char *path, int fd, struct error *err)
{
    struct stat stat;
    if (fstat(fd, &stat) < 0)
        return error_set(err, errno, "%s: %m", path);
    struct catalog *catalog = catalog_service_get(change->administration->catalog);
    int r = 0;
    for (size_t i = 0; r == 0 && i < catalog->domain_count; i++) {
        const struct domain *domain = catalog->domains[i];
        bool is_blank = !domain->definition && !domain->is_administered && domain->snapshot_count == 0;
        for (size_t j = 0; r == 0 && !is_blank && j < domain->layer_count; j++) {
            const struct layer *layer = domain->layers[j];
            if (!layer->remote && layer->identity.device == stat.st_dev &&
                layer->identity.inode == stat.st_ino)
                r = error_set(err, EPERM, "%s can't be written over: it is an image of %s", path,
                              domain->name);
        }
        for (size_t j = 0; r == 0 && j < domain->disk_count; j++)
            if (domain->disks[j].mirror && strcmp(domain->disks[j].mirror, path) == 0)
                r = error_set(err, EBUSY, "%s is the copy of another disk already", path);
    }
    catalog_put(catalog);
    cleanup_close int claim = -1; /* whoever has it open for writing is found */
    return r < 0 ? r : image_claim_take(path, fd, &claim, err);
}

/* About what copying it takes; never more than the disk itself. */
static uint64_t taken(const struct change *change, const struct disk *disk, const struct layer *base)
{
    uint64_t bytes = 0;
    for (const struct layer *layer = disk->active; layer && layer != base; layer = layer->backing) {
        cleanup_close int fd = -1;
        if (image_open(change, layer, &fd, NULL) == 0)
            bytes += free_space_taken(fd);
    }
    return min_u64(bytes, disk->active->size);
}

static int make_file(struct copying *copying, const struct disk *disk, const struct copy_command *command,
                     const struct layer *base, enum image_format format, struct error *err)
{
    struct change *change = &copying->mirroring.change;
    const struct overlay_place place = {.path = command->path,
                                        .reuse = command->reuse,
                                        .is_written = !base,
                                        .aside = true,
                                        .blank = base ? IMAGE_FORMAT_UNKNOWN : format,
                                        .size = disk->active->size};
    int r = overlays_add(&copying->files, change, base ? base : disk->active, disk->position, 0, &place, err);
    if (r < 0)
        return r;
    const struct overlay *file = &copying->files.list[0];
    r = file->is_reused
            ? mirror_check_stranger(change, command->path, file->reused_fd, err)
            : room_for_bytes(file->directory, file->directory_path, taken(change, disk, base), err);
    return r < 0 ? r : overlays_make(&copying->files, err);
}

int mirror_describe(const struct change *change, const struct overlays *files, const struct overlay *file,
                    enum image_format format, struct state_mirror *mirror, struct error *err)
{
    struct stat stat;
    cleanup_free char *path = NULL;
    if (fstat(overlay_fd(files, file), &stat) < 0)
        return error_set(err, errno, "%s: %m", file->final);
    if (asprintf(&path, "%s/%s", file->directory_path, file->final) < 0)
        return path = NULL, error_set(err, ENOMEM, "out of memory");
    char *stored = strdup(path_in_store(change_source(change), path));
    if (!stored)
        return error_set(err, ENOMEM, "out of memory");
    *mirror = (struct state_mirror){.position = file->disk,
                                    .path = stored,
                                    .format = format,
                                    .operation = change->operation,
                                    .device = stat.st_dev,
                                    .inode = stat.st_ino,
                                    .phase = MIRROR_COPIES,
                                    .is_made = !file->is_reused,
                                    .is_shallow = !file->blank};
    return 0;
}

/* ---- All of it ---- */

/* From here on the state tells of it. */
static int note(struct copying *copying, enum image_format format, struct error *err)
{
    struct change *change = &copying->mirroring.change;
    struct state_mirror mirror;
    int r = mirror_describe(change, &copying->files, &copying->files.list[0], format, &mirror, err);
    if (r < 0)
        return r;
    if (state_add_mirror(change->state, &mirror) < 0)
        r = error_set(err, ENOMEM, "out of memory");
    free(mirror.path);
    if (r == 0)
        r = change_commit(change, err);
    crash_point("mirror-noted");
    return r;
}

static int find_backing_node(const struct copying *copying, const struct layer *base, char **node,
                             struct error *err)
{
    struct stat stat;
    unsigned depth = 0;
    cleanup_close int fd = -1;
    for (const struct layer *layer = base->backing; layer; layer = layer->backing)
        depth++;
    int r = image_open(&copying->mirroring.change, base, &fd, err);
    if (r == 0 && fstat(fd, &stat) < 0)
        r = error_set(err, errno, "%s: %m", base->path);
    return r < 0 ? r
                 : mirror_find_backing(&copying->mirroring.running.engine, &stat, base->format, depth, node,
                                       err);
}

static int begin(struct copying *copying, const struct disk *disk, const struct copy_command *command,
                 struct error *err)
{
    struct mirroring *mirroring = &copying->mirroring;
    const struct layer *base = NULL;
    enum image_format format = IMAGE_FORMAT_UNKNOWN;
    cleanup_free char *backing = NULL;
    int r = check_disk(copying, disk, err);
    if (r == 0)
        r = find_base(disk, command, &base, err);
    if (r == 0)
        r = find_format(&mirroring->change, disk, command, base, &format, err);
    if (r == 0)
        r = running_add(&mirroring->running, &mirroring->change, disk, err);
    if (r == 0)
        r = running_find(&mirroring->running, err);
    if (r == 0 && base)
        r = find_backing_node(copying, base, &backing, err);
    if (r == 0)
        r = make_file(copying, disk, command, base, format, err);
    if (r == 0)
        r = note(copying, format, err);
    if (r < 0)
        return r;
    const struct state_mirror *mirror = state_find_mirror(mirroring->change.state, disk->position);
    r = overlays_publish(&copying->files, err);
    if (r == 0)
        r = mirror_start(&mirroring->running.engine, mirror, command->path,
                         running_node(&mirroring->running, disk->target), backing, command->bandwidth, err);
    crash_point("mirror-started");
    struct error why;
    if (r < 0 &&
        mirror_drop(mirroring, disk->position, err ? err->text : "it could not be started", &why) < 0)
        log_error("%s: the copy can't be dropped yet: %s", mirroring->change.domain->name, why.text);
    return r;
}

int carry_out_copy(struct administration *administration, struct work *work, struct outcome *outcome,
                   struct error *err)
{
    cleanup(copying_done) struct copying copying = {0};
    const struct request *request = work->request;
    const struct disk *disk;
    int r = mirroring_begin(administration, work, request->domain, &copying.mirroring, err);
    if (r == 0)
        r = mirroring_disk(&copying.mirroring, request->disk, &disk, err);
    if (r == 0)
        r = begin(&copying, disk, &request->copy, err);
    mirrors_wake(administration->mirrors);
    if (r < 0)
        return r;
    uint64_t number = mirrors_note(administration->mirrors, request->domain, disk, request->copy.path,
                                   copying.mirroring.change.operation);
    administration_event(administration, request->domain, "disk %s is being copied to %s", disk->target,
                         request->copy.path);
    if (asprintf(&outcome->text, "disk %s is being copied to %s; jobs/%" PRIu64 " tells how far that is",
                 disk->target, request->copy.path, number) < 0)
        outcome->text = NULL;
    return 0;
}
