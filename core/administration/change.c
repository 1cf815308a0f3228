// SPDX-License-Identifier: LGPL-2.1-or-later
/* One change of one domain; see change.h. */
#include "administration/change.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "administration/undo/resume.h"
#include "administration/undo/undo.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "catalog/catalog_hold.h"
#include "catalog/discover.h"

#define SAVE_TRIES    3
#define SAVE_PAUSE_MS 100

static int out_of_memory(struct error *err)
{
    return error_set(err, ENOMEM, "out of memory");
}

const char *change_source(const struct change *change)
{
    return locate_source(change->administration->options.locate);
}

/* ---- The first change ---- */

/* What the images told until now is told by the store from now on. */
static int take_over_snapshot(const struct snapshot *from, struct state_snapshot *snapshot)
{
    snapshot->parent = from->parent ? from->parent->serial : 0;
    snapshot->created_sec = from->created.tv_sec;
    snapshot->created_nsec = (uint32_t)from->created.tv_nsec;
    snapshot->state = from->state;
    snapshot->consistency = from->consistency;
    snapshot->is_protected = from->is_protected;
    free(snapshot->description);
    snapshot->description = *from->description ? strdup(from->description) : NULL;
    return snapshot->description || !*from->description ? 0 : -ENOMEM;
}

/*
 * The file that the domain writes to now is where it began. It may be written to, unless something stands on
 * it. An implicit domain has no definition that could name another file as active, so that stays to be told
 * by the files.
 */
static int take_over_disk(struct change *change, const struct disk *disk, char *const *reused)
{
    struct state_disk *state = state_find_disk(change->state, disk->position);
    if (!state || !disk->active || disk->active->remote)
        return 0;
    const char *path = path_in_store(change_source(change), disk->active->path);
    free(state->active);
    free(state->original);
    state->active = state->original = NULL;
    if (change->domain->definition && !(state->active = strdup(path)))
        return -ENOMEM;
    if (!catalog_is_backing(change->administration->catalog, disk->active->path, reused) &&
        !(state->original = strdup(path)))
        return -ENOMEM;
    return 0;
}

/* `reused` are overlays that this change will put on a disk itself. */
static int take_over(struct change *change, char *const *reused)
{
    struct state_domain *state = change->state;
    const struct domain *domain = change->domain;
    int r = 0;
    if (!state->is_administered) {
        state->is_administered = true;
        state->current = domain->current ? domain->current->serial : 0;
        for (size_t i = 0; r == 0 && i < domain->snapshot_count; i++) {
            struct state_snapshot *snapshot = state_find_snapshot(state, domain->snapshots[i]->serial);
            if (snapshot)
                r = take_over_snapshot(domain->snapshots[i], snapshot);
        }
    }
    for (size_t i = 0; r == 0 && i < domain->disk_count; i++) {
        const struct state_disk *disk = state_find_disk(state, domain->disks[i].position);
        if (disk && !disk->active && !disk->original) /* also one that was added since */
            r = take_over_disk(change, &domain->disks[i], reused);
    }
    return r;
}

/* Tells the plan which files may be written to, which the domain as it was did not know at its first change.
 */
static void mark_originals(struct change *change)
{
    for (size_t i = 0; i < change->tree->disk_count; i++) {
        const struct tree_disk *disk = &change->tree->disks[i];
        const struct state_disk *state = state_find_disk(change->state, disk->position);
        const struct layer_node *active = layer_set_find(&change->world.layers, disk->active);
        const char *path = change_layer_path(change, disk->active);
        if (state && state->original && path && strcmp(state->original, path) == 0 && !active->original_of)
            layer_set_administer(&change->world.layers, disk->active, change->domain->serial, disk->position);
    }
}

/* ---- Beginning ---- */

static int check_domain(const struct change *change, struct error *err)
{
    const struct domain *domain = change->domain;
    if (domain->serial >= SERIAL_HASHED)
        return error_set(err, EIO, "%s can't be changed: %s", domain->name,
                         domain->problem ? domain->problem : "the store has no number for it");
    if (domain->is_incomplete)
        return error_set(err, EIO, "%s can't be changed: %s", domain->name,
                         domain->problem ? domain->problem : "not all of its images can be seen");
    size_t count;
    const struct journal_damage *damage = journal_damage(change->administration->journal, &count);
    for (size_t i = 0; i < count; i++)
        if (damage[i].domain == domain->serial)
            return error_set(err, EIO,
                             "%s can't be changed: the journal of its last operation is damaged (%s)",
                             domain->name, damage[i].why);
    return 0;
}

