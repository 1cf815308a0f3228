// SPDX-License-Identifier: LGPL-2.1-or-later
/* Doing one step of giving space back; see reclaim_work.h. */
#include "administration/reclaim/reclaim_work.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "administration/files/images.h"
#include "administration/layer_claims.h"
#include "administration/reclaim/reclaim_files.h"
#include "administration/reclaim/reclaim_pivot.h"
#include "administration/reclaim/reclaim_running.h"
#include "administration/reclaim/reclaim_states.h"
#include "administration/reclaim/strangers.h"
#include "administration/undo/undo.h"
#include "administration/world.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "catalog/catalog_hold.h"
#include "hypervisor/image_claim.h"

void reclaim_task_done(struct reclaim_task *task)
{
    free(task->layer);
    free(task->into);
    free(task->domains);
    internal_snapshot_free(task->internal);
    *task = (struct reclaim_task){0};
}

static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

void reclaim_task_tell(const struct reclaim_task *task, char *text, size_t size)
{
    const char *layer = file_name(task->layer), *into = task->into ? file_name(task->into) : "";
    switch (task->kind) {
    case RECLAIM_DROP_INTERNAL:
        snprintf(text, size, "dropping internal snapshot %s of %s", task->internal->name, layer);
        return;
    case RECLAIM_UNLINK:
        snprintf(text, size, "removing %s", layer);
        return;
    case RECLAIM_INTO_PARENT:
    case RECLAIM_INTO_CHILD:
        snprintf(text, size, "merging %s into %s", layer, into);
        return;
    case RECLAIM_COPY_HOME:
        snprintf(text, size, "copying %s home into %s", layer, into);
        return;
    case RECLAIM_NOTHING:
        break;
    }
    snprintf(text, size, "nothing");
}

/* ---- Is it still to be done? ---- */

static bool is_known(void *opaque, const char *path)
{
    return world_layer_at(opaque, path) != 0;
}

static uint64_t find_internal(const struct world *world, const struct reclaim_task *task)
{
    for (size_t i = 0; i < world->internal_count; i++)
        if (strcmp(world->internals[i].layer->path, task->layer) == 0 &&
            internal_snapshot_equal(world->internals[i].internal, task->internal))
            return world->internals[i].id;
    return 0;
}

/* Does an open file read through the layer? */
static bool is_read(struct administration *administration, const struct catalog *catalog, const char *path)
{
    for (size_t i = 0; i < catalog->domain_count; i++) {
        const struct domain *domain = catalog->domains[i];
        for (size_t j = 0; j < domain->snapshot_count; j++) {
            const struct snapshot *snapshot = domain->snapshots[j];
            bool passes = false;
            for (size_t k = 0; k < snapshot->frozen_count && !passes; k++)
                for (const struct layer *layer = snapshot->frozen[k].layer; layer && !passes;
                     layer = layer->backing)
                    passes = strcmp(layer->path, path) == 0;
            if (passes && administration_is_open(administration, snapshot->serial))
                return true;
        }
    }
    return false;
}

static bool is_active(const struct catalog *catalog, const char *path)
{
    for (size_t i = 0; i < catalog->domain_count; i++)
        for (size_t j = 0; j < catalog->domains[i]->disk_count; j++) {
            const struct layer *active = catalog->domains[i]->disks[j].active;
            if (active && strcmp(active->path, path) == 0)
                return true;
        }
    return false;
}

static int check(struct administration *administration, const struct catalog *catalog,
                 const struct world *world, const struct reclaim_task *task, struct error *err)
{
    struct reclaim_world plan = {.trees = world->trees,
                                 .tree_count = world->count,
                                 .layers = (struct layer_set *)&world->layers,
                                 .is_complete = reclaim_is_complete(administration, catalog)};
    const struct reclaim_step step = {.kind = task->kind,
                                      .layer = world_layer_at(world, task->layer),
                                      .into = task->into ? world_layer_at(world, task->into) : 0,
                                      .internal = task->internal ? find_internal(world, task) : 0};
    int r = reclaim_check(&plan, &step, err);
    if (r < 0)
        return r;
    if (is_read(administration, catalog, task->layer) ||
        (task->into && is_read(administration, catalog, task->into))) {
        /* Readers of an internal snapshot in an active image look for themselves whether it is still there.
         */
        if (task->kind != RECLAIM_DROP_INTERNAL || !is_active(catalog, task->layer))
            return error_set(err, EBUSY, "a file that reads through it is open");
    }
    return 0;
}

