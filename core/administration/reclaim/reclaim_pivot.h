// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A running domain's disk goes on in the layer that its active one lies on, which is then needed no more: the
 * files by the QEMU (block_pivot.h), the states, and the journal. Inside of reclaim_work.h.
 *
 * The commit point is the domain's state file, as for every operation: it is saved while the disk is held,
 * with the number of an operation that the journal has. Killed before, the disk stays where it is; after, it
 * goes on where the state says (undo_pivot.h).
 */
#pragma once

#include "administration/reclaim/reclaim_running.h"
#include "administration/reclaim/reclaim_states.h"
#include "administration/reclaim/reclaim_work.h"

/*
 * Merges `task->layer`, active in the host, into `task->into`, on which the disk goes on then. What was
 * touched before stays touched but those two. Errors: as reclaim_host_hold; what is in `states` is as it is
 * saved.
 */
int reclaim_pivot(struct reclaim_states *states, const struct world *world, struct work *work,
                  const struct reclaim_task *task, struct reclaim_host *host, struct error *err);
