// SPDX-License-Identifier: LGPL-2.1-or-later
/* What all that is done to copies needs; see mirror.h. */
#include "administration/mirror/mirror.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "administration/files/temporary.h"
#include "administration/mirror/mirror_watch.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "catalog/catalog_hold.h"
#include "hypervisor/block_mirror.h"
#include "hypervisor/image_locks.h"
#include "hypervisor/mirror_target.h"
#include "image/locate.h"
#include "image/overlay_file.h"

void mirror_name(uint64_t operation, unsigned disk, struct mirror_names *names)
{
    snprintf(names->job, sizeof names->job, "vm%" PRIu64 "-%u-j", operation, disk);
    snprintf(names->node, sizeof names->node, "vm%" PRIu64 "-%u", operation, disk);
    snprintf(names->file, sizeof names->file, "vm%" PRIu64 "-%u-f", operation, disk);
}

/* ---- Of one domain ---- */

int mirroring_begin(struct administration *administration, struct work *work, uint64_t domain,
                    struct mirroring *mirroring, struct error *err)
{
    *mirroring = (struct mirroring){0};
    int r = change_begin(administration, work, domain, &mirroring->change, err);
    return r < 0 ? r : running_begin(&mirroring->change, &mirroring->running, err);
}

void mirroring_end(struct mirroring *mirroring)
{
    change_end(&mirroring->change);
    running_end(&mirroring->running);
}

int mirroring_disk(const struct mirroring *mirroring, unsigned position, const struct disk **disk,
                   struct error *err)
{
    const struct domain *domain = mirroring->change.domain;
    for (size_t i = 0; i < domain->disk_count; i++)
        if (domain->disks[i].position == position) {
            *disk = &domain->disks[i];
            return 0;
        }
    return error_set(err, ESTALE, "the domain has that disk no more");
}

int mirroring_find(const struct mirroring *mirroring, unsigned position, struct state_mirror **mirror,
                   struct error *err)
{
    struct state_mirror *found = state_find_mirror(mirroring->change.state, position);
    const struct disk *disk;
    int r = mirroring_disk(mirroring, position, &disk, err);
    if (r < 0)
        return r;
    if (!found)
        return error_set(err, ENOENT, "disk %s is not being copied", disk->target);
    *mirror = found;
    return 0;
}

int mirror_save(struct change *change, struct error *err)
{
    struct administration *administration = change->administration;
    struct error why;
    int r = catalog_save(administration->catalog, change->state, err);
    if (r == 0 && catalog_show(administration->catalog, change->state, NULL, &why) < 0)
        log_warning("%s is not shown as it is yet: %s", change->domain->name, why.text);
    return r;
}

char *mirror_path(const struct change *change, const struct state_mirror *mirror)
{
    char *path = NULL;
    if (*mirror->path == '/')
        return strdup(mirror->path);
    return asprintf(&path, "%s/%s", change_source(change), mirror->path) < 0 ? NULL : path;
}

int mirror_refuse(const struct domain *domain, const struct disk *disk, struct error *err)
{
    for (size_t i = 0; i < domain->disk_count; i++) {
        const struct disk *one = &domain->disks[i];
        if (one->mirror && (!disk || disk->position == one->position))
            return error_set(
                err, EBUSY,
                "disk %s is being copied to %s; write 1 to disks/%s/pivot or disks/%s/abort first",
                one->target, one->mirror, one->target, one->target);
    }
    return 0;
}

/* ---- In its QEMU ---- */

int mirror_start(const struct block_engine *engine, const struct state_mirror *mirror, const char *path,
                 const char *device, const char *backing, uint64_t bandwidth, struct error *err)
{
    struct mirror_names names;
    mirror_name(mirror->operation, mirror->position, &names);
    const struct mirror_target target = {.node = names.node,
                                         .file_node = names.file,
                                         .path = path,
                                         .format = mirror->format,
                                         .backing = backing};
    /* What the guest writes goes to both before it is done: so each has everything at any moment. */
    const struct block_mirror job = {.job_id = names.job,
                                     .device = device,
                                     .target = names.node,
                                     .sync = mirror->is_shallow ? BLOCK_MIRROR_TOP : BLOCK_MIRROR_FULL,
                                     .speed = bandwidth,
                                     .write_through = true};
    int r = mirror_target_open(engine, &target, err);
    if (r < 0)
        return r;
    crash_point("mirror-opened");
    r = block_mirror_start(engine, &job, err);
    if (r < 0 && !qmp_is_dead(engine->qmp))
        mirror_target_close(engine, names.node, names.file);
    return r;
}

