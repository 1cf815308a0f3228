// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Drops page cache behind unseen readers; see drop_behind.h.
 *
 * A file is divided into at most CHUNKS_MAX chunks. The first look notes which are cached already. After
 * that, a chunk that is new, dense, and followed by one that has begun to fill was read through by somebody
 * who has moved on.
 */
#include "io/drop_behind.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/monotonic.h"
#include "base/stats.h"

#define CHUNK_MIN   (4 * MIB)
#define CHUNKS_MAX  4096
#define LONG_RUN    (64 * MIB) /* growth that makes it worth looking closer */
#define INTERVAL_MS 100
#define PAGE_BYTES  UINT64_C(4096)

#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

/* include/uapi/linux/mman.h: struct cachestat_range and struct cachestat. */
struct cachestat_range {
    uint64_t offset, length; /* length 0: to the end */
};

struct cachestat_result {
    uint64_t cached, dirty, writeback, evicted, recently_evicted; /* pages */
};

struct watched {
    struct watched *next;
    uint64_t id;
    int fd;
    uint64_t size, chunk_bytes;
    size_t chunk_count;
    uint8_t *settled;      /* by chunk: it was cached at the first look, and stays */
    uint64_t cached_bytes; /* of the whole file, at the last close look */
    bool looked;
    bool streaming; /* a long run was seen */
    bool removed;
};

struct drop_behind {
    pthread_mutex_t lock; /* protects the list, `removed` and `ending`; the rest is the thread's */
    pthread_cond_t work;
    struct watched *first;
    bool ending;
    bool started;
    pthread_t thread;
};

/* Bytes of the range that are in the page cache; 0 where the kernel can't tell. */
static uint64_t cached_in(const struct watched *file, uint64_t offset, uint64_t length)
{
    struct cachestat_range range = {offset, length};
    struct cachestat_result result;
    if (syscall(SYS_cachestat, file->fd, &range, &result, 0) != 0)
        return 0;
    return result.cached * PAGE_BYTES;
}

static uint64_t cached_in_chunk(const struct watched *file, size_t chunk)
{
    return cached_in(file, chunk * file->chunk_bytes, file->chunk_bytes);
}

static bool is_dense(const struct watched *file, size_t chunk, uint64_t cached)
{
    uint64_t length = min_u64(file->chunk_bytes, file->size - chunk * file->chunk_bytes);
    return cached >= length - length / 8;
}

static void first_look(struct watched *file)
{
    file->looked = true;
    file->cached_bytes = cached_in(file, 0, 0);
    if (file->cached_bytes == 0)
        return;
    for (size_t i = 0; i < file->chunk_count; i++)
        file->settled[i] = cached_in_chunk(file, i) > file->chunk_bytes / 2;
}

static uint64_t drop(struct watched *file, size_t chunk)
{
    uint64_t offset = chunk * file->chunk_bytes;
    uint64_t length = min_u64(file->chunk_bytes, file->size - offset);
    if (posix_fadvise(file->fd, (off_t)offset, (off_t)length, POSIX_FADV_DONTNEED) != 0)
        return 0;
    stats_add(STAT_DROPPED_BEHIND_BYTES, (int64_t)length);
    return length;
}

/* Drops the chunks that were read through; `at_end`: also the last of them. */
static void close_look(struct watched *file, bool at_end)
{
    bool next_begun = at_end;
    uint64_t dropped = 0;
    /* Taken before, so that what is read meanwhile counts as growth the next time. */
    uint64_t cached_before = cached_in(file, 0, 0);
    for (size_t i = file->chunk_count; i-- > 0;) {
        if (file->settled[i]) {
            next_begun = true;
            continue;
        }
        uint64_t cached = cached_in_chunk(file, i);
        if (next_begun && is_dense(file, i, cached))
            dropped += drop(file, i);
        next_begun = cached > 0;
    }
    file->cached_bytes = cached_before > dropped ? cached_before - dropped : 0;
}

static void look(struct watched *file)
{
    if (!file->looked) {
        first_look(file);
        return;
    }
    uint64_t cached = cached_in(file, 0, 0);
    if (cached > file->cached_bytes && cached - file->cached_bytes >= LONG_RUN) {
        file->streaming = true;
        close_look(file, false);
    } else if (cached < file->cached_bytes) {
        file->cached_bytes = cached;
    }
}