/* As a look calls it: without links on the way. */
static int add_resolved(char ***paths, const char *path)
{
    char real[PATH_MAX];
    return state_paths_add(paths, realpath(path, real) ? real : path);
}

/* Overlays that the request is to use as they are: until then they lie on a disk like another program's. */
static int reused_paths(const struct request *request, char ***paths)
{
    int r = 0;
    for (size_t i = 0; request->kind == REQUEST_CREATE && request->create.reuse_external && r == 0 &&
                       i < request->create.disk_count;
         i++) {
        const struct create_disk *disk = &request->create.disks[i];
        if (disk->path)
            r = add_resolved(paths, disk->path);
        if (r == 0 && disk->mirror)
            r = add_resolved(paths, disk->mirror);
    }
    if (request->kind == REQUEST_COPY && request->copy.reuse)
        r = add_resolved(paths, request->copy.path);
    return r;
}

/* What such an overlay was taken for is about to go: nobody may be reading it. */
static int check_unread(const struct change *change, struct error *err)
{
    struct catalog *catalog = catalog_service_get(change->administration->catalog);
    const struct catalog_entry *shown = catalog_find_serial(catalog, change->serial);
    const struct snapshot *still;
    int r = 0;
    for (size_t i = 0; shown && r == 0 && i < shown->domain->snapshot_count; i++) {
        const struct snapshot *snapshot = shown->domain->snapshots[i];
        if (administration_is_open(change->administration, snapshot->serial) &&
            change_find(change, snapshot->serial, &still, NULL) < 0)
            r = error_set(err, EBUSY,
                          "a frozen file of snapshot %s, for which the overlay was taken, is open",
                          snapshot->name);
    }
    catalog_put(catalog);
    return r;
}

static int look(struct change *change, char *const *reused, struct error *err)
{
    struct catalog_service *catalog = change->administration->catalog;
    if (!reused)
        return catalog_refresh(catalog, change->serial, &change->domain, &change->before, err);
    int r = catalog_imagine(catalog, change->serial, reused, &change->domain, &change->before, err);
    return r < 0 ? r : check_unread(change, err);
}

static int begin(struct administration *administration, struct work *work, uint64_t domain,
                 struct change *change, struct error *err)
{
    *change = (struct change){.administration = administration, .work = work, .serial = domain};
    if (store_is_read_only(administration->options.store))
        return error_set(err, EROFS,
                         "nothing can be changed: the source can't be written, or ro was asked for");
    int r = undo_again(administration, domain, err);
    if (r == 0)
        r = catalog_hold(administration->catalog, domain, err);
    if (r < 0)
        return r;
    change->is_held = true;
    cleanup(state_paths_free) char **reused = NULL;
    if (work && work->request && reused_paths(work->request, &reused) < 0)
        return out_of_memory(err);
    r = look(change, reused, err);
    if (r < 0)
        return r;
    r = check_domain(change, err);
    if (r < 0)
        return r;
    if (state_domain_copy(change->before, &change->state) < 0 || take_over(change, reused) < 0)
        return out_of_memory(err);
    r = catalog_next_serial(administration->catalog, &change->operation, err);
    if (r < 0)
        return r;
    r = world_make(&change->domain, 1, administration_is_open, administration, &change->world, err);
    if (r < 0)
        return r;
    change->tree = change->world.trees[0];
    mark_originals(change);
    return 0;
}

int change_begin(struct administration *administration, struct work *work, uint64_t domain,
                 struct change *change, struct error *err)
{
    int r =
        store_is_read_only(administration->options.store) ? 0 : resume_pending(administration, domain, err);
    return r < 0 ? r : begin(administration, work, domain, change, err);
}

int change_begin_resuming(struct administration *administration, uint64_t domain, struct change *change,
                          struct error *err)
{
    return begin(administration, NULL, domain, change, err);
}

