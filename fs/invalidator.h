// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Telling the kernel what changed. A thread of its own takes notifications from a queue, in order, and sends
 * them: a notification can wait for a lock that the kernel holds while it waits for a reply of ours, so
 * whoever answers requests only queues. Any thread may queue.
 */
#pragma once

#include <stdint.h>

#include "catalog/catalog.h"

struct fuse_session;
struct invalidator;

struct invalidator *invalidator_new(void);

/* Starts the thread, which sends to `session` until invalidator_free. 0 or a negative errno. */
int invalidator_start(struct invalidator *invalidator, struct fuse_session *session);

/*
 * Ends the thread; what is queued from now on is never sent. While the connection lives, requests must still
 * be answered: the thread may be in a notification that waits for one of them. Safe to call twice; NULL is
 * fine.
 */
void invalidator_stop(struct invalidator *invalidator);

/* Stops it, and drops what is still queued. NULL is fine. */
void invalidator_free(struct invalidator *invalidator);

/* The attributes of a node changed; with `content`, what was cached of its bytes or listing too. */
void invalidator_node(struct invalidator *invalidator, uint64_t id, bool content);

/* A range of a file's cached bytes is not needed any more. */
void invalidator_range(struct invalidator *invalidator, uint64_t id, uint64_t offset, uint64_t length);

/* Queues everything that differs between two catalogs. */
void invalidator_compare(struct invalidator *invalidator, const struct catalog *before,
                         const struct catalog *after);
