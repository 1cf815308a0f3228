// SPDX-License-Identifier: LGPL-2.1-or-later
/* The thread that gives space back; see reclaimer.h. */
#include "administration/reclaim/reclaimer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "administration/files/leftovers.h"
#include "administration/lane.h"
#include "administration/memory/memory_removal.h"
#include "administration/mirror/mirror.h"
#include "administration/reclaim/reclaim_states.h"
#include "administration/reclaim/reclaim_work.h"
#include "administration/request/guard.h"
#include "administration/undo/resume.h"
#include "administration/undo/undo.h"
#include "administration/world.h"
#include "base/background.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "store/restart.h"

/* What must wait is tried again after so long; the more often in vain, the longer. */
#define RETRY_FIRST_MS 500
#define RETRY_MAX_MS   60000

#define WAITING_MAX 1000

/* A task that must wait, or runs, as jobs/ shows it. */
struct entry {
    struct reclaim_task task;
    struct work work;
};

struct reclaimer {
    struct administration *administration;
    struct background background; /* its lock is taken inside of no other, and none inside of it */
    bool is_woken;
    bool is_eased;         /* what a step had to wait for may be over */
    bool has_step;         /* one runs, or waits */
    struct entry *running; /* NULL: nothing */
    /* Protected by the administration's lock, which the thread need not take to look at them. The earlier
     * ones waited in the round before, and were not come to yet in this one; some are NULL. */
    struct entry **waiting, **earlier;
    size_t waiting_count, earlier_count;
};

/* ---- Tasks ---- */

static bool knows(const struct domain *domain, const char *path)
{
    for (size_t i = 0; path && i < domain->layer_count; i++)
        if (strcmp(domain->layers[i]->path, path) == 0)
            return true;
    return false;
}

static int take_task(const struct catalog *catalog, const struct world *world,
                     const struct reclaim_step *step, struct reclaim_task *task)
{
    const struct world_file *layer = world_find_file(world, step->layer);
    const struct world_file *into = step->into ? world_find_file(world, step->into) : NULL;
    const struct world_internal *internal =
        step->internal ? world_find_internal(world, step->internal) : NULL;
    struct reclaim_task made = {.kind = step->kind};
    made.layer = layer ? strdup(layer->layer->path) : NULL;
    made.into = into ? strdup(into->layer->path) : NULL;
    made.internal = internal ? internal_snapshot_copy(internal->internal) : NULL;
    made.domains = calloc(catalog->domain_count + 1, sizeof *made.domains);
    if (!made.layer || (step->into && !made.into) || (step->internal && !made.internal) || !made.domains) {
        reclaim_task_done(&made);
        return -ENOMEM;
    }
    for (size_t i = 0; i < catalog->domain_count; i++)
        if (knows(catalog->domains[i], made.layer) || knows(catalog->domains[i], made.into))
            made.domains[made.domain_count++] = catalog->domains[i]->serial;
    *task = made;
    return 0;
}

