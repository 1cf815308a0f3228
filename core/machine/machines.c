// SPDX-License-Identifier: LGPL-2.1-or-later
/* See machines.h. */
#include "machine/machines.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/background.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "machine/guest.h"
#include "machine/machine_inside.h"
#include "machine/runtime.h"

#define VISIT_MS 1000
#define END_MS   10000

struct machines {
    struct machines_options options;
    struct runtime *runtime;
    struct background background; /* its lock protects what follows; a machine's may be taken inside */
    struct machine **list;        /* by serial number of the domain; one reference each */
    size_t count;
    struct machine **gone; /* of domains that are no more: to be ended, which takes time */
    size_t gone_count;
};

static bool has_machine(const struct domain *domain)
{
    return domain->qmp || domain->launch;
}

static int compare(const void *left, const void *right)
{
    uint64_t a = machine_domain(*(struct machine *const *)left),
             b = machine_domain(*(struct machine *const *)right);
    return a < b ? -1 : a > b;
}

static struct machine **find_locked(const struct machines *machines, uint64_t domain)
{
    size_t low = 0, high = machines->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        uint64_t found = machine_domain(machines->list[middle]);
        if (found == domain)
            return &machines->list[middle];
        if (found < domain)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* ---- Following the catalog ---- */

static void retire_locked(struct machines *machines, struct machine *machine)
{
    machine_stop(machine);
    struct machine **grown = realloc(machines->gone, (machines->gone_count + 1) * sizeof *grown);
    if (!grown)
        return; /* it is lost, stopped */
    machines->gone = grown;
    grown[machines->gone_count++] = machine;
}

/* The machine of the domain, which it had before or gets now: a reference. */
static struct machine *take_locked(struct machines *machines, const struct domain *domain)
{
    struct machine **old = find_locked(machines, domain->serial);
    cleanup_free char *directory = old ? NULL : runtime_guest(machines->runtime, domain->serial);
    const struct machine_options options = {
        .domain = domain->serial,
        .name = domain->name,
        .directory = directory,
        .changed = machines->options.changed,
        .opaque = machines->options.opaque,
    };
    struct machine *machine = old ? machine_ref(*old) : machine_new(&options);
    if (machine && machine_set_monitor(machine, domain->qmp) < 0)
        log_error("%s: out of memory", domain->name);
    return machine;
}

void machines_follow(struct machines *machines, struct domain *const *domains, size_t count)
{
    struct machine **list = calloc(count ? count : 1, sizeof *list);
    size_t kept = 0;
    if (!list)
        return;
    pthread_mutex_lock(&machines->background.lock);
    for (size_t i = 0; i < count && !machines->background.is_stopping; i++)
        if (has_machine(domains[i]) && (list[kept] = take_locked(machines, domains[i])))
            kept++;
    qsort(list, kept, sizeof *list, compare);
    struct machine **before = machines->list;
    size_t before_count = machines->count;
    machines->list = list;
    machines->count = kept;
    for (size_t i = 0; i < before_count; i++) {
        if (find_locked(machines, machine_domain(before[i])))
            machine_unref(before[i]); /* not the last one */
        else
            retire_locked(machines, before[i]);
    }
    pthread_cond_signal(&machines->background.changed);
    pthread_mutex_unlock(&machines->background.lock);
    free(before);
}

/* ---- Looking ---- */

/* With the lock held, which is given up meanwhile. */
static void visit_all(struct machines *machines)
{
    size_t count = machines->count;
    cleanup_free struct machine **list = calloc(count ? count : 1, sizeof *list);
    cleanup_free struct machine **gone = steal_pointer(machines->gone);
    size_t gone_count = machines->gone_count;
    machines->gone_count = 0;
    for (size_t i = 0; list && i < count; i++)
        list[i] = machine_ref(machines->list[i]);
    pthread_mutex_unlock(&machines->background.lock);
    for (size_t i = 0; i < gone_count; i++)
        machine_unref(gone[i]);
    for (size_t i = 0; list && i < count; i++) {
        machine_visit(list[i]);
        machine_unref(list[i]);
    }
    pthread_mutex_lock(&machines->background.lock);
}

static void *thread_run(void *opaque)
{
    struct machines *machines = opaque;
    pthread_mutex_lock(&machines->background.lock);
    while (!machines->background.is_stopping) {
        if (machines->count || machines->gone_count) {
            const struct timespec until = monotonic_in(VISIT_MS);
            pthread_cond_timedwait(&machines->background.changed, &machines->background.lock, &until);
        } else {
            pthread_cond_wait(&machines->background.changed, &machines->background.lock);
        }
        if (!machines->background.is_stopping)
            visit_all(machines);
    }
    pthread_mutex_unlock(&machines->background.lock);
    return NULL;
}

/* ---- Making and ending ---- */

int machines_new(const struct machines_options *options, struct machines **machines, struct error *err)
{
    struct machines *made = calloc(1, sizeof *made);
    if (!made)
        return error_set(err, ENOMEM, "out of memory");
    made->options = *options;
    int rc = runtime_new(options->source, &made->runtime, err);
    if (rc < 0) {
        free(made);
        return rc;
    }
    background_init(&made->background);
    *machines = made;
    return 0;
}

int machines_start(struct machines *machines, struct error *err)
{
    pthread_mutex_lock(&machines->background.lock);
    visit_all(machines);
    pthread_mutex_unlock(&machines->background.lock);
    /* Of domains that are no more. */
    runtime_each(machines->runtime, guest_sweep);
    return background_start(&machines->background, thread_run, machines, err);
}

void machines_stop(struct machines *machines)
{
    if (!machines)
        return;
    pthread_mutex_lock(&machines->background.lock);
    machines->background.is_stopping = true;
    for (size_t i = 0; i < machines->count; i++)
        machine_stop(machines->list[i]);
    pthread_mutex_unlock(&machines->background.lock);
    background_stop(&machines->background);
}

void machines_free(struct machines *machines)
{
    if (!machines)
        return;
    machines_stop(machines);
    for (size_t i = 0; i < machines->count; i++)
        machine_unref(machines->list[i]);
    for (size_t i = 0; i < machines->gone_count; i++)
        machine_unref(machines->gone[i]);
    free(machines->list);
    free(machines->gone);
    runtime_free(machines->runtime);
    background_done(&machines->background);
    free(machines);
}

struct machine *machines_get(struct machines *machines, uint64_t domain)
{
    if (!machines)
        return NULL;
    pthread_mutex_lock(&machines->background.lock);
    struct machine **found = find_locked(machines, domain);
    struct machine *machine = found ? machine_ref(*found) : NULL;
    pthread_mutex_unlock(&machines->background.lock);
    return machine;
}

int machines_end_guest(struct machines *machines, uint64_t domain, struct error *err)
{
    struct machine *machine = machines_get(machines, domain);
    cleanup_free char *directory = machines ? runtime_guest(machines->runtime, domain) : NULL;
    int rc = 0;
    /* The thread that watches it buries it. */
    if (machine && machine_kill(machine, NULL) == 0)
        rc = machine_await_off(machine, END_MS, err);
    else if (directory)
        rc = machine_end_guest(directory, err);
    machine_unref(machine);
    return rc;
}

bool machines_report(struct machines *machines, uint64_t domain, struct machine_report *report)
{
    struct machine *machine = machines_get(machines, domain);
    if (!machine)
        return false;
    machine_report(machine, report);
    machine_unref(machine);
    return true;
}
