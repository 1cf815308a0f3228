// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Having a running domain go on in a copy of its disk; see mirror.h. The guest stands still for as long as it
 * takes to move and to save the state. So until the state is saved both files hold the same, and what QEMU
 * had not flushed is no more than what a guest loses whose plug is pulled.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "administration/files/images.h"
#include "administration/mirror/mirror.h"
#include "administration/mirror/mirror_watch.h"
#include "administration/reclaim/reclaimer.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "catalog/discover.h"
#include "hypervisor/block_mirror.h"
#include "hypervisor/mirror_target.h"

#define MOVE_MS 30000 /* without any progress; the rest of the copy is being written */

/* ---- The state that follows ---- */

/* What the disk stood on before: as far as nothing in the QEMU uses it, nothing has it open any more. */
static void close_old(const struct mirroring *mirroring, const struct disk *disk)
{
    size_t count = 0, found = 0;
    for (const struct layer *layer = disk->active; layer; layer = layer->backing)
        count++;
    cleanup_free struct stat *files = calloc(count, sizeof *files);
    for (const struct layer *layer = disk->active; files && layer; layer = layer->backing)
        if (!layer->remote && stat(layer->path, &files[found]) == 0)
            found++;
    if (files)
        mirror_close_unused(&mirroring->running.engine, files, found);
}

/*
 * A whole copy is where the disk begins from now on, as the file was that the definition names: who moved the
 * disk there does not want it copied back. A shallow one takes only the place of the layer that it is a copy
 * of.
 */
static int move_home(struct change *change, const struct state_mirror *mirror, const char *old)
{
    struct state_disk *disk = state_find_disk(change->state, mirror->position);
    if (mirror->is_shallow && !(disk->original && strcmp(disk->original, old) == 0))
        return 0;
    char *path = strdup(mirror->path);
    if (!path)
        return -ENOMEM;
    state_paths_remove(change->state->left, path);
    /* One that we made, for a clone or as an earlier copy, goes when nobody needs it. */
    if (disk->original && strcmp(disk->original, path) != 0 &&
        !state_paths_have(change->state->made, disk->original) &&
        state_paths_add(&change->state->left, disk->original) < 0) {
        free(path);
        return -ENOMEM;
    }
    free(disk->original);
    disk->original = path;
    return 0;
}

static int note_format(struct state_domain *state, const struct state_mirror *mirror)
{
    state_paths_remove(state->raw, mirror->path);
    return mirror->format == IMAGE_FORMAT_RAW ? state_paths_add(&state->raw, mirror->path) : 0;
}

static int plan(struct change *change, const struct disk *disk, const struct state_mirror *mirror,
                struct error *err)
{
    struct tree_disk *in_tree = tree_find_disk(change->tree, disk->position);
    struct layer_set *layers = &change->world.layers;
    uint64_t old = in_tree->active, below = 0, layer;
    struct state_frozen record;
    cleanup_close int fd = -1;
    int r = image_open(change, disk->active, &fd, err);
    if (r == 0)
        r = image_record_layer(change, disk->position, disk->active, fd, -1, &record, err);
    if (r == 0)
        r = change_add_content(change, old, 0, &record, err);
    if (r < 0)
        return r;
    if (mirror->is_shallow && disk->active->backing)
        below = world_layer_at(&change->world, disk->active->backing->path);
    if (layer_set_add(layers, below, mirror->is_made, &layer) < 0)
        return error_set(err, ENOMEM, "out of memory");
    in_tree->active = layer;
    r = change_add_layer(change, layer, mirror->path, mirror->is_made, err);
    return r < 0 ? r : change_follow_tree(change, err);
}

int mirror_finish_pivot(struct mirroring *mirroring, unsigned position, struct error *err)
{
    struct change *change = &mirroring->change;
    struct state_mirror *mirror = state_find_mirror(change->state, position);
    const struct disk *disk;
    int r = mirroring_disk(mirroring, position, &disk, err);
    if (r == 0 && !disk->active)
        r = error_set(err, EIO, "the image of disk %s can't be read", disk->target);
    if (r < 0)
        return r;
    close_old(mirroring, disk);
    r = plan(change, disk, mirror, err);
    if (r == 0 && (move_home(change, mirror, path_in_store(change_source(change), disk->active->path)) < 0 ||
                   note_format(change->state, mirror) < 0))
        r = error_set(err, ENOMEM, "out of memory");
    if (r < 0)
        return r;
    mirror->phase = MIRROR_PIVOTED;
    change->is_beyond_undoing = true;
    r = change_commit(change, err);
    crash_point("mirror-committed");
    return r;
}

int mirror_end_pivot(struct mirroring *mirroring, unsigned position, struct error *err)
{
    struct change *change = &mirroring->change;
    struct state_mirror *mirror = state_find_mirror(change->state, position);
    const uint64_t operation = mirror->operation;
    cleanup_free char *path = mirror_path(change, mirror);
    int r = 0;
    if (mirror->resumes && running_is_active(&mirroring->running))
        r = mirror_resume(&mirroring->running, err);
    if (r < 0) /* which is tried again */
        return error_prefix(err, "the domain does not go on yet");
    crash_point("mirror-resumed");
    state_remove_mirror(change->state, position);
    r = mirror_save(change, err);
    if (r < 0)
        return r;
    const struct disk *disk;
    if (mirroring_disk(mirroring, position, &disk, NULL) == 0)
        administration_event(change->administration, change->serial, "disk %s goes on in %s", disk->target,
                             path ? path : "its copy");
    mirrors_over(change->administration->mirrors, change->serial, operation, position, NULL);
    reclaimer_wake(change->administration->reclaimer);
    return 0;
}