int mirror_has_moved(const struct running *running, const struct state_mirror *mirror, bool *has_moved,
                     struct error *err)
{
    struct mirror_names names;
    mirror_name(mirror->operation, mirror->position, &names);
    return mirror_is_disk(&running->engine, names.node, has_moved, err);
}

int mirror_resume(const struct running *running, struct error *err)
{
    struct run_state_answer answer;
    int r = run_state_query_status(running->qmp, running->engine.timeout_ms, &answer, err);
    if (r == 0 && answer.state == RUN_STATE_PAUSED)
        r = run_state_continue(running->qmp, running->engine.timeout_ms, err);
    return r;
}

/* ---- Ending one ---- */

/* Only the file that was made for it. Failing, it is logged, and the file stays. */
static void remove_file(const struct change *change, const struct state_mirror *mirror)
{
    cleanup_free char *path = mirror_path(change, mirror);
    char *slash = path ? strrchr(path, '/') : NULL;
    char temporary[OVERLAY_NAME_SIZE];
    struct error why = {0};
    if (!mirror->is_made || !slash)
        return;
    *slash = '\0';
    image_locks_forget();
    if (image_locks_written(mirror->device, mirror->inode)) {
        log_warning("%s/%s stays: somebody has it open for writing", path, slash + 1);
        return;
    }
    cleanup_close int directory = open(*path ? path : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    temporary_name(change->administration, mirror->operation, 0, temporary);
    const struct new_file_mark mark = {.device = mirror->device, .inode = mirror->inode};
    if (directory >= 0 && overlay_file_undo(directory, temporary, slash + 1, &mark, &why) < 0)
        log_warning("%s", why.text);
}

static int forget(struct mirroring *mirroring, unsigned position, struct error *err)
{
    struct change *change = &mirroring->change;
    state_remove_mirror(change->state, position);
    return mirror_save(change, err);
}

int mirror_drop(struct mirroring *mirroring, unsigned position, const char *why, struct error *err)
{
    struct change *change = &mirroring->change;
    const struct running *running = &mirroring->running;
    struct state_mirror *mirror = state_find_mirror(change->state, position);
    struct mirror_names names;
    const uint64_t operation = mirror->operation;
    cleanup_free char *path = mirror_path(change, mirror);
    int r = 0;
    mirror_name(operation, position, &names);
    if (running_is_active(running)) {
        r = block_mirror_drop(&running->engine, names.job, err);
        if (r == 0 && mirror->resumes)
            r = mirror_resume(running, err);
        if (r < 0)
            return r;
        mirror_target_close(&running->engine, names.node, names.file);
    }
    crash_point("mirror-dropped");
    remove_file(change, mirror);
    r = forget(mirroring, position, err);
    if (r < 0)
        return r;
    administration_event(change->administration, change->serial, "the copy %s is dropped: %s",
                         path ? path : "", why);
    mirrors_over(change->administration->mirrors, change->serial, operation, position, why);
    return 0;
}

int mirror_keep(struct mirroring *mirroring, unsigned position, struct error *err)
{
    struct change *change = &mirroring->change;
    struct state_mirror *mirror = state_find_mirror(change->state, position);
    struct mirror_names names;
    const uint64_t operation = mirror->operation;
    cleanup_free char *path = mirror_path(change, mirror);
    mirror_name(operation, position, &names);
    mirror_target_close(&mirroring->running.engine, names.node, names.file);
    cleanup_close int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    if (fd < 0 || fsync(fd) < 0)
        return error_set(err, errno, "%s can't be flushed: %m", path ? path : "");
    int r = forget(mirroring, position, err);
    if (r < 0)
        return r;
    administration_event(change->administration, change->serial, "the copy %s holds its disk as of now",
                         path);
    mirrors_over(change->administration->mirrors, change->serial, operation, position, NULL);
    return 0;
}
