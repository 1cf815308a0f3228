// SPDX-License-Identifier: LGPL-2.1-or-later
/* See thaws.h. */
#include "administration/thaws.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/background.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "domain/name.h"
#include "hypervisor/deadline.h"
#include "hypervisor/guest_agent.h"
#include "hypervisor/unix_socket.h"

#define ANSWER_MS      5000
#define RETRY_FIRST_MS 500
#define RETRY_MAX_MS   10000

struct debt {
    struct debt *next;
    struct thaw_owed owed;
    int64_t due_ms; /* of monotonic_ms */
    unsigned pause_ms;
    bool is_saved, is_logged, is_told;
    bool is_busy; /* somebody waits for its agent: only who set this changes or frees the debt */
};

struct thaws {
    struct administration *administration;
    struct background background; /* its lock is taken inside of no other, and none inside of it */
    struct debt *debts;           /* protected by that, but for those that are busy */
};

/* ---- One guest ---- */

struct file_identity thaws_identify(const char *monitor)
{
    struct stat file;
    return *monitor && stat(monitor, &file) == 0 ? file_identity_of(&file) : (struct file_identity){0};
}

static enum machine_contact contact_of(struct administration *administration, uint64_t domain)
{
    struct machine_report report;
    return machines_report(administration->options.machines, domain, &report) ? report.contact : MACHINE_OFF;
}

/* Has the QEMU ended that the guest ran in? */
static bool has_ended(struct administration *administration, const struct thaw_owed *owed)
{
    struct file_identity now = thaws_identify(owed->monitor);
    if (owed->socket.inode && now.inode &&
        (now.inode != owed->socket.inode || now.mtime_sec != owed->socket.mtime_sec ||
         now.mtime_nsec != owed->socket.mtime_nsec))
        return true;
    enum machine_contact contact = contact_of(administration, owed->domain);
    if (contact == MACHINE_CONNECTED || contact == MACHINE_SILENT)
        return false;
    if (!*owed->monitor)
        return contact == MACHINE_OFF;
    cleanup_close int fd = -1;
    int r = unix_socket_connect(owed->monitor, "QEMU", ANSWER_MS, &fd, NULL);
    return r == -ENOENT || r == -ECONNREFUSED;
}

/* 0: it has thawed. 1: its QEMU has ended. */
static int attempt(struct administration *administration, const struct thaw_owed *owed, struct error *err)
{
    struct guest_agent *agent = NULL;
    int64_t deadline = deadline_in(ANSWER_MS);
    if (has_ended(administration, owed))
        return 1;
    int r = guest_agent_connect(owed->agent, "its agent", ANSWER_MS, &agent, err);
    if (r == 0)
        r = guest_agent_thaw(agent, deadline_left_ms(deadline), NULL, err);
    guest_agent_free(agent);
    return r;
}

/* ---- Telling ---- */

static void name_of(struct administration *administration, uint64_t domain, char name[NAME_BYTES_MAX + 1])
{
    snprintf(name, NAME_BYTES_MAX + 1, "the domain with serial number %" PRIu64, domain);
    if (!administration->catalog)
        return;
    struct catalog *catalog = catalog_service_get(administration->catalog);
    const struct catalog_entry *found = catalog_find_serial(catalog, domain);
    if (found && !found->snapshot)
        snprintf(name, NAME_BYTES_MAX + 1, "%s", found->domain->name);
    catalog_put(catalog);
}

static void tell_owed(struct thaws *thaws, struct debt *debt, const char *why)
{
    char name[NAME_BYTES_MAX + 1];
    if (!debt->is_logged) {
        name_of(thaws->administration, debt->owed.domain, name);
        log_error("%s: its file systems may still be frozen: %s; it is told to thaw them until it answers",
                  name, why);
        debt->is_logged = true;
    }
    if (debt->is_told || !thaws->administration->catalog) /* nobody is there yet who reads events */
        return;
    administration_event(thaws->administration, debt->owed.domain,
                         "its file systems may still be frozen: %s; it is told to thaw them until it answers",
                         why);
    debt->is_told = true;
}

