// SPDX-License-Identifier: LGPL-2.1-or-later
/* Going back to a snapshot. Where a QEMU is ended or started for it, that is in revert_running.c. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "administration/mirror/mirror.h"
#include "administration/reclaim/reclaimer.h"
#include "administration/request/going_back.h"
#include "administration/request/guard.h"
#include "administration/undo/resume.h"
#include "base/cleanup.h"
#include "base/text.h"
#include "hypervisor/image_locks.h"
#include "operation/tree_change.h"

static void going_back_done(struct going_back *going)
{
    revert_running_stop(going);
    change_end(&going->change);
    revert_running_done(going);
    reversion_done(&going->reversion);
    running_end(&going->running);
    tree_reversion_done(&going->plan);
    image_locks_forget(); /* those of our own helpers and QEMUs that are gone */
}

/* ---- What it does afterwards ---- */

static enum restart_state wanted_state(const struct snapshot *snapshot, enum revert_state asked)
{
    switch (asked) {
    case REVERT_RUNNING:
        return RESTART_RUNNING;
    case REVERT_PAUSED:
        return RESTART_PAUSED;
    case REVERT_SHUTOFF:
        return RESTART_SHUTOFF;
    case REVERT_AS_SAVED:
        break;
    }
    return snapshot->state == SNAPSHOT_STATE_RUNNING  ? RESTART_RUNNING
           : snapshot->state == SNAPSHOT_STATE_PAUSED ? RESTART_PAUSED
                                                      : RESTART_SHUTOFF;
}

static int check_state(struct going_back *going, const struct revert_command *command, struct error *err)
{
    const struct domain *domain = going->change.domain;
    const struct snapshot *snapshot = going->snapshot;
    static const char way_out[] = "write shutoff to bring back its disks alone";
    going->wanted = wanted_state(snapshot, command->state);
    if (going->wanted == RESTART_SHUTOFF)
        return 0;
    if (!domain->launch && command->state == REVERT_AS_SAVED)
        return error_set(
            err, EOPNOTSUPP,
            "snapshot %s is of a domain that ran, and %s is not started here (its definition has "
            "no launch); %s",
            snapshot->name, domain->name, way_out);
    if (!domain->launch)
        return error_set(err, EOPNOTSUPP,
                         "only a domain that vmsnapfs starts itself (launch) can be brought there; %s",
                         way_out);
    return 0;
}

static int check_disks(const struct snapshot *snapshot, const struct revert_command *command,
                       struct error *err)
{
    if (snapshot->lost_disks && !command->force)
        return error_set(err, EINVAL,
                         "snapshot %s has a disk that the domain has no more; `force`, written to its "
                         "revert, goes back without it",
                         snapshot->name);
    return 0;
}

/* Which disks the snapshot left out, and stayed as they were. */
static void tell_kept(const struct going_back *going, const struct snapshot *snapshot, struct text *text)
{
    const struct domain *domain = going->change.domain;
    text_printf(text, "reverted to snapshot %s", snapshot->name);
    const char *separator = "; kept as they are: ";
    for (size_t i = 0; i < going->plan.count; i++) {
        if (going->plan.disks[i].how != REVERT_KEPT)
            continue;
        for (size_t j = 0; j < domain->disk_count; j++)
            if (domain->disks[j].position == going->plan.disks[i].disk)
                text_printf(text, "%s%s", separator, domain->disks[j].target);
        separator = ", ";
    }
}

static int plan(struct going_back *going, const struct request *request, struct error *err)
{
    struct change *change = &going->change;
    struct revert_circumstances circumstances = {.force = request->revert.force,
                                                 .left_out_may_have_changed = true};
    int r = change_find(change, request->snapshot, &going->snapshot, err);
    if (r == 0)
        r = check_state(going, &request->revert, err);
    if (r == 0)
        r = check_disks(going->snapshot, &request->revert, err);
    if (r == 0 && going->wanted == RESTART_SHUTOFF)
        tree_find(change->tree, request->snapshot)->has_memory = false; /* it is not brought back */
    if (r == 0)
        circumstances.machine_changed = memory_back_machine_changed(change->domain, going->snapshot);
    return r < 0 ? r
                 : tree_revert(change->tree, &change->world.layers, request->snapshot, &circumstances,
                               &going->plan, err);
}

static int go_back(struct administration *administration, struct work *work, struct outcome *outcome,
                   struct error *err)
{
    cleanup(going_back_done) struct going_back going = {.memory = MEMORY_BACK_NONE};
    struct change *change = &going.change;
    int r = change_begin(administration, work, work->request->domain, change, err);
    if (r == 0)
        r = running_begin(change, &going.running, err);
    if (r == 0)
        r = mirror_refuse(change->domain, NULL, err);
    if (r == 0)
        r = plan(&going, work->request, err);
    if (r < 0)
        return r;
    bool has_qemu = running_is_active(&going.running) || going.wanted != RESTART_SHUTOFF;
    r = has_qemu ? revert_running_make(&going, err)
                 : reversion_make(&going.reversion, change, &going.plan, going.snapshot->name, "revert", err);
    if (r == 0)
        r = change_follow_tree(change, err);
    if (work->request->revert.guard && r == 0)
        change->state->guard = 0; /* with this commit it stays */
    if (r == 0)
        r = change_commit(change, err);
    if (r < 0)
        return r;
    struct text text = {0};
    struct error why;
    tell_kept(&going, going.snapshot, &text);
    if (has_qemu && revert_running_go_on(&going, &why) < 0)
        text_printf(&text, "; it stands still yet, since it could not be continued, which is tried again: %s",
                    why.text);
    administration_event(administration, work->request->domain, "%s", text.failed ? "reverted" : text.data);
    outcome->text = text_steal(&text);
    return 0;
}

/* After a failure the domain is where it was: also its QEMU. */
static int go_back_or_on(struct administration *administration, struct work *work, struct outcome *outcome,
                         struct error *err)
{
    struct error why;
    int r = go_back(administration, work, outcome, err);
    if (r == 0 || resume_pending(administration, work->request->domain, &why) == 0)
        return r;
    struct error told = *err;
    return error_set(err, told.code, "%.250s; and then: %.250s", told.text, why.text);
}

int carry_out_revert(struct administration *administration, struct work *work, struct outcome *outcome,
                     struct error *err)
{
    uint64_t guard = 0;
    if (work->request->revert.guard) {
        int r = guard_take(administration, work, &guard, err);
        if (r < 0)
            return r;
    }
    int r = go_back_or_on(administration, work, outcome, err);
    if (r < 0 && guard && guard_drop(administration, work->request->domain, guard) < 0)
        error_prefix(err, "the guard goes as soon as it can be deleted");
    reclaimer_wake(administration->reclaimer);
    return r;
}
