// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The memory of a running domain whose snapshot is taken, at the instant of its disks.
 *
 * In a file: it is copied while the guest runs, or from a stop. When all but a little is, the guest has been
 * stopped and its disks are still active; now comes the transaction on them, and then the rest.
 * In an image: QEMU saves memory and internal snapshots in one, while the guest stands still; disks that get
 * overlays get them in the same stop.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "administration/files/room.h"
#include "administration/request/creation.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "hypervisor/memory_internal.h"

/* What is left of the memory when the guest has been stopped, and what its devices save: a guess. */
#define REST_BYTES (64 * 1024 * 1024)

static int interrupted(int r, struct error *err)
{
    return r == -ECANCELED ? error_set(err, EINTR, "it was interrupted, and everything was undone") : r;
}

/* ---- Stopping, and letting it run again ---- */

static int stop(const struct creation *creation, bool *is_stopped, struct error *err)
{
    const struct running *running = &creation->running;
    if (running->state != RUN_STATE_RUNNING)
        return 0;
    int r = run_state_stop(running->qmp, running->engine.timeout_ms, err);
    *is_stopped = r == 0;
    if (r == 0)
        crash_point("stopped");
    return r;
}

static void let_run(struct creation *creation)
{
    const struct running *running = &creation->running;
    struct error why;
    if (qmp_is_dead(running->qmp)) /* whoever undoes it lets it run */
        return;
    if (run_state_continue(running->qmp, running->engine.timeout_ms, &why) < 0)
        creation_leaves_guest(creation, &why);
}

/* ---- In a file ---- */

int creation_plan_memory(struct creation *creation, struct error *err)
{
    const struct create_command *command = &creation->command;
    struct change *change = &creation->change;
    const struct running *running = &creation->running;
    uint64_t bytes;
    if (creation->choice.memory == MEMORY_NO)
        return 0;
    int r = memory_save_look(running->qmp, running->engine.timeout_ms, &creation->before, err);
    if (r == 0)
        r = memory_save_size(running->qmp, running->engine.timeout_ms, &bytes, err);
    if (r < 0)
        return r;
    if (creation->choice.memory == MEMORY_INTERNAL) {
        const struct internal_image *image = &creation->internals.list[0];
        return room_for_bytes(image->fd, image->disk->active->path, bytes, err);
    }
    r = memory_file_plan(&creation->memory, change, command->memory_file, command->name, command->compression,
                         creation->overlays.count, err);
    if (r == 0 && command->compression == COMPRESS_NONE)
        r = room_for_bytes(creation->memory.directory, creation->memory.path, bytes, err);
    return r;
}

static int begin_saving(struct creation *creation, const struct memory_save_before *before,
                        struct memory_save *save, struct error *err)
{
    const struct running *running = &creation->running;
    cleanup_close int fd = -1;
    int r = memory_file_open(&creation->memory, &fd, err);
    if (r < 0)
        return r;
    const struct memory_save_spec spec = {
        .fd = fd, .live = creation->command.live, .timeout_ms = running->engine.timeout_ms};
    r = memory_save_begin(running->qmp, &spec, before, save, err);
    if (r == 0)
        crash_point("saving");
    return r;
}

/* Where compressing has failed, that is why QEMU could not write. */
static int why_not_saved(struct creation *creation, int r, struct error *err)
{
    struct error why = {0};
    memory_file_abort(&creation->memory, &why);
    if (why.code && r != -ECANCELED)
        return error_set(err, why.code, "%s: %s", creation->memory.path, why.text);
    return interrupted(r, err);
}

/* The disks, while the guest stands still; and the rest of the memory. */
static int take_and_finish(struct creation *creation, struct memory_save *save,
                           const struct qmp_job_watch *watch, struct error *err)
{
    bool any = creation->overlays.count || creation->internals.count;
    int r = room_for_bytes(creation->memory.directory, creation->memory.path, REST_BYTES, err);
    if (r == 0 && any)
        r = creation_take(creation, err);
    struct qmp_job_watch patient = *watch;
    if (creation->change.is_beyond_undoing)
        patient.progress = NULL; /* too late to cancel */
    if (r == 0)
        r = memory_save_finish(save, &patient, err);
    if (r == 0)
        crash_point("memory-saved");
    return r;
}

