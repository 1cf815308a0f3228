// SPDX-License-Identifier: LGPL-2.1-or-later
/* How long disks on the network are; see remote_sizes.h. They are few: only what definitions name. */
#include "catalog/remote_sizes.h"

#include <stdlib.h>
#include <string.h>

void remote_sizes_init(struct remote_sizes *sizes)
{
    *sizes = (struct remote_sizes){0};
    pthread_mutex_init(&sizes->lock, NULL);
}

void remote_sizes_done(struct remote_sizes *sizes)
{
    for (size_t i = 0; i < sizes->count; i++)
        free(sizes->list[i].name);
    free(sizes->list);
    pthread_mutex_destroy(&sizes->lock);
}

static struct remote_size *find_locked(const struct remote_sizes *sizes, const char *name)
{
    for (size_t i = 0; i < sizes->count; i++)
        if (strcmp(sizes->list[i].name, name) == 0)
            return &sizes->list[i];
    return NULL;
}

static struct remote_size *add_locked(struct remote_sizes *sizes, const char *name)
{
    struct remote_size *grown = realloc(sizes->list, (sizes->count + 1) * sizeof *grown);
    char *copy = strdup(name);
    if (grown)
        sizes->list = grown;
    if (!grown || !copy) {
        free(copy);
        return NULL;
    }
    grown[sizes->count] = (struct remote_size){.name = copy};
    return &grown[sizes->count++];
}

void remote_sizes_learn(struct remote_sizes *sizes, const char *name, uint64_t bytes)
{
    pthread_mutex_lock(&sizes->lock);
    struct remote_size *size = find_locked(sizes, name);
    if (!size)
        size = add_locked(sizes, name);
    if (size && size->bytes != bytes) {
        size->bytes = bytes;
        sizes->is_new = true;
    }
    pthread_mutex_unlock(&sizes->lock);
}

uint64_t remote_sizes_get(struct remote_sizes *sizes, const char *name)
{
    pthread_mutex_lock(&sizes->lock);
    const struct remote_size *size = find_locked(sizes, name);
    uint64_t bytes = size ? size->bytes : 0;
    pthread_mutex_unlock(&sizes->lock);
    return bytes;
}

bool remote_sizes_take_new(struct remote_sizes *sizes)
{
    pthread_mutex_lock(&sizes->lock);
    bool is_new = sizes->is_new;
    sizes->is_new = false;
    pthread_mutex_unlock(&sizes->lock);
    return is_new;
}
