// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Which reads of one disk are parts of sequential streams, and what such a stream will want next.
 *
 * Requests of one stream come nearly in order: the kernel sends its read-ahead in pieces, which different
 * threads take up. Any thread may call.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define STREAMS_MAX 8 /* of one disk; the one that was quiet for longest makes room */

struct stream {
    uint64_t next;  /* end of the furthest read */
    uint64_t ahead; /* everything before this was handed out by streams_note */
    uint64_t used;  /* when, in calls */
    unsigned reads;
};

struct streams {
    pthread_mutex_t lock; /* protects everything below */
    struct stream streams[STREAMS_MAX];
    uint64_t calls;
};

void streams_init(struct streams *streams);
void streams_done(struct streams *streams);

/*
 * Takes note of a read of [offset, offset + length). If it goes on with a stream, and there is something
 * worth reading ahead of it, true: [*from, *to), multiples of `piece` and at most `window` bytes beyond the
 * stream's end, is handed out to the caller, once.
 */
bool streams_note(struct streams *streams, uint64_t offset, uint64_t length, uint64_t window, uint64_t piece,
                  uint64_t *from, uint64_t *to);

/* True if the piece that ends at `end` was handed out, and its stream has not yet passed it. */
bool streams_want(struct streams *streams, uint64_t end);
