// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Publishing catalogs, and looking for what has changed; see catalog.h.
 *
 * Only one thread ever looks: who makes the service, then the watcher's. What it scans is its own. The
 * members and the store are also changed by those who administer domains (catalog_hold.c), under
 * `members_lock`. The other lock is for taking a reference to the catalog while another one is put in its
 * place.
 */
#include "catalog/catalog.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "catalog/discover.h"
#include "catalog/scan.h"
#include "catalog/service.h"

#define INTERVAL_MS 1000

/* What was counted is saved when this much is, or after this many seconds. */
#define SAVE_COUNTED 256
#define SAVE_SECONDS 2

/* Looking takes at most a twentieth of one processor, however many files come and go, as long as it is not so
 * slow that what others do would show up too late. */
#define REST_FACTOR 19
#define REST_MAX_MS 1000

/* Looks that are begun again because another mount wrote to the store meanwhile. */
#define MOVED_TRIES 10

/* ---- Catalogs ---- */

void catalog_put(struct catalog *catalog)
{
    if (!catalog || atomic_fetch_sub(&catalog->references, 1) != 1)
        return;
    for (size_t i = 0; i < catalog->domain_count; i++)
        domain_unref(catalog->domains[i]);
    free(catalog->domains);
    free(catalog->by_serial);
    free(catalog);
}

static int compare_entry(const void *left, const void *right)
{
    const struct catalog_entry *a = left, *b = right;
    return a->serial < b->serial ? -1 : a->serial > b->serial;
}

static struct catalog *catalog_new(const struct members *members)
{
    size_t entries = 0;
    for (size_t i = 0; i < members->count; i++)
        entries += members->list[i].domain->snapshot_count + 1;
    struct catalog *catalog = calloc(1, sizeof *catalog);
    if (!catalog)
        return NULL;
    atomic_init(&catalog->references, 1);
    catalog->domains = calloc(members->count + 1, sizeof *catalog->domains);
    catalog->by_serial = calloc(entries + 1, sizeof *catalog->by_serial);
    if (!catalog->domains || !catalog->by_serial) {
        catalog_put(catalog);
        return NULL;
    }
    for (size_t i = 0; i < members->count; i++) {
        struct domain *domain = domain_ref(members->list[i].domain);
        catalog->domains[catalog->domain_count++] = domain;
        catalog->by_serial[catalog->entry_count++] = (struct catalog_entry){domain->serial, domain, NULL};
        for (size_t j = 0; j < domain->snapshot_count; j++)
            catalog->by_serial[catalog->entry_count++] =
                (struct catalog_entry){domain->snapshots[j]->serial, domain, domain->snapshots[j]};
    }
    qsort(catalog->by_serial, catalog->entry_count, sizeof *catalog->by_serial, compare_entry);
    return catalog;
}

