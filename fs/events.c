// SPDX-License-Identifier: LGPL-2.1-or-later
/* What happened; see events.h. Few domains, fewer open files: lists. */
#include "events.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "line.h"

struct record {
    struct record *next;
    uint64_t domain;
    struct text text;
    unsigned opens;
};

struct handle {
    struct handle *next;
    uint64_t number;
    struct record *record;
    size_t seen;  /* bytes of the file that were read */
    void *waiter; /* NULL: nobody polls */
};

struct events {
    void (*wake)(void *waiter, bool happened);
    pthread_mutex_t lock; /* protects what follows; never held while `wake` runs */
    struct record *records;
    struct handle *handles;
    uint64_t last_number;
};

struct events *events_new(void (*wake)(void *waiter, bool happened))
{
    struct events *events = calloc(1, sizeof *events);
    if (!events)
        return NULL;
    events->wake = wake;
    pthread_mutex_init(&events->lock, NULL);
    return events;
}

void events_free(struct events *events)
{
    if (!events)
        return;
    for (struct handle *handle = events->handles, *next; handle; handle = next) {
        next = handle->next;
        if (handle->waiter)
            events->wake(handle->waiter, false);
        free(handle);
    }
    for (struct record *record = events->records, *next; record; record = next) {
        next = record->next;
        text_done(&record->text);
        free(record);
    }
    pthread_mutex_destroy(&events->lock);
    free(events);
}

static struct record *find_locked(const struct events *events, uint64_t domain)
{
    struct record *record = events->records;
    while (record && record->domain != domain)
        record = record->next;
    return record;
}

/* NULL where memory ran out. */
static struct record *record_locked(struct events *events, uint64_t domain)
{
    struct record *record = find_locked(events, domain);
    if (record)
        return record;
    record = calloc(1, sizeof *record);
    if (!record)
        return NULL;
    record->domain = domain;
    record->next = events->records;
    events->records = record;
    return record;
}

static struct handle *handle_locked(const struct events *events, uint64_t number)
{
    struct handle *handle = events->handles;
    while (handle && handle->number != number)
        handle = handle->next;
    return handle;
}

/* Drops lines from the beginning of a text that is too long. */
static void shorten_locked(struct events *events, struct record *record)
{
    struct text *text = &record->text;
    if (text->length < (record->opens ? EVENTS_TOO_LONG : EVENTS_LONG))
        return;
    const char *line = memchr(text->data + text->length / 2, '\n', text->length - text->length / 2);
    size_t dropped = line ? (size_t)(line + 1 - text->data) : text->length;
    text->length -= dropped;
    memmove(text->data, text->data + dropped, text->length + 1);
    for (struct handle *handle = events->handles; handle; handle = handle->next)
        if (handle->record == record)
            handle->seen = handle->seen > dropped ? handle->seen - dropped : 0;
}

static void append_locked(struct events *events, struct record *record, const char *line)
{
    struct text *text = &record->text;
    shorten_locked(events, record);
    size_t before = text->length;
    text_append_time(text, time(NULL), 'T');
    text_append_string(text, "Z ");
    line_append(text, line);
    text_append_string(text, "\n");
    if (text->failed) { /* a line is lost, not the file */
        text->failed = false;
        text->length = before;
    }
}

void events_add(struct events *events, uint64_t domain, const char *line)
{
    for (;;) {
        void *waiter = NULL;
        pthread_mutex_lock(&events->lock);
        struct record *record = record_locked(events, domain);
        if (record && line)
            append_locked(events, record, line);
        line = NULL;
        for (struct handle *handle = events->handles; handle && !waiter; handle = handle->next)
            if (handle->record == record) {
                waiter = handle->waiter;
                handle->waiter = NULL;
            }
        pthread_mutex_unlock(&events->lock);
        if (!waiter)
            return;
        events->wake(waiter, true);
    }
}

size_t events_size(struct events *events, uint64_t domain)
{
    pthread_mutex_lock(&events->lock);
    const struct record *record = find_locked(events, domain);
    size_t size = record ? record->text.length : 0;
    pthread_mutex_unlock(&events->lock);
    return size;
}

void events_render(struct events *events, uint64_t domain, struct text *text)
{
    pthread_mutex_lock(&events->lock);
    const struct record *record = find_locked(events, domain);
    if (record && record->text.length)
        text_append(text, record->text.data, record->text.length);
    pthread_mutex_unlock(&events->lock);
}

uint64_t events_open(struct events *events, uint64_t domain)
{
    struct handle *handle = calloc(1, sizeof *handle);
    uint64_t number = 0;
    pthread_mutex_lock(&events->lock);
    struct record *record = handle ? record_locked(events, domain) : NULL;
    if (record) {
        number = ++events->last_number;
        *handle = (struct handle){
            .next = events->handles, .number = number, .record = record, .seen = record->text.length};
        events->handles = handle;
        record->opens++;
        handle = NULL;
    }
    pthread_mutex_unlock(&events->lock);
    free(handle);
    return number;
}

void events_close(struct events *events, uint64_t number)
{
    struct handle *closed = NULL;
    pthread_mutex_lock(&events->lock);
    for (struct handle **at = &events->handles; *at; at = &(*at)->next)
        if ((*at)->number == number) {
            closed = *at;
            *at = closed->next;
            closed->record->opens--;
            break;
        }
    pthread_mutex_unlock(&events->lock);
    if (closed && closed->waiter)
        events->wake(closed->waiter, false);
    free(closed);
}

int64_t events_read(struct events *events, uint64_t number, uint64_t offset, void *buffer, size_t size)
{
    int64_t count = -EBADF;
    pthread_mutex_lock(&events->lock);
    struct handle *handle = handle_locked(events, number);
    if (handle) {
        const struct text *text = &handle->record->text;
        count = offset < text->length ? (int64_t)min_u64(size, text->length - offset) : 0;
        if (count)
            memcpy(buffer, text->data + offset, (size_t)count);
        handle->seen = (size_t)min_u64(offset + (uint64_t)count, text->length);
    }
    pthread_mutex_unlock(&events->lock);
    return count;
}

bool events_poll(struct events *events, uint64_t number, void *waiter)
{
    bool more = false;
    void *unused = waiter;
    pthread_mutex_lock(&events->lock);
    struct handle *handle = handle_locked(events, number);
    if (handle) {
        more = handle->seen < handle->record->text.length;
        if (waiter) {
            unused = handle->waiter;
            handle->waiter = waiter;
        }
    }
    pthread_mutex_unlock(&events->lock);
    if (unused)
        events->wake(unused, false);
    return more;
}
