// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A thread that works in the background for as long as its owner lives, with the lock by which it and others
 * meet. The owner has one in its own struct, begins it when all that the thread may look at is there, and
 * ends it before any of that goes. The owner's thread alone inits, starts, stops and is done with it.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>

#include "base/error.h"

struct background {
    pthread_mutex_t lock;   /* also for what of the owner's the thread shares with others */
    pthread_cond_t changed; /* pthread_cond_timedwait takes times of monotonic.h */
    bool is_stopping;       /* the thread is to return; protected by lock */
    bool is_started;
    pthread_t thread;
};

void background_init(struct background *background);

/* Starts the thread. Errors: what pthread_create gives, and then there is none. */
int background_start(struct background *background, void *(*run)(void *opaque), void *opaque,
                     struct error *err);

/* Has the thread return, and waits for it. Nothing where there is none. */
void background_stop(struct background *background);

/* Stops it, and ends lock and condition. */
void background_done(struct background *background);

/* Sets what the thread waits for, one of the owner's, under the lock, and has the thread look. */
void background_set(struct background *background, bool *what);
