// SPDX-License-Identifier: LGPL-2.1-or-later
/* Open control files; see control_files.h. Few are open at once: lists. */
#include "control_files.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

#define RESULTS_KEPT 256

struct handle {
    struct handle *next;
    uint64_t number;
    struct text text;
    uint64_t end;   /* where the write ended that was answered with the text; 0: none was */
    bool begun;     /* the answer was read from */
    uint64_t shift; /* the text stands at this offset */
    struct text document;
    struct command_document_end document_end;
    uint64_t document_stop; /* where its last piece ended */
    bool after_document;    /* one was complete; what follows it may be blank */
    struct error refused;   /* no more of a document is taken */
};

struct result {
    uint64_t node;
    struct text text;
};

struct running {
    struct running *next;
    uint64_t node;
    unsigned count;
};

struct control_files {
    pthread_mutex_t lock; /* protects everything below */
    struct handle *handles;
    uint64_t last_number;
    struct running *running;
    struct control_waiter *waiting;
    bool ending;
    struct result results[RESULTS_KEPT]; /* result i at i % RESULTS_KEPT */
    size_t result_count;
};

struct control_files *control_files_new(void)
{
    struct control_files *files = calloc(1, sizeof *files);
    if (files)
        pthread_mutex_init(&files->lock, NULL);
    return files;
}

static void handle_free(struct handle *handle)
{
    text_done(&handle->text);
    text_done(&handle->document);
    free(handle);
}

void control_files_free(struct control_files *files)
{
    if (!files)
        return;
    control_files_end(files);
    for (struct handle *handle = files->handles, *next; handle; handle = next) {
        next = handle->next;
        handle_free(handle);
    }
    for (struct running *running = files->running, *next; running; running = next) {
        next = running->next;
        free(running);
    }
    for (size_t i = 0; i < RESULTS_KEPT; i++)
        text_done(&files->results[i].text);
    pthread_mutex_destroy(&files->lock);
    free(files);
}

/* ---- The gate ---- */

static struct running *running_locked(const struct control_files *files, uint64_t node)
{
    struct running *running = files->running;
    while (running && running->node != node)
        running = running->next;
    return running;
}

int control_files_enter(struct control_files *files, uint64_t node, struct control_waiter *waiter)
{
    int result = 0;
    pthread_mutex_lock(&files->lock);
    if (files->ending) {
        result = -ECANCELED;
    } else if (running_locked(files, node)) {
        result = waiter ? -EINPROGRESS : -EBUSY;
        if (waiter) {
            waiter->node = node;
            waiter->next = files->waiting;
            files->waiting = waiter;
        }
    }
    pthread_mutex_unlock(&files->lock);
    return result;
}

bool control_files_give_up(struct control_files *files, struct control_waiter *waiter)
{
    bool found = false;
    pthread_mutex_lock(&files->lock);
    for (struct control_waiter **at = &files->waiting; *at && !found; at = found ? at : &(*at)->next)
        if (*at == waiter) {
            *at = waiter->next;
            found = true;
        }
    pthread_mutex_unlock(&files->lock);
    return found;
}

/* Takes those out who wait for the file, or all of them where it is 0. */
static struct control_waiter *take_waiters_locked(struct control_files *files, uint64_t node)
{
    struct control_waiter *taken = NULL;
    for (struct control_waiter **at = &files->waiting; *at;) {
        struct control_waiter *waiter = *at;
        if (node && waiter->node != node) {
            at = &waiter->next;
            continue;
        }
        *at = waiter->next;
        waiter->next = taken; /* the last in the list came first */
        taken = waiter;
    }
    return taken;
}

static void call_all(struct control_waiter *waiters, int result)
{
    for (struct control_waiter *next; waiters; waiters = next) {
        next = waiters->next;
        waiters->ready(waiters, result);
    }
}

