// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A small pool of threads; see workers.h.
 *
 * Steps of a request that somebody waits for come before jobs for later.
 */
#include "io/workers.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#define THREADS_MAX 64
#define QUEUE_SIZE  256 /* jobs that wait */

/* The steps of one workers_for_each, on its caller's stack. */
struct share {
    struct share *next; /* in workers.shares; protected by workers.lock */
    unsigned helpers;   /* workers that are in it; protected by workers.lock */
    size_t count;
    atomic_size_t taken;
    void (*step)(void *opaque, size_t index);
    void *opaque;
};

struct job {
    void (*run)(void *opaque, uint64_t argument);
    void *opaque;
    uint64_t argument;
};

struct workers {
    pthread_mutex_t lock; /* protects everything below */
    pthread_cond_t work;  /* there is some, or `stop` */
    pthread_cond_t idle;  /* a worker left a share or ended a job */
    struct share *shares; /* newest first */
    struct job queue[QUEUE_SIZE];
    size_t queue_first;
    size_t queue_count;
    unsigned wanted;
    unsigned started;
    unsigned numbered; /* threads that know their number */
    unsigned sleeping;
    bool tried; /* to start them */
    bool stop;
    pthread_t threads[THREADS_MAX];
    const void *running[THREADS_MAX]; /* whose job each one runs */
};

static void share_run(struct share *share)
{
    for (;;) {
        size_t index = atomic_fetch_add_explicit(&share->taken, 1, memory_order_relaxed);
        if (index >= share->count)
            return;
        share->step(share->opaque, index);
    }
}

static void share_unlink_locked(struct workers *workers, struct share *share)
{
    struct share **at = &workers->shares;
    while (*at && *at != share)
        at = &(*at)->next;
    if (*at)
        *at = share->next;
}

static void help_locked(struct workers *workers, struct share *share)
{
    share->helpers++;
    pthread_mutex_unlock(&workers->lock);
    share_run(share);
    pthread_mutex_lock(&workers->lock);
    /* No step is left in it, whoever still runs one. */
    share_unlink_locked(workers, share);
    share->helpers--;
    pthread_cond_broadcast(&workers->idle);
}

static void run_job_locked(struct workers *workers, unsigned number)
{
    struct job job = workers->queue[workers->queue_first];
    workers->queue_first = (workers->queue_first + 1) % QUEUE_SIZE;
    workers->queue_count--;
    workers->running[number] = job.opaque;
    pthread_mutex_unlock(&workers->lock);
    job.run(job.opaque, job.argument);
    pthread_mutex_lock(&workers->lock);
    workers->running[number] = NULL;
    pthread_cond_broadcast(&workers->idle);
}

static void *worker(void *opaque)
{
    struct workers *workers = opaque;
    pthread_mutex_lock(&workers->lock);
    unsigned number = workers->numbered++;
    while (!workers->stop) {
        if (workers->shares) {
            help_locked(workers, workers->shares);
        } else if (workers->queue_count) {
            run_job_locked(workers, number);
        } else {
            workers->sleeping++;
            pthread_cond_wait(&workers->work, &workers->lock);
            workers->sleeping--;
        }
    }
    pthread_mutex_unlock(&workers->lock);
    return NULL;
}

/* Starts the threads, once. True if there is any. Signals are for the threads that expect them. */
static bool start_locked(struct workers *workers)
{
    if (workers->tried)
        return workers->started > 0;
    workers->tried = true;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    while (workers->started < workers->wanted &&
           pthread_create(&workers->threads[workers->started], NULL, worker, workers) == 0)
        workers->started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return workers->started > 0;
}

struct workers *workers_new(unsigned threads)
{
    struct workers *workers = calloc(1, sizeof *workers);
    if (!workers)
        return NULL;
    pthread_mutex_init(&workers->lock, NULL);
    pthread_cond_init(&workers->work, NULL);
    pthread_cond_init(&workers->idle, NULL);
    if (threads == 0) {
        cpu_set_t cores;
        threads = sched_getaffinity(0, sizeof cores, &cores) == 0 ? (unsigned)CPU_COUNT(&cores) : 1;
    }
    workers->wanted = threads < THREADS_MAX ? threads : THREADS_MAX;
    return workers;
}

void workers_free(struct workers *workers)
{
    if (!workers)
        return;
    pthread_mutex_lock(&workers->lock);
    workers->stop = true;
    pthread_cond_broadcast(&workers->work);
    pthread_mutex_unlock(&workers->lock);
    for (unsigned i = 0; i < workers->started; i++)
        pthread_join(workers->threads[i], NULL);
    pthread_cond_destroy(&workers->idle);
    pthread_cond_destroy(&workers->work);
    pthread_mutex_destroy(&workers->lock);
    free(workers);
}

void workers_for_each(struct workers *workers, size_t count, void (*step)(void *opaque, size_t index),
                      void *opaque)
{
    struct share share = {.count = count, .step = step, .opaque = opaque};
    bool shared = false;
    if (workers && count > 1) {
        pthread_mutex_lock(&workers->lock);
        if (start_locked(workers)) {
            shared = true;
            share.next = workers->shares;
            workers->shares = &share;
            for (size_t i = 1; i < count && i <= workers->sleeping; i++)
                pthread_cond_signal(&workers->work);
        }
        pthread_mutex_unlock(&workers->lock);
    }
    share_run(&share);
    if (!shared)
        return;
    pthread_mutex_lock(&workers->lock);
    share_unlink_locked(workers, &share);
    while (share.helpers)
        pthread_cond_wait(&workers->idle, &workers->lock);
    pthread_mutex_unlock(&workers->lock);
}

bool workers_submit(struct workers *workers, void (*job)(void *opaque, uint64_t argument), void *opaque,
                    uint64_t argument)
{
    if (!workers)
        return false;
    pthread_mutex_lock(&workers->lock);
    bool queued = workers->queue_count < QUEUE_SIZE && start_locked(workers);
    if (queued) {
        size_t at = (workers->queue_first + workers->queue_count++) % QUEUE_SIZE;
        workers->queue[at] = (struct job){.run = job, .opaque = opaque, .argument = argument};
        if (workers->sleeping)
            pthread_cond_signal(&workers->work);
    }
    pthread_mutex_unlock(&workers->lock);
    return queued;
}

static bool is_running_locked(const struct workers *workers, const void *opaque)
{
    for (unsigned i = 0; i < workers->started; i++)
        if (workers->running[i] == opaque)
            return true;
    return false;
}

void workers_cancel(struct workers *workers, const void *opaque)
{
    if (!workers)
        return;
    pthread_mutex_lock(&workers->lock);
    size_t kept = 0;
    for (size_t i = 0; i < workers->queue_count; i++) {
        struct job job = workers->queue[(workers->queue_first + i) % QUEUE_SIZE];
        if (job.opaque != opaque)
            workers->queue[(workers->queue_first + kept++) % QUEUE_SIZE] = job;
    }
    workers->queue_count = kept;
    while (is_running_locked(workers, opaque))
        pthread_cond_wait(&workers->idle, &workers->lock);
    pthread_mutex_unlock(&workers->lock);
}
