// SPDX-License-Identifier: LGPL-2.1-or-later
/* What a catalog service consists of. Inside of catalog.c and catalog_hold.c. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "catalog/catalog.h"
#include "catalog/discover.h"
#include "catalog/members.h"
#include "catalog/notices.h"
#include "catalog/remote_sizes.h"
#include "catalog/scan.h"
#include "catalog/usage.h"
#include "catalog/watch.h"

struct catalog_service {
    struct catalog_options options;
    int directory;           /* the source */
    pthread_mutex_t lock;    /* a leaf */
    struct catalog *catalog; /* protected by `lock` */

    pthread_mutex_t members_lock;
    struct members members; /* protected by `members_lock`, as all up to `contended`; so is the store */
    uint64_t looks_begun, looks_ended, look_wanted; /* numbers of looks */
    pthread_cond_t looked;                          /* looks_ended has changed */

    /* The watcher's; `scan` is put in the place of another under `members_lock`, for whoever reads it there.
     */
    struct scan *scan;
    struct contended *contended; /* borrowed from the scan */
    size_t contended_count;
    struct notices notices;
    bool look_failed; /* and was logged */
    time_t saved_at;

    struct remote_sizes remote_sizes;
    atomic_uint counted; /* frozen disks, since the last saving */
    struct watch *watch;
    struct usage *usage;
    pthread_t watcher;
    bool watching;
};

/* Publishes what the members are now; with `members_lock` held. -ENOMEM. */
int catalog_publish(struct catalog_service *service, struct error *err);

/* Adds the absolute paths of the qcow2 images, and of the raw ones, that the state of an administered domain
 * knows. -ENOMEM. */
int catalog_known_images(const char *source, const struct state_domain *state, char ***known, char ***raw);
