// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * All domains of the source, as they are now: found by scanning, published whole, watched for changes.
 *
 * scan.h tells what lies in the directory (definitions, images with their headers and snapshot tables);
 * discover.h which domains that makes; assemble.h, from that and what the store knows, what their snapshots
 * are; members.h keeps domains and states together; watch.h, inotify and a timer, asks for the next scan;
 * usage.h counts in the background how much each frozen disk holds.
 *
 * A catalog is immutable. catalog_service_get gives the present one with a reference; whoever holds it may
 * follow every pointer inside without a lock, however long, and then puts it back.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "domain/domain.h"
#include "image/locate.h"
#include "store/store.h"

struct catalog_entry { /* what a serial number stands for */
    uint64_t serial;
    struct domain *domain;
    struct snapshot *snapshot; /* NULL: the domain itself */
};

struct catalog {
    _Atomic unsigned references;
    struct domain **domains; /* sorted by name with strcmp; one reference each */
    size_t domain_count;
    struct catalog_entry *by_serial; /* domains and snapshots, sorted by serial */
    size_t entry_count;
};

struct domain *catalog_find_domain(const struct catalog *catalog, const char *name);

/* NULL if nothing has this serial number (any more). */
const struct catalog_entry *catalog_find_serial(const struct catalog *catalog, uint64_t serial);

struct catalog_service;

/*
 * Called after a new catalog was published, from the watcher's thread, one call at a time. Domains that did
 * not change are the same pointers in both. Must not wait for file system requests of this mount.
 */
typedef void (*catalog_changed)(void *opaque, const struct catalog *before, const struct catalog *after);

/* Called from the counting thread when a frozen disk's `allocated` became known. */
typedef void (*catalog_counted)(void *opaque, const struct domain *domain, const struct snapshot *snapshot,
                                const struct frozen *frozen);

struct catalog_options {
    const struct locate *locate; /* borrowed, for the service's life */
    struct store *store;         /* borrowed */
    struct cache *cache;         /* borrowed; for counting */
    unsigned interval_ms;        /* of the timer that stats images; 0: the default, 1000 */
    bool count_usage;            /* run the counting thread */
    catalog_changed changed;     /* may be NULL */
    catalog_counted counted;     /* may be NULL */
    void *opaque;
};

/* Scans once and publishes. No thread runs yet. Errors: the source can't be read. */
int catalog_service_new(const struct catalog_options *options, struct catalog_service **service,
                        struct error *err);

/* Starts the watcher and the counter (call it after a daemon's last fork). */
int catalog_service_start(struct catalog_service *service, struct error *err);

/* Stops the threads and frees. References to catalogs may outlive it. */
void catalog_service_free(struct catalog_service *service);

struct catalog *catalog_service_get(struct catalog_service *service);
void catalog_put(struct catalog *catalog);

/* A reader connected to the disk `network_name`, and it has another size than the catalog says. Any thread;
 * does not wait. */
void catalog_service_learn_size(struct catalog_service *service, const char *network_name, uint64_t bytes);

/*
 * Does the catalog show what the store says of the domain (serial) now? Only where another mount writes the
 * store it may not. The other one waits until it does, or a look that should have shown it has failed. Any
 * thread; both wait for storage.
 */
bool catalog_service_is_current(struct catalog_service *service, uint64_t domain);
void catalog_service_catch_up(struct catalog_service *service, uint64_t domain);

/* A reader found that something is not what the catalog says (ESTALE): look again at once. Any thread; does
 * not wait. */
void catalog_service_hint(struct catalog_service *service);
