// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Going back to a snapshot where a QEMU is ended for it, or started, or both.
 *
 *     plan      the new disks are made under temporary names, and what is to be started is put together
 *     save      the memory of the guest that runs is put aside; it stands still
 *     end       its QEMU ends
 *     disks     the journal, and the disks go back
 *     launch    the new QEMU, which stands still, so that nothing is written yet
 *     commit    the state is saved
 *     go on     it runs, if it is to
 *
 * How it goes on from any of these, after a failure or a crash, stands in the store from before the save on
 * (resume.h).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "administration/memory/put_aside.h"
#include "administration/request/going_back.h"
#include "administration/undo/resume.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "base/log.h"

#define ANSWER_MS 20000
#define DEATH_MS  10000

/* ---- What it will have ---- */

static struct disk *find_disk(struct going_back *going, unsigned position)
{
    for (size_t i = 0; i < going->change.domain->disk_count; i++)
        if (going->disks[i].position == position)
            return &going->disks[i];
    return NULL;
}

/* Which disks it is started with: new layers are not there yet. */
static int describe_disks(struct going_back *going, struct error *err)
{
    const struct domain *domain = going->change.domain;
    const struct overlays *overlays = &going->reversion.overlays;
    going->disks = calloc(domain->disk_count + 1, sizeof *going->disks);
    going->layers = calloc(overlays->count + 1, sizeof *going->layers);
    if (!going->disks || !going->layers)
        return error_set(err, ENOMEM, "out of memory");
    if (domain->disk_count)
        memcpy(going->disks, domain->disks, domain->disk_count * sizeof *going->disks);
    for (size_t i = 0; i < overlays->count; i++) {
        const struct overlay *overlay = &overlays->list[i];
        struct layer *layer = &going->layers[i];
        *layer = (struct layer){.format = IMAGE_FORMAT_QCOW2,
                                .active = true,
                                .backing = overlay->is_copy ? NULL : (struct layer *)overlay->below};
        if (asprintf(&layer->path, "%s/%s", overlay->directory_path, overlay->final) < 0)
            return layer->path = NULL, error_set(err, ENOMEM, "out of memory");
        find_disk(going, overlay->disk)->active = layer;
    }
    return 0;
}

static int prepare_start(struct going_back *going, struct error *err)
{
    const struct start_spec spec = {
        .disks = going->disks,
        .disk_count = going->change.domain->disk_count,
        .launch = memory_back_launch(&going->memory, going->change.domain),
        .wait = memory_back_wait(&going->memory),
        .is_claimed = true,
    };
    return start_prepare(&going->start, &going->change, going->machine, &spec, err);
}

/* ---- What can be refused ---- */

/* What is on such a disk goes with the QEMU that is ended. */
static bool has_transient_disk(const struct domain *domain)
{
    for (size_t i = 0; i < domain->disk_count; i++)
        if (!domain->disks[i].persistent)
            return true;
    return false;
}

static enum restart_state state_before(const struct going_back *going)
{
    /* One that has crashed has nothing to go on with. */
    if (!running_is_active(&going->running) || going->running.state == RUN_STATE_CRASHED ||
        has_transient_disk(going->change.domain))
        return RESTART_SHUTOFF;
    return going->running.state == RUN_STATE_RUNNING ? RESTART_RUNNING : RESTART_PAUSED;
}

static int check_machine(struct going_back *going, bool force, struct error *err)
{
    const struct domain *domain = going->change.domain;
    bool is_active = running_is_active(&going->running);
    if (!going->change.work->request->may_launch)
        return error_set(err, EPERM, "only the user who mounted, and root, have QEMUs started and ended");
    if (is_active && (!domain->launch || !machine_is_ours(going->machine)))
        return error_set(err, EOPNOTSUPP,
                         "%s runs in a QEMU that others have started: end that first, and start it again "
                         "afterwards",
                         domain->name);
    if (is_active && !force && state_before(going) != RESTART_SHUTOFF &&
        !machine_was_started_with(going->machine, domain->launch))
        return error_set(
            err, EINVAL,
            "the definition of %s has another launch than its QEMU was started with, so it could "
            "not go on as it runs now if going back failed; `force`, written to the snapshot's revert, goes "
            "back nevertheless",
            domain->name);
    return is_active && !force && state_before(going) != RESTART_SHUTOFF
               ? running_check_files(&going->running, &going->change, err)
               : 0;
}