struct domain *catalog_find_domain(const struct catalog *catalog, const char *name)
{
    size_t low = 0, high = catalog->domain_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, catalog->domains[middle]->name);
        if (order == 0)
            return catalog->domains[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const struct catalog_entry *catalog_find_serial(const struct catalog *catalog, uint64_t serial)
{
    const struct catalog_entry wanted = {.serial = serial};
    return bsearch(&wanted, catalog->by_serial, catalog->entry_count, sizeof wanted, compare_entry);
}

struct catalog *catalog_service_get(struct catalog_service *service)
{
    pthread_mutex_lock(&service->lock);
    struct catalog *catalog = service->catalog;
    atomic_fetch_add(&catalog->references, 1);
    pthread_mutex_unlock(&service->lock);
    return catalog;
}

int catalog_publish(struct catalog_service *service, struct error *err)
{
    struct catalog *after = catalog_new(&service->members);
    if (!after)
        return error_set(err, ENOMEM, "%s", strerror(ENOMEM));
    pthread_mutex_lock(&service->lock);
    struct catalog *before = service->catalog;
    service->catalog = after;
    pthread_mutex_unlock(&service->lock);
    if (before && service->options.changed)
        service->options.changed(service->options.opaque, before, after);
    catalog_put(before);
    if (service->usage)
        usage_wake(service->usage);
    return 0;
}

/* ---- Looking ---- */

/* What a scan shows becomes the members, and is published if it is not what was there. */
static int take_scan(struct catalog_service *service, struct scan *scan, uint64_t changes,
                     struct notices *notices, bool *passed_over, struct error *err)
{
    struct discovery discovery = {0};
    size_t state_count = 0;
    bool changed = false;
    members_take_counts(&service->members);
    cleanup_free struct state_domain **states = members_states(&service->members, &state_count);
    const struct discover_input input = {
        .scan = scan, .states = states, .state_count = state_count, .notices = notices};
    int r = states ? discover(&input, &discovery) : -ENOMEM;
    if (r < 0)
        error_set(err, -r, "%s", strerror(-r));
    else
        r = members_update(&service->members, locate_source(service->options.locate), &discovery, changes,
                           &changed, passed_over, err);
    if (r == 0) {
        free(service->contended);
        service->contended = steal_pointer(discovery.contended);
        service->contended_count = discovery.contended_count;
    }
    discovery_done(&discovery);
    for (size_t i = 0; r == 0 && i < service->members.count; i++) {
        const struct domain *domain = service->members.list[i].domain;
        if (domain->problem)
            notices_add(notices, LOG_LEVEL_WARNING, "%s: %s", domain->name, domain->problem);
    }
    if (r == 0)
        members_save(&service->members);
    return r == 0 && (changed || !service->catalog) ? catalog_publish(service, err) : r;
}

/* The images that the store knows of administered domains. The caller frees. */
static int known_images(struct catalog_service *service, char ***known, char ***raw)
{
    size_t count = 0;
    int r = 0;
    cleanup_free struct state_domain **states = members_states(&service->members, &count);
    for (size_t i = 0; states && r == 0 && i < count; i++)
        r = catalog_known_images(locate_source(service->options.locate), states[i], known, raw);
    return states ? r : -ENOMEM;
}

/* Looks once. `*again`, where that may be: another mount has written to the store meanwhile, so what was seen
 * of the files may not be what the states tell of, and is not shown. */
static int look_once(struct catalog_service *service, bool *passed_over, bool *again, struct error *err)
{
    const struct locate *locate = service->options.locate;
    struct scan *scan = NULL;
    struct notices notices = {0};
    cleanup(state_paths_free) char **known = NULL, **raw = NULL;

    pthread_mutex_lock(&service->members_lock);
    uint64_t changes = service->members.changes, number = ++service->looks_begun;
    int r = store_has_moved(service->options.store) ? members_reload(&service->members, err) : 0;
    if (r == 0 && known_images(service, &known, &raw) < 0)
        r = error_set(err, ENOMEM, "%s", strerror(ENOMEM));
    pthread_mutex_unlock(&service->members_lock);
    const struct scan_scope scope = {.known = known, .raw = raw};
    r = r < 0 ? r : scan_new(locate, service->directory, service->scan, &scope, &notices, &scan, err);
    for (size_t i = 0; r == 0 && i < scan->image_count; i++)
        if (scan->images[i]->is_remote)
            scan->images[i]->size = remote_sizes_get(&service->remote_sizes, scan->images[i]->path);
    *again &= r == 0 && store_has_moved(service->options.store);

    pthread_mutex_lock(&service->members_lock);
    if (r == 0 && !*again)
        r = take_scan(service, scan, changes, &notices, passed_over, err);
    if (r == 0 && !*again) {
        struct scan *old = service->scan;
        service->scan = scan;
        scan = old;
    }
    if (r == 0 && !*again)
        store_is_shown(service->options.store);
    if (!*again)
        service->looks_ended = number;
    pthread_cond_broadcast(&service->looked);
    pthread_mutex_unlock(&service->members_lock);
    scan_free(scan);
    if (r == 0 && !*again) {
        notices_log(&notices, &service->notices);
        notices_done(&service->notices);
        service->notices = notices;
    } else {
        notices_done(&notices);
    }
    return r;
}

static int look(struct catalog_service *service, bool *passed_over, struct error *err)
{
    bool again = true;
    int r = 0;
    for (unsigned left = MOVED_TRIES; r == 0 && again; left--) {
        again = left > 1;
        r = look_once(service, passed_over, &again, err);
    }
    return r;
}

/* Was an overlay written to after the one that was taken for active? */
static bool another_is_newer(const struct catalog_service *service)
{
    for (size_t i = 0; i < service->contended_count; i++) {
        const struct file_identity *chosen = &service->contended[i].chosen->identity;
        const struct file_identity *other = &service->contended[i].other->identity;
        if (other->mtime_sec > chosen->mtime_sec ||
            (other->mtime_sec == chosen->mtime_sec && other->mtime_nsec > chosen->mtime_nsec))
            return true;
    }
    return false;
}

static void save_counted(struct catalog_service *service, bool now)
{
    unsigned counted = atomic_load(&service->counted);
    time_t time_now = time(NULL);
    if (counted == 0 || (!now && counted < SAVE_COUNTED && time_now < service->saved_at + SAVE_SECONDS))
        return;
    atomic_fetch_sub(&service->counted, counted);
    service->saved_at = time_now;
    pthread_mutex_lock(&service->members_lock);
    members_take_counts(&service->members);
    members_save(&service->members);
    pthread_mutex_unlock(&service->members_lock);
}

static bool is_waited_for(struct catalog_service *service)
{
    pthread_mutex_lock(&service->members_lock);
    bool waited_for = service->looks_ended < service->look_wanted;
    pthread_mutex_unlock(&service->members_lock);
    return waited_for;
}

static void *watcher_run(void *opaque)
{
    struct catalog_service *service = opaque;
    bool passed_over = false; /* the last look left some domain as it was, since it was being changed */
    for (;;) {
        unsigned reasons = watch_wait(service->watch);
        if (reasons & WATCH_STOP)
            break;
        bool learned = remote_sizes_take_new(&service->remote_sizes);
        if (!learned && !passed_over && !service->look_failed && !is_waited_for(service) &&
            !(reasons & WATCH_NAMES) && !store_has_moved(service->options.store) &&
            !scan_moved(service->scan, reasons & WATCH_HINT) && !another_is_newer(service)) {
            save_counted(service, false);
            continue;
        }
        struct error why;
        int64_t started = monotonic_ms();
        passed_over = false;
        int r = look(service, &passed_over, &why);
        if (r < 0 && !service->look_failed)
            log_error("what has changed in the source is not shown: %s", why.text);
        service->look_failed = r < 0; /* so that what it was to find out is looked for again */
        int64_t rest = (monotonic_ms() - started) * REST_FACTOR;
        watch_rest(service->watch, rest < REST_MAX_MS ? (unsigned)rest : REST_MAX_MS);
    }
    pthread_mutex_lock(&service->members_lock);
    service->looks_ended = UINT64_MAX; /* nobody waits any more */
    pthread_cond_broadcast(&service->looked);
    pthread_mutex_unlock(&service->members_lock);
    return NULL;
}

/* ---- The service ---- */

int catalog_service_new(const struct catalog_options *options, struct catalog_service **service,
                        struct error *err)
{
    struct catalog_service *made = calloc(1, sizeof *made);
    if (!made)
        return error_set(err, ENOMEM, "%s", strerror(ENOMEM));
    made->options = *options;
    pthread_mutex_init(&made->lock, NULL);
    pthread_mutex_init(&made->members_lock, NULL);
    pthread_cond_init(&made->looked, NULL);
    remote_sizes_init(&made->remote_sizes);
    const char *source = locate_source(options->locate);
    made->directory = open(source, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool passed_over = false;
    int r = made->directory < 0 ? error_set(err, errno, "%s: %s", source, strerror(errno)) : 0;
    if (r == 0)
        r = members_init(&made->members, options->store, err);
    if (r == 0)
        r = look(made, &passed_over, err);
    if (r < 0) {
        catalog_service_free(made);
        return r;
    }
    *service = made;
    return 0;
}

static void note_counted(void *opaque, const struct domain *domain, const struct snapshot *snapshot,
                         const struct frozen *frozen)
{
    struct catalog_service *service = opaque;
    atomic_fetch_add(&service->counted, 1);
    if (service->options.counted)
        service->options.counted(service->options.opaque, domain, snapshot, frozen);
}

int catalog_service_start(struct catalog_service *service, struct error *err)
{
    const struct catalog_options *options = &service->options;
    int r = watch_new(service->directory, options->interval_ms ? options->interval_ms : INTERVAL_MS,
                      &service->watch, err);
    if (r < 0)
        return r;
    if (options->count_usage) {
        r = usage_new(service, options->locate, options->cache, note_counted, service, &service->usage, err);
        if (r < 0)
            return r;
    }
    service->saved_at = time(NULL);
    /* What came between the first look and now was before inotify. */
    watch_hint(service->watch);
    int code = pthread_create(&service->watcher, NULL, watcher_run, service);
    if (code)
        return error_set(err, code, "starting a thread: %s", strerror(code));
    service->watching = true;
    return 0;
}

void catalog_service_free(struct catalog_service *service)
{
    if (!service)
        return;
    if (service->watching) {
        watch_stop(service->watch);
        pthread_join(service->watcher, NULL);
    }
    usage_free(service->usage);
    if (service->members.store)
        save_counted(service, true);
    watch_free(service->watch);
    catalog_put(service->catalog);
    members_done(&service->members);
    scan_free(service->scan);
    free(service->contended);
    notices_done(&service->notices);
    remote_sizes_done(&service->remote_sizes);
    if (service->directory >= 0)
        close(service->directory);
    pthread_cond_destroy(&service->looked);
    pthread_mutex_destroy(&service->members_lock);
    pthread_mutex_destroy(&service->lock);
    free(service);
}

void catalog_service_hint(struct catalog_service *service)
{
    if (service->watch)
        watch_hint(service->watch);
}

void catalog_service_learn_size(struct catalog_service *service, const char *network_name, uint64_t bytes)
{
    remote_sizes_learn(&service->remote_sizes, network_name, bytes);
    catalog_service_hint(service);
}
