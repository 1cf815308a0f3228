// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Giving space back in the background, one step of operation/reclaim.h after the other. It makes way: a step
 * that runs is stopped where a request for one of its domains, or a reader of one of its layers, comes, and
 * what must wait (for room, for somebody who has a file open) is tried again later and holds up nothing else.
 *
 * One thread. Any thread may call these; NULL for a reclaimer that was never made is fine.
 */
#pragma once

#include "administration/inside.h"

int reclaimer_new(struct administration *administration, struct reclaimer **reclaimer, struct error *err);

/* Once the catalog can be had. `administration` names the reclaimer by then: its thread uses all of it. */
int reclaimer_start(struct reclaimer *reclaimer, struct error *err);

/* Stops what runs, which is gone on with by the next mount. The other calls may still be made. */
void reclaimer_stop(struct reclaimer *reclaimer);

/* Stopped before. */
void reclaimer_free(struct reclaimer *reclaimer);

/* There may be something to do. */
void reclaimer_wake(struct reclaimer *reclaimer);

/* What a step waited for may be over: it is tried again within half a second. */
void reclaimer_ease(struct reclaimer *reclaimer);

/* A request for the domain waits. Returns at once. */
void reclaimer_make_way(struct reclaimer *reclaimer, uint64_t domain);

/* A frozen file is about to be opened: returns when none of its layers is written to. */
void reclaimer_make_way_for_reader(struct reclaimer *reclaimer, const struct frozen *frozen);

/* What waits, and what runs, as jobs; with the administration's lock held. */
void reclaimer_each_job_locked(struct reclaimer *reclaimer, void (*add)(void *opaque, struct work *work),
                               void *opaque);
