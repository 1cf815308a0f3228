// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Gives page cache back behind readers that we don't see: the kernel reads passthrough files by itself, and a
 * backup of one must not push the host's own working set out of memory.
 *
 * A thread looks, a few times a second and only while files are watched, how much of each is cached
 * (cachestat(2), Linux
 * >= 6.5, which passthrough implies). Where a long run became cached that was not before, what lies behind
 * its front is dropped. What was cached when the watch began stays, since somebody else wanted it; so does
 * what was read here and there. Any thread may call.
 */
#pragma once

#include <stdint.h>

struct drop_behind;

struct drop_behind *drop_behind_new(void);

/* Ends the thread. NULL is fine. */
void drop_behind_free(struct drop_behind *watch);

/* Watches a file of `size` bytes under `id`; the descriptor is duplicated. What can't be watched is left
 * alone. */
void drop_behind_add(struct drop_behind *watch, uint64_t id, int fd, uint64_t size);

/* Ends the watch of `id`, after dropping what it still should. */
void drop_behind_remove(struct drop_behind *watch, uint64_t id);