/* The disks have gone on, and can't come back: it is a snapshot of them alone then. */
static int go_without(struct creation *creation, const struct error *why)
{
    const struct change *change = &creation->change;
    log_error("%s: its memory could not be saved with its disks: %s", change->domain->name, why->text);
    administration_event(change->administration, change->domain->serial, "snapshot %s has no memory: %s",
                         creation->command.name, why->text);
    memory_file_done(&creation->memory);
    creation->choice.memory = MEMORY_NO;
    tree_find(creation->change.tree, creation->serial)->has_memory = false;
    return 0;
}

static int save_to_file(struct creation *creation, const struct memory_save_before *before, struct error *err)
{
    const struct change *change = &creation->change;
    struct work_watch work = {change->administration, change->work, 0, 95};
    const struct qmp_job_watch watch = {
        .progress = work_progress, .opaque = &work, .timeout_ms = creation->running.engine.timeout_ms};
    struct memory_save save;
    struct error why;
    int r = begin_saving(creation, before, &save, err);
    if (r < 0)
        return why_not_saved(creation, r, err);
    r = memory_save_copy(&save, &watch, err);
    if (r == 0) {
        crash_point("copied");
        r = take_and_finish(creation, &save, &watch, err);
    }
    if (r < 0) {
        r = why_not_saved(creation, r, err);
        if (memory_save_cancel(&save, &why) < 0)
            creation_leaves_guest(creation, &why);
        return r;
    }
    if (memory_save_resume(&save, &why) < 0)
        creation_leaves_guest(creation, &why);
    crash_point("resumed");
    return memory_file_publish(&creation->memory, err);
}

int creation_take_with_memory_file(struct creation *creation, struct error *err)
{
    struct change *change = &creation->change;
    struct memory_save_before before = creation->before;
    bool is_stopped = false;
    int r = creation->command.paused ? stop(creation, &is_stopped, err) : 0;
    if (is_stopped)
        before.running = false;
    if (r == 0)
        r = save_to_file(creation, &before, err);
    if (r < 0 && change->is_beyond_undoing && !qmp_is_dead(creation->running.qmp))
        return go_without(creation, err);
    if (r < 0 && is_stopped && !change->is_beyond_undoing)
        let_run(creation);
    return r;
}

/* ---- In an image ---- */

int creation_take_with_memory_inside(struct creation *creation, struct error *err)
{
    struct change *change = &creation->change;
    const struct running *running = &creation->running;
    size_t count = creation->internals.count;
    cleanup_free const char **nodes = calloc(count + 1, sizeof *nodes);
    char job[48];
    if (!nodes)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < count; i++)
        nodes[i] = running_node(running, creation->internals.list[i].disk->target);
    snprintf(job, sizeof job, "vmsnapfs-%" PRIu64, change->operation);
    const struct memory_internal memory = {.job_id = job,
                                           .tag = creation->internals.tag,
                                           .vmstate = nodes[0],
                                           .devices = nodes,
                                           .device_count = count};
    struct work_watch work = {change->administration, change->work, 0, 95};
    const struct qmp_job_watch watch = {
        .progress = work_progress, .opaque = &work, .timeout_ms = running->engine.timeout_ms};
    bool is_stopped = false;
    int r = creation->command.paused || creation->overlays.count ? stop(creation, &is_stopped, err) : 0;
    if (r == 0) {
        change->images_are_untouched = false;
        r = memory_internal_save(running->qmp, &memory, &watch, err);
        if (r == -EEXIST)
            change->images_are_untouched = true; /* the tag is another program's */
    }
    if (r == 0)
        crash_point("memory-saved");
    if (r == 0 && creation->overlays.count)
        r = creation_take_overlays(creation, err);
    if (is_stopped && (!creation->command.paused || r < 0) && !(r < 0 && change->is_beyond_undoing))
        let_run(creation);
    return interrupted(r, err);
}