static bool same_string(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same_task(const struct reclaim_task *a, const struct reclaim_task *b)
{
    return a->kind == b->kind && same_string(a->layer, b->layer) && same_string(a->into, b->into) &&
           same_string(a->internal ? a->internal->id : NULL, b->internal ? b->internal->id : NULL);
}

static void entry_free(struct entry *entry)
{
    if (entry)
        reclaim_task_done(&entry->task);
    free(entry);
}

/* ---- Choosing ---- */

struct choice {
    const struct reclaimer *reclaimer;
    const struct catalog *catalog;
    const struct world *world;
    struct reclaim_task task;
    bool failed;
};

/* Takes the first step that has not had to wait in this round. */
static bool choose(void *opaque, const struct reclaim_step *step)
{
    struct choice *choice = opaque;
    struct reclaim_task task;
    if (take_task(choice->catalog, choice->world, step, &task) < 0) {
        choice->failed = true;
        return true;
    }
    for (size_t i = 0; i < choice->reclaimer->waiting_count; i++)
        if (same_task(&choice->reclaimer->waiting[i]->task, &task)) {
            reclaim_task_done(&task);
            return false;
        }
    choice->task = task;
    return true;
}

/* Is there anything that could be given back at all? A mount without administered domains does not plan. */
static bool is_worth_a_look(const struct catalog *catalog)
{
    for (size_t i = 0; i < catalog->domain_count; i++)
        if (catalog->domains[i]->is_administered)
            return true;
    return false;
}

/* A task that waited is the same job when it is tried again. */
static uint64_t number_of(const struct reclaimer *reclaimer, const struct reclaim_task *task)
{
    for (size_t i = 0; i < reclaimer->earlier_count; i++)
        if (reclaimer->earlier[i] && same_task(&reclaimer->earlier[i]->task, task))
            return reclaimer->earlier[i]->work.job.number;
    return administration_number(reclaimer->administration);
}

/* The next task; NULL: there is none now. */
static struct entry *next_entry(struct reclaimer *reclaimer)
{
    struct administration *administration = reclaimer->administration;
    struct catalog *catalog = catalog_service_get(administration->catalog);
    cleanup(world_done) struct world world = {0};
    struct choice choice = {.reclaimer = reclaimer, .catalog = catalog, .world = &world};
    struct reclaim_step step = {0};
    struct error why;
    struct entry *entry = NULL;
    if (is_worth_a_look(catalog) &&
        world_make(catalog->domains, catalog->domain_count, NULL, NULL, &world, &why) == 0) {
        struct reclaim_world plan = {.trees = world.trees,
                                     .tree_count = world.count,
                                     .layers = &world.layers,
                                     .is_complete = reclaim_is_complete(administration, catalog)};
        if (reclaim_next(&plan, choose, &choice, &step) == 0 && step.kind != RECLAIM_NOTHING &&
            !choice.failed)
            entry = calloc(1, sizeof *entry);
    }
    catalog_put(catalog);
    if (!entry) {
        reclaim_task_done(&choice.task);
        return NULL;
    }
    entry->task = choice.task;
    entry->work.job = (struct job){.number = number_of(reclaimer, &entry->task),
                                   .domain = entry->task.domain_count ? entry->task.domains[0] : 0,
                                   .status = JOB_RUNNING};
    reclaim_task_tell(&entry->task, entry->work.job.what, sizeof entry->work.job.what);
    return entry;
}

/* ---- Waiting tasks ---- */

static void tell_jobs(const struct reclaimer *reclaimer, const struct reclaim_task *task)
{
    const struct administration_options *options = &reclaimer->administration->options;
    for (size_t i = 0; options->jobs_changed && i < task->domain_count; i++)
        options->jobs_changed(options->opaque, task->domains[i]);
}

/* What ran waits from now on. False: nobody keeps it. */
static bool keep_waiting(struct reclaimer *reclaimer, struct entry *entry, const struct error *why)
{
    struct administration *administration = reclaimer->administration;
    pthread_mutex_lock(&administration->lock);
    struct entry **grown =
        reclaimer->waiting_count < WAITING_MAX
            ? realloc(reclaimer->waiting, (reclaimer->waiting_count + 1) * sizeof(struct entry *))
            : NULL;
    if (grown) {
        reclaimer->waiting = grown;
        grown[reclaimer->waiting_count++] = entry;
        entry->work.job.status = JOB_WAITING;
        snprintf(entry->work.job.reason, sizeof entry->work.job.reason, "%s", why->text);
    }
    administration->background = NULL;
    pthread_mutex_unlock(&administration->lock);
    return grown != NULL;
}

static void forget_earlier(struct reclaimer *reclaimer)
{
    struct administration *administration = reclaimer->administration;
    pthread_mutex_lock(&administration->lock);
    struct entry **earlier = reclaimer->earlier;
    size_t count = reclaimer->earlier_count;
    reclaimer->earlier = NULL;
    reclaimer->earlier_count = 0;
    pthread_mutex_unlock(&administration->lock);
    for (size_t i = 0; i < count; i++) {
        if (earlier[i])
            tell_jobs(reclaimer, &earlier[i]->task);
        entry_free(earlier[i]);
    }
    free(earlier);
}

/* Another round: all that waits may be chosen again. Until then it is shown as it was. */
static void begin_round(struct reclaimer *reclaimer)
{
    forget_earlier(reclaimer);
    pthread_mutex_lock(&reclaimer->administration->lock);
    reclaimer->earlier = reclaimer->waiting;
    reclaimer->earlier_count = reclaimer->waiting_count;
    reclaimer->waiting = NULL;
    reclaimer->waiting_count = 0;
    pthread_mutex_unlock(&reclaimer->administration->lock);
}

/* Takes the place of the entry with its number, with the lock held; the caller frees that. */
static struct entry *take_place_locked(struct reclaimer *reclaimer, const struct entry *entry)
{
    for (size_t i = 0; i < reclaimer->earlier_count; i++) {
        struct entry *found = reclaimer->earlier[i];
        if (found && found->work.job.number == entry->work.job.number) {
            reclaimer->earlier[i] = NULL;
            return found;
        }
    }
    return NULL;
}

void reclaimer_each_job_locked(struct reclaimer *reclaimer, void (*add)(void *opaque, struct work *work),
                               void *opaque)
{
    for (size_t i = 0; reclaimer && i < reclaimer->waiting_count; i++)
        add(opaque, &reclaimer->waiting[i]->work);
    for (size_t i = 0; reclaimer && i < reclaimer->earlier_count; i++)
        if (reclaimer->earlier[i])
            add(opaque, &reclaimer->earlier[i]->work);
}

/* ---- Doing ---- */

static void set_running(struct reclaimer *reclaimer, struct entry *entry)
{
    struct administration *administration = reclaimer->administration;
    pthread_mutex_lock(&reclaimer->background.lock);
    reclaimer->running = entry;
    reclaimer->has_step |= entry != NULL;
    if (entry && reclaimer->background.is_stopping)
        atomic_store(&entry->work.cancelled, true);
    pthread_cond_broadcast(&reclaimer->background.changed);
    pthread_mutex_unlock(&reclaimer->background.lock);
    pthread_mutex_lock(&administration->lock);
    administration->background = entry ? &entry->work : NULL;
    struct entry *earlier = entry ? take_place_locked(reclaimer, entry) : NULL;
    pthread_mutex_unlock(&administration->lock);
    entry_free(earlier);
}

/* What a QEMU copies stays as it is until that is over. */
static int refuse_copied(struct administration *administration, const struct reclaim_task *task,
                         struct error *err)
{
    struct catalog *catalog = catalog_service_get(administration->catalog);
    int r = 0;
    for (size_t i = 0; r == 0 && i < task->domain_count; i++) {
        const struct catalog_entry *found = catalog_find_serial(catalog, task->domains[i]);
        if (found && !found->snapshot)
            r = mirror_refuse(found->domain, NULL, err);
    }
    catalog_put(catalog);
    return r;
}

/* True: something was done, and there may be more. */
static bool run_one(struct reclaimer *reclaimer)
{
    struct administration *administration = reclaimer->administration;
    struct entry *entry = next_entry(reclaimer);
    struct error err = {0};
    if (!entry)
        return false;
    const struct reclaim_task *task = &entry->task;
    set_running(reclaimer, entry); /* from here on a reader, or a request, finds it */
    tell_jobs(reclaimer, task);
    int r = -EBUSY;
    if (lanes_try_take(administration, task->domains, task->domain_count)) {
        r = refuse_copied(administration, task, &err);
        if (r == 0)
            r = reclaim_work_do(administration, &entry->work, task, &err);
        lanes_give_back(administration, task->domains, task->domain_count);
    } else {
        error_set(&err, EBUSY, "another operation on the domain comes first");
    }
    struct reclaim_task told = *task;
    told.domains = calloc(task->domain_count + 1, sizeof *told.domains);
    told.domain_count = told.domains ? task->domain_count : 0;
    for (size_t i = 0; i < told.domain_count; i++)
        told.domains[i] = task->domains[i];
    if (r == 0)
        log_debug("%s: done", entry->work.job.what);
    else
        log_debug("%s: waits: %s", entry->work.job.what, err.text);
    bool waits = r < 0 && keep_waiting(reclaimer, entry, &err);
    set_running(reclaimer, NULL);
    for (size_t i = 0; r == 0 && i < task->domain_count; i++)
        administration_event(administration, task->domains[i], "done: %s", entry->work.job.what);
    if (!waits)
        entry_free(entry);
    tell_jobs(reclaimer, &told);
    free(told.domains);
    return true;
}

/* Operations that could not be ended when they should have been. True: one still can't. */
static bool end_operations(struct reclaimer *reclaimer)
{
    struct administration *administration = reclaimer->administration;
    uint64_t domains[64];
    size_t count = journal_domains(administration->journal, domains, 64);
    bool any = false;
    for (size_t i = 0; i < count; i++) {
        struct error why;
        if (!lanes_try_take(administration, &domains[i], 1))
            continue; /* it is under way, or somebody who comes tries it himself */
        if (undo_again(administration, domains[i], &why) < 0) {
            log_debug("%s", why.text);
            any = true;
        }
        lanes_give_back(administration, &domains[i], 1);
    }
    return any;
}

/* Domains that were to go on after an operation, and could not yet. True: one still can't. */
static bool let_go_on(struct reclaimer *reclaimer)
{
    struct administration *administration = reclaimer->administration;
    cleanup_free uint64_t *domains = NULL;
    size_t count;
    bool any = false;
    if (store_list_restarts(administration->options.store, &domains, &count) < 0)
        return false;
    for (size_t i = 0; i < count; i++) {
        struct error why;
        if (!lanes_try_take(administration, &domains[i], 1))
            continue; /* whoever has it tries it himself */
        if (resume_pending(administration, domains[i], &why) < 0) {
            log_debug("%s", why.text);
            any = true;
        }
        lanes_give_back(administration, &domains[i], 1);
    }
    return any;
}

/* For so long, or until it is woken; but for RETRY_FIRST_MS where it is eased: a backup closes many files. */
static void wait(struct reclaimer *reclaimer, unsigned ms)
{
    const struct timespec begin = monotonic_in(0);
    int r = 0;
    pthread_mutex_lock(&reclaimer->background.lock);
    while (!reclaimer->is_woken && !reclaimer->background.is_stopping && r == 0) {
        struct timespec until = monotonic_after(begin, reclaimer->is_eased ? RETRY_FIRST_MS : ms);
        r = pthread_cond_timedwait(&reclaimer->background.changed, &reclaimer->background.lock, &until);
    }
    pthread_mutex_unlock(&reclaimer->background.lock);
}

static void *thread_run(void *opaque)
{
    struct reclaimer *reclaimer = opaque;
    unsigned pause = RETRY_FIRST_MS;
    leftovers_remove_below(reclaimer->administration);
    for (;;) {
        wait(reclaimer, pause);
        pthread_mutex_lock(&reclaimer->background.lock);
        bool stops = reclaimer->background.is_stopping;
        if (reclaimer->is_woken || reclaimer->is_eased)
            pause = RETRY_FIRST_MS;
        reclaimer->is_woken = reclaimer->is_eased = false;
        pthread_mutex_unlock(&reclaimer->background.lock);
        if (stops)
            return NULL;
        begin_round(reclaimer);
        bool any = false, must_wait = end_operations(reclaimer);
        must_wait |= guard_drop_left(reclaimer->administration);
        must_wait |= let_go_on(reclaimer);
        must_wait |= memory_removal_run(reclaimer->administration);
        while (run_one(reclaimer)) {
            any = true;
            pthread_mutex_lock(&reclaimer->background.lock);
            stops = reclaimer->background.is_stopping;
            pthread_mutex_unlock(&reclaimer->background.lock);
            if (stops)
                return NULL;
        }
        forget_earlier(reclaimer);
        pthread_mutex_lock(&reclaimer->background.lock);
        reclaimer->has_step = reclaimer->waiting_count > 0;
        pthread_mutex_unlock(&reclaimer->background.lock);
        if (any && !must_wait && reclaimer->waiting_count == 0)
            pause = RETRY_FIRST_MS;
        else if (pause < RETRY_MAX_MS)
            pause *= 2;
    }
}

/* ---- From outside ---- */

int reclaimer_new(struct administration *administration, struct reclaimer **reclaimer, struct error *err)
{
    struct reclaimer *made = calloc(1, sizeof *made);
    if (!made)
        return error_set(err, ENOMEM, "out of memory");
    made->administration = administration;
    made->is_woken = true; /* what a predecessor did not finish */
    background_init(&made->background);
    *reclaimer = made;
    return 0;
}

int reclaimer_start(struct reclaimer *reclaimer, struct error *err)
{
    return background_start(&reclaimer->background, thread_run, reclaimer, err);
}

void reclaimer_stop(struct reclaimer *reclaimer)
{
    if (!reclaimer)
        return;
    pthread_mutex_lock(&reclaimer->background.lock);
    reclaimer->background.is_stopping = true; /* so that no other step begins */
    if (reclaimer->running)
        atomic_store(&reclaimer->running->work.cancelled, true);
    pthread_mutex_unlock(&reclaimer->background.lock);
    background_stop(&reclaimer->background);
}

void reclaimer_free(struct reclaimer *reclaimer)
{
    if (!reclaimer)
        return;
    reclaimer->administration->options.jobs_changed = NULL; /* nobody is there any more to be told */
    begin_round(reclaimer);
    forget_earlier(reclaimer);
    background_done(&reclaimer->background);
    free(reclaimer);
}

void reclaimer_wake(struct reclaimer *reclaimer)
{
    if (reclaimer)
        background_set(&reclaimer->background, &reclaimer->is_woken);
}

void reclaimer_ease(struct reclaimer *reclaimer)
{
    if (!reclaimer)
        return;
    pthread_mutex_lock(&reclaimer->background.lock);
    if (reclaimer->has_step) {
        reclaimer->is_eased = true;
        pthread_cond_broadcast(&reclaimer->background.changed);
    }
    pthread_mutex_unlock(&reclaimer->background.lock);
}

void reclaimer_make_way(struct reclaimer *reclaimer, uint64_t domain)
{
    if (!reclaimer)
        return;
    pthread_mutex_lock(&reclaimer->background.lock);
    const struct entry *running = reclaimer->running;
    for (size_t i = 0; running && i < running->task.domain_count; i++)
        if (running->task.domains[i] == domain) {
            atomic_store(&reclaimer->running->work.cancelled, true);
            reclaimer->is_woken = true; /* and goes on afterwards */
        }
    pthread_mutex_unlock(&reclaimer->background.lock);
}

static bool passes(const struct frozen *frozen, const char *path)
{
    for (const struct layer *layer = frozen->layer; path && layer; layer = layer->backing)
        if (strcmp(layer->path, path) == 0)
            return true;
    return false;
}

void reclaimer_make_way_for_reader(struct reclaimer *reclaimer, const struct frozen *frozen)
{
    if (!reclaimer)
        return;
    pthread_mutex_lock(&reclaimer->background.lock);
    while (reclaimer->running && (passes(frozen, reclaimer->running->task.layer) ||
                                  passes(frozen, reclaimer->running->task.into))) {
        atomic_store(&reclaimer->running->work.cancelled, true);
        reclaimer->is_woken = true;
        pthread_cond_wait(&reclaimer->background.changed, &reclaimer->background.lock);
    }
    pthread_mutex_unlock(&reclaimer->background.lock);
}
