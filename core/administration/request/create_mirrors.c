// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Mirrors of the new overlays of a snapshot: second overlays on what is frozen, into which its QEMU writes
 * what it writes into the first ones. QEMU takes no mirror into a transaction, so the guest stands still from
 * before the snapshot until they have begun.
 *
 * The state that is to come tells of them, as of copies (mirror.h), and so does the journal, as long as the
 * snapshot has not happened. Once it has, a mirror that can't be started is no reason for it to fail.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "administration/mirror/mirror_copy.h"
#include "administration/mirror/mirror_watch.h"
#include "administration/request/creation.h"
#include "administration/undo/undo.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "hypervisor/mirror_target.h"

static const struct disk *disk_of(const struct creation *creation, const struct overlay *overlay)
{
    const struct domain *domain = creation->change.domain;
    for (size_t i = 0; i < domain->disk_count; i++)
        if (domain->disks[i].position == overlay->disk)
            return &domain->disks[i];
    return NULL; /* the plan is of these disks */
}

static char *path_of(const struct overlay *overlay)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s", overlay->directory_path, overlay->final) < 0 ? NULL : path;
}

int creation_add_mirror(struct creation *creation, const struct disk *disk, const char *path,
                        struct error *err)
{
    struct overlays *mirrors = &creation->mirrors;
    const struct overlay_place place = {.path = path,
                                        .reuse = creation->command.reuse_external,
                                        .is_written = true,
                                        .aside = true,
                                        .size = disk->active->size};
    mirrors->first = creation->change.domain->disk_count; /* the overlays have those before */
    int r = overlays_add(mirrors, &creation->change, disk->active, disk->position, 0, &place, err);
    const struct overlay *made = &mirrors->list[mirrors->count ? mirrors->count - 1 : 0];
    return r < 0 || !made->is_reused ? r
                                     : mirror_check_stranger(&creation->change, path, made->reused_fd, err);
}

int creation_make_mirrors(struct creation *creation, struct error *err)
{
    return creation->mirrors.count ? overlays_make(&creation->mirrors, err) : 0;
}

int creation_note_mirrors(struct creation *creation, struct error *err)
{
    struct change *change = &creation->change;
    const bool resumes = creation_stands_still(creation) && !creation->command.paused;
    overlays_note(&creation->mirrors, &creation->undo);
    for (size_t i = 0; i < creation->mirrors.count; i++) {
        struct state_mirror mirror;
        int r = mirror_describe(change, &creation->mirrors, &creation->mirrors.list[i], IMAGE_FORMAT_QCOW2,
                                &mirror, err);
        if (r < 0)
            return r;
        mirror.resumes = resumes;
        r = state_add_mirror(change->state, &mirror);
        free(mirror.path);
        if (r < 0)
            return error_set(err, ENOMEM, "out of memory");
    }
    if (resumes)
        undo_add_resume(&creation->undo);
    return 0;
}

int creation_open_mirrors(struct creation *creation, struct error *err)
{
    const struct block_engine *engine = &creation->running.engine;
    int r = creation->mirrors.count ? overlays_publish(&creation->mirrors, err) : 0;
    for (size_t i = 0; r == 0 && i < creation->mirrors.count; i++) {
        const struct overlay *overlay = &creation->mirrors.list[i];
        cleanup_free char *path = path_of(overlay);
        struct mirror_names names;
        mirror_name(creation->change.operation, overlay->disk, &names);
        const struct mirror_target target = {
            .node = names.node, .file_node = names.file, .path = path, .format = IMAGE_FORMAT_QCOW2};
        r = path ? mirror_target_open(engine, &target, err) : error_set(err, ENOMEM, "out of memory");
        if (r == 0)
            mirror_target_close(engine, names.node, names.file);
    }
    return r;
}

void creation_start_mirrors(struct creation *creation, creation_overlay_node *node)
{
    struct change *change = &creation->change;
    for (size_t i = 0; i < creation->mirrors.count && !qmp_is_dead(creation->running.qmp); i++) {
        const struct overlay *overlay = &creation->mirrors.list[i];
        const struct disk *disk = disk_of(creation, overlay);
        struct state_mirror *mirror = state_find_mirror(change->state, overlay->disk);
        cleanup_free char *path = path_of(overlay);
        struct error why = {0};
        char device[32];
        node(creation, overlay->disk, device);
        int r = path ? mirror_start(&creation->running.engine, mirror, path, device,
                                    running_node(&creation->running, disk->target), 0, &why)
                     : error_set(&why, ENOMEM, "out of memory");
        crash_point("mirror-started");
        if (r < 0) { /* what was noted of it is settled like any copy that has no job */
            log_warning("%s: disk %s is not mirrored: %s", change->domain->name, disk->target, why.text);
            administration_event(change->administration, change->serial, "disk %s is not mirrored to %s: %s",
                                 disk->target, path ? path : "", why.text);
        }
    }
    /* Whoever finds the state that is saved from here on has nothing to resume. */
    for (size_t i = 0; i < creation->mirrors.count; i++)
        state_find_mirror(change->state, creation->mirrors.list[i].disk)->resumes = false;
}

void creation_show_mirrors(struct creation *creation)
{
    struct change *change = &creation->change;
    for (size_t i = 0; i < creation->mirrors.count; i++) {
        const struct overlay *overlay = &creation->mirrors.list[i];
        cleanup_free char *path = path_of(overlay);
        mirrors_note(change->administration->mirrors, change->serial, disk_of(creation, overlay),
                     path ? path : "", change->operation);
    }
    if (creation->mirrors.count)
        mirrors_wake(change->administration->mirrors);
}
