// SPDX-License-Identifier: LGPL-2.1-or-later
/* Reading ahead across holes; see read_ahead.h. */
#include "read_ahead.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/stats.h"
#include "fuse.h"

/* A longer piece is left to the kernel, which reads ahead well inside of it. */
#define PIECE_MAX MIB

/* What is stored ahead of one reader: as many pieces as come to this. */
#define BATCH_BYTES MIB

/* Jumps that wait; where they are more, some readers go without. */
#define QUEUE_SIZE 16

#define PAGE_BYTES UINT64_C(4096)

struct jump {
    uint64_t id;
    uint64_t offset;
};

struct read_ahead {
    struct open_disks *disks;
    char *buffer;                 /* PIECE_MAX; the thread's */
    struct fuse_session *session; /* set before the thread starts */
    pthread_t thread;
    bool started;

    pthread_mutex_t lock; /* protects everything below */
    pthread_cond_t work;
    struct jump queue[QUEUE_SIZE];
    size_t queue_first;
    size_t queue_count;
    bool ending;
};

struct read_ahead *read_ahead_new(struct open_disks *disks)
{
    struct read_ahead *ahead = calloc(1, sizeof *ahead);
    if (!ahead)
        return NULL;
    ahead->disks = disks;
    pthread_mutex_init(&ahead->lock, NULL);
    pthread_cond_init(&ahead->work, NULL);
    return ahead;
}

/* Stores [from, to) of the disk in the kernel's cache. False if that was not possible. */
static bool store(struct read_ahead *ahead, struct open_disk *disk, uint64_t from, uint64_t to,
                  enum read_hint hint)
{
    if (!ahead->buffer)
        ahead->buffer = malloc(PIECE_MAX);
    if (!ahead->buffer)
        return false;
    ssize_t count = frozen_disk_read(disk->disk, from, ahead->buffer, to - from, hint);
    if (count <= 0)
        return false;
    struct fuse_bufvec bytes = FUSE_BUFVEC_INIT((size_t)count);
    bytes.buf[0].mem = ahead->buffer;
    if (fuse_lowlevel_notify_store(ahead->session, disk->id, (off_t)from, &bytes, FUSE_BUF_NO_SPLICE) != 0)
        return false;
    stats_add(STAT_STORED_AHEAD_BYTES, count);
    pthread_mutex_lock(&disk->lock);
    stream_add(&disk->stream, (uint64_t)count);
    pthread_mutex_unlock(&disk->lock);
    return true;
}

/*
 * Where to go on for a reader that came to `offset`: behind what is stored already, if that is where the
 * stored pieces begin; behind the piece that begins there, if one does. 0: nowhere, since the reader is
 * elsewhere.
 */
static uint64_t begin_of_batch(struct open_disk *disk, uint64_t offset)
{
    pthread_mutex_lock(&disk->lock);
    uint64_t begin = disk->ahead_begin, end = disk->ahead_end;
    pthread_mutex_unlock(&disk->lock);
    if (offset >= begin && offset < end)
        return offset == begin ? end : 0;
    return frozen_disk_piece_end(disk->disk, offset, PIECE_MAX);
}

static bool is_ending(struct read_ahead *ahead)
{
    pthread_mutex_lock(&ahead->lock);
    bool ending = ahead->ending;
    pthread_mutex_unlock(&ahead->lock);
    return ending;
}

/* In a batch of small pieces, each of which takes long to find, the end of the mount is not waited for. */
static void store_batch(struct read_ahead *ahead, struct open_disk *disk, uint64_t from)
{
    uint64_t stored = 0, size = frozen_disk_size(disk->disk);
    while (stored < BATCH_BYTES && from < size && !is_ending(ahead)) {
        int64_t begin = frozen_disk_seek(disk->disk, from, SEEK_DATA);
        uint64_t end = begin < 0 ? 0 : frozen_disk_piece_end(disk->disk, (uint64_t)begin, PIECE_MAX);
        if (end == 0)
            return;
        bool first = stored == 0;
        uint64_t store_from = align_down((uint64_t)begin, PAGE_BYTES) + (first ? PAGE_BYTES : 0);
        /* Before it is stored, so that the reader's coming is known for what it is. */
        pthread_mutex_lock(&disk->lock);
        if (first)
            disk->ahead_begin = (uint64_t)begin;
        disk->ahead_end = end;
        enum read_hint hint = disk->stream.is_long ? READ_ONCE : READ_KEEP;
        pthread_mutex_unlock(&disk->lock);
        uint64_t store_to = end == size ? end : align_down(end, PAGE_BYTES); /* part of a page is not kept */
        if (store_from < store_to && !store(ahead, disk, store_from, store_to, hint))
            return;
        stored += end - (uint64_t)begin;
        from = end;
    }
}

static void serve(struct read_ahead *ahead, const struct jump *jump)
{
    struct open_disk *disk = open_disks_find(ahead->disks, jump->id);
    if (!disk)
        return;
    uint64_t from = begin_of_batch(disk, jump->offset);
    if (from)
        store_batch(ahead, disk, from);
    open_disks_put(ahead->disks, disk);
}

static void *read_ahead_run(void *opaque)
{
    struct read_ahead *ahead = opaque;
    pthread_mutex_lock(&ahead->lock);
    while (!ahead->ending) {
        if (ahead->queue_count == 0) {
            pthread_cond_wait(&ahead->work, &ahead->lock);
            continue;
        }
        struct jump jump = ahead->queue[ahead->queue_first];
        ahead->queue_first = (ahead->queue_first + 1) % QUEUE_SIZE;
        ahead->queue_count--;
        pthread_mutex_unlock(&ahead->lock);
        serve(ahead, &jump);
        pthread_mutex_lock(&ahead->lock);
    }
    pthread_mutex_unlock(&ahead->lock);
    return NULL;
}

int read_ahead_start(struct read_ahead *ahead, struct fuse_session *session)
{
    ahead->session = session;
    int result = pthread_create(&ahead->thread, NULL, read_ahead_run, ahead);
    ahead->started = result == 0;
    return -result;
}

void read_ahead_stop(struct read_ahead *ahead)
{
    if (!ahead || !ahead->started)
        return;
    pthread_mutex_lock(&ahead->lock);
    ahead->ending = true;
    pthread_cond_signal(&ahead->work);
    pthread_mutex_unlock(&ahead->lock);
    pthread_join(ahead->thread, NULL);
    ahead->started = false;
}

void read_ahead_free(struct read_ahead *ahead)
{
    if (!ahead)
        return;
    read_ahead_stop(ahead);
    pthread_cond_destroy(&ahead->work);
    pthread_mutex_destroy(&ahead->lock);
    free(ahead->buffer);
    free(ahead);
}

void read_ahead_note(struct read_ahead *ahead, uint64_t id, uint64_t offset)
{
    pthread_mutex_lock(&ahead->lock);
    if (ahead->queue_count < QUEUE_SIZE) {
        size_t at = (ahead->queue_first + ahead->queue_count++) % QUEUE_SIZE;
        ahead->queue[at] = (struct jump){.id = id, .offset = offset};
        pthread_cond_signal(&ahead->work);
    }
    pthread_mutex_unlock(&ahead->lock);
}
