// SPDX-License-Identifier: LGPL-2.1-or-later
/* Who must not remove anything for a while; see removal_guard.h. */
#include "removal_guard.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

/* More processes than are at it at once; where there are more, who was refused first is forgotten first. */
#define KEPT 1024

struct refused {
    uint64_t domain;
    pid_t pid;
    time_t until;
};

struct removal_guard {
    pthread_mutex_t lock; /* protects what follows */
    struct refused *list; /* the oldest first */
    size_t count;
};

struct removal_guard *removal_guard_new(void)
{
    struct removal_guard *guard = calloc(1, sizeof *guard);
    struct refused *list = calloc(KEPT, sizeof *list);
    if (!guard || !list) {
        free(guard);
        free(list);
        return NULL;
    }
    guard->list = list;
    pthread_mutex_init(&guard->lock, NULL);
    return guard;
}

void removal_guard_free(struct removal_guard *guard)
{
    if (!guard)
        return;
    pthread_mutex_destroy(&guard->lock);
    free(guard->list);
    free(guard);
}

static void drop_locked(struct removal_guard *guard, size_t index)
{
    guard->count--;
    memmove(&guard->list[index], &guard->list[index + 1], (guard->count - index) * sizeof *guard->list);
}

void removal_guard_note(struct removal_guard *guard, uint64_t domain, pid_t pid, time_t now)
{
    pthread_mutex_lock(&guard->lock);
    for (size_t i = guard->count; i-- > 0;)
        if (guard->list[i].until <= now || (guard->list[i].pid == pid && guard->list[i].domain == domain))
            drop_locked(guard, i);
    if (guard->count == KEPT)
        drop_locked(guard, 0);
    guard->list[guard->count++] =
        (struct refused){.domain = domain, .pid = pid, .until = now + REMOVAL_GUARD_SEC};
    pthread_mutex_unlock(&guard->lock);
}

bool removal_guard_refuses(struct removal_guard *guard, uint64_t domain, pid_t pid, time_t now)
{
    bool refuses = false;
    pthread_mutex_lock(&guard->lock);
    for (size_t i = 0; i < guard->count && !refuses; i++) {
        const struct refused *refused = &guard->list[i];
        refuses = refused->until > now && refused->pid == pid &&
                  (refused->domain == domain || refused->domain == 0);
    }
    pthread_mutex_unlock(&guard->lock);
    return refuses;
}

pid_t removal_guard_process(pid_t thread)
{
    char path[40], line[128];
    snprintf(path, sizeof path, "/proc/%d/status", (int)thread);
    cleanup_fclose FILE *file = fopen(path, "re");
    int process;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "Tgid: %d", &process) == 1)
            return process;
    return thread;
}
