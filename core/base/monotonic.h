// SPDX-License-Identifier: LGPL-2.1-or-later
/* Waiting by the clock that nobody sets (CLOCK_MONOTONIC). Any thread may call. */
#pragma once

#include <pthread.h>
#include <stdint.h>
#include <time.h>

/* Milliseconds since some moment before the program began. */
static inline int64_t monotonic_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* So many milliseconds after a moment of that clock. */
static inline struct timespec monotonic_after(struct timespec moment, unsigned ms)
{
    moment.tv_sec += ms / 1000;
    moment.tv_nsec += (long)(ms % 1000) * 1000000;
    if (moment.tv_nsec >= 1000000000) {
        moment.tv_sec++;
        moment.tv_nsec -= 1000000000;
    }
    return moment;
}

static inline struct timespec monotonic_in(unsigned ms)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return monotonic_after(now, ms);
}

/* For a condition whose pthread_cond_timedwait takes times of that clock. */
static inline void monotonic_cond_init(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}
