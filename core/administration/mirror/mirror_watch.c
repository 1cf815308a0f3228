// SPDX-License-Identifier: LGPL-2.1-or-later
/* The thread that looks after copies; see mirror_watch.h. */
#include "administration/mirror/mirror_watch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "administration/lane.h"
#include "administration/mirror/mirror.h"
#include "base/background.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "hypervisor/qmp_job.h"

#define LOOK_MS   250  /* while there are any */
#define IDLE_MS   2000 /* a domain whose definition comes back can bring one */
#define BORROW_MS 2000

/* A copy, as jobs/ shows it. */
struct entry {
    struct entry *next;
    uint64_t operation;
    unsigned disk;
    bool is_seen; /* the thread's: the catalog still has it */
    struct work work;
};

struct mirrors {
    struct administration *administration;
    struct background background; /* its lock is taken inside of no other, and none inside of it */
    bool is_woken;
    struct entry *entries; /* protected by the administration's lock, as the works in them */
};

/* ---- Entries ---- */

static struct entry *find_locked(struct mirrors *mirrors, uint64_t domain, uint64_t operation, unsigned disk)
{
    struct entry *entry = mirrors->entries;
    while (entry &&
           (entry->work.job.domain != domain || entry->operation != operation || entry->disk != disk))
        entry = entry->next;
    return entry;
}

static void tell_jobs(struct mirrors *mirrors, uint64_t domain)
{
    const struct administration_options *options = &mirrors->administration->options;
    if (options->jobs_changed)
        options->jobs_changed(options->opaque, domain);
}

uint64_t mirrors_note(struct mirrors *mirrors, uint64_t domain, const struct disk *disk, const char *path,
                      uint64_t operation)
{
    if (!mirrors)
        return 0;
    struct administration *administration = mirrors->administration;
    uint64_t number = administration_number(administration);
    struct entry *fresh = calloc(1, sizeof *fresh);
    pthread_mutex_lock(&administration->lock);
    const struct entry *known = find_locked(mirrors, domain, operation, disk->position);
    if (known) {
        number = known->work.job.number;
    } else if (fresh) {
        fresh->operation = operation;
        fresh->disk = disk->position;
        fresh->is_seen = true;
        fresh->work.job = (struct job){.number = number, .domain = domain, .status = JOB_COPYING};
        snprintf(fresh->work.job.what, sizeof fresh->work.job.what, "copy disk %s to %s", disk->target, path);
        fresh->next = mirrors->entries;
        mirrors->entries = fresh;
        fresh = NULL;
    } else {
        number = 0;
    }
    pthread_mutex_unlock(&administration->lock);
    free(fresh);
    if (!known)
        tell_jobs(mirrors, domain);
    return number;
}

/* Those that failed are kept for people to look at. */
void mirrors_over(struct mirrors *mirrors, uint64_t domain, uint64_t operation, unsigned disk,
                  const char *why)
{
    if (!mirrors)
        return;
    struct administration *administration = mirrors->administration;
    struct work *failed = why ? calloc(1, sizeof *failed) : NULL;
    pthread_mutex_lock(&administration->lock);
    struct entry *entry = find_locked(mirrors, domain, operation, disk);
    for (struct entry **at = &mirrors->entries; entry && *at; at = &(*at)->next)
        if (*at == entry) {
            *at = entry->next;
            break;
        }
    if (entry && failed) {
        failed->job = entry->work.job;
        failed->job.status = JOB_FAILED;
        atomic_store(&failed->percent, atomic_load(&entry->work.percent));
        snprintf(failed->job.reason, sizeof failed->job.reason, "%s", why);
        administration_keep_locked(administration, failed);
        failed = NULL;
    }
    pthread_mutex_unlock(&administration->lock);
    free(entry);
    free(failed);
    tell_jobs(mirrors, domain);
}

bool mirrors_cancel(struct mirrors *mirrors, uint64_t number)
{
    bool found = false;
    if (!mirrors)
        return false;
    pthread_mutex_lock(&mirrors->administration->lock);
    for (struct entry *entry = mirrors->entries; entry && !found; entry = entry->next)
        if (entry->work.job.number == number) {
            found = true;
            atomic_store(&entry->work.cancelled, true);
            entry->work.job.status = JOB_CANCELLING;
        }
    pthread_mutex_unlock(&mirrors->administration->lock);
    if (found)
        mirrors_wake(mirrors);
    return found;
}

