// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A small pool of threads for work that keeps a core busy: decompression.
 *
 * Two ways to use it. `workers_for_each` shares out the steps of one request among the caller and whoever is
 * idle; it returns when all are done. `workers_submit` leaves a job for later; it is dropped where the queue
 * is full, so it must be one that only saves time. Jobs must not wait for other jobs.
 *
 * The threads start with the first work, so a pool may be made before the process forks into the background.
 * Any thread may call anything but workers_free.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct workers;

/* `threads` at most; 0 for one per core that the process may run on. NULL where memory ran out. */
struct workers *workers_new(unsigned threads);

/* Waits for jobs that run and forgets those that wait. Takes NULL. */
void workers_free(struct workers *workers);

/* Calls step(opaque, 0 .. count - 1), each once, in any order and in several threads at once; the caller
 * takes part. Without workers (NULL) the caller does it all. */
void workers_for_each(struct workers *workers, size_t count, void (*step)(void *opaque, size_t index),
                      void *opaque);

/*
 * Leaves job(opaque, argument) for a worker. `opaque` also tells whose job it is, see workers_cancel. False,
 * and the job will never run, where the queue is full or there are no workers (NULL, or no thread could be
 * started).
 */
bool workers_submit(struct workers *workers, void (*job)(void *opaque, uint64_t argument), void *opaque,
                    uint64_t argument);

/* Forgets the jobs of `opaque` that wait, and returns when none of them runs. Takes NULL for `workers`. Not
 * to be called from a job. */
void workers_cancel(struct workers *workers, const void *opaque);
