// SPDX-License-Identifier: LGPL-2.1-or-later
/* Lanes; see lane.h. */
#include "administration/lane.h"

#include <stdlib.h>

#include "administration/inside.h"
#include "administration/reclaim/reclaimer.h"

struct lane *lane_get_locked(struct administration *administration, uint64_t domain)
{
    struct lane *lane = administration->lanes;
    while (lane && lane->domain != domain)
        lane = lane->next;
    if (lane)
        return lane;
    lane = calloc(1, sizeof *lane);
    if (!lane)
        return NULL;
    lane->domain = domain;
    lane->end = &lane->first;
    lane->next = administration->lanes;
    administration->lanes = lane;
    return lane;
}

bool lane_give_back_locked(struct lane *lane)
{
    bool was_wanted = lane->is_wanted;
    lane->is_busy = lane->is_wanted = false;
    return was_wanted;
}

bool lanes_try_take(struct administration *administration, const uint64_t *domains, size_t count)
{
    bool free_all = true;
    pthread_mutex_lock(&administration->lock);
    for (size_t i = 0; i < count && free_all; i++) {
        struct lane *lane = lane_get_locked(administration, domains[i]);
        free_all = lane && !lane->is_busy && !lane->first;
        if (lane && !free_all)
            lane->is_wanted = true;
    }
    for (size_t i = 0; i < count && free_all; i++)
        lane_get_locked(administration, domains[i])->is_busy = true;
    pthread_mutex_unlock(&administration->lock);
    return free_all;
}

void lanes_give_back(struct administration *administration, const uint64_t *domains, size_t count)
{
    bool wake = false;
    pthread_mutex_lock(&administration->lock);
    for (size_t i = 0; i < count; i++)
        wake |= lane_give_back_locked(lane_get_locked(administration, domains[i]));
    pthread_cond_broadcast(&administration->changed);
    pthread_mutex_unlock(&administration->lock);
    if (wake)
        reclaimer_wake(administration->reclaimer);
}