int change_find(const struct change *change, uint64_t serial, const struct snapshot **snapshot,
                struct error *err)
{
    for (size_t i = 0; i < change->domain->snapshot_count; i++)
        if (change->domain->snapshots[i]->serial == serial) {
            *snapshot = change->domain->snapshots[i];
            return 0;
        }
    return error_set(err, ENOENT, "the snapshot is not there any more");
}

/* ---- What is new ---- */

int change_add_layer(struct change *change, uint64_t id, const char *path, bool is_made, struct error *err)
{
    struct fresh_layer *grown = realloc(change->layers, (change->layer_count + 1) * sizeof *grown);
    if (!grown)
        return out_of_memory(err);
    change->layers = grown;
    char *copy = strdup(path);
    if (!copy)
        return out_of_memory(err);
    grown[change->layer_count++] = (struct fresh_layer){id, copy, is_made};
    return 0;
}

int change_add_content(struct change *change, uint64_t layer, uint64_t internal, struct state_frozen *record,
                       struct error *err)
{
    struct fresh_content *grown = realloc(change->contents, (change->content_count + 1) * sizeof *grown);
    if (!grown) {
        state_frozen_done(record);
        return out_of_memory(err);
    }
    change->contents = grown;
    grown[change->content_count++] = (struct fresh_content){layer, internal, *record};
    *record = (struct state_frozen){0};
    return 0;
}

void change_forget_contents(struct change *change)
{
    for (size_t i = 0; i < change->content_count; i++)
        state_frozen_done(&change->contents[i].record);
    change->content_count = 0;
    state_snapshot_done(&change->fresh);
    change->fresh = (struct state_snapshot){0};
}

int change_save_next(struct change *change, struct error *err)
{
    struct state_domain *now = change->state, *next = NULL;
    if (state_domain_copy(now, &next) < 0)
        return out_of_memory(err);
    change->state = next;
    int r = change_follow_tree(change, err);
    next->operation = change->operation;
    if (r == 0)
        r = store_save_next(change->administration->options.store, next, err);
    change->has_next = r == 0;
    change->state = now;
    state_domain_free(next);
    return r;
}

const char *change_layer_path(const struct change *change, uint64_t id)
{
    const struct world_file *file = world_find_file(&change->world, id);
    if (file)
        return path_in_store(change_source(change), file->layer->path);
    for (size_t i = 0; i < change->layer_count; i++)
        if (change->layers[i].id == id)
            return change->layers[i].path;
    return NULL;
}

/* ---- The end ---- */

/* What has happened is told as failed only if its state really can't be saved. */
static int save(struct change *change, struct error *err)
{
    int r = catalog_save(change->administration->catalog, change->state, err);
    for (int i = 1; r < 0 && change->is_beyond_undoing && i < SAVE_TRIES; i++) {
        poll(NULL, 0, SAVE_PAUSE_MS);
        r = catalog_save(change->administration->catalog, change->state, err);
    }
    return r;
}

int change_commit(struct change *change, struct error *err)
{
    struct administration *administration = change->administration;
    struct error why;
    pthread_mutex_lock(&administration->lock);
    bool cancelled = change->work && !change->is_beyond_undoing && atomic_load(&change->work->cancelled);
    if (change->work && !cancelled)
        change->work->is_committed = true;
    pthread_mutex_unlock(&administration->lock);
    if (cancelled)
        return error_set(err, EINTR, "it was cancelled, and everything was undone");
    if (change->journal)
        change->state->operation = change->operation;
    crash_point("committing");
    int r = save(change, err);
    if (r < 0)
        return r;
    crash_point("committed");
    change->is_committed = true;
    if (catalog_show(administration->catalog, change->state, NULL, &why) < 0)
        log_warning("%s is not shown as it is yet: %s", change->domain->name, why.text);
    return 0;
}

static void free_plan(struct change *change)
{
    change_forget_contents(change);
    for (size_t i = 0; i < change->layer_count; i++)
        free(change->layers[i].path);
    free(change->contents);
    free(change->layers);
    world_done(&change->world);
    state_domain_free(change->before);
    state_domain_free(change->state);
}

void change_end(struct change *change)
{
    if (!change->administration)
        return;
    bool is_over = undo_or_finish(change);
    free_plan(change);
    if (!is_over)
        undo_keep_held(change->administration, change->serial);
    else if (change->is_held)
        catalog_release(change->administration->catalog, change->serial);
    domain_unref(change->domain);
    *change = (struct change){0};
}
