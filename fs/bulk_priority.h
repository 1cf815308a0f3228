// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Long streams of reads are work that can wait: a backup must not take the cpu from the guests on the same
 * host. So the thread that serves such a read has a lower priority (nice, sched(7)) for as long. On an idle
 * host that changes nothing. Where a thread could not come back to its own priority, as for an ordinary user
 * without RLIMIT_NICE, nothing is done.
 */
#pragma once

/* Lowers the calling thread's priority, until bulk_priority_end. */
void bulk_priority_begin(void);

/* The calling thread has its own priority again. Without a beginning: does nothing. */
void bulk_priority_end(void);