static void tell_paid(struct thaws *thaws, const struct debt *debt, bool has_ended)
{
    char name[NAME_BYTES_MAX + 1];
    const char *text =
        has_ended ? "its QEMU has ended, so that nothing is frozen any more" : "its file systems are thawed";
    if (!debt->is_logged && !debt->is_saved)
        return;
    name_of(thaws->administration, debt->owed.domain, name);
    log_info("%s: %s", name, text);
    administration_event(thaws->administration, debt->owed.domain, "%s", text);
}

/* ---- Debts ---- */

static void debt_free(struct debt *debt)
{
    thaw_owed_done(&debt->owed);
    free(debt);
}

static void save(struct thaws *thaws, struct debt *debt)
{
    struct error why;
    if (debt->is_saved)
        return;
    debt->is_saved = store_save_thaw(thaws->administration->options.store, &debt->owed, &why) == 0;
    if (!debt->is_saved)
        log_warning("that a guest is to be thawed can't be saved: %s", why.text);
}

/* Of who has made it busy. False: it is over, and freed. */
static bool try(struct thaws *thaws, struct debt *debt, struct error *err)
{
    struct error why = {0};
    int r = attempt(thaws->administration, &debt->owed, &why);
    if (r < 0) {
        save(thaws, debt);
        tell_owed(thaws, debt, why.text);
        error_set(err, why.code, "%s", why.text);
    } else {
        tell_paid(thaws, debt, r > 0);
        if (debt->is_saved &&
            store_remove_thaw(thaws->administration->options.store, debt->owed.domain, &why) < 0)
            log_warning("%s", why.text);
    }
    pthread_mutex_lock(&thaws->background.lock);
    debt->is_busy = false;
    debt->pause_ms = debt->pause_ms ? debt->pause_ms * 2 : RETRY_FIRST_MS;
    if (debt->pause_ms > RETRY_MAX_MS)
        debt->pause_ms = RETRY_MAX_MS;
    debt->due_ms = monotonic_ms() + debt->pause_ms;
    for (struct debt **at = &thaws->debts; r >= 0 && *at; at = &(*at)->next)
        if (*at == debt) {
            *at = debt->next;
            break;
        }
    pthread_cond_broadcast(&thaws->background.changed);
    pthread_mutex_unlock(&thaws->background.lock);
    if (r >= 0)
        debt_free(debt);
    return r < 0;
}

/* The debt of the domain, not busy; NULL: there is none. */
static struct debt *find_locked(struct thaws *thaws, uint64_t domain)
{
    for (;;) {
        struct debt *debt = thaws->debts;
        while (debt && debt->owed.domain != domain)
            debt = debt->next;
        if (!debt || !debt->is_busy)
            return debt;
        pthread_cond_wait(&thaws->background.changed, &thaws->background.lock);
    }
}

static struct debt *debt_new(const struct thaw_owed *owed)
{
    struct debt *debt = calloc(1, sizeof *debt);
    if (!debt)
        return NULL;
    debt->owed = *owed;
    debt->owed.agent = strdup(owed->agent);
    debt->owed.monitor = strdup(owed->monitor);
    if (debt->owed.agent && debt->owed.monitor)
        return debt;
    debt_free(debt);
    return NULL;
}

void thaws_owe(struct thaws *thaws, const struct thaw_owed *owed)
{
    struct debt *debt = debt_new(owed);
    if (!debt) {
        log_error("out of memory: a guest may stay frozen");
        return;
    }
    debt->is_busy = true;
    pthread_mutex_lock(&thaws->background.lock);
    struct debt *earlier = find_locked(thaws, owed->domain), **at = &thaws->debts;
    while (earlier && *at != earlier)
        at = &(*at)->next;
    if (earlier) { /* of the same QEMU, or of one that has ended */
        *at = earlier->next;
        debt->is_logged = earlier->is_logged;
        debt->is_told = earlier->is_told;
    }
    debt->next = thaws->debts;
    thaws->debts = debt;
    pthread_mutex_unlock(&thaws->background.lock);
    if (earlier) {
        save(thaws, debt); /* over what is saved of the earlier one */
        debt_free(earlier);
    }
    try(thaws, debt, NULL);
}