/* ---- The request ---- */

static int check(const struct mirroring *mirroring, const struct disk *disk,
                 const struct state_mirror *mirror, const char *job, struct error *err)
{
    const struct running *running = &mirroring->running;
    struct qmp_job_report report;
    if (!mirroring->change.domain->may_switch_files)
        return error_set(
            err, EPERM,
            "%s can't go on in another file: whoever starts it must learn which file that is; a "
            "definition with launch, or with \"follows\": true, says so. disks/%s/abort keeps the copy",
            mirroring->change.domain->name, disk->target);
    if (!disk->persistent)
        return error_set(
            err, EOPNOTSUPP,
            "disk %s is not persistent: what is written to it is thrown away when the domain ends, and "
            "its copy would be, too; disks/%s/abort keeps the copy",
            disk->target, disk->target);
    if (!running_is_active(running))
        return error_set(err, EBUSY, "the domain has just ended, and the copy with it");
    if (mirror->phase != MIRROR_COPIES)
        return error_set(err, EBUSY, "what was begun with the copy of disk %s has to be settled first",
                         disk->target);
    int r = qmp_job_look(running->qmp, job, running->engine.timeout_ms, &report, err);
    if (r == -ENOENT || (r == 0 && report.is_over))
        return error_set(err, EBUSY, "the copying of disk %s has just ended", disk->target);
    if (r == 0 && !report.is_ready)
        return error_set(
            err, EBUSY,
            "the copy of disk %s is not in step yet: %llu of %llu bytes are; wait until its job is ready",
            disk->target, (unsigned long long)report.current, (unsigned long long)report.total);
    return r;
}

/* Tells the QEMU. 0: it has moved; else the guest runs on as before, or what it does is not known. */
static int move(struct mirroring *mirroring, unsigned position, struct error *err)
{
    struct change *change = &mirroring->change;
    const struct running *running = &mirroring->running;
    const struct state_mirror *mirror = state_find_mirror(change->state, position);
    const struct qmp_job_watch watch = {.timeout_ms = running->engine.timeout_ms, .stall_ms = MOVE_MS};
    struct mirror_names names;
    struct error why = {0};
    bool has_moved = false;
    mirror_name(mirror->operation, position, &names);
    int r = mirror->resumes ? run_state_stop(running->qmp, running->engine.timeout_ms, &why) : 0;
    if (r == 0) {
        crash_point("mirror-stopped");
        r = block_mirror_pivot(&running->engine, names.job, names.node, &watch, &why);
        crash_point("mirror-moved");
    }
    if (r == 0)
        return 0;
    if (qmp_is_dead(running->qmp) || mirror_has_moved(running, mirror, &has_moved, NULL) < 0)
        return error_set(err, EIO, "whether the domain goes on in its copy is not known yet: %s", why.text);
    if (has_moved) { /* all but the last flush */
        log_warning("%s: %s", change->domain->name, why.text);
        return 0;
    }
    error_set(err, why.code, "the domain goes on where it was: %s", why.text);
    struct error again;
    if (mirror_drop(mirroring, position, why.text, &again) < 0)
        log_error("%s: the copy can't be dropped yet: %s", change->domain->name, again.text);
    return -err->code;
}

int carry_out_pivot(struct administration *administration, struct work *work, struct outcome *outcome,
                    struct error *err)
{
    cleanup(mirroring_end) struct mirroring mirroring;
    const unsigned position = work->request->disk;
    struct state_mirror *mirror;
    const struct disk *disk;
    struct mirror_names names;
    struct error ignored = {0};
    err = err ? err : &ignored;
    int r = mirroring_begin(administration, work, work->request->domain, &mirroring, err);
    if (r == 0)
        r = mirroring_disk(&mirroring, position, &disk, err);
    if (r == 0)
        r = mirroring_find(&mirroring, position, &mirror, err);
    if (r < 0)
        return r;
    mirror_name(mirror->operation, position, &names);
    r = check(&mirroring, disk, mirror, names.job, err);
    if (r < 0)
        return r;
    mirror->phase = MIRROR_PIVOTS;
    mirror->resumes = mirroring.running.state == RUN_STATE_RUNNING;
    r = mirror_save(&mirroring.change, err);
    crash_point("mirror-pivots");
    if (r == 0)
        r = move(&mirroring, position, err);
    if (r == 0)
        r = mirror_finish_pivot(&mirroring, position, err);
    if (r < 0) {
        mirrors_wake(administration->mirrors);
        return r;
    }
    cleanup_free char *path =
        mirror_path(&mirroring.change, state_find_mirror(mirroring.change.state, position));
    if (mirror_end_pivot(&mirroring, position, &ignored) < 0) {
        log_warning("%s: %s", mirroring.change.domain->name, ignored.text);
        mirrors_wake(administration->mirrors);
    }
    if (asprintf(&outcome->text, "disk %s goes on in %s", disk->target, path ? path : "its copy") < 0)
        outcome->text = NULL;
    return 0;
}
