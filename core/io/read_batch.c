// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Reading several runs of files at once; see read_batch.h.
 *
 * Invariant: a ring has nothing in flight when read_batch returns, since the kernel writes into the caller's
 * buffers. What a ring leaves undone, for whatever reason, plain preads finish and judge, so that there is
 * one place that tells the end of a file from an error.
 */
#include "io/read_batch.h"

#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#define RING_ENTRIES 64

struct own_ring {
    struct io_uring ring;
    bool usable;
};

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool key_is_there;

static void own_ring_free(void *opaque)
{
    struct own_ring *own = opaque;
    if (own->usable)
        io_uring_queue_exit(&own->ring);
    free(own);
}

static void make_key(void)
{
    key_is_there = pthread_key_create(&key, own_ring_free) == 0;
}

static struct io_uring *own_ring(void)
{
    pthread_once(&key_once, make_key);
    if (!key_is_there)
        return NULL;
    struct own_ring *own = pthread_getspecific(key);
    if (!own) {
        own = calloc(1, sizeof *own);
        if (!own)
            return NULL;
        if (pthread_setspecific(key, own) != 0) {
            free(own);
            return NULL;
        }
        own->usable = io_uring_queue_init(RING_ENTRIES, &own->ring, 0) == 0;
    }
    return own->usable ? &own->ring : NULL;
}

/* The ring may hold entries that were never submitted: this thread does without one from now on. */
static void give_up_own_ring(void)
{
    struct own_ring *own = pthread_getspecific(key);
    io_uring_queue_exit(&own->ring);
    own->usable = false;
}

/* Reads what is left of a run, and judges how it ended. */
static void finish(struct read_run *run)
{
    run->result = 0;
    while (run->done < run->length && run->result == 0) {
        ssize_t count = pread(run->fd, (char *)run->buffer + run->done, run->length - run->done,
                              (off_t)(run->offset + run->done));
        if (count > 0)
            run->done += (size_t)count;
        else if (count == 0)
            run->result = -ENODATA;
        else if (errno != EINTR)
            run->result = -errno;
    }
}

/* Submits up to RING_ENTRIES runs, in order, from *next on, and waits for all of them. */
static bool submit(struct io_uring *ring, struct read_run *runs, size_t count, size_t *next)
{
    unsigned prepared = 0;
    for (; *next < count; (*next)++) {
        struct read_run *run = &runs[*next];
        struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
        if (!sqe)
            break;
        unsigned length = run->length < INT32_MAX ? (unsigned)run->length : INT32_MAX;
        io_uring_prep_read(sqe, run->fd, run->buffer, length, run->offset);
        io_uring_sqe_set_data(sqe, run);
        prepared++;
    }

    unsigned submitted = 0, reaped = 0;
    bool failed = false;
    while (reaped < prepared) {
        if (!failed && submitted < prepared) {
            int rc = io_uring_submit_and_wait(ring, prepared - reaped);
            if (rc >= 0)
                submitted += (unsigned)rc;
            /* What is in flight already is still waited for. */
            failed = (rc < 0 && rc != -EINTR) || (rc == 0 && submitted == reaped);
        }
        if (submitted == reaped) {
            if (failed)
                return false;
            continue;
        }
        struct io_uring_cqe *cqe;
        int rc = io_uring_wait_cqe(ring, &cqe);
        if (rc == -EINTR)
            continue;
        if (rc < 0)
            abort(); /* the kernel goes on writing into buffers that we can no longer account for */
        struct read_run *run = io_uring_cqe_get_data(cqe);
        if (cqe->res > 0)
            run->done += (size_t)cqe->res;
        io_uring_cqe_seen(ring, cqe);
        reaped++;
    }
    return true;
}

int read_batch(struct read_run *runs, size_t count)
{
    for (size_t i = 0; i < count; i++)
        runs[i].done = 0;
    struct io_uring *ring = count > 1 ? own_ring() : NULL;
    for (size_t next = 0; ring && next < count;)
        if (!submit(ring, runs, count, &next)) {
            give_up_own_ring();
            ring = NULL;
        }
    int first = 0;
    for (size_t i = 0; i < count; i++) {
        finish(&runs[i]);
        if (first == 0)
            first = runs[i].result;
    }
    return first;
}