void control_files_begin(struct control_files *files, uint64_t node)
{
    struct running *fresh = calloc(1, sizeof *fresh);
    pthread_mutex_lock(&files->lock);
    struct running *running = running_locked(files, node);
    if (running) {
        running->count++;
    } else if (fresh) {
        *fresh = (struct running){.next = files->running, .node = node, .count = 1};
        files->running = fresh;
        fresh = NULL;
    } /* else out of memory: then a second opener does not wait */
    pthread_mutex_unlock(&files->lock);
    free(fresh);
}

static struct control_waiter *leave_locked(struct control_files *files, uint64_t node)
{
    for (struct running **at = &files->running; *at; at = &(*at)->next) {
        struct running *running = *at;
        if (running->node != node)
            continue;
        if (--running->count == 0) {
            *at = running->next;
            free(running);
            return take_waiters_locked(files, node);
        }
        break;
    }
    return NULL;
}

static struct result *result_locked(struct control_files *files, uint64_t node)
{
    size_t count = files->result_count < RESULTS_KEPT ? files->result_count : RESULTS_KEPT;
    for (size_t i = 0; i < count; i++)
        if (files->results[i].node == node)
            return &files->results[i];
    return NULL;
}

void control_files_finish(struct control_files *files, uint64_t node, struct text *text)
{
    pthread_mutex_lock(&files->lock);
    struct control_waiter *waiters = leave_locked(files, node);
    if (!text->failed) {
        struct result *result = result_locked(files, node);
        if (!result)
            result = &files->results[files->result_count++ % RESULTS_KEPT];
        struct text old = result->text;
        *result = (struct result){.node = node, .text = *text};
        *text = old;
    }
    pthread_mutex_unlock(&files->lock);
    text_done(text);
    call_all(waiters, 0);
}

void control_files_end(struct control_files *files)
{
    pthread_mutex_lock(&files->lock);
    files->ending = true;
    struct control_waiter *waiters = take_waiters_locked(files, 0);
    pthread_mutex_unlock(&files->lock);
    call_all(waiters, -ECANCELED);
}

void control_files_last_result(struct control_files *files, uint64_t node, struct text *text)
{
    pthread_mutex_lock(&files->lock);
    const struct result *result = result_locked(files, node);
    if (result && result->text.length)
        text_append(text, result->text.data, result->text.length);
    pthread_mutex_unlock(&files->lock);
}

/* ---- Open files ---- */

static struct handle *handle_locked(const struct control_files *files, uint64_t number)
{
    struct handle *handle = files->handles;
    while (handle && handle->number != number)
        handle = handle->next;
    return handle;
}

uint64_t control_files_open(struct control_files *files, struct text *text)
{
    struct handle *handle = text->failed ? NULL : calloc(1, sizeof *handle);
    if (!handle) {
        text_done(text);
        return 0;
    }
    handle->text = *text;
    *text = (struct text){0};
    pthread_mutex_lock(&files->lock);
    uint64_t number = handle->number = ++files->last_number;
    handle->next = files->handles;
    files->handles = handle;
    pthread_mutex_unlock(&files->lock);
    return number;
}

/* Only comments after a document are no other document. */
static const char *missing_in(const struct handle *handle)
{
    if (!handle->document.length ||
        (handle->after_document && command_document_is_empty(&handle->document_end)))
        return NULL;
    return command_document_missing(&handle->document_end);
}

void control_files_close(struct control_files *files, uint64_t number, const char **missing)
{
    struct handle *closed = NULL;
    pthread_mutex_lock(&files->lock);
    for (struct handle **at = &files->handles; *at; at = &(*at)->next)
        if ((*at)->number == number) {
            closed = *at;
            *at = closed->next;
            break;
        }
    pthread_mutex_unlock(&files->lock);
    *missing = closed ? missing_in(closed) : NULL;
    if (closed)
        handle_free(closed);
}

static void forget_document(struct handle *handle)
{
    text_done(&handle->document);
    handle->document = (struct text){0};
    handle->document_end = (struct command_document_end){0};
}

