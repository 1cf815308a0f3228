// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Requests on their way: queued in the lane of their domain, carried out by a few threads, one at a time in
 * each lane; and what jobs/ shows of them. See administration.h.
 *
 * A lane that is busy belongs to the thread that made it so: one that carries out a request, or one that took
 * it by lanes_try_take.
 */
#include "administration/administration.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "administration/files/leftovers.h"
#include "administration/inside.h"
#include "administration/lane.h"
#include "administration/layer_claims.h"
#include "administration/mirror/mirror.h"
#include "administration/mirror/mirror_watch.h"
#include "administration/reclaim/reclaimer.h"
#include "administration/reclaim/tidying.h"
#include "administration/request/guard.h"
#include "administration/thaws.h"
#include "administration/undo/resume.h"
#include "administration/undo/undo.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "catalog/catalog_hold.h"

#define THREADS_MAX 32
#define OVER_MAX    32 /* jobs that failed, which are kept for people to look at */

/* ---- Making and ending ---- */

int administration_new(const struct administration_options *options, struct administration **administration,
                       struct error *err)
{
    struct administration *made = calloc(1, sizeof *made);
    if (!made)
        return error_set(err, ENOMEM, "out of memory");
    made->options = *options;
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->changed, NULL);
    bool read_only = store_is_read_only(options->store);
    int r = journal_open(store_journal_directory(options->store), read_only, NULL, &made->journal, err);
    if (r == 0 && !read_only)
        r = thaws_new(made, &made->thaws, err);
    if (r == 0 && !read_only)
        r = reclaimer_new(made, &made->reclaimer, err);
    if (r == 0 && !read_only)
        r = mirrors_new(made, &made->mirrors, err);
    if (r == 0 && !read_only)
        undo_settle(made);
    if (r < 0) {
        administration_free(made);
        return r;
    }
    size_t count;
    const struct journal_damage *damage = journal_damage(made->journal, &count);
    for (size_t i = 0; i < count; i++)
        log_error("the domain with serial number %llu can't be changed: its journal can't be used: %s",
                  (unsigned long long)damage[i].domain, damage[i].why);
    *administration = made;
    return 0;
}

int administration_start(struct administration *administration, struct catalog_service *catalog,
                         struct error *err)
{
    administration->catalog = catalog;
    if (store_is_read_only(administration->options.store))
        return 0;
    leftovers_remove(administration);
    tidy_touched(administration);
    resume_all(administration);
    int r = thaws_start(administration->thaws, err);
    if (r == 0)
        r = reclaimer_start(administration->reclaimer, err);
    if (r == 0)
        r = mirrors_start(administration->mirrors, err);
    if (r == 0)
        guard_drop_all(administration); /* by requests, which want all threads */
    return r;
}

void administration_stop(struct administration *administration)
{
    if (!administration)
        return;
    pthread_mutex_lock(&administration->lock);
    administration->is_stopping = true;
    pthread_cond_broadcast(&administration->changed);
    pthread_mutex_unlock(&administration->lock);
    mirrors_stop(administration->mirrors);
    reclaimer_stop(administration->reclaimer);
    pthread_mutex_lock(&administration->lock);
    while (administration->threads > 0)
        pthread_cond_wait(&administration->changed, &administration->lock);
    pthread_mutex_unlock(&administration->lock);
    thaws_stop(administration->thaws);
}

static void work_free(struct work *work)
{
    if (work->request)
        request_free(work->request);
    free(work);
}

void administration_free(struct administration *administration)
{
    if (!administration)
        return;
    administration_stop(administration);
    mirrors_free(administration->mirrors);
    state_paths_free(&administration->needed);
    reclaimer_free(administration->reclaimer);
    thaws_free(administration->thaws);
    for (struct lane *lane = administration->lanes, *next; lane; lane = next) {
        next = lane->next;
        free(lane);
    }
    for (struct work *work = administration->over, *next; work; work = next) {
        next = work->next;
        work_free(work);
    }
    journal_close(administration->journal);
    free(administration->held);
    pthread_cond_destroy(&administration->changed);
    pthread_mutex_destroy(&administration->lock);
    free(administration);
}

