// SPDX-License-Identifier: LGPL-2.1-or-later
/* Doing one step of giving space back; see reclaim_work.h. */
#include "administration/reclaim_work.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "administration/images.h"
#include "administration/reclaim_files.h"
#include "administration/reclaim_states.h"
#include "administration/strangers.h"
#include "administration/undo.h"
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

static int check_strangers(struct administration *administration, const struct world *world, const char *path,
                           struct error *err)
{
    cleanup_close int fd = -1;
    int r = reclaim_open(administration, world, path, &fd, err);
    return r < 0 ? r
                 : strangers_search(administration->options.locate, fd, path, is_known, (void *)world, err);
}

/* ---- The steps ---- */

static int drop_internal(struct reclaim_states *states, const struct world *world,
                         const struct reclaim_task *task, struct error *err)
{
    int r = reclaim_states_touch(states, task->layer, err);
    if (r == 0)
        r = reclaim_drop(states->administration, world, task->layer, task->internal, err);
    crash_point("dropped");
    if (r < 0)
        return r;
    reclaim_states_forget_internal(states, task->layer, task->internal);
    r = reclaim_states_settle(states, world, task->layer, err);
    return r < 0 ? r : reclaim_states_save(states, err);
}

static int remove_layer(struct reclaim_states *states, const struct world *world,
                        const struct reclaim_task *task, struct error *err)
{
    int r = check_strangers(states->administration, world, task->layer, err);
    if (r == 0)
        r = reclaim_unlink(states->administration, world, task->layer, err);
    crash_point("unlinked");
    if (r < 0)
        return r;
    reclaim_states_forget(states, task->layer);
    return reclaim_states_save(states, err);
}

/* What lies on the layer that goes lies on `into` from now on. */
static int rename_backings(struct reclaim_states *states, const struct world *world,
                           const struct reclaim_task *task, struct error *err)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < world->file_count; i++) {
        const struct layer *child = world->files[i].layer;
        if (!child->backing || strcmp(child->backing->path, task->layer) != 0)
            continue;
        r = reclaim_name_backing(states->administration, world, child->path, task->into, err);
        crash_point("renamed");
        if (r == 0)
            r = reclaim_states_settle(states, world, child->path, err);
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
static int merged(struct reclaim_states *states, const struct world *world, const struct reclaim_task *task,
                  struct error *err)
{
    int r = reclaim_states_repoint(states, world, task->layer, task->into, err);
    if (r == 0)
        r = reclaim_states_save(states, err);
    return r < 0 ? r : remove_layer(states, world, task, err);
}

static int claim(struct administration *administration, const struct world *world, const char *path,
                 int *claimed, struct error *err)
{
    cleanup_close int fd = -1;
    int r = reclaim_open(administration, world, path, &fd, err);
    return r < 0 ? r : image_claim_take(path, fd, claimed, err);
}

static int merge_down(struct reclaim_states *states, const struct world *world, struct work *work,
                      const struct reclaim_task *task, struct error *err)
{
    cleanup_close int claimed = -1;
    int r = check_strangers(states->administration, world, task->into, err);
    if (r == 0)
        r = check_strangers(states->administration, world, task->layer, err);
    if (r == 0)
        r = claim(states->administration, world, task->layer, &claimed, err);
    if (r == 0)
        r = reclaim_states_touch(states, task->into, err);
    if (r == 0)
        r = touch_children(states, world, task->layer, err);
    if (r == 0)
        r = reclaim_merge_down(states->administration, world, work, task->layer, task->into, err);
    crash_point("merged");
    if (r == 0)
        r = rename_backings(states, world, task, err);
    return r < 0 ? r : merged(states, world, task, err);
}

static int merge_up(struct reclaim_states *states, const struct world *world, struct work *work,
                    const struct reclaim_task *task, struct error *err)
{
    int r = check_strangers(states->administration, world, task->layer, err);
    if (r == 0)
        r = reclaim_states_touch(states, task->into, err);
    if (r == 0)
        r = reclaim_merge_up(states->administration, world, work, task->into, err);
    crash_point("merged");
    if (r == 0)
        r = reclaim_states_settle(states, world, task->into, err);
    return r < 0 ? r : reclaim_states_save(states, err);
}

static int copy_home(struct reclaim_states *states, const struct world *world, struct work *work,
                     const struct reclaim_task *task, struct error *err)
{
    cleanup_close int claimed = -1;
    int r = check_strangers(states->administration, world, task->into, err);
    if (r == 0)
        r = claim(states->administration, world, task->layer, &claimed, err);
    if (r == 0)
        r = reclaim_states_touch(states, task->into, err);
    if (r == 0)
        r = reclaim_copy(states->administration, world, work, task->layer, task->into, err);
    crash_point("copied");
    return r < 0 ? r : merged(states, world, task, err);
}

static int do_step(struct reclaim_states *states, const struct world *world, struct work *work,
                   const struct reclaim_task *task, struct error *err)
{
    switch (task->kind) {
    case RECLAIM_DROP_INTERNAL:
        return drop_internal(states, world, task, err);
    case RECLAIM_UNLINK:
        return remove_layer(states, world, task, err);
    case RECLAIM_INTO_PARENT:
        return merge_down(states, world, work, task, err);
    case RECLAIM_INTO_CHILD:
        return merge_up(states, world, work, task, err);
    case RECLAIM_COPY_HOME:
        return copy_home(states, world, work, task, err);
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
    int r = 0;
    for (size_t i = 0; r == 0 && i < task->domain_count; i++)
        r = undo_again(administration, task->domains[i], err);
    if (r == 0)
        r = reclaim_states_begin(&states, task->domains, task->domain_count, err);
    if (r < 0)
        return r;
    catalog = catalog_service_get(administration->catalog);
    r = world_make(catalog->domains, catalog->domain_count, administration_is_open, administration, &world,
                   err);
    if (r == 0)
        r = check(administration, catalog, &world, task, err);
    if (r < 0)
        return r;
    r = do_step(&states, &world, work, task, err);
    struct error why;
    if (r < 0 && reclaim_states_give_up(&states, &world, &why) < 0)
        log_warning("%s", why.text);
    return r;
}