/* A step that is being done, and by whom: by `host`, a QEMU that has the files open, or, where that is NULL,
 * by a daemon of our own. */
struct doing {
    struct reclaim_states *states;
    const struct catalog *catalog;
    const struct world *world;
    struct work *work;
    const struct reclaim_task *task;
    struct reclaim_hosts *hosts;
    struct reclaim_host *host;
};

/*
 * The same question to the mounts that only read, of which nothing is known here. Who opens the files from
 * now on waits for the step, and that gives way.
 */
static int claim_layers(const struct doing *doing, struct layer_claims *claims, struct error *err)
{
    const struct reclaim_task *task = doing->task;
    struct administration *administration = doing->states->administration;
    const char *const paths[] = {task->layer, task->into};
    int r = 0;
    if (task->kind == RECLAIM_DROP_INTERNAL && is_active(doing->catalog, task->layer))
        return 0;
    for (size_t i = 0; r == 0 && i < sizeof paths / sizeof *paths; i++) {
        cleanup_close int fd = -1;
        if (!paths[i] || (access(paths[i], F_OK) < 0 && errno == ENOENT))
            continue;
        r = reclaim_open(administration, doing->world, paths[i], &fd, err);
        if (r == 0)
            layer_claims_add(claims, steal_fd(&fd));
    }
    return r == 0 && layer_claims_are_read(claims)
               ? error_set(err, EBUSY, "a file that reads through it is open in another mount")
               : r;
}

static int check_strangers(struct administration *administration, const struct world *world, const char *path,
                           struct error *err)
{
    cleanup_close int fd = -1;
    int r = reclaim_open(administration, world, path, &fd, err);
    return r < 0 ? r
                 : strangers_search(administration->options.locate, fd, path, is_known, (void *)world, err);
}

/* ---- The steps ---- */

static int drop_internal(const struct doing *doing, struct error *err)
{
    const struct reclaim_task *task = doing->task;
    struct administration *administration = doing->states->administration;
    int r = reclaim_states_touch(doing->states, task->layer, err);
    if (r == 0)
        r = doing->host ? reclaim_host_drop(doing->host, administration, doing->world, task->layer,
                                            task->internal, err)
                        : reclaim_drop(administration, doing->world, task->layer, task->internal, err);
    crash_point("dropped");
    if (r < 0)
        return r;
    reclaim_states_forget_internal(doing->states, task->layer, task->internal);
    r = reclaim_states_settle(doing->states, doing->world, task->layer, err);
    return r < 0 ? r : reclaim_states_save(doing->states, err);
}

static int remove_layer(const struct doing *doing, struct error *err)
{
    const char *path = doing->task->layer;
    int r = check_strangers(doing->states->administration, doing->world, path, err);
    if (r == 0)
        r = reclaim_hosts_close(doing->hosts, doing->world, path, err);
    if (r == 0)
        r = reclaim_unlink(doing->states->administration, doing->world, path, err);
    crash_point("unlinked");
    if (r < 0)
        return r;
    reclaim_states_forget(doing->states, path);
    return reclaim_states_save(doing->states, err);
}

/* Names what one lies on. `*is_changed`: it may have been named, even where that failed. */
static int rename_backing(const struct doing *doing, const char *child, bool *is_changed, struct error *err)
{
    struct administration *administration = doing->states->administration;
    cleanup_free char *before = reclaim_backing_name(administration, doing->world, child);
    int r = reclaim_name_backing(administration, doing->world, child, doing->task->into, err);
    cleanup_free char *now = r < 0 ? reclaim_backing_name(administration, doing->world, child) : NULL;
    *is_changed |= !before || !now || strcmp(before, now) != 0;
    return r;
}

/* What lies on the layer that goes lies on `into` from now on; that of the host does so already.
 * `*are_changed`: some do. */
static int rename_backings(const struct doing *doing, bool *are_changed, struct error *err)
{
    const struct reclaim_task *task = doing->task;
    const char *done = doing->host ? reclaim_host_overlay(doing->host, task->layer) : NULL;
    int r = 0;
    *are_changed = done;
    for (size_t i = 0; r == 0 && i < doing->world->file_count; i++) {
        const struct layer *child = doing->world->files[i].layer;
        if (!child->backing || strcmp(child->backing->path, task->layer) != 0)
            continue;
        if (!done || strcmp(child->path, done) != 0)
            r = rename_backing(doing, child->path, are_changed, err);
        crash_point("renamed");
        if (r == 0)
            r = reclaim_states_settle(doing->states, doing->world, child->path, err);
    }
    return r;
}