void request_free(struct request *request)
{
    if (!request)
        return;
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

/* ---- Telling ---- */

void administration_event(struct administration *administration, uint64_t domain, const char *format, ...)
{
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (administration->options.event)
        administration->options.event(administration->options.opaque, domain, line);
}

bool administration_is_open(void *opaque, uint64_t snapshot)
{
    const struct administration_options *options = &((const struct administration *)opaque)->options;
    return options->is_open && options->is_open(options->opaque, snapshot);
}

static void tell_jobs(struct administration *administration, uint64_t domain)
{
    if (administration->options.jobs_changed)
        administration->options.jobs_changed(administration->options.opaque, domain);
}

bool work_is_cancelled(const struct administration *administration, const struct work *work)
{
    return work && (atomic_load(&work->cancelled) || layer_claims_are_read(work->claims));
}

bool work_progress(void *opaque, uint64_t current, uint64_t total)
{
    struct work_watch *watch = opaque;
    unsigned done = total ? (unsigned)((double)current / (double)total * (watch->to - watch->from)) : 0;
    if (watch->work)
        atomic_store(&watch->work->percent, watch->from + (done < watch->to ? done : watch->to));
    return !work_is_cancelled(watch->administration, watch->work);
}

/* ---- Lanes ---- */

/* Takes the work that is next in a lane that nobody is busy in; the lane is busy then. */
static struct work *take_locked(struct administration *administration)
{
    for (struct lane *lane = administration->lanes; lane; lane = lane->next) {
        struct work *work = lane->first;
        if (!work || lane->is_busy)
            continue;
        lane->first = work->next;
        if (!lane->first)
            lane->end = &lane->first;
        lane->is_busy = true;
        work->lane = lane;
        work->next = NULL;
        return work;
    }
    return NULL;
}

static bool anything_waits_locked(const struct administration *administration)
{
    for (const struct lane *lane = administration->lanes; lane; lane = lane->next)
        if (lane->first)
            return true;
    return false;
}

/* ---- Carrying out ---- */

/* Copies whose QEMU has ended are gone before anything else is done, and once it was ended. What a guest is
 * told to do meanwhile does not wait for that. */
static void settle_mirrors(struct administration *administration, const struct request *request)
{
    struct error why;
    bool starts = request->kind != REQUEST_POWER || request->power.verb == POWER_START;
    if (starts && mirror_settle(administration, request->domain, &why) < 0)
        log_info("%s", why.text);
}

static int carry_out(struct administration *administration, struct work *work, struct outcome *outcome,
                     struct error *err)
{
    if (work_is_cancelled(administration, work))
        return error_set(err, EINTR, "it was cancelled before it began");
    settle_mirrors(administration, work->request);
    switch (work->request->kind) {
    case REQUEST_CREATE:
        return carry_out_create(administration, work, outcome, err);
    case REQUEST_DELETE:
        return carry_out_delete(administration, work, outcome, err);
    case REQUEST_REVERT:
        return carry_out_revert(administration, work, outcome, err);
    case REQUEST_CLONE:
        return carry_out_clone(administration, work, outcome, err);
    case REQUEST_RENAME:
    case REQUEST_PROTECT:
    case REQUEST_DESCRIBE:
    case REQUEST_DEFAULTS:
        return carry_out_note(administration, work, outcome, err);
    case REQUEST_POWER:
        return carry_out_power(administration, work, outcome, err);
    case REQUEST_RESUME:
        return resume_pending(administration, work->request->domain, err) < 0 ? -err->code : 0;
    case REQUEST_COPY:
        return carry_out_copy(administration, work, outcome, err);
    case REQUEST_PIVOT:
        return carry_out_pivot(administration, work, outcome, err);
    case REQUEST_ABORT:
        return carry_out_abort(administration, work, outcome, err);
    }
    return error_set(err, EINVAL, "no such request");
}

void administration_keep_locked(struct administration *administration, struct work *work)
{
    work->next = administration->over;
    administration->over = work;
    size_t kept = 0;
    for (struct work **at = &administration->over; *at; at = &(*at)->next)
        if (++kept > OVER_MAX) {
            struct work *oldest = *at;
            *at = NULL;
            work_free(oldest);
            return;
        }
}

/* Which errno a person gets: not all that storage and QEMU give are in the contract's table. */
static int public_code(int code)
{
    switch (code) {
    case ECANCELED:
        return EINTR;
    case EPROTO:
    case ECONNRESET:
    case EPIPE:
        return EIO;
    case ENODEV: /* the QEMU that runs has something else open */
    case ENOTSUP:
        return EOPNOTSUPP;
    case EDQUOT:
        return ENOSPC;
    case ESTALE:
        return ENOENT;
    default:
        return code;
    }
}

static void finish(struct administration *administration, struct work *work, int r, const struct error *err,
                   struct outcome *outcome)
{
    struct request *request = work->request;
    uint64_t domain = request->domain;
    const struct request_result result = {
        .code = r < 0 ? public_code(err->code) : 0,
        .text = r < 0           ? err->text
                : outcome->text ? outcome->text
                                : "done",
        .serial = outcome->serial,
    };
    if (r < 0 && request->words) {
        log_info("%s: %s", request->words, err->text);
        administration_event(administration, domain, "failed: %s: %s", request->words, err->text);
    }
    request->done(request->opaque, &result);
    pthread_mutex_lock(&administration->lock);
    bool wake = work->lane && lane_give_back_locked(work->lane);
    work->lane = NULL;
    if (r < 0) {
        work->job.status = JOB_FAILED;
        snprintf(work->job.reason, sizeof work->job.reason, "%s", err->text);
    }
    struct work **at = &administration->running;
    while (*at && *at != work)
        at = &(*at)->next_running;
    if (*at)
        *at = work->next_running;
    bool kept = r < 0 && result.code == EINTR;
    if (kept)
        administration_keep_locked(administration, work);
    pthread_cond_broadcast(&administration->changed);
    pthread_mutex_unlock(&administration->lock);
    if (wake)
        reclaimer_wake(administration->reclaimer);
    if (!kept)
        work_free(work);
    tell_jobs(administration, domain);
    free(outcome->text);
}

static void run(struct administration *administration, struct work *work)
{
    struct error err = {0};
    struct outcome outcome = {0};
    int r = carry_out(administration, work, &outcome, &err);
    finish(administration, work, r, &err, &outcome);
}

static void *thread_run(void *opaque)
{
    struct administration *administration = opaque;
    pthread_mutex_lock(&administration->lock);
    for (;;) {
        struct work *work = take_locked(administration);
        if (work) {
            work->job.status = JOB_RUNNING;
            work->next_running = administration->running;
            administration->running = work;
            if (administration->is_stopping)
                atomic_store(&work->cancelled, true);
            pthread_mutex_unlock(&administration->lock);
            run(administration, work);
            pthread_mutex_lock(&administration->lock);
            continue;
        }
        /* What waits for a lane that the background still has is answered when that one is given back. */
        if (administration->is_stopping && !anything_waits_locked(administration))
            break;
        administration->idle++;
        pthread_cond_wait(&administration->changed, &administration->lock);
        administration->idle--;
    }
    administration->threads--;
    pthread_cond_broadcast(&administration->changed);
    pthread_mutex_unlock(&administration->lock);
    return NULL;
}

/* Sees to it that a thread takes up what was queued. -EAGAIN where none can be had. */
static int ensure_thread_locked(struct administration *administration)
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_cond_broadcast(&administration->changed);
    if (administration->idle > 0 || administration->threads >= THREADS_MAX)
        return 0;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int code = pthread_create(&thread, &attributes, thread_run, administration);
    pthread_attr_destroy(&attributes);
    if (code)
        return administration->threads ? 0 : -code;
    administration->threads++;
    return 0;
}