bool mirrors_is_cancelled(struct mirrors *mirrors, uint64_t domain, uint64_t operation, unsigned disk)
{
    if (!mirrors)
        return false;
    pthread_mutex_lock(&mirrors->administration->lock);
    const struct entry *entry = find_locked(mirrors, domain, operation, disk);
    bool is_cancelled = entry && atomic_load(&entry->work.cancelled);
    pthread_mutex_unlock(&mirrors->administration->lock);
    return is_cancelled;
}

void mirrors_each_job_locked(struct mirrors *mirrors, void (*add)(void *opaque, struct work *work),
                             void *opaque)
{
    for (struct entry *entry = mirrors ? mirrors->entries : NULL; entry; entry = entry->next)
        add(opaque, &entry->work);
}

/* ---- Looking ---- */

static void show(struct mirrors *mirrors, uint64_t domain, const struct disk *disk,
                 const struct qmp_job_report *report)
{
    struct administration *administration = mirrors->administration;
    bool is_new = false;
    pthread_mutex_lock(&administration->lock);
    struct entry *entry = find_locked(mirrors, domain, disk->mirror_operation, disk->position);
    if (entry) {
        /* The total grows with what the guest writes. */
        double part = report->total ? (double)report->current / (double)report->total : 0;
        unsigned percent = report->is_ready ? 100 : part < 0.99 ? (unsigned)(part * 100) : 99;
        enum job_status status = atomic_load(&entry->work.cancelled) ? JOB_CANCELLING
                                 : report->is_ready                  ? JOB_READY
                                                                     : JOB_COPYING;
        is_new = entry->work.job.status != status || atomic_load(&entry->work.percent) != percent;
        entry->work.job.status = status;
        atomic_store(&entry->work.percent, percent);
    }
    pthread_mutex_unlock(&administration->lock);
    if (is_new)
        tell_jobs(mirrors, domain);
}

/* Asks about the copies of a domain; true: something has to be settled. */
static bool ask(struct mirrors *mirrors, const struct domain *domain, struct qmp *qmp)
{
    bool settle = false;
    for (size_t i = 0; i < domain->disk_count && !qmp_is_dead(qmp); i++) {
        const struct disk *disk = &domain->disks[i];
        struct mirror_names names;
        struct qmp_job_report report;
        if (!disk->mirror)
            continue;
        if (disk->mirror_is_unsettled) {
            settle = true;
            continue;
        }
        mirror_name(disk->mirror_operation, disk->position, &names);
        int r = qmp_job_look(qmp, names.job, MACHINE_ANSWER_MS, &report, NULL);
        settle |= r == -ENOENT || (r == 0 && report.is_over) ||
                  mirrors_is_cancelled(mirrors, domain->serial, disk->mirror_operation, disk->position);
        if (r == 0)
            show(mirrors, domain->serial, disk, &report);
    }
    return settle;
}

static bool look_at(struct mirrors *mirrors, const struct domain *domain)
{
    struct machines *machines = mirrors->administration->options.machines;
    struct machine *machine = machines_get(machines, domain->serial);
    struct machine_report report = {.contact = MACHINE_OFF};
    struct qmp *qmp;
    bool settle = false;
    if (machine)
        machine_report(machine, &report);
    if (report.contact == MACHINE_OFF) {
        settle = true;
    } else if (report.contact == MACHINE_CONNECTED &&
               machine_borrow(machine, BORROW_MS, &qmp, NULL, NULL) == 0) {
        settle = ask(mirrors, domain, qmp);
        machine_return(machine, qmp);
    }
    machine_unref(machine);
    return settle;
}

static void settle(struct mirrors *mirrors, uint64_t domain)
{
    struct administration *administration = mirrors->administration;
    struct error why;
    /* Whoever has the lane settles first himself, or leaves it to the next look. */
    if (!lanes_try_take(administration, &domain, 1))
        return;
    if (mirror_settle(administration, domain, &why) < 0)
        log_debug("%s", why.text);
    lanes_give_back(administration, &domain, 1);
}