int thaws_pay(struct thaws *thaws, uint64_t domain, struct error *err)
{
    struct error why;
    pthread_mutex_lock(&thaws->background.lock);
    struct debt *debt = find_locked(thaws, domain);
    if (debt)
        debt->is_busy = true;
    pthread_mutex_unlock(&thaws->background.lock);
    if (!debt || !try(thaws, debt, &why))
        return 0;
    return error_set(err, why.code, "they may still be frozen for an earlier snapshot: %s", why.text);
}

/* ---- The thread ---- */

/* The next one whose time has come, which is busy then; NULL: the thread is to end. */
static struct debt *next_due(struct thaws *thaws)
{
    struct debt *due = NULL;
    pthread_mutex_lock(&thaws->background.lock);
    while (!thaws->background.is_stopping && !due) {
        int64_t now = monotonic_ms(), soonest = INT64_MAX;
        for (struct debt *debt = thaws->debts; debt; debt = debt->next)
            if (!debt->is_busy && debt->due_ms < soonest) {
                soonest = debt->due_ms;
                due = debt;
            }
        if (due && soonest <= now)
            break;
        due = NULL;
        const struct timespec until = monotonic_in(soonest == INT64_MAX ? 0 : (unsigned)(soonest - now));
        if (soonest == INT64_MAX)
            pthread_cond_wait(&thaws->background.changed, &thaws->background.lock);
        else
            pthread_cond_timedwait(&thaws->background.changed, &thaws->background.lock, &until);
    }
    if (due)
        due->is_busy = true;
    pthread_mutex_unlock(&thaws->background.lock);
    return due;
}

static void *thread_run(void *opaque)
{
    struct thaws *thaws = opaque;
    for (struct debt *debt; (debt = next_due(thaws));)
        try(thaws, debt, NULL);
    return NULL;
}

/* ---- Beginning and end ---- */

static int read_all(struct thaws *thaws, struct error *err)
{
    struct store *store = thaws->administration->options.store;
    cleanup_free uint64_t *domains = NULL;
    size_t count;
    int r = store_list_thaws(store, &domains, &count);
    if (r < 0)
        return error_set(err, -r, "which guests are to be thawed can't be read: %s", strerror(-r));
    for (size_t i = 0; i < count; i++) {
        struct debt *debt = calloc(1, sizeof *debt);
        struct error why;
        if (!debt)
            return error_set(err, ENOMEM, "out of memory");
        if (store_read_thaw(store, domains[i], &debt->owed, &why) < 0) {
            log_error("%s", why.text);
            free(debt);
            continue;
        }
        debt->is_saved = true;
        debt->next = thaws->debts;
        thaws->debts = debt;
    }
    return 0;
}

int thaws_new(struct administration *administration, struct thaws **thaws, struct error *err)
{
    struct thaws *made = calloc(1, sizeof *made);
    if (!made)
        return error_set(err, ENOMEM, "out of memory");
    made->administration = administration;
    background_init(&made->background);
    int r = read_all(made, err);
    if (r < 0) {
        thaws_free(made);
        return r;
    }
    *thaws = made;
    return 0;
}

int thaws_start(struct thaws *thaws, struct error *err)
{
    return background_start(&thaws->background, thread_run, thaws, err);
}

void thaws_stop(struct thaws *thaws)
{
    if (thaws)
        background_stop(&thaws->background);
}

void thaws_free(struct thaws *thaws)
{
    if (!thaws)
        return;
    background_done(&thaws->background);
    for (struct debt *debt = thaws->debts, *next; debt; debt = next) {
        next = debt->next;
        debt_free(debt);
    }
    free(thaws);
}
