// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Who must not remove anything for a while. Nothing outside of a snapshot's directory can be unlinked, so
 * a process that tries it is not after one snapshot: it is an `rm -r` of a whole domain, or of the mount. It
 * goes on after that refusal, comes to the snapshots, and must then be refused those, too.
 *
 * A process is known by its id alone. One that gets the same id within that minute is refused without need,
 * which is told, and harms nobody. Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#define REMOVAL_GUARD_SEC 60

struct removal_guard;

struct removal_guard *removal_guard_new(void); /* NULL where memory ran out */
void removal_guard_free(struct removal_guard *guard);

/* The process was refused to unlink something of the domain (serial; 0: of the mount itself), at `now`,
 * monotonic seconds. */
void removal_guard_note(struct removal_guard *guard, uint64_t domain, pid_t pid, time_t now);

/* Was it, in this domain or the mount itself, within the last minute? */
bool removal_guard_refuses(struct removal_guard *guard, uint64_t domain, pid_t pid, time_t now);

/* The process that a thread belongs to, as far as it can be told; else the thread's own number. */
pid_t removal_guard_process(pid_t thread);