/* Those that the catalog has no more, whatever has become of them. */
static void prune(struct mirrors *mirrors)
{
    struct administration *administration = mirrors->administration;
    struct entry *gone = NULL;
    pthread_mutex_lock(&administration->lock);
    for (struct entry **at = &mirrors->entries; *at;) {
        struct entry *entry = *at;
        if (entry->is_seen) {
            at = &entry->next;
            continue;
        }
        *at = entry->next;
        entry->next = gone;
        gone = entry;
    }
    pthread_mutex_unlock(&administration->lock);
    for (struct entry *next; gone; gone = next) {
        next = gone->next;
        tell_jobs(mirrors, gone->work.job.domain);
        free(gone);
    }
}

static void forget_seen(struct mirrors *mirrors)
{
    pthread_mutex_lock(&mirrors->administration->lock);
    for (struct entry *entry = mirrors->entries; entry; entry = entry->next)
        entry->is_seen = false;
    pthread_mutex_unlock(&mirrors->administration->lock);
}

static void set_seen(struct mirrors *mirrors, uint64_t domain, const struct disk *disk)
{
    mirrors_note(mirrors, domain, disk, disk->mirror, disk->mirror_operation);
    pthread_mutex_lock(&mirrors->administration->lock);
    struct entry *entry = find_locked(mirrors, domain, disk->mirror_operation, disk->position);
    if (entry)
        entry->is_seen = true;
    pthread_mutex_unlock(&mirrors->administration->lock);
}

/* True: there are any. */
static bool look(struct mirrors *mirrors)
{
    /* Marked before the catalog is taken: what is noted meanwhile counts as seen. */
    forget_seen(mirrors);
    struct catalog *catalog = catalog_service_get(mirrors->administration->catalog);
    bool any = false;
    for (size_t i = 0; i < catalog->domain_count; i++) {
        const struct domain *domain = catalog->domains[i];
        bool has = false;
        for (size_t j = 0; j < domain->disk_count; j++)
            if (domain->disks[j].mirror) {
                set_seen(mirrors, domain->serial, &domain->disks[j]);
                has = true;
            }
        any |= has;
        if (has && look_at(mirrors, domain))
            settle(mirrors, domain->serial);
    }
    catalog_put(catalog);
    prune(mirrors);
    return any;
}

/* ---- The thread ---- */

static bool rest(struct mirrors *mirrors, unsigned ms)
{
    const struct timespec until = monotonic_in(ms);
    struct background *background = &mirrors->background;
    pthread_mutex_lock(&background->lock);
    while (!mirrors->is_woken && !background->is_stopping &&
           pthread_cond_timedwait(&background->changed, &background->lock, &until) == 0)
        continue;
    mirrors->is_woken = false;
    bool goes_on = !background->is_stopping;
    pthread_mutex_unlock(&background->lock);
    return goes_on;
}

static void *thread_run(void *opaque)
{
    struct mirrors *mirrors = opaque;
    unsigned pause = 0;
    while (rest(mirrors, pause))
        pause = look(mirrors) ? LOOK_MS : IDLE_MS;
    return NULL;
}

int mirrors_new(struct administration *administration, struct mirrors **mirrors, struct error *err)
{
    struct mirrors *made = calloc(1, sizeof *made);
    if (!made)
        return error_set(err, ENOMEM, "out of memory");
    made->administration = administration;
    background_init(&made->background);
    *mirrors = made;
    return 0;
}

int mirrors_start(struct mirrors *mirrors, struct error *err)
{
    return background_start(&mirrors->background, thread_run, mirrors, err);
}

void mirrors_stop(struct mirrors *mirrors)
{
    if (mirrors)
        background_stop(&mirrors->background);
}

void mirrors_free(struct mirrors *mirrors)
{
    if (!mirrors)
        return;
    for (struct entry *entry = mirrors->entries, *next; entry; entry = next) {
        next = entry->next;
        free(entry);
    }
    background_done(&mirrors->background);
    free(mirrors);
}

void mirrors_wake(struct mirrors *mirrors)
{
    if (mirrors)
        background_set(&mirrors->background, &mirrors->is_woken);
}
