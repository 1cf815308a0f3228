// SPDX-License-Identifier: LGPL-2.1-or-later
/* Sequential streams; see streams.h. */
#include "image/streams.h"

#include "base/bytes.h"

/* How far from its place a request of a stream may come, in its own length. */
#define REORDERED_MAX 4

/* Reads that make a stream. */
#define READS_MIN 3

void streams_init(struct streams *streams)
{
    *streams = (struct streams){0};
    pthread_mutex_init(&streams->lock, NULL);
}

void streams_done(struct streams *streams)
{
    pthread_mutex_destroy(&streams->lock);
}

static struct stream *find_locked(struct streams *streams, uint64_t offset, uint64_t length)
{
    uint64_t reach = REORDERED_MAX * length;
    struct stream *near = NULL, *oldest = &streams->streams[0];
    for (size_t i = 0; i < STREAMS_MAX; i++) {
        struct stream *stream = &streams->streams[i];
        if (stream->used < oldest->used)
            oldest = stream;
        if (!stream->used)
            continue;
        if (stream->next == offset)
            return stream;
        if (offset + reach >= stream->next && offset <= stream->next + reach)
            near = stream;
    }
    if (near)
        return near;
    *oldest = (struct stream){.next = offset};
    return oldest;
}

bool streams_note(struct streams *streams, uint64_t offset, uint64_t length, uint64_t window, uint64_t piece,
                  uint64_t *from, uint64_t *to)
{
    bool wanted = false;
    pthread_mutex_lock(&streams->lock);
    struct stream *stream = find_locked(streams, offset, length);
    stream->used = ++streams->calls;
    stream->reads++;
    stream->next = max_u64(stream->next, offset + length);
    uint64_t start = align_down(max_u64(stream->ahead, stream->next + piece - 1), piece);
    uint64_t end = align_down(stream->next + window, piece);
    if (stream->reads >= READS_MIN && start < end) {
        *from = start;
        *to = stream->ahead = end;
        wanted = true;
    }
    pthread_mutex_unlock(&streams->lock);
    return wanted;
}

bool streams_want(struct streams *streams, uint64_t end)
{
    bool wanted = false;
    pthread_mutex_lock(&streams->lock);
    for (size_t i = 0; i < STREAMS_MAX; i++)
        wanted |= streams->streams[i].next < end && end <= streams->streams[i].ahead;
    pthread_mutex_unlock(&streams->lock);
    return wanted;
}
