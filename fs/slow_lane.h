// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Where work waits that can take long: opening and reading disks through a helper program. The threads that
 * answer requests never wait for such work, so a helper that hangs holds up nobody but its own readers.
 * Threads are started as they are needed, up to a bound, and end when idle.
 */
#pragma once

struct slow_lane;

struct slow_lane *slow_lane_new(void);

/* Waits until what was submitted is done. NULL is fine. */
void slow_lane_free(struct slow_lane *lane);

/* Runs work(opaque) in some thread of the lane. 0, or -ENOMEM, -EAGAIN where no thread could be had. */
int slow_lane_submit(struct slow_lane *lane, void (*work)(void *opaque), void *opaque);
