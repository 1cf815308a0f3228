// SPDX-License-Identifier: LGPL-2.1-or-later
/* Counting in the background; see usage.h. */
#include "catalog/usage.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "catalog/number_set.h"
#include "image/frozen_disk.h"

/* ioprio_set(2), which has no header. */
#define IOPRIO_WHO_PROCESS 1
#define IOPRIO_IDLE        (3 << 13)

struct usage {
    struct catalog_service *service;
    struct frozen_disk_env env;
    catalog_counted counted;
    void *opaque;
    pthread_t thread;
    atomic_bool stop;
    pthread_mutex_t lock; /* protects `woken` */
    pthread_cond_t wake;
    bool woken;
    struct number_set hopeless; /* what is not tried again; the thread's own */
};

/* A frozen disk, for the set: serials have 48 bits, positions 10. */
static uint64_t number_of(const struct snapshot *snapshot, const struct frozen *frozen)
{
    return snapshot->serial << 10 | frozen->disk->position;
}

static void count(struct usage *usage, const struct domain *domain, const struct snapshot *snapshot,
                  struct frozen *frozen)
{
    struct frozen_disk *disk;
    struct error why = {0};
    uint64_t bytes;
    if (frozen_needs_helper(
            frozen)) { /* not even opened: nobody has asked to start a helper, or to connect */
        number_set_add(&usage->hopeless, number_of(snapshot, frozen));
        return;
    }
    int r = frozen_disk_open(&usage->env, domain, frozen, &disk, &why);
    if (r == 0) {
        r = frozen_disk_is_slow(disk) ? -EOPNOTSUPP : frozen_disk_count_allocated(disk, &usage->stop, &bytes);
        frozen_disk_free(disk);
    }
    if (r == 0) {
        atomic_store(&frozen->allocated, bytes);
        if (usage->counted)
            usage->counted(usage->opaque, domain, snapshot, frozen);
    } else if (r != -ECANCELED) {
        log_debug("%s: %s of snapshot %s is not counted: %s", domain->name, frozen->disk->target,
                  snapshot->name, why.text[0] ? why.text : strerror(-r));
        number_set_add(&usage->hopeless, number_of(snapshot, frozen));
    }
}

static void count_all(struct usage *usage, const struct catalog *catalog)
{
    for (size_t i = 0; i < catalog->domain_count; i++) {
        const struct domain *domain = catalog->domains[i];
        for (size_t j = 0; j < domain->snapshot_count; j++) {
            const struct snapshot *snapshot = domain->snapshots[j];
            for (size_t k = 0; k < snapshot->frozen_count; k++) {
                struct frozen *frozen = &snapshot->frozen[k];
                if (atomic_load(&usage->stop))
                    return;
                if (atomic_load(&frozen->allocated) == ALLOCATED_UNKNOWN &&
                    !number_set_has(&usage->hopeless, number_of(snapshot, frozen)))
                    count(usage, domain, snapshot, frozen);
            }
        }
    }
}

static void *run(void *opaque)
{
    struct usage *usage = opaque;
    /* Both are best effort: counting must not be noticed. */
    syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE);
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19);
    while (!atomic_load(&usage->stop)) {
        struct catalog *catalog = catalog_service_get(usage->service);
        count_all(usage, catalog);
        catalog_put(catalog);
        pthread_mutex_lock(&usage->lock);
        while (!usage->woken && !atomic_load(&usage->stop))
            pthread_cond_wait(&usage->wake, &usage->lock);
        usage->woken = false;
        pthread_mutex_unlock(&usage->lock);
    }
    return NULL;
}

int usage_new(struct catalog_service *service, const struct locate *locate, struct cache *cache,
              catalog_counted counted, void *opaque, struct usage **usage, struct error *err)
{
    struct usage *made = calloc(1, sizeof *made);
    if (!made)
        return error_set(err, ENOMEM, "%s", strerror(ENOMEM));
    made->service = service;
    made->env = (struct frozen_disk_env){.locate = locate, .cache = cache};
    made->counted = counted;
    made->opaque = opaque;
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->wake, NULL);
    int code = pthread_create(&made->thread, NULL, run, made);
    if (code) {
        pthread_cond_destroy(&made->wake);
        pthread_mutex_destroy(&made->lock);
        free(made);
        return error_set(err, code, "starting a thread: %s", strerror(code));
    }
    *usage = made;
    return 0;
}

void usage_wake(struct usage *usage)
{
    pthread_mutex_lock(&usage->lock);
    usage->woken = true;
    pthread_cond_signal(&usage->wake);
    pthread_mutex_unlock(&usage->lock);
}

void usage_free(struct usage *usage)
{
    if (!usage)
        return;
    atomic_store(&usage->stop, true);
    usage_wake(usage);
    pthread_join(usage->thread, NULL);
    pthread_cond_destroy(&usage->wake);
    pthread_mutex_destroy(&usage->lock);
    number_set_done(&usage->hopeless);
    free(usage);
}
