// SPDX-License-Identifier: LGPL-2.1-or-later
/* What the kernel takes for removed; see generations.h. */
#include "generations.h"

#include <pthread.h>
#include <stdlib.h>

#define KEPT 512

struct generations {
    pthread_mutex_t lock; /* protects what follows */
    struct {
        uint64_t id, generation;
    } kept[KEPT]; /* the i-th that came is at i % KEPT */
    uint64_t count;
};

struct generations *generations_new(void)
{
    struct generations *generations = calloc(1, sizeof *generations);
    if (generations)
        pthread_mutex_init(&generations->lock, NULL);
    return generations;
}

void generations_free(struct generations *generations)
{
    if (!generations)
        return;
    pthread_mutex_destroy(&generations->lock);
    free(generations);
}

/* Where the node is kept; -1: nowhere. */
static int find_locked(const struct generations *generations, uint64_t id)
{
    for (int i = 0; i < KEPT && (uint64_t)i < generations->count; i++)
        if (generations->kept[i].id == id)
            return i;
    return -1;
}

void generations_next(struct generations *generations, uint64_t id)
{
    pthread_mutex_lock(&generations->lock);
    int at = find_locked(generations, id);
    if (at < 0) {
        at = (int)(generations->count++ % KEPT);
        generations->kept[at].id = id;
        generations->kept[at].generation = 1;
    }
    generations->kept[at].generation++;
    pthread_mutex_unlock(&generations->lock);
}

uint64_t generations_of(struct generations *generations, uint64_t id)
{
    pthread_mutex_lock(&generations->lock);
    int at = find_locked(generations, id);
    uint64_t generation = at < 0 ? 1 : generations->kept[at].generation;
    pthread_mutex_unlock(&generations->lock);
    return generation;
}