static int touch_children(struct reclaim_states *states, const struct world *world, const char *path,
                          struct error *err)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < world->file_count; i++) {
        const struct layer *child = world->files[i].layer;
        if (child->backing && strcmp(child->backing->path, path) == 0)
            r = reclaim_states_touch(states, child->path, err);
    }
    return r;
}

/*
 * Takes the layer's name away for good. Until then whoever would write to it, because he was told that it is
 * active, is kept away by a claim: what he wrote there would be lost.
 */
static int merged(const struct doing *doing, struct error *err)
{
    int r = reclaim_states_repoint(doing->states, doing->world, doing->task->layer, doing->task->into, err);
    if (r == 0)
        r = reclaim_states_save(doing->states, err);
    return r < 0 ? r : remove_layer(doing, err);
}

static int claim(struct administration *administration, const struct world *world, const char *path,
                 int *claimed, struct error *err)
{
    cleanup_close int fd = -1;
    int r = reclaim_open(administration, world, path, &fd, err);
    return r < 0 ? r : image_claim_take(path, fd, claimed, err);
}

/*
 * All of the layer is in `into` as well, and what lies on it does so still. From here on the states say
 * `into`: where the headers can't do so too, the layer is one that nobody sees, and is merged with what
 * lies on it. Else what reads through both would hold up each other for as long as there is the snapshot.
 */
static int has_copied(void *opaque, struct error *err)
{
    const struct doing *doing = opaque;
    struct reclaim_states *states = doing->states;
    int r = reclaim_states_keep(states, err);
    if (r == 0)
        r = reclaim_states_repoint(states, doing->world, doing->task->layer, doing->task->into, err);
    if (r == 0 && doing->host) /* QEMU is not done with it */
        r = reclaim_states_touch_again(states, doing->task->into, err);
    if (r == 0)
        r = reclaim_states_store(states, err);
    if (r < 0)
        reclaim_states_go_back(states);
    crash_point("copied");
    return r;
}

/* In the QEMU of a running domain, of which the layer is not the active one. */
static int merge_down_running(const struct doing *doing, struct error *err)
{
    struct reclaim_states *states = doing->states;
    const struct reclaim_task *task = doing->task;
    int r = touch_children(states, doing->world, task->layer, err);
    if (r == 0)
        r = reclaim_host_merge_down(doing->host, states->administration, doing->world, doing->work,
                                    task->layer, task->into, has_copied, (void *)doing, err);
    crash_point("merged");
    bool are_changed;
    if (r == 0)
        r = rename_backings(doing, &are_changed, err);
    if (r == 0)
        r = reclaim_states_settle(states, doing->world, task->into, err);
    if (r == 0)
        r = reclaim_states_save(states, err);
    return r < 0 ? r : remove_layer(doing, err);
}

static int merge_down_stopped(const struct doing *doing, struct error *err)
{
    cleanup_close int claimed = -1;
    struct reclaim_states *states = doing->states;
    const struct reclaim_task *task = doing->task;
    int r = claim(states->administration, doing->world, task->layer, &claimed, err);
    if (r == 0)
        r = reclaim_states_touch(states, task->into, err);
    if (r == 0)
        r = touch_children(states, doing->world, task->layer, err);
    if (r == 0)
        r = reclaim_merge_down(states->administration, doing->world, doing->work, task->layer, task->into,
                               err);
    crash_point("merged");
    bool are_changed = true;
    if (r == 0)
        r = has_copied((void *)doing, err);
    if (r == 0)
        r = rename_backings(doing, &are_changed, err);
    if (!are_changed && r < 0) /* nothing lies on the other: it is tried again as it is */
        reclaim_states_go_back(states);
    if (r == 0)
        r = reclaim_states_save(states, err);
    return r < 0 ? r : remove_layer(doing, err);
}

static int merge_down(const struct doing *doing, struct error *err)
{
    struct reclaim_states *states = doing->states;
    const struct reclaim_task *task = doing->task;
    int r = check_strangers(states->administration, doing->world, task->into, err);
    if (r == 0)
        r = check_strangers(states->administration, doing->world, task->layer, err);
    if (r < 0)
        return r;
    if (!doing->host)
        return merge_down_stopped(doing, err);
    r = reclaim_states_touch(states, task->into, err);
    if (r < 0)
        return r;
    if (!reclaim_host_is_active(doing->host, task->layer))
        return merge_down_running(doing, err);
    r = reclaim_pivot(states, doing->world, doing->work, task, doing->host, err);
    return r < 0 ? r : remove_layer(doing, err);
}

