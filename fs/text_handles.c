// SPDX-License-Identifier: LGPL-2.1-or-later
/* Open small files; see text_handles.h. */
#include "text_handles.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

struct slot {
    bool used;
    struct text text;
};

struct text_handles {
    pthread_mutex_t lock; /* protects everything */
    struct slot *slots;   /* handle h is slots[h - 1] */
    size_t count;
    size_t first_free; /* no slot before it is free */
};

struct text_handles *text_handles_new(void)
{
    struct text_handles *handles = calloc(1, sizeof *handles);
    if (handles)
        pthread_mutex_init(&handles->lock, NULL);
    return handles;
}

void text_handles_free(struct text_handles *handles)
{
    if (!handles)
        return;
    for (size_t i = 0; i < handles->count; i++)
        text_done(&handles->slots[i].text);
    free(handles->slots);
    pthread_mutex_destroy(&handles->lock);
    free(handles);
}

static struct slot *find_free_locked(struct text_handles *handles)
{
    while (handles->first_free < handles->count && handles->slots[handles->first_free].used)
        handles->first_free++;
    if (handles->first_free == handles->count) {
        size_t count = handles->count ? handles->count * 2 : 32;
        struct slot *slots = realloc(handles->slots, count * sizeof *slots);
        if (!slots)
            return NULL;
        memset(slots + handles->count, 0, (count - handles->count) * sizeof *slots);
        handles->slots = slots;
        handles->count = count;
    }
    return &handles->slots[handles->first_free];
}

static struct slot *find_locked(struct text_handles *handles, uint64_t handle)
{
    if (handle == 0 || handle > handles->count || !handles->slots[handle - 1].used)
        return NULL;
    return &handles->slots[handle - 1];
}

uint64_t text_handles_add(struct text_handles *handles, struct text *text)
{
    uint64_t handle = 0;
    if (!text->failed) {
        pthread_mutex_lock(&handles->lock);
        struct slot *slot = find_free_locked(handles);
        if (slot) {
            *slot = (struct slot){.used = true, .text = *text};
            *text = (struct text){0};
            handle = (uint64_t)(slot - handles->slots) + 1;
        }
        pthread_mutex_unlock(&handles->lock);
    }
    text_done(text);
    return handle;
}

int64_t text_handles_read(struct text_handles *handles, uint64_t handle, uint64_t offset, void *buffer,
                          size_t size)
{
    int64_t count = -EBADF;
    pthread_mutex_lock(&handles->lock);
    const struct slot *slot = find_locked(handles, handle);
    if (slot) {
        count = offset < slot->text.length ? (int64_t)min_u64(size, slot->text.length - offset) : 0;
        if (count)
            memcpy(buffer, slot->text.data + offset, (size_t)count);
    }
    pthread_mutex_unlock(&handles->lock);
    return count;
}

void text_handles_replace(struct text_handles *handles, uint64_t handle, struct text *text)
{
    pthread_mutex_lock(&handles->lock);
    struct slot *slot = find_locked(handles, handle);
    if (slot && !text->failed) {
        struct text old = slot->text;
        slot->text = *text;
        *text = old;
    }
    pthread_mutex_unlock(&handles->lock);
    text_done(text);
}

void text_handles_remove(struct text_handles *handles, uint64_t handle)
{
    struct text text = {0};
    pthread_mutex_lock(&handles->lock);
    struct slot *slot = find_locked(handles, handle);
    if (slot) {
        text = slot->text;
        *slot = (struct slot){0};
        if (handle - 1 < handles->first_free)
            handles->first_free = handle - 1;
    }
    pthread_mutex_unlock(&handles->lock);
    text_done(&text);
}
