// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * In the place of the administration, for tests of what lies before it: it changes nothing, and can be made
 * to take as long as a test wants. While the file that VMSNAPFS_FAKE_HOLD names is there, requests are
 * running; then changing a description or a protection "succeeds", and everything else is EOPNOTSUPP. What is
 * cancelled is EINTR.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "administration/administration.h"

struct administration {
    struct administration_options options;
    const char *hold;
    pthread_mutex_t lock; /* protects what follows */
    pthread_cond_t ended;
    struct task *tasks;
    uint64_t last_number;
    unsigned threads;
    bool stopping;
};

struct task {
    struct task *next;
    struct administration *administration;
    uint64_t number;
    struct request *request;
    bool cancelled;
};

int administration_new(const struct administration_options *options, struct administration **administration,
                       struct error *err)
{
    struct administration *made = calloc(1, sizeof *made);
    if (!made)
        return error_set(err, ENOMEM, "out of memory");
    made->options = *options;
    made->hold = getenv("VMSNAPFS_FAKE_HOLD");
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->ended, NULL);
    *administration = made;
    return 0;
}

int administration_start(struct administration *administration, struct catalog_service *catalog,
                         struct error *err)
{
    return 0;
}

void administration_stop(struct administration *administration)
{
    pthread_mutex_lock(&administration->lock);
    administration->stopping = true;
    while (administration->threads)
        pthread_cond_wait(&administration->ended, &administration->lock);
    pthread_mutex_unlock(&administration->lock);
}

void administration_free(struct administration *administration)
{
    if (!administration)
        return;
    administration_stop(administration);
    pthread_cond_destroy(&administration->ended);
    pthread_mutex_destroy(&administration->lock);
    free(administration);
}

uint64_t administration_number(struct administration *administration)
{
    pthread_mutex_lock(&administration->lock);
    uint64_t number = ++administration->last_number;
    pthread_mutex_unlock(&administration->lock);
    return number;
}

void request_free(struct request *request)
{
    switch (request->kind) {
    case REQUEST_CREATE:
        create_command_done(&request->create);
        break;
    case REQUEST_CLONE:
        clone_command_done(&request->clone);
        break;
    case REQUEST_RENAME:
        free(request->name);
        break;
    case REQUEST_DESCRIBE:
        free(request->description);
        break;
    case REQUEST_DEFAULTS:
        free(request->defaults);
        break;
    case REQUEST_POWER:
        power_command_done(&request->power);
        break;
    case REQUEST_COPY:
        copy_command_done(&request->copy);
        break;
    case REQUEST_PIVOT:
    case REQUEST_ABORT:
    case REQUEST_DELETE:
    case REQUEST_REVERT:
    case REQUEST_PROTECT:
    case REQUEST_RESUME:
        break;
    }
    free(request->words);
    free(request);
}

static void finish(struct administration *administration, struct request *request, int code, const char *text)
{
    char line[1024];
    snprintf(line, sizeof line, "%s: %.400s: %s", code ? "failed" : "done", request->words, text);
    administration->options.event(administration->options.opaque, request->domain, line);
    const struct request_result result = {.code = code, .text = text};
    request->done(request->opaque, &result);
    request_free(request);
}

static bool goes_on(struct task *task)
{
    struct administration *administration = task->administration;
    pthread_mutex_lock(&administration->lock);
    bool goes = !task->cancelled && !administration->stopping;
    pthread_mutex_unlock(&administration->lock);
    return goes;
}

static void *task_run(void *opaque)
{
    struct task *task = opaque;
    struct administration *administration = task->administration;
    uint64_t domain = task->request->domain;
    administration->options.jobs_changed(administration->options.opaque, domain);
    while (goes_on(task) && administration->hold && access(administration->hold, F_OK) == 0)
        nanosleep(&(const struct timespec){.tv_nsec = 5L * 1000 * 1000}, NULL);
    bool cancelled = !goes_on(task);
    pthread_mutex_lock(&administration->lock);
    for (struct task **at = &administration->tasks; *at; at = &(*at)->next)
        if (*at == task) {
            *at = task->next;
            break;
        }
    pthread_mutex_unlock(&administration->lock);
    bool pretends = task->request->kind == REQUEST_DESCRIBE || task->request->kind == REQUEST_PROTECT;
    administration->options.jobs_changed(administration->options.opaque, domain);
    if (cancelled)
        finish(administration, task->request, EINTR, "it was interrupted, and is undone");
    else if (pretends)
        finish(administration, task->request, 0, "it is as it was");
    else
        finish(administration, task->request, EOPNOTSUPP, "nothing is administered here");
    free(task);
    pthread_mutex_lock(&administration->lock);
    administration->threads--;
    pthread_cond_broadcast(&administration->ended);
    pthread_mutex_unlock(&administration->lock);
    return NULL;
}

void administration_submit(struct administration *administration, uint64_t number, struct request *request)
{
    struct task *task = calloc(1, sizeof *task);
    pthread_t thread;
    bool started = false;
    if (task) {
        *task = (struct task){.administration = administration, .number = number, .request = request};
        pthread_mutex_lock(&administration->lock);
        if (!administration->stopping && pthread_create(&thread, NULL, task_run, task) == 0) {
            pthread_detach(thread);
            task->next = administration->tasks;
            administration->tasks = task;
            administration->threads++;
            started = true;
        }
        pthread_mutex_unlock(&administration->lock);
    }
    if (!started) {
        free(task);
        finish(administration, request, EINTR, "the mount ends");
    }
}

int administration_cancel(struct administration *administration, uint64_t number)
{
    int result = -ENOENT;
    pthread_mutex_lock(&administration->lock);
    for (struct task *task = administration->tasks; task; task = task->next)
        if (task->number == number) {
            task->cancelled = true;
            result = 0;
        }
    pthread_mutex_unlock(&administration->lock);
    return result;
}

static void fill_job(const struct task *task, struct job *job)
{
    *job = (struct job){
        .number = task->number,
        .domain = task->request->domain,
        .status = task->cancelled ? JOB_CANCELLING : JOB_RUNNING,
        .percent = 50,
    };
    snprintf(job->what, sizeof job->what, "%s", task->request->words);
}

size_t administration_jobs(struct administration *administration, uint64_t domain, struct job *jobs,
                           size_t room)
{
    size_t count = 0;
    if (!administration) /* a test of what is shown without one */
        return 0;
    pthread_mutex_lock(&administration->lock);
    for (const struct task *task = administration->tasks; task; task = task->next)
        if (task->request->domain == domain && count++ < room)
            fill_job(task, &jobs[count - 1]);
    pthread_mutex_unlock(&administration->lock);
    for (size_t i = 0, last = count < room ? count : room; i + 1 < last; i++)
        for (size_t j = i + 1; j < last; j++)
            if (jobs[j].number < jobs[i].number) {
                struct job swapped = jobs[i];
                jobs[i] = jobs[j];
                jobs[j] = swapped;
            }
    return count;
}

int administration_job(struct administration *administration, uint64_t number, struct job *job)
{
    int result = -ENOENT;
    if (!administration)
        return result;
    pthread_mutex_lock(&administration->lock);
    for (const struct task *task = administration->tasks; task; task = task->next)
        if (task->number == number) {
            fill_job(task, job);
            result = 0;
        }
    pthread_mutex_unlock(&administration->lock);
    return result;
}

char *administration_defaults(struct administration *administration, const struct domain *domain)
{
    return strdup(DEFAULTS_AS_SHIPPED);
}

void administration_make_way(struct administration *administration, const struct frozen *frozen) {}

void administration_was_closed(struct administration *administration) {}
