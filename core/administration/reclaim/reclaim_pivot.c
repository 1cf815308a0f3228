// SPDX-License-Identifier: LGPL-2.1-or-later
/* See reclaim_pivot.h. */
#include "administration/reclaim/reclaim_pivot.h"

#include <errno.h>
#include <stdlib.h>

#include "administration/running.h"
#include "administration/undo/undo.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "catalog/catalog_hold.h"

struct pivoting {
    struct reclaim_states *states;
    const struct reclaim_task *task;
    struct reclaim_host *host;
    uint64_t operation;
    struct journal_operation *journal; /* NULL: not begun */
};

/* The two are in step, and the guest still writes: everything that takes time is done now. */
static int write_down(void *opaque, struct error *err)
{
    struct pivoting *pivoting = opaque;
    struct administration *administration = pivoting->states->administration;
    const struct domain *domain = pivoting->host->domain;
    struct undo_list undo = {0};
    char *monitor = NULL;
    int r = catalog_next_serial(administration->catalog, &pivoting->operation, err);
    if (r == 0)
        r = running_find_monitor(domain, pivoting->host->machine, &monitor, err);
    if (r < 0)
        return r;
    undo_add_running(&undo, monitor, "");
    undo_add_pivot(&undo, pivoting->task->layer, pivoting->task->into);
    r = undo_begin_for(administration, domain, pivoting->operation, "merge", &undo, &pivoting->journal, err);
    undo_list_done(&undo);
    free(monitor);
    return r;
}

/* With the guest's disk held. */
static int commit(const struct pivoting *pivoting, const struct world *world, struct error *err)
{
    struct reclaim_states *states = pivoting->states;
    int r = reclaim_states_keep(states, err);
    if (r == 0)
        r = reclaim_states_repoint(states, world, pivoting->task->layer, pivoting->task->into, err);
    for (size_t i = 0; r == 0 && i < states->count; i++)
        if (states->states[i]->serial == pivoting->host->domain->serial)
            states->states[i]->operation = pivoting->operation;
    if (r == 0)
        r = reclaim_states_store(states, err);
    if (r < 0)
        reclaim_states_go_back(states);
    return r;
}

int reclaim_pivot(struct reclaim_states *states, const struct world *world, struct work *work,
                  const struct reclaim_task *task, struct reclaim_host *host, struct error *err)
{
    struct administration *administration = states->administration;
    struct pivoting pivoting = {.states = states, .task = task, .host = host};
    int r = reclaim_host_hold(host, administration, world, work, task->layer, task->into, write_down,
                              &pivoting, err);
    bool is_committed = false;
    if (r == 0) {
        crash_point("held");
        r = commit(&pivoting, world, err);
        is_committed = r == 0;
        crash_point("kept");
    }
    if (!pivoting.journal)
        return r;
    bool is_over = undo_end(administration, pivoting.journal, host->qmp, is_committed);
    crash_point("pivoted");
    if (is_over && is_committed && reclaim_host_has_disk(host, administration, world, task->into)) {
        reclaim_states_show(states);
        return 0;
    }
    /* It is concluded later, or whether it was can't be asked, or the state was saved anew, as it was before.
     */
    if (is_committed) {
        reclaim_states_read_again(states);
        reclaim_states_show(states);
        reclaim_states_let_go(states);
    }
    return r < 0 ? r : error_set(err, EBUSY, "whether the disk goes on in %s is not known yet", task->into);
}
