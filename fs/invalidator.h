// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Telling the kernel what changed, in the background, and answering requests once it was told.
 *
 * There are three queues, each with a thread of its own, since notifications wait for different things:
 *
 *     nodes   attributes, listings and small texts of a node. The kernel takes no lock of a directory for
 *             these. It may wait for a page that is being read, which is a request that some worker answers
 *             without waiting for anything.
 *     names   a name that went. The kernel takes the lock of the directory, which a mkdir, rmdir or rename
 *             that waits for our reply holds.
 *     pages   bytes of frozen disks. May wait for pages that somebody reads, through a helper perhaps that
 *             hangs. Nobody ever waits for this queue.
 *
 * Whoever wants to reply after the kernel was told hands over a call (invalidator_after), which the thread of
 * `nodes` makes when everything that was queued there before it was sent. So no thread waits for a ticket,
 * and nothing can wait in a circle:
 *
 *     - Replies to mkdir, rmdir, rename and writes wait for `nodes` alone, which waits for workers alone,
 * which wait for neither a reply nor a queue. So they are sent, and what they lock is unlocked.
 *     - `names` waits for such locks alone, and no reply ever waits for it. (A write, too, can hold up
 *       a directory: it locks its control file, for which an unlink waits that has locked the directory.) So
 * it goes on, as soon as the operations that hold locks are over.
 *     - Unmounting waits until no notification is on its way, and they wait for none but processes that use
 *       the mount, of which there are none then. At the end of the daemon what waits for a lock goes on when
 *       the administration has answered everything, which it does before the queues are stopped.
 *
 * What went is seen to be gone before its name is: its attributes are forgotten in `nodes`, and whoever comes
 * to it by a name that the kernel still holds asks for them, and is told ENOENT.
 *
 * Any thread may queue; that never waits.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "catalog/catalog.h"

struct fuse_session;
struct invalidator;

/* What stands in a queue; the invalidator's own. */
struct invalidator_item {
    struct invalidator_item *next;
    bool is_call;
};

/* To be made when the kernel was told. The caller owns it, and it must live until `run` is called, once, in a
 * thread of the invalidator or, where that runs none, in the caller's. */
struct invalidator_call {
    struct invalidator_item item;
    void (*run)(struct invalidator_call *call);
};

struct invalidator *invalidator_new(void);

/*
 * The kernel holds the lock of this directory until a request is answered, and again until then: names in it
 * are told of afterwards. Else a daemon that is killed meanwhile would never end, since a notification waits
 * for the lock, and who holds it for a reply, and neither can be interrupted.
 */
void invalidator_locked(struct invalidator *invalidator, uint64_t directory);
void invalidator_unlocked(struct invalidator *invalidator, uint64_t directory);

/* Starts the threads, which send to `session` until invalidator_stop. 0 or a negative errno. */
int invalidator_start(struct invalidator *invalidator, struct fuse_session *session);

/*
 * Ends the threads. Notifications that are still queued are dropped, calls are made. While the connection
 * lives, requests must still be answered: a thread may be in a notification that waits for one of them. Safe
 * to call twice; NULL is fine.
 */
void invalidator_stop(struct invalidator *invalidator);

/* Stops it and frees. NULL is fine. */
void invalidator_free(struct invalidator *invalidator);

/* The attributes of a node changed; with `content`, what was cached of its bytes or listing too. */
void invalidator_node(struct invalidator *invalidator, uint64_t id, bool content);

/* A range of a file's cached bytes is not needed any more. */
void invalidator_range(struct invalidator *invalidator, uint64_t id, uint64_t offset, uint64_t length);

/* Queues everything that differs between two catalogs. */
void invalidator_compare(struct invalidator *invalidator, const struct catalog *before,
                         const struct catalog *after);

/* Calls call->run when what was queued so far in `nodes` was sent. */
void invalidator_after(struct invalidator *invalidator, struct invalidator_call *call);