static int note_before(struct going_back *going, struct error *err)
{
    const struct domain *domain = going->change.domain;
    struct restart *restart = &going->restart;
    size_t count = 0;
    *restart = (struct restart){.domain = going->change.serial,
                                .operation = going->change.operation,
                                .before = state_before(going),
                                .after = going->wanted,
                                .snapshot = going->memory.snapshot ? going->snapshot->serial : 0};
    while (domain->launch[count])
        count++;
    restart->launch = calloc(count + 1, sizeof *restart->launch);
    for (size_t i = 0; restart->launch && i < count; i++)
        if (!(restart->launch[i] = strdup(domain->launch[i])))
            return error_set(err, ENOMEM, "out of memory");
    return restart->launch ? 0 : error_set(err, ENOMEM, "out of memory");
}

/* ---- The QEMU that runs ---- */

/* With `force` it is ended though its memory can't be put aside. */
static int save(struct going_back *going, bool force, struct error *err)
{
    struct change *change = &going->change;
    struct error why = {0};
    int r = 0;
    if (going->restart.before != RESTART_SHUTOFF) {
        r = put_aside(change, &going->running, &going->restart, &why);
        if (r == 0 || !force || r == -EINTR || r == -ECANCELED)
            return r < 0
                       ? error_set(err, why.code == ECANCELED ? EINTR : why.code,
                                   "its memory can't be put aside, so that it could not go on if going back "
                                   "failed: %s",
                                   why.text)
                       : 0;
        log_warning("%s goes back, though its memory could not be put aside: %s", change->domain->name,
                    why.text);
    }
    return store_save_restart(change->administration->options.store, &going->restart, err);
}

/* Confirmed: nothing has its images open any more. */
static int end_present(struct going_back *going, struct error *err)
{
    struct running *running = &going->running;
    struct error why = {0};
    if (!running_is_active(running))
        return 0;
    machine_expect_end(going->machine);
    int r = run_state_quit(running->qmp, ANSWER_MS, &why);
    machine_return(going->machine, running->qmp);
    running->qmp = NULL;
    if (r < 0) /* it stands still, and all that it had to write is written */
        machine_kill(going->machine, NULL);
    r = machine_await_off(going->machine, DEATH_MS, err);
    crash_point("ended");
    return r;
}

/* ---- All of it ---- */

int revert_running_make(struct going_back *going, struct error *err)
{
    struct change *change = &going->change;
    bool force = change->work->request->revert.force;
    going->machine = going->running.machine;
    int r = check_machine(going, force, err);
    if (r == 0 && going->wanted != RESTART_SHUTOFF)
        r = memory_back_find(&going->memory, &going->change, going->snapshot, err);
    if (r == 0)
        r = note_before(going, err);
    if (r == 0)
        r = reversion_prepare(&going->reversion, change, &going->plan, going->snapshot->name,
                              running_is_active(&going->running), err);
    if (r == 0)
        r = describe_disks(going, err);
    if (r == 0 && going->wanted != RESTART_SHUTOFF)
        r = prepare_start(going, err);
    if (r == 0)
        r = save(going, force, err);
    if (r == 0)
        r = end_present(going, err);
    if (r == 0)
        r = reversion_carry_out(&going->reversion, change, "revert", err);
    if (r < 0 || going->wanted == RESTART_SHUTOFF)
        return r;
    going->is_launched = true;
    r = start_launch(&going->start, err);
    crash_point("launched");
    if (r == 0)
        r = memory_back_load(&going->memory, &going->start, err);
    crash_point("loaded");
    return r;
}

int revert_running_go_on(struct going_back *going, struct error *err)
{
    struct administration *administration = going->change.administration;
    int r = going->memory.snapshot ? resume_note_run(administration, &going->restart, err) : 0;
    crash_point("noted");
    if (r == 0 && going->wanted == RESTART_RUNNING)
        r = start_continue(going->machine, err);
    crash_point("continued");
    if (r < 0) /* it is tried again, by what is written down */
        return r;
    struct error why;
    if (resume_forget(administration, &going->restart, &why) < 0)
        log_error("%s: %s", going->change.domain->name, why.text);
    return 0;
}

void revert_running_stop(struct going_back *going)
{
    struct error why;
    if (going->is_launched && !going->change.is_committed && start_take_back(going->machine, &why) < 0)
        log_error("%s: %s", going->change.domain->name, why.text);
}

void revert_running_done(struct going_back *going)
{
    start_done(&going->start);
    memory_back_done(&going->memory);
    for (size_t i = 0; going->layers && i < going->reversion.overlays.count; i++)
        free(going->layers[i].path);
    free(going->layers);
    free(going->disks);
    restart_done(&going->restart);
}