/* ---- Submitting and cancelling ---- */

uint64_t administration_number(struct administration *administration)
{
    pthread_mutex_lock(&administration->lock);
    uint64_t number = ++administration->last_number;
    pthread_mutex_unlock(&administration->lock);
    return number;
}

static void refuse(struct request *request, int code, const char *text)
{
    const struct request_result result = {.code = code, .text = text};
    request->done(request->opaque, &result);
    request_free(request);
}

void administration_submit(struct administration *administration, uint64_t number, struct request *request)
{
    uint64_t domain = request->domain;
    struct work *work = calloc(1, sizeof *work);
    if (!work) {
        refuse(request, ENOMEM, "out of memory");
        return;
    }
    work->request = request;
    work->job = (struct job){.number = number, .domain = domain, .status = JOB_WAITING};
    snprintf(work->job.what, sizeof work->job.what, "%s", request->words ? request->words : "");
    pthread_mutex_lock(&administration->lock);
    struct lane *lane = administration->is_stopping ? NULL : lane_get_locked(administration, domain);
    bool is_stopping = administration->is_stopping;
    if (lane) {
        *lane->end = work;
        lane->end = &work->next;
        if (ensure_thread_locked(administration) < 0) {
            struct work **at = &lane->first;
            while (*at != work)
                at = &(*at)->next;
            *at = NULL;
            lane->end = at;
            lane = NULL;
        }
    }
    pthread_mutex_unlock(&administration->lock);
    if (lane) {
        reclaimer_make_way(administration->reclaimer, domain);
        tell_jobs(administration, domain);
        return;
    }
    free(work);
    refuse(request, is_stopping ? EINTR : ENOMEM,
           is_stopping ? "the file system is being unmounted" : "out of memory");
}

