// SPDX-License-Identifier: LGPL-2.1-or-later
/* See background.h. */
#include "base/background.h"

#include <string.h>

#include "base/monotonic.h"

void background_init(struct background *background)
{
    background->is_stopping = background->is_started = false;
    pthread_mutex_init(&background->lock, NULL);
    monotonic_cond_init(&background->changed);
}

int background_start(struct background *background, void *(*run)(void *opaque), void *opaque,
                     struct error *err)
{
    background->is_started = true; /* before the thread reads what lies beside it */
    int code = pthread_create(&background->thread, NULL, run, opaque);
    if (code == 0)
        return 0;
    background->is_started = false;
    return error_set(err, code, "starting a thread: %s", strerror(code));
}

void background_stop(struct background *background)
{
    if (!background->is_started)
        return;
    background_set(background, &background->is_stopping);
    pthread_join(background->thread, NULL);
    background->is_started = false;
}

void background_done(struct background *background)
{
    background_stop(background);
    pthread_cond_destroy(&background->changed);
    pthread_mutex_destroy(&background->lock);
}

void background_set(struct background *background, bool *what)
{
    pthread_mutex_lock(&background->lock);
    *what = true;
    pthread_cond_broadcast(&background->changed);
    pthread_mutex_unlock(&background->lock);
}