static int merge_up(const struct doing *doing, struct error *err)
{
    struct reclaim_states *states = doing->states;
    const struct reclaim_task *task = doing->task;
    struct administration *administration = states->administration;
    int r = check_strangers(administration, doing->world, task->layer, err);
    if (r == 0)
        r = reclaim_states_touch(states, task->into, err);
    if (r == 0)
        r = doing->host ? reclaim_host_merge_up(doing->host, administration, doing->world, doing->work,
                                                task->into, err)
                        : reclaim_merge_up(administration, doing->world, doing->work, task->into, err);
    crash_point("merged");
    if (r == 0)
        r = reclaim_states_settle(states, doing->world, task->into, err);
    return r < 0 ? r : reclaim_states_save(states, err);
}

static int copy_home(const struct doing *doing, struct error *err)
{
    cleanup_close int claimed = -1;
    struct reclaim_states *states = doing->states;
    const struct reclaim_task *task = doing->task;
    int r = check_strangers(states->administration, doing->world, task->into, err);
    if (r == 0)
        r = claim(states->administration, doing->world, task->layer, &claimed, err);
    if (r == 0)
        r = reclaim_states_touch(states, task->into, err);
    if (r == 0)
        r = reclaim_copy(states->administration, doing->world, doing->work, task->layer, task->into, err);
    crash_point("copied");
    return r < 0 ? r : merged(doing, err);
}

static int do_step(struct doing *doing, struct error *err)
{
    const struct reclaim_task *task = doing->task;
    const char *into = task->into;
    int r = task->kind == RECLAIM_UNLINK
                ? 0
                : reclaim_hosts_find(doing->hosts, doing->world, task->layer, into, &doing->host, err);
    if (r < 0)
        return r;
    switch (task->kind) {
    case RECLAIM_DROP_INTERNAL:
        return drop_internal(doing, err);
    case RECLAIM_UNLINK:
        return remove_layer(doing, err);
    case RECLAIM_INTO_PARENT:
        return merge_down(doing, err);
    case RECLAIM_INTO_CHILD:
        return merge_up(doing, err);
    case RECLAIM_COPY_HOME:
        return doing->host ? error_set(err, EBUSY, "%s runs on it", doing->host->domain->name)
                           : copy_home(doing, err);
    case RECLAIM_NOTHING:
        break;
    }
    return 0;
}

static void put_catalog(struct catalog **catalog)
{
    if (*catalog)
        catalog_put(*catalog);
}

int reclaim_work_do(struct administration *administration, struct work *work, const struct reclaim_task *task,
                    struct error *err)
{
    cleanup(reclaim_states_done) struct reclaim_states states = {.administration = administration};
    cleanup(world_done) struct world world = {0};
    cleanup(put_catalog) struct catalog *catalog = NULL;
    cleanup(reclaim_hosts_end) struct reclaim_hosts hosts = {0};
    cleanup(layer_claims_done) struct layer_claims claims = {0};
    int r = 0;
    for (size_t i = 0; r == 0 && i < task->domain_count; i++)
        r = undo_again(administration, task->domains[i], err);
    if (r == 0)
        r = reclaim_states_begin(&states, task->domains, task->domain_count, err);
    if (r < 0)
        return r;
    catalog = catalog_service_get(administration->catalog);
    r = world_make(catalog->domains, catalog->domain_count, NULL, NULL, &world, err);
    if (r == 0)
        r = check(administration, catalog, &world, task, err);
    if (r == 0)
        r = reclaim_hosts_begin(administration, catalog, task->domains, task->domain_count, &hosts, err);
    if (r < 0)
        return r;
    struct doing doing = {
        .states = &states, .catalog = catalog, .world = &world, .work = work, .task = task, .hosts = &hosts};
    r = claim_layers(&doing, &claims, err);
    work->claims = &claims;
    if (r == 0)
        r = do_step(&doing, err);
    work->claims = NULL;
    if (r == 0)
        return 0;
    /* What is touched stays so where a QEMU may be writing to it still: until it is asked again. What was
     * saved is so all the same, and the next step is planned by it. */
    struct error why = {0};
    if (reclaim_hosts_give_up(&hosts) && reclaim_states_give_up(&states, &world, &why) == 0)
        return r;
    if (why.code)
        log_warning("%s", why.text);
    reclaim_states_read_again(&states);
    reclaim_states_show(&states);
    return r;
}
