// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The guard of a revert: a snapshot of the present, taken first. Both are one operation for whoever asks, and
 * two for the journal. So the state that has the guard says that it goes again (state_domain.guard), and that
 * of the revert does not say so any more: whoever finds it said, after a failure or a crash, deletes the
 * guard. Inside of administration/.
 */
#pragma once

#include "administration/inside.h"

/* Takes it, for the work of a revert. Errors: as carry_out_create; EBUSY, one of before is still there. */
int guard_take(struct administration *administration, struct work *work, uint64_t *serial, struct error *err);

/* Deletes it, since the revert has not happened, for whoever has the domain's lane. Errors: as
 * carry_out_delete, without a text; guard_drop_left tries it again. */
int guard_drop(struct administration *administration, uint64_t domain, uint64_t serial);

/* At start: has those deleted whose reverts were killed, in their lanes, before anything else is done there.
 */
void guard_drop_all(struct administration *administration);

/* Deletes those whose reverts have failed, and that could not be deleted then; for the reclaimer. True: some
 * are still there. */
bool guard_drop_left(struct administration *administration);