/* Gives the document away. */
static void take_document(struct handle *handle, struct text *document)
{
    *document = handle->document;
    handle->document = (struct text){0};
    forget_document(handle);
    handle->after_document = true;
}

static int add_piece(struct handle *handle, const char *bytes, size_t length, struct text *document,
                     struct error *err)
{
    int result = -EAGAIN;
    if (handle->document.length + length > COMMAND_DOCUMENT_BYTES_MAX)
        return error_set(err, E2BIG, "the document is longer than %d bytes", COMMAND_DOCUMENT_BYTES_MAX);
    text_append(&handle->document, bytes, length);
    if (handle->document.failed)
        return error_set(err, ENOMEM, "out of memory");
    result = command_document_ends(&handle->document_end, bytes, length, err);
    if (result == 0)
        take_document(handle, document);
    return result;
}

static int add_locked(struct handle *handle, const char *bytes, size_t length, struct text *document,
                      struct error *err)
{
    if (handle->refused.code)
        return error_set(err, handle->refused.code, "%s", handle->refused.text);
    if (!handle->document.length) {
        enum command_document_kind kind = command_document_kind(bytes, length);
        if (kind == COMMAND_WORDS && handle->after_document && command_document_is_blank(bytes, length))
            return -EAGAIN;
        handle->after_document &= kind != COMMAND_WORDS;
        handle->document_end.kind = kind;
        if (kind == COMMAND_WORDS) {
            text_append(document, bytes, length);
            return document->failed ? error_set(err, ENOMEM, "out of memory") : 0;
        }
    }
    int result = add_piece(handle, bytes, length, document, err);
    if (result < 0 && result != -EAGAIN) {
        error_set(&handle->refused, err->code, "%s; close the file before writing to it again", err->text);
        forget_document(handle);
    }
    return result;
}

int control_files_add(struct control_files *files, uint64_t number, const char *bytes, size_t length,
                      uint64_t stop, struct text *document, struct error *err)
{
    int result;
    pthread_mutex_lock(&files->lock);
    struct handle *handle = handle_locked(files, number);
    if (handle) {
        handle->document_stop = stop;
        result = add_locked(handle, bytes, length, document, err);
    } else {
        result = error_set(err, EBADF, "the file is not open");
    }
    pthread_mutex_unlock(&files->lock);
    return result;
}

bool control_files_flush(struct control_files *files, uint64_t number, struct text *document, uint64_t *stop)
{
    pthread_mutex_lock(&files->lock);
    struct handle *handle = handle_locked(files, number);
    bool complete =
        handle && handle->document.length && command_document_ends_at_close(&handle->document_end);
    if (complete) {
        *stop = handle->document_stop;
        take_document(handle, document);
    }
    pthread_mutex_unlock(&files->lock);
    return complete;
}

void control_files_answer(struct control_files *files, uint64_t number, struct text *text, uint64_t end)
{
    pthread_mutex_lock(&files->lock);
    struct handle *handle = handle_locked(files, number);
    if (handle && !text->failed) {
        struct text old = handle->text;
        handle->text = *text;
        *text = old;
        handle->end = end;
        handle->begun = false;
        handle->shift = 0;
    }
    pthread_mutex_unlock(&files->lock);
    text_done(text);
}

int64_t control_files_read(struct control_files *files, uint64_t number, uint64_t offset, void *buffer,
                           size_t size)
{
    int64_t count = -EBADF;
    pthread_mutex_lock(&files->lock);
    struct handle *handle = handle_locked(files, number);
    if (handle) {
        if (!handle->begun || offset == 0)
            handle->shift = offset == handle->end ? handle->end : 0;
        handle->begun = true;
        uint64_t at = offset - handle->shift;
        bool inside = offset >= handle->shift && at < handle->text.length;
        count = inside ? (int64_t)min_u64(size, handle->text.length - at) : 0;
        if (count)
            memcpy(buffer, handle->text.data + at, (size_t)count);
    }
    pthread_mutex_unlock(&files->lock);
    return count;
}
