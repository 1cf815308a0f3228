// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Doing one step of giving space back: the domains that know its files are held, it is checked once more that
 * nobody needs what goes, the files are changed, and the domains' states follow. Killed anywhere, everything
 * reads as before, and the step is simply done again: what is written to is noted as touched in the states
 * first. Inside of reclaimer.h.
 */
#pragma once

#include "administration/inside.h"
#include "operation/reclaim.h"

/* A step, told by files and not by ids, which are another plan's tomorrow. */
struct reclaim_task {
    enum reclaim_kind kind;
    char *layer, *into;                 /* absolute paths; `into` may be NULL */
    struct internal_snapshot *internal; /* owned; may be NULL */
    uint64_t *domains;                  /* that know one of the files */
    size_t domain_count;
};

void reclaim_task_done(struct reclaim_task *task);

/* For people: "merging web1.a into web1.qcow2". */
void reclaim_task_tell(const struct reclaim_task *task, char *text, size_t size);

/*
 * `work` is asked whether to go on, and told how far it is. Errors: EBUSY, EINTR, ENOSPC: later; EPERM: it is
 * not to be done any more, things have changed; others.
 */
int reclaim_work_do(struct administration *administration, struct work *work, const struct reclaim_task *task,
                    struct error *err);
