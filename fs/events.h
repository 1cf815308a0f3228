// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What happened to each domain, one line an event, for `tail -f` and poll: kept while the daemon runs.
 *
 * The file `events` is live: reading gives what is there at that moment, and its size grows. It is bounded:
 * when it is long, and nobody has it open, its older half is dropped; so who has it open sees it only grow,
 * until it is so long that it is cut off nevertheless. Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

/* When the older half is dropped: while nobody has it open, and in any case. Bytes. */
#define EVENTS_LONG     ((size_t)64 * 1024)
#define EVENTS_TOO_LONG ((size_t)1024 * 1024)

struct events;

/* `wake` is called for what was given to events_poll and waits no more: with `happened` there is something to
 * read now. It must not wait. NULL where memory ran out. */
struct events *events_new(void (*wake)(void *waiter, bool happened));

/* What still waits is woken. NULL is fine. */
void events_free(struct events *events);

/* Something happened: appends the line, with the time before it. */
void events_add(struct events *events, uint64_t domain, const char *line);

/* How long the file of the domain is now. */
size_t events_size(struct events *events, uint64_t domain);

/* Appends the whole file. */
void events_render(struct events *events, uint64_t domain, struct text *text);

/* Somebody opened it: a handle, never 0; 0 where memory ran out. What is there already counts as seen, when
 * it is polled before it is read. */
uint64_t events_open(struct events *events, uint64_t domain);
void events_close(struct events *events, uint64_t handle);

/* Copies up to `size` bytes at `offset`; returns how many; -EBADF. */
int64_t events_read(struct events *events, uint64_t handle, uint64_t offset, void *buffer, size_t size);

/*
 * Is there something that was not read yet through this handle? `waiter`, if not NULL, is kept until there
 * is, or another one takes its place, or the handle is closed; then `wake` is called for it. At the end of
 * the file that is at the next event. False for a handle that is none.
 */
bool events_poll(struct events *events, uint64_t handle, void *waiter);
