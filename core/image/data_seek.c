// SPDX-License-Identifier: LGPL-2.1-or-later
/* SEEK_DATA and SEEK_HOLE over a chain; see data_seek.h. */
#include "image/data_seek.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"

/* How much is walked at first, how much faster each time that it was not enough, and at most: whoever wants
 * to stop the counting waits for one window. */
#define FIRST_WINDOW  (64 * MIB)
#define WINDOW_GROWTH 8
#define WINDOW_MAX    (1024 * GIB)

/* An image can be made whose tables take hours to walk. After this long a seek says what is always allowed:
 * data here, no hole before the end; and counting gives up. */
#define SEEK_SECONDS_MAX  2
#define COUNT_SECONDS_MAX 600

/* Extents that one walk may give. */
#define EXTENTS_MAX 4096

void data_seek_init(struct data_seek *seek, const struct chain *chain, uint64_t size)
{
    *seek = (struct data_seek){.chain = chain, .size = size};
    pthread_mutex_init(&seek->lock, NULL);
}

void data_seek_done(struct data_seek *seek)
{
    free(seek->edges);
    pthread_mutex_destroy(&seek->lock);
}

static bool is_data(const struct chain_extent *extent)
{
    return extent->kind != EXTENT_ZERO;
}

static bool state_at_end_locked(const struct data_seek *seek)
{
    return seek->begins_with_data ^ (seek->edge_count & 1);
}

/*
 * Looks in what is remembered for the first byte from `*offset` on that is data, or hole. If it is not there,
 * `*offset` moves on to where nothing is known.
 */
static bool recall_locked(const struct data_seek *seek, bool want_data, uint64_t *offset)
{
    if (*offset < seek->start || *offset >= seek->end)
        return false;
    size_t low = 0, high = seek->edge_count; /* edges before `low` are <= offset */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (seek->edges[middle] <= *offset)
            low = middle + 1;
        else
            high = middle;
    }
    bool data_here = seek->begins_with_data ^ (low & 1);
    if (data_here == want_data)
        return true;
    bool found = low < seek->edge_count;
    *offset = found ? seek->edges[low] : seek->end;
    return found;
}

/* Adds what was found to what is remembered; starts anew where it does not go on with it or is too much. */
static void remember_locked(struct data_seek *seek, const struct chain_extents *extents)
{
    if (!seek->edges)
        seek->edges = malloc(DATA_SEEK_EDGES_MAX * sizeof *seek->edges);
    if (!seek->edges)
        return;
    if (extents->items[0].guest != seek->end || seek->start == seek->end ||
        seek->edge_count + extents->count > DATA_SEEK_EDGES_MAX) {
        seek->start = seek->end = extents->items[0].guest;
        seek->begins_with_data = is_data(&extents->items[0]);
        seek->edge_count = 0;
    }
    for (size_t i = 0; i < extents->count; i++) {
        const struct chain_extent *extent = &extents->items[i];
        if (is_data(extent) != state_at_end_locked(seek)) {
            if (seek->edge_count == DATA_SEEK_EDGES_MAX)
                return;
            seek->edges[seek->edge_count++] = extent->guest;
        }
        seek->end = extent->guest + extent->length;
    }
}

static uint64_t end_of(const struct chain_extents *extents)
{
    return extents->items[extents->count - 1].guest + extents->items[extents->count - 1].length;
}

/* Resolves what lies in the window from `start` on, or its beginning where that is much already, and makes
 * the next window fit. */
static int resolve(const struct data_seek *seek, uint64_t start, uint64_t *window,
                   struct chain_extents *extents, struct failure *failure)
{
    size_t layer = 0;
    uint64_t end = start + min_u64(*window, seek->size - start);
    int rc = chain_map_resolve(seek->chain, start, end, EXTENTS_MAX, extents, &layer);
    if (rc < 0)
        return failure_note(failure, rc, layer, start, UINT64_MAX, "the tables could not be read");
    if (end_of(extents) < end)
        *window = max_u64(FIRST_WINDOW, 2 * (end_of(extents) - start));
    else
        *window = min_u64(*window * WINDOW_GROWTH, WINDOW_MAX);
    return 0;
}

static time_t seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return now.tv_sec;
}

int64_t data_seek_next(struct data_seek *seek, uint64_t offset, int whence, struct failure *failure)
{
    if (whence != SEEK_DATA && whence != SEEK_HOLE)
        return -EINVAL;
    if (offset >= seek->size)
        return -ENXIO;
    bool want_data = whence == SEEK_DATA;
    pthread_mutex_lock(&seek->lock);
    bool found = recall_locked(seek, want_data, &offset);
    pthread_mutex_unlock(&seek->lock);

    cleanup(chain_extents_done) struct chain_extents extents = {0};
    uint64_t window = FIRST_WINDOW;
    time_t give_up = seconds_now() + SEEK_SECONDS_MAX;
    while (!found && offset < seek->size) {
        if (seconds_now() > give_up)
            return want_data ? (int64_t)offset : (int64_t)seek->size;
        int rc = resolve(seek, offset, &window, &extents, failure);
        if (rc < 0)
            return rc;
        pthread_mutex_lock(&seek->lock);
        remember_locked(seek, &extents);
        pthread_mutex_unlock(&seek->lock);
        for (size_t i = 0; i < extents.count && !found; i++)
            if (is_data(&extents.items[i]) == want_data) {
                found = true;
                offset = extents.items[i].guest;
            }
        if (!found)
            offset = end_of(&extents);
    }
    if (!found)
        return want_data ? -ENXIO : (int64_t)seek->size;
    return (int64_t)offset;
}

uint64_t data_seek_piece_end(const struct data_seek *seek, uint64_t offset, uint64_t limit)
{
    cleanup(chain_extents_done) struct chain_extents extents = {0};
    if (offset >= seek->size)
        return 0;
    size_t layer, index = 0;
    uint64_t start = offset ? offset - 1 : 0;
    uint64_t end = offset + min_u64(limit, seek->size - offset);
    if (chain_map_resolve(seek->chain, start, min_u64(end + 1, seek->size), EXTENTS_MAX, &extents, &layer) <
        0)
        return 0;
    if (offset) {
        if (is_data(&extents.items[0]))
            return 0;
        index = 1;
    }
    uint64_t piece_end = offset;
    while (index < extents.count && extents.items[index].guest == piece_end &&
           is_data(&extents.items[index])) {
        piece_end += extents.items[index].length;
        index++;
    }
    return piece_end > offset && piece_end <= end ? piece_end : 0;
}

int data_seek_count(const struct data_seek *seek, const atomic_bool *stop, uint64_t *bytes,
                    struct failure *failure)
{
    cleanup(chain_extents_done) struct chain_extents extents = {0};
    uint64_t sum = 0, window = FIRST_WINDOW;
    time_t give_up = seconds_now() + COUNT_SECONDS_MAX;
    for (uint64_t offset = 0; offset < seek->size; offset = end_of(&extents)) {
        if (seconds_now() > give_up)
            return failure_note(failure, -EIO, 0, offset, UINT64_MAX,
                                "the tables are too long to be counted");
        if (stop && atomic_load(stop))
            return -ECANCELED;
        int rc = resolve(seek, offset, &window, &extents, failure);
        if (rc < 0)
            return rc;
        for (size_t i = 0; i < extents.count; i++)
            sum += is_data(&extents.items[i]) ? extents.items[i].length : 0;
    }
    *bytes = sum;
    return 0;
}
