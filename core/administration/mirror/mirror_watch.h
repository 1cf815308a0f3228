// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Looking after the copies that QEMUs keep in step: how far they are, as jobs, and when one has to be settled
 * (mirror.h), which is done here then. The catalog tells which there are.
 *
 * One thread. Any thread may call these; NULL for what was never made is fine.
 */
#pragma once

#include "administration/inside.h"

int mirrors_new(struct administration *administration, struct mirrors **mirrors, struct error *err);

/* Once the catalog can be had. `administration` names them by then: their thread uses all of it. */
int mirrors_start(struct mirrors *mirrors, struct error *err);

/* Ends the thread; the copies go on. The other calls may still be made. */
void mirrors_stop(struct mirrors *mirrors);
void mirrors_free(struct mirrors *mirrors); /* stopped before */

/* There may be a new one, or one less. */
void mirrors_wake(struct mirrors *mirrors);

/* The number of the job of a copy, which is shown from now on; 0: it can't be. */
uint64_t mirrors_note(struct mirrors *mirrors, uint64_t domain, const struct disk *disk, const char *path,
                      uint64_t operation);

/* The job has come to its end; `why` it failed, for people, or NULL. */
void mirrors_over(struct mirrors *mirrors, uint64_t domain, uint64_t operation, unsigned disk,
                  const char *why);

/* Has the copy that is job `number` dropped, soon; false: it is none. */
bool mirrors_cancel(struct mirrors *mirrors, uint64_t number);
bool mirrors_is_cancelled(struct mirrors *mirrors, uint64_t domain, uint64_t operation, unsigned disk);

/* With the administration's lock held. */
void mirrors_each_job_locked(struct mirrors *mirrors, void (*add)(void *opaque, struct work *work),
                             void *opaque);
