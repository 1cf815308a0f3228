// SPDX-License-Identifier: LGPL-2.1-or-later
/* The frozen disks that are open; see open_disks.h. */
#include "open_disks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/monotonic.h"

#define BUCKETS    256
#define LINGER_SEC 10
#define OPEN_TRIES 10

enum slot_state { SLOT_OPENING, SLOT_OPEN, SLOT_FAILED };

/* One open disk in the table; the public part comes first. */
struct slot {
    struct open_disk public;
    struct slot *next;
    struct domain *domain;       /* that it was opened for; a reference */
    const struct frozen *frozen; /* of that */
    unsigned users;
    enum slot_state state;
    struct error error; /* of SLOT_FAILED */
    time_t idle_since;  /* monotonic; with users == 0 */
};

struct open_disks {
    const struct frozen_disk_env *env;
    struct open_disks_calls calls;
    pthread_mutex_t
        lock; /* protects the table and the slots' private parts; never held while a disk is opened */
    pthread_cond_t opened;
    pthread_cond_t reaper_work;
    struct slot *buckets[BUCKETS];
    bool ending;
    bool reaper_started;
    pthread_t reaper;
};

static struct slot **bucket_of(struct open_disks *disks, uint64_t id)
{
    return &disks->buckets[(id * UINT64_C(0x9e3779b97f4a7c15)) >> 56];
}

static time_t monotonic_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

struct open_disks *open_disks_new(const struct frozen_disk_env *env, const struct open_disks_calls *calls)
{
    struct open_disks *disks = calloc(1, sizeof *disks);
    if (!disks)
        return NULL;
    disks->env = env;
    disks->calls = *calls;
    pthread_mutex_init(&disks->lock, NULL);
    pthread_cond_init(&disks->opened, NULL);
    monotonic_cond_init(&disks->reaper_work);
    return disks;
}

static void slot_free(struct slot *slot)
{
    frozen_disk_free(slot->public.disk);
    domain_unref(slot->domain);
    pthread_mutex_destroy(&slot->public.lock);
    free(slot);
}

static void unlink_locked(struct open_disks *disks, const struct slot *slot)
{
    for (struct slot **at = bucket_of(disks, slot->public.id); *at; at = &(*at)->next)
        if (*at == slot) {
            *at = slot->next;
            return;
        }
}

/* Takes the slots out that nobody used for a while; `*waiting` tells whether others still wait. */
static struct slot *collect_idle_locked(struct open_disks *disks, bool *waiting)
{
    struct slot *collected = NULL;
    *waiting = false;
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct slot **at = &disks->buckets[i]; *at;) {
            struct slot *slot = *at;
            if (slot->users || (!disks->ending && monotonic_now() < slot->idle_since + LINGER_SEC)) {
                *waiting |= !slot->users;
                at = &slot->next;
                continue;
            }
            *at = slot->next;
            slot->next = collected;
            collected = slot;
        }
    return collected;
}

static void free_all(struct slot *slots)
{
    for (struct slot *next; slots; slots = next) {
        next = slots->next;
        slot_free(slots);
    }
}

static void *reaper_run(void *opaque)
{
    struct open_disks *disks = opaque;
    pthread_mutex_lock(&disks->lock);
    while (!disks->ending) {
        bool waiting;
        struct slot *idle = collect_idle_locked(disks, &waiting);
        if (idle) {
            pthread_mutex_unlock(&disks->lock);
            free_all(idle);
            pthread_mutex_lock(&disks->lock);
        } else if (waiting) {
            const struct timespec until = monotonic_in(1000);
            pthread_cond_timedwait(&disks->reaper_work, &disks->lock, &until);
        } else {
            pthread_cond_wait(&disks->reaper_work, &disks->lock);
        }
    }
    pthread_mutex_unlock(&disks->lock);
    return NULL;
}

