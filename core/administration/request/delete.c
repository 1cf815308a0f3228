// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Deleting snapshots: references are dropped, which is one state file, and no image is touched. What nobody
 * needs any more is given back in the background (reclaimer.h). Those kinds that bring the domain to another
 * state do so as a revert does.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "administration/change.h"
#include "administration/mirror/mirror.h"
#include "administration/reclaim/reclaimer.h"
#include "administration/request/reversion.h"
#include "base/cleanup.h"
#include "operation/tree_change.h"

#define CLOSING_MS      250
#define CLOSING_STEP_MS 50

struct deletion {
    struct change change;
    struct tree_deletion plan;
    struct reversion reversion;
};

static void deletion_done(struct deletion *deletion)
{
    change_end(&deletion->change);
    reversion_done(&deletion->reversion);
    tree_deletion_done(&deletion->plan);
}

static const char *name_of(const struct domain *domain, uint64_t serial)
{
    for (size_t i = 0; i < domain->snapshot_count; i++)
        if (domain->snapshots[i]->serial == serial)
            return domain->snapshots[i]->name;
    return "";
}

static void tell(const struct deletion *deletion, struct administration *administration)
{
    const struct domain *domain = deletion->change.domain;
    const struct tree_deletion *plan = &deletion->plan;
    if (plan->merged_into)
        administration_event(administration, domain->serial, "merged snapshot %s into %s",
                             name_of(domain, plan->merged_from), name_of(domain, plan->merged_into));
    for (size_t i = 0; i < plan->gone_count; i++)
        if (plan->gone[i] != plan->merged_from)
            administration_event(administration, domain->serial, "deleted snapshot %s",
                                 name_of(domain, plan->gone[i]));
    if (plan->reverts && deletion->change.tree->current)
        administration_event(administration, domain->serial, "reverted to snapshot %s",
                             name_of(domain, deletion->change.tree->current));
}

/* What was closed is told a moment later: who closes a disk and deletes its snapshot at once is right. */
static void wait_for_closing(struct administration *administration, uint64_t snapshot)
{
    for (int waited = 0; waited < CLOSING_MS && administration_is_open(administration, snapshot);
         waited += CLOSING_STEP_MS)
        poll(NULL, 0, CLOSING_STEP_MS);
}

/* Nobody waits for its QEMU for that. */
static bool is_active(struct administration *administration, uint64_t domain)
{
    struct machine_report report;
    return machines_report(administration->options.machines, domain, &report) &&
           (report.contact == MACHINE_CONNECTED || report.contact == MACHINE_SILENT);
}

int carry_out_delete(struct administration *administration, struct work *work, struct outcome *outcome,
                     struct error *err)
{
    cleanup(deletion_done) struct deletion deletion = {0};
    struct change *change = &deletion.change;
    const struct request *request = work->request;
    const struct snapshot *snapshot;
    wait_for_closing(administration, request->snapshot);
    int r = change_begin(administration, work, request->domain, change, err);
    if (r == 0)
        r = change_find(change, request->snapshot, &snapshot, err);
    /* The others drop references, and nothing is given back while a disk is being copied. */
    if (r == 0 && request->delete_kind >= DELETE_MERGE)
        r = mirror_refuse(change->domain, NULL, err);
    if (r == 0)
        change->tree->is_active = is_active(administration, request->domain);
    if (r == 0)
        r = tree_delete(change->tree, &change->world.layers, request->snapshot, request->delete_kind,
                        &deletion.plan, err);
    if (r == 0 && deletion.plan.reverts)
        r = reversion_make(&deletion.reversion, change, &deletion.plan.reversion,
                           name_of(change->domain, change->tree->current), "delete", err);
    if (r == 0)
        r = change_follow_tree(change, err);
    if (r == 0)
        r = change_commit(change, err);
    if (r < 0)
        return r;
    tell(&deletion, administration);
    reclaimer_wake(administration->reclaimer);
    return 0;
}