static void last_look(struct watched *file)
{
    if (file->looked)
        look(file);
    if (file->streaming)
        close_look(file, true);
}

static void watched_free(struct watched *file)
{
    close(file->fd);
    free(file->settled);
    free(file);
}

/* Takes out what is not watched any more. */
static struct watched *take_removed_locked(struct drop_behind *watch)
{
    struct watched *removed = NULL;
    for (struct watched **at = &watch->first; *at;) {
        struct watched *file = *at;
        if (!file->removed) {
            at = &file->next;
            continue;
        }
        *at = file->next;
        file->next = removed;
        removed = file;
    }
    return removed;
}

static void *drop_behind_run(void *opaque)
{
    struct drop_behind *watch = opaque;
    pthread_mutex_lock(&watch->lock);
    while (!watch->ending) {
        if (!watch->first) {
            pthread_cond_wait(&watch->work, &watch->lock);
            continue;
        }
        struct watched *removed = take_removed_locked(watch);
        struct watched *first =
            watch->first; /* files are put in front, and only this thread takes them out */
        pthread_mutex_unlock(&watch->lock);
        for (struct watched *file = first; file; file = file->next)
            look(file);
        for (struct watched *next; removed; removed = next) {
            next = removed->next;
            last_look(removed);
            watched_free(removed);
        }
        pthread_mutex_lock(&watch->lock);
        if (!watch->ending && watch->first) {
            const struct timespec until = monotonic_in(INTERVAL_MS);
            pthread_cond_timedwait(&watch->work, &watch->lock, &until);
        }
    }
    pthread_mutex_unlock(&watch->lock);
    return NULL;
}

struct drop_behind *drop_behind_new(void)
{
    struct drop_behind *watch = calloc(1, sizeof *watch);
    if (!watch)
        return NULL;
    pthread_mutex_init(&watch->lock, NULL);
    monotonic_cond_init(&watch->work);
    return watch;
}

void drop_behind_free(struct drop_behind *watch)
{
    if (!watch)
        return;
    if (watch->started) {
        pthread_mutex_lock(&watch->lock);
        watch->ending = true;
        pthread_cond_signal(&watch->work);
        pthread_mutex_unlock(&watch->lock);
        pthread_join(watch->thread, NULL);
    }
    for (struct watched *file = watch->first, *next; file; file = next) {
        next = file->next;
        watched_free(file);
    }
    pthread_cond_destroy(&watch->work);
    pthread_mutex_destroy(&watch->lock);
    free(watch);
}

static struct watched *watched_new(uint64_t id, int fd, uint64_t size)
{
    struct watched *file = calloc(1, sizeof *file);
    if (!file)
        return NULL;
    file->id = id;
    file->size = size;
    file->chunk_bytes = CHUNK_MIN;
    while ((size - 1) / file->chunk_bytes >= CHUNKS_MAX)
        file->chunk_bytes *= 2;
    file->chunk_count = (size - 1) / file->chunk_bytes + 1;
    file->settled = calloc(file->chunk_count, 1);
    file->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (!file->settled || file->fd < 0) {
        free(file->settled);
        free(file);
        return NULL;
    }
    return file;
}

void drop_behind_add(struct drop_behind *watch, uint64_t id, int fd, uint64_t size)
{
    struct watched *file = size >= LONG_RUN ? watched_new(id, fd, size) : NULL;
    if (!file)
        return;
    pthread_mutex_lock(&watch->lock);
    if (!watch->started)
        watch->started = pthread_create(&watch->thread, NULL, drop_behind_run, watch) == 0;
    file->next = watch->first;
    watch->first = file;
    pthread_cond_signal(&watch->work);
    pthread_mutex_unlock(&watch->lock);
}

void drop_behind_remove(struct drop_behind *watch, uint64_t id)
{
    pthread_mutex_lock(&watch->lock);
    for (struct watched *file = watch->first; file; file = file->next)
        if (file->id == id)
            file->removed = true;
    pthread_cond_signal(&watch->work);
    pthread_mutex_unlock(&watch->lock);
}