void open_disks_free(struct open_disks *disks)
{
    if (!disks)
        return;
    pthread_mutex_lock(&disks->lock);
    disks->ending = true;
    pthread_cond_signal(&disks->reaper_work);
    pthread_mutex_unlock(&disks->lock);
    if (disks->reaper_started)
        pthread_join(disks->reaper, NULL);
    /* A mount that was cut off while files were open never sends their releases. */
    for (size_t i = 0; i < BUCKETS; i++)
        free_all(disks->buckets[i]);
    pthread_cond_destroy(&disks->opened);
    pthread_cond_destroy(&disks->reaper_work);
    pthread_mutex_destroy(&disks->lock);
    free(disks);
}

static struct slot *find_locked(struct open_disks *disks, uint64_t id)
{
    struct slot *slot = *bucket_of(disks, id);
    while (slot && slot->public.id != id)
        slot = slot->next;
    return slot;
}

static struct slot *insert_locked(struct open_disks *disks, uint64_t id)
{
    struct slot *slot = calloc(1, sizeof *slot);
    if (!slot)
        return NULL;
    slot->public.id = id;
    slot->users = 1;
    pthread_mutex_init(&slot->public.lock, NULL);
    struct slot **bucket = bucket_of(disks, id);
    slot->next = *bucket;
    *bucket = slot;
    return slot;
}

/* Gives a use back; returns the slot if it is the caller's to free. */
static struct slot *put_locked(struct open_disks *disks, struct slot *slot)
{
    if (--slot->users)
        return NULL;
    if (slot->state == SLOT_FAILED) /* not in the table any more */
        return slot;
    if (frozen_disk_is_slow(slot->public.disk)) {
        slot->idle_since = monotonic_now();
        if (!disks->reaper_started)
            disks->reaper_started = pthread_create(&disks->reaper, NULL, reaper_run, disks) == 0;
        pthread_cond_signal(&disks->reaper_work);
        if (disks->reaper_started)
            return NULL;
    }
    unlink_locked(disks, slot);
    return slot;
}

/* The disk is in the table, so that nothing begins to change its layers from now on. */
static int open_once(const struct open_disks *disks, const struct place *place, struct slot *slot,
                     struct frozen_disk **disk, bool *was_right, struct error *err)
{
    const struct open_disks_calls *calls = &disks->calls;
    struct catalog *catalog = NULL;
    struct place now = *place;
    *was_right = true;
    if (calls->make_way && calls->make_way(calls->opaque, place, &catalog, &now) < 0)
        return error_set(err, ESTALE, "the snapshot was deleted");
    int result = frozen_disk_open(disks->env, now.domain, now.frozen, disk, err);
    if (calls->was_right)
        *was_right = calls->was_right(calls->opaque, &now);
    if (*was_right) {
        slot->domain = domain_ref(now.domain);
        slot->frozen = now.frozen;
    }
    catalog_put(catalog);
    return result;
}

static int open_now(const struct open_disks *disks, const struct place *place, struct slot *slot,
                    struct frozen_disk **disk, struct error *err)
{
    const struct open_disks_calls *calls = &disks->calls;
    bool may_look = calls->look_anew;
    for (unsigned tries = 0; tries < OPEN_TRIES; tries++) {
        struct frozen_disk *opened = NULL;
        bool was_right;
        int result = open_once(disks, place, slot, &opened, &was_right, err);
        if (was_right && (result != -EIO || !may_look)) {
            *disk = opened;
            return result;
        }
        frozen_disk_free(opened);
        if (was_right) {
            domain_unref(slot->domain);
            slot->domain = NULL;
            calls->look_anew(calls->opaque);
            may_look = false;
        }
    }
    return error_set(err, EBUSY, "another mount changes the domain all the time");
}

static bool is_same(const struct frozen *a, const struct frozen *b)
{
    return strcmp(a->layer->path, b->layer->path) == 0 && !a->internal == !b->internal &&
           (!a->internal || internal_snapshot_equal(a->internal, b->internal));
}

/* Another mount can give a snapshot another content while it is open here: the first opener keeps what he
 * has. */