/* The work of this number that is not over; with the lock held. */
static struct work *find_locked(struct administration *administration, uint64_t number)
{
    for (struct work *work = administration->running; work; work = work->next_running)
        if (work->job.number == number)
            return work;
    for (struct lane *lane = administration->lanes; lane; lane = lane->next)
        for (struct work *work = lane->first; work; work = work->next)
            if (work->job.number == number)
                return work;
    return administration->background && administration->background->job.number == number
               ? administration->background
               : NULL;
}

int administration_cancel(struct administration *administration, uint64_t number)
{
    int result = 0;
    if (mirrors_cancel(administration->mirrors, number))
        return 0;
    pthread_mutex_lock(&administration->lock);
    struct work *work = find_locked(administration, number);
    if (!work) {
        result = -ENOENT;
    } else if (work->is_committed) {
        result = -EPERM;
    } else {
        atomic_store(&work->cancelled, true);
        work->job.status = JOB_CANCELLING;
        /* One that waits is answered at once. */
        for (struct work **at = work->lane || !work->request
                                    ? NULL
                                    : &lane_get_locked(administration, work->job.domain)->first;
             at && *at; at = &(*at)->next)
            if (*at == work) {
                struct lane *lane = lane_get_locked(administration, work->job.domain);
                *at = work->next;
                if (!*at)
                    lane->end = at;
                bool wake = !lane->is_busy && !lane->first && lane_give_back_locked(lane);
                pthread_mutex_unlock(&administration->lock);
                if (wake)
                    reclaimer_wake(administration->reclaimer);
                struct error err;
                struct outcome outcome = {0};
                int r = error_set(&err, EINTR, "it was cancelled before it began");
                finish(administration, work, r, &err, &outcome);
                return 0;
            }
    }
    pthread_mutex_unlock(&administration->lock);
    return result;
}

/* ---- Looking ---- */

static void show(const struct work *work, struct job *job)
{
    *job = work->job;
    job->percent = atomic_load(&work->percent);
}

/* Calls `add` for all works; with the lock held. */
static void each_locked(struct administration *administration, void (*add)(void *, struct work *),
                        void *opaque)
{
    for (struct work *work = administration->running; work; work = work->next_running)
        add(opaque, work);
    for (struct lane *lane = administration->lanes; lane; lane = lane->next)
        for (struct work *work = lane->first; work; work = work->next)
            add(opaque, work);
    for (struct work *work = administration->over; work; work = work->next)
        add(opaque, work);
    if (administration->background)
        add(opaque, administration->background);
    reclaimer_each_job_locked(administration->reclaimer, add, opaque);
    mirrors_each_job_locked(administration->mirrors, add, opaque);
}

struct listing {
    uint64_t domain, number;
    struct job *jobs;
    size_t count, room;
};

static void list(void *opaque, struct work *work)
{
    struct listing *listing = opaque;
    if (listing->number ? work->job.number != listing->number : work->job.domain != listing->domain)
        return;
    if (listing->count < listing->room)
        show(work, &listing->jobs[listing->count]);
    listing->count++;
}

static int compare_jobs(const void *left, const void *right)
{
    const struct job *a = left, *b = right;
    return a->number < b->number ? -1 : a->number > b->number;
}

size_t administration_jobs(struct administration *administration, uint64_t domain, struct job *jobs,
                           size_t room)
{
    struct listing listing = {.domain = domain, .jobs = jobs, .room = room};
    pthread_mutex_lock(&administration->lock);
    each_locked(administration, list, &listing);
    pthread_mutex_unlock(&administration->lock);
    size_t shown = listing.count < room ? listing.count : room;
    if (shown)
        qsort(jobs, shown, sizeof *jobs, compare_jobs);
    return listing.count;
}

int administration_job(struct administration *administration, uint64_t number, struct job *job)
{
    struct listing listing = {.number = number, .jobs = job, .room = 1};
    pthread_mutex_lock(&administration->lock);
    each_locked(administration, list, &listing);
    pthread_mutex_unlock(&administration->lock);
    return listing.count ? 0 : -ENOENT;
}

char *administration_defaults(struct administration *administration, const struct domain *domain)
{
    return strdup(domain->defaults ? domain->defaults : DEFAULTS_AS_SHIPPED);
}

void administration_make_way(struct administration *administration, const struct frozen *frozen)
{
    reclaimer_make_way_for_reader(administration->reclaimer, frozen);
}

void administration_was_closed(struct administration *administration)
{
    reclaimer_ease(administration->reclaimer);
}
