// SPDX-License-Identifier: LGPL-2.1-or-later
/* Where slow work waits; see slow_lane.h. */
#include "slow_lane.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/monotonic.h"

#define THREADS_MAX 64
#define IDLE_MS     10000

struct task {
    struct task *next;
    void (*work)(void *);
    void *opaque;
};

struct slow_lane {
    pthread_mutex_t lock; /* protects everything below */
    pthread_cond_t work;  /* a task came, or the lane ends */
    pthread_cond_t ended; /* a thread ended */
    struct task *first, **last;
    unsigned threads, idle;
    bool ending;
};

struct slow_lane *slow_lane_new(void)
{
    struct slow_lane *lane = calloc(1, sizeof *lane);
    if (!lane)
        return NULL;
    pthread_mutex_init(&lane->lock, NULL);
    monotonic_cond_init(&lane->work);
    pthread_cond_init(&lane->ended, NULL);
    lane->last = &lane->first;
    return lane;
}

void slow_lane_free(struct slow_lane *lane)
{
    if (!lane)
        return;
    pthread_mutex_lock(&lane->lock);
    lane->ending = true;
    pthread_cond_broadcast(&lane->work);
    while (lane->threads)
        pthread_cond_wait(&lane->ended, &lane->lock);
    pthread_mutex_unlock(&lane->lock);
    pthread_cond_destroy(&lane->work);
    pthread_cond_destroy(&lane->ended);
    pthread_mutex_destroy(&lane->lock);
    free(lane);
}

/* Waits for work for a while. False if the thread should end. Called and returns with the lock held. */
static bool wait_for_work_locked(struct slow_lane *lane)
{
    const struct timespec until = monotonic_in(IDLE_MS);
    int result = 0;
    lane->idle++;
    while (!lane->first && !lane->ending && result != ETIMEDOUT)
        result = pthread_cond_timedwait(&lane->work, &lane->lock, &until);
    lane->idle--;
    return lane->first != NULL;
}

static void *lane_run(void *opaque)
{
    struct slow_lane *lane = opaque;
    pthread_mutex_lock(&lane->lock);
    while (lane->first || wait_for_work_locked(lane)) {
        struct task *task = lane->first;
        lane->first = task->next;
        if (!lane->first)
            lane->last = &lane->first;
        pthread_mutex_unlock(&lane->lock);
        task->work(task->opaque);
        free(task);
        pthread_mutex_lock(&lane->lock);
    }
    lane->threads--;
    pthread_cond_broadcast(&lane->ended);
    pthread_mutex_unlock(&lane->lock);
    return NULL;
}

int slow_lane_submit(struct slow_lane *lane, void (*work)(void *opaque), void *opaque)
{
    struct task *task = malloc(sizeof *task);
    if (!task)
        return -ENOMEM;
    *task = (struct task){.work = work, .opaque = opaque};
    int result = 0;
    pthread_mutex_lock(&lane->lock);
    /* An idle thread may already be on its way to an earlier task: one more does no harm. */
    if ((!lane->idle || lane->first) && lane->threads < THREADS_MAX) {
        pthread_attr_t detached;
        pthread_t thread;
        pthread_attr_init(&detached);
        pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
        if (pthread_create(&thread, &detached, lane_run, lane) == 0)
            lane->threads++;
        else if (!lane->threads)
            result = -EAGAIN;
        pthread_attr_destroy(&detached);
    }
    if (result == 0) {
        *lane->last = task;
        lane->last = &task->next;
        pthread_cond_signal(&lane->work);
        task = NULL;
    }
    pthread_mutex_unlock(&lane->lock);
    free(task);
    return result;
}