static int check_as_opened(const struct open_disks *disks, const struct slot *slot, const struct place *place,
                           struct error *err)
{
    const struct open_disks_calls *calls = &disks->calls;
    struct catalog *catalog = NULL;
    struct place now = *place;
    if (!calls->was_right)
        return 0;
    if (calls->make_way && calls->make_way(calls->opaque, place, &catalog, &now) < 0)
        return error_set(err, ESTALE, "the snapshot was deleted");
    bool same = is_same(slot->frozen, now.frozen);
    catalog_put(catalog);
    return same ? 0 : error_set(err, EBUSY, "it is open as it was before another mount changed it");
}

int open_disks_acquire(struct open_disks *disks, const struct place *place, struct open_disk **disk,
                       struct error *err)
{
    pthread_mutex_lock(&disks->lock);
    struct slot *slot = find_locked(disks, place->id);
    bool ours = !slot;
    if (slot) {
        slot->users++;
    } else if (!(slot = insert_locked(disks, place->id))) {
        pthread_mutex_unlock(&disks->lock);
        return error_set(err, ENOMEM, "out of memory");
    }
    if (ours) {
        pthread_mutex_unlock(&disks->lock);
        struct error error = {0};
        struct frozen_disk *opened = NULL;
        int result = open_now(disks, place, slot, &opened, &error);
        pthread_mutex_lock(&disks->lock);
        if (result == 0) {
            slot->public.disk = opened;
            slot->state = SLOT_OPEN;
        } else {
            slot->error = error;
            slot->error.code = -result;
            slot->state = SLOT_FAILED;
            unlink_locked(disks, slot);
        }
        pthread_cond_broadcast(&disks->opened);
    }
    while (slot->state == SLOT_OPENING)
        pthread_cond_wait(&disks->opened, &disks->lock);

    int result = 0;
    struct slot *unused = NULL;
    if (slot->state == SLOT_FAILED) {
        result = error_set(err, slot->error.code, "%s", slot->error.text);
        unused = put_locked(disks, slot);
    }
    pthread_mutex_unlock(&disks->lock);
    if (unused)
        slot_free(unused);
    if (result < 0)
        return result;
    result = ours ? 0 : check_as_opened(disks, slot, place, err);
    if (result == 0)
        *disk = &slot->public;
    else
        open_disks_put(disks, &slot->public);
    return result;
}

struct open_disk *open_disks_find(struct open_disks *disks, uint64_t id)
{
    pthread_mutex_lock(&disks->lock);
    struct slot *slot = find_locked(disks, id);
    if (slot && slot->state == SLOT_OPEN)
        slot->users++;
    else
        slot = NULL;
    pthread_mutex_unlock(&disks->lock);
    return slot ? &slot->public : NULL;
}

void open_disks_put(struct open_disks *disks, struct open_disk *disk)
{
    struct slot *slot = (struct slot *)disk; /* the public part comes first */
    pthread_mutex_lock(&disks->lock);
    bool was_last = slot->users == 1;
    struct slot *unused = put_locked(disks, slot);
    pthread_mutex_unlock(&disks->lock);
    if (unused)
        slot_free(unused);
    if (was_last && disks->calls.closed)
        disks->calls.closed(disks->calls.opaque);
}

bool open_disks_has_snapshot(struct open_disks *disks, uint64_t snapshot)
{
    bool found = false, lingers = false;
    pthread_mutex_lock(&disks->lock);
    for (size_t i = 0; i < BUCKETS && !found; i++)
        for (struct slot *slot = disks->buckets[i]; slot && !found; slot = slot->next) {
            struct node node = node_of(slot->public.id);
            if ((node.kind != NODE_FROZEN && node.kind != NODE_SNAPSHOT) || node.serial != snapshot)
                continue;
            found = slot->users > 0;
            if (!found) {
                slot->idle_since -= LINGER_SEC;
                lingers = true;
            }
        }
    if (lingers)
        pthread_cond_signal(&disks->reaper_work);
    pthread_mutex_unlock(&disks->lock);
    return found;
}
