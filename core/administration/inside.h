// SPDX-License-Identifier: LGPL-2.1-or-later
/* What an administration consists of. Inside of administration/. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "administration/administration.h"
#include "store/journal.h"

struct lane;
struct layer_claims;
struct reclaimer;
struct mirrors;
struct thaws;

/* A request, or a piece of background work, on its way. */
struct work {
    struct job job;          /* protected by `lock` of the administration */
    struct request *request; /* NULL: background work */
    struct lane *lane;
    struct work *next; /* in its lane, or among those that are over */
    struct work *next_running;
    atomic_bool cancelled;
    atomic_uint percent;
    const struct layer_claims
        *claims;       /* of background work, its own thread's: who reads these stops it; NULL: none */
    bool is_committed; /* too late to cancel; protected by `lock` */
};

/* The requests of one domain, in order. All protected by `lock`. */
struct lane {
    struct lane *next;
    uint64_t domain;
    struct work *first, **end;
    bool is_busy;   /* somebody changes the domain */
    bool is_wanted; /* by the background, which is woken when the lane is given back */
};

struct administration {
    struct administration_options options;
    struct catalog_service *catalog;
    struct journal *journal;
    pthread_mutex_t lock; /* a leaf */
    pthread_cond_t changed;
    struct lane *lanes;
    struct work *running;
    struct work *background; /* of the reclaimer: what runs */
    struct work *over;       /* newest first: what was cancelled */
    uint64_t last_number;    /* of a job */
    uint64_t *held;          /* domains whose last operation could not be ended (undo.h) */
    size_t held_count;
    uint64_t first_operation; /* serials of what this process does are greater; set once, by leftovers.c */
    char **needed;            /* names that operations of before still need; likewise */
    unsigned threads, idle;
    bool is_stopping;
    struct reclaimer *reclaimer;
    struct mirrors *mirrors;
    struct thaws *thaws;
};

/* Has the work been cancelled, or is it to make way for a reader in another mount? For the thread that does
 * it. */
bool work_is_cancelled(const struct administration *administration, const struct work *work);

/* What failed is kept for a while, so that a person who looks into jobs/ sees why. Takes the work over; with
 * the lock held. */
void administration_keep_locked(struct administration *administration, struct work *work);

/* For qmp_job_watch and its like: `opaque` is a struct work_watch. False: give up. */
struct work_watch {
    struct administration *administration;
    struct work *work;
    unsigned from, to; /* this part of the work, percent */
};
bool work_progress(void *opaque, uint64_t current, uint64_t total);

/* Is a frozen file of the snapshot open? `opaque` is the administration. */
bool administration_is_open(void *opaque, uint64_t snapshot);

/* A line in the domain's events. */
__attribute__((format(printf, 3, 4))) void administration_event(struct administration *administration,
                                                                uint64_t domain, const char *format, ...);

/* ---- What each request does; errors as the contract has them; `*text` (for people) may be left NULL ---- */

struct outcome {
    uint64_t serial;
    char *text; /* the caller frees */
};

int carry_out_create(struct administration *administration, struct work *work, struct outcome *outcome,
                     struct error *err);
int carry_out_delete(struct administration *administration, struct work *work, struct outcome *outcome,
                     struct error *err);
int carry_out_revert(struct administration *administration, struct work *work, struct outcome *outcome,
                     struct error *err);
int carry_out_clone(struct administration *administration, struct work *work, struct outcome *outcome,
                    struct error *err);
int carry_out_note(struct administration *administration, struct work *work, struct outcome *outcome,
                   struct error *err); /* rename, protect, describe, defaults */
int carry_out_power(struct administration *administration, struct work *work, struct outcome *outcome,
                    struct error *err);
int carry_out_copy(struct administration *administration, struct work *work, struct outcome *outcome,
                   struct error *err);
int carry_out_pivot(struct administration *administration, struct work *work, struct outcome *outcome,
                    struct error *err);
int carry_out_abort(struct administration *administration, struct work *work, struct outcome *outcome,
                    struct error *err);
