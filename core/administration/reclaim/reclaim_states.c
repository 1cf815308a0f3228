// SPDX-License-Identifier: LGPL-2.1-or-later
/* States of domains whose files change in the background; see reclaim_states.h. */
#include "administration/reclaim/reclaim_states.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "administration/reclaim/reclaim_files.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "catalog/catalog_hold.h"
#include "catalog/discover.h"

static const char *in_store(const struct reclaim_states *states, const char *path)
{
    return path_in_store(locate_source(states->administration->options.locate), path);
}

int reclaim_states_begin(struct reclaim_states *states, const uint64_t *domains, size_t count,
                         struct error *err)
{
    struct catalog_service *catalog = states->administration->catalog;
    states->states = calloc(count + 1, sizeof(struct state_domain *));
    states->held = calloc(count + 1, sizeof *states->held);
    if (!states->states || !states->held)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < count; i++) {
        int r = catalog_hold(catalog, domains[i], err);
        if (r < 0)
            return r;
        states->held[states->held_count++] = domains[i];
    }
    for (size_t i = 0; i < count; i++) {
        int r = catalog_refresh(catalog, domains[i], NULL, &states->states[states->count], err);
        if (r < 0)
            return r;
        states->count++;
    }
    return 0;
}

static void drop_kept(struct reclaim_states *states)
{
    for (size_t i = 0; states->kept && i < states->count; i++)
        state_domain_free(states->kept[i]);
    free(states->kept);
    states->kept = NULL;
}

int reclaim_states_keep(struct reclaim_states *states, struct error *err)
{
    drop_kept(states);
    states->kept = calloc(states->count + 1, sizeof(struct state_domain *));
    for (size_t i = 0; states->kept && i < states->count; i++)
        if (state_domain_copy(states->states[i], &states->kept[i]) < 0) {
            drop_kept(states);
            return error_set(err, ENOMEM, "out of memory");
        }
    return states->kept ? 0 : error_set(err, ENOMEM, "out of memory");
}

void reclaim_states_go_back(struct reclaim_states *states)
{
    for (size_t i = 0; states->kept && i < states->count; i++) {
        struct state_domain *now = states->states[i];
        states->states[i] = states->kept[i];
        states->kept[i] = now;
    }
    drop_kept(states);
}

void reclaim_states_read_again(struct reclaim_states *states)
{
    for (size_t i = 0; i < states->count; i++) {
        struct state_domain *saved;
        if (store_read(states->administration->options.store, states->states[i]->serial, &saved, NULL) < 0)
            continue;
        state_domain_free(states->states[i]);
        states->states[i] = saved;
    }
}

void reclaim_states_let_go(struct reclaim_states *states)
{
    drop_kept(states);
    for (size_t i = 0; i < states->count; i++)
        state_domain_free(states->states[i]);
    states->count = 0;
}

void reclaim_states_done(struct reclaim_states *states)
{
    drop_kept(states);
    for (size_t i = 0; i < states->held_count; i++)
        catalog_release(states->administration->catalog, states->held[i]);
    for (size_t i = 0; i < states->count; i++)
        state_domain_free(states->states[i]);
    free(states->states);
    free(states->held);
    *states = (struct reclaim_states){0};
}

/* ---- Records of whole layers ---- */

typedef void record_visitor(struct state_frozen *record, void *opaque);

static void each_whole(struct state_domain *state, const char *path, record_visitor *visit, void *opaque)
{
    for (size_t i = 0; i < state->snapshot_count; i++)
        for (size_t j = 0; j < state->snapshots[i].frozen_count; j++) {
            struct state_frozen *record = &state->snapshots[i].frozen[j];
            if (!record->internal && strcmp(record->layer, path) == 0)
                visit(record, opaque);
        }
    for (size_t i = 0; i < state->hidden_count; i++)
        if (!state->hidden[i].internal && strcmp(state->hidden[i].layer, path) == 0)
            visit(&state->hidden[i], opaque);
}

static void note_found(struct state_frozen *record, void *opaque)
{
    *(bool *)opaque = true;
}

static void set_identity(struct state_frozen *record, void *opaque)
{
    record->layer_identity = *(const struct file_identity *)opaque;
    record->allocated = ALLOCATED_UNKNOWN;
    record->is_settled = true;
}

/* Is the file one of the domain's, frozen or active? */
static bool has_file(struct state_domain *state, const char *path)
{
    bool found = false;
    each_whole(state, path, note_found, &found);
    for (size_t i = 0; i < state->disk_count; i++)
        found |= state->disks[i].active && strcmp(state->disks[i].active, path) == 0;
    for (size_t i = 0; i < state->hidden_count; i++)
        found |= strcmp(state->hidden[i].layer, path) == 0;
    return found;
}

int reclaim_states_touch(struct reclaim_states *states, const char *path, struct error *err)
{
    const char *stored = in_store(states, path);
    for (size_t i = 0; i < states->count; i++) {
        struct state_domain *state = states->states[i];
        if (!has_file(state, stored) || state_paths_have(state->touched, stored))
            continue;
        if (state_paths_add(&state->touched, stored) < 0)
            return error_set(err, ENOMEM, "out of memory");
        int r = catalog_save(states->administration->catalog, state, err);
        crash_point("touched");
        if (r == 0)
            r = catalog_show(states->administration->catalog, state, NULL, err);
        if (r < 0)
            return r;
    }
    return 0;
}

int reclaim_states_touch_again(struct reclaim_states *states, const char *path, struct error *err)
{
    const char *stored = in_store(states, path);
    for (size_t i = 0; i < states->count; i++)
        if (has_file(states->states[i], stored) && state_paths_add(&states->states[i]->touched, stored) < 0)
            return error_set(err, ENOMEM, "out of memory");
    return 0;
}

int reclaim_states_give_up(struct reclaim_states *states, const struct world *world, struct error *err)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < world->file_count; i++) {
        const char *path = world->files[i].layer->path, *stored = in_store(states, path);
        bool is_touched = false;
        for (size_t j = 0; j < states->count; j++)
            is_touched |= state_paths_have(states->states[j]->touched, stored);
        if (is_touched)
            r = reclaim_states_settle(states, world, path, err);
    }
    return r < 0 || !states->is_changed ? r : reclaim_states_save(states, err);
}

static int identity_of(const struct reclaim_states *states, const struct world *world, const char *path,
                       struct file_identity *identity, struct error *err)
{
    cleanup_close int fd = -1;
    struct stat stat;
    int r = reclaim_open(states->administration, world, path, &fd, err);
    if (r < 0)
        return r;
    if (fstat(fd, &stat) < 0)
        return error_set(err, errno, "%s: %m", path);
    *identity = file_identity_of(&stat);
    return 0;
}

int reclaim_states_settle(struct reclaim_states *states, const struct world *world, const char *path,
                          struct error *err)
{
    struct file_identity identity;
    int r = identity_of(states, world, path, &identity, err);
    if (r < 0)
        return r;
    const char *stored = in_store(states, path);
    states->is_changed = true;
    for (size_t i = 0; i < states->count; i++) {
        each_whole(states->states[i], stored, set_identity, &identity);
        state_paths_remove(states->states[i]->touched, stored);
    }
    return 0;
}

/* ---- One layer in the place of another ---- */

static void remove_hidden(struct state_domain *state, size_t index)
{
    state_frozen_done(&state->hidden[index]);
    state->hidden_count--;
    memmove(&state->hidden[index], &state->hidden[index + 1],
            (state->hidden_count - index) * sizeof *state->hidden);
}

static void remove_hidden_whole(struct state_domain *state, const char *path)
{
    for (size_t i = state->hidden_count; i-- > 0;)
        if (!state->hidden[i].internal && strcmp(state->hidden[i].layer, path) == 0)
            remove_hidden(state, i);
}

/* The layer that goes is hidden from now on, on this disk. */
static int hide(struct state_domain *state, const struct state_disk *disk, const char *path,
                const struct file_identity *identity)
{
    for (size_t i = 0; i < state->hidden_count; i++)
        if (!state->hidden[i].internal && strcmp(state->hidden[i].layer, path) == 0)
            return 0;
    struct state_frozen *grown = realloc(state->hidden, (state->hidden_count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    state->hidden = grown;
    const struct state_frozen record = {.target = disk->target,
                                        .position = disk->position,
                                        .layer = (char *)path,
                                        .layer_identity = *identity,
                                        .allocated = ALLOCATED_UNKNOWN,
                                        .is_settled = true};
    if (state_frozen_copy(&record, &grown[state->hidden_count]) < 0)
        return -ENOMEM;
    state->hidden_count++;
    return 0;
}

struct repointing {
    const char *into;
    struct file_identity identity;
    bool failed;
};

static void repoint_record(struct state_frozen *record, void *opaque)
{
    struct repointing *repointing = opaque;
    char *copy = strdup(repointing->into);
    if (!copy) {
        repointing->failed = true;
        return;
    }
    free(record->layer);
    record->layer = copy;
    set_identity(record, &repointing->identity);
}

/* In one domain. Its snapshots and disks that were the one are the other. */
static int repoint_state(struct state_domain *state, const char *layer, const struct file_identity *gone,
                         struct repointing *repointing)
{
    const struct state_disk *disk = NULL;
    for (size_t i = 0; i < state->hidden_count && !disk; i++)
        if (strcmp(state->hidden[i].layer, layer) == 0)
            disk = state_find_disk(state, state->hidden[i].position);
    for (size_t i = 0; i < state->snapshot_count; i++)
        for (size_t j = 0; j < state->snapshots[i].frozen_count; j++) {
            struct state_frozen *record = &state->snapshots[i].frozen[j];
            if (record->internal || strcmp(record->layer, layer) != 0)
                continue;
            disk = state_find_disk(state, record->position);
            repoint_record(record, repointing);
        }
    bool is_seen = false, is_active = false;
    for (size_t i = 0; i < state->disk_count; i++) {
        if (!state->disks[i].active || strcmp(state->disks[i].active, layer) != 0)
            continue;
        disk = &state->disks[i];
        is_active = true;
        free(state->disks[i].active);
        if (!(state->disks[i].active = strdup(repointing->into)))
            return -ENOMEM;
    }
    for (size_t i = 0; i < state->snapshot_count; i++)
        for (size_t j = 0; j < state->snapshots[i].frozen_count; j++)
            is_seen |= !state->snapshots[i].frozen[j].internal &&
                       strcmp(state->snapshots[i].frozen[j].layer, repointing->into) == 0;
    if (is_seen || is_active)
        remove_hidden_whole(state, repointing->into);
    else
        each_whole(state, repointing->into, set_identity, &repointing->identity);
    state_paths_remove(state->touched, repointing->into);
    return disk ? hide(state, disk, layer, gone) : 0;
}

int reclaim_states_repoint(struct reclaim_states *states, const struct world *world, const char *layer,
                           const char *into, struct error *err)
{
    struct repointing repointing = {.into = in_store(states, into)};
    struct file_identity gone;
    int r = identity_of(states, world, into, &repointing.identity, err);
    if (r == 0)
        r = identity_of(states, world, layer, &gone, err);
    states->is_changed = true;
    for (size_t i = 0; r == 0 && i < states->count; i++)
        if (repoint_state(states->states[i], in_store(states, layer), &gone, &repointing) < 0 ||
            repointing.failed)
            r = error_set(err, ENOMEM, "out of memory");
    return r;
}

/* ---- What is gone ---- */

void reclaim_states_forget(struct reclaim_states *states, const char *path)
{
    const char *stored = in_store(states, path);
    states->is_changed = true;
    for (size_t i = 0; i < states->count; i++) {
        struct state_domain *state = states->states[i];
        for (size_t j = state->hidden_count; j-- > 0;)
            if (strcmp(state->hidden[j].layer, stored) == 0)
                remove_hidden(state, j);
        state_paths_remove(state->made, stored);
        state_paths_remove(state->reused, stored);
        state_paths_remove(state->touched, stored);
    }
}

void reclaim_states_forget_internal(struct reclaim_states *states, const char *path,
                                    const struct internal_snapshot *internal)
{
    const char *stored = in_store(states, path);
    states->is_changed = true;
    for (size_t i = 0; i < states->count; i++) {
        struct state_domain *state = states->states[i];
        for (size_t j = state->hidden_count; j-- > 0;) {
            const struct state_frozen *record = &state->hidden[j];
            if (record->internal && strcmp(record->layer, stored) == 0 &&
                strcmp(record->internal_id, internal->id) == 0 &&
                record->l1_table_offset == internal->l1_table_offset)
                remove_hidden(state, j);
        }
    }
}

/* ---- Saving ---- */

/* Is the domain as it was before anything was ever asked for? */
static bool is_over(const struct state_domain *state)
{
    if (state->snapshot_count || state->hidden_count || state->defaults || (state->made && *state->made) ||
        (state->touched && *state->touched) || state->unneeded_count)
        return false;
    for (size_t i = 0; i < state->disk_count; i++) {
        const struct state_disk *disk = &state->disks[i];
        if (disk->active && (!disk->original || strcmp(disk->active, disk->original) != 0))
            return false;
    }
    return true;
}

static void end_administration(struct state_domain *state)
{
    state->is_administered = false;
    state->current = state->operation = 0;
    for (size_t i = 0; i < state->disk_count; i++) {
        free(state->disks[i].active);
        free(state->disks[i].original);
        state->disks[i].active = state->disks[i].original = NULL;
    }
}

int reclaim_states_save(struct reclaim_states *states, struct error *err)
{
    struct catalog_service *catalog = states->administration->catalog;
    int r = 0;
    for (size_t i = 0; r == 0 && i < states->count; i++) {
        if (is_over(states->states[i])) {
            /* With the state goes what tells of operations that the journal may still have. */
            r = journal_flush(states->administration->journal, err);
            end_administration(states->states[i]);
        }
        if (r == 0)
            r = catalog_save(catalog, states->states[i], err);
        crash_point("reclaimed");
    }
    if (r == 0)
        reclaim_states_show(states);
    return r;
}

int reclaim_states_store(struct reclaim_states *states, struct error *err)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < states->count; i++)
        r = catalog_save(states->administration->catalog, states->states[i], err);
    return r;
}

void reclaim_states_show(struct reclaim_states *states)
{
    for (size_t i = 0; i < states->count; i++) {
        struct error why;
        if (catalog_show(states->administration->catalog, states->states[i], NULL, &why) < 0)
            log_warning("%s is not shown as it is yet: %s", states->states[i]->name, why.text);
    }
    states->is_changed = false;
}

bool reclaim_is_complete(struct administration *administration, const struct catalog *catalog)
{
    size_t damaged;
    journal_damage(administration->journal, &damaged);
    if (damaged || store_damage(administration->options.store))
        return false;
    for (size_t i = 0; i < catalog->domain_count; i++)
        if (catalog->domains[i]->is_incomplete)
            return false;
    return true;
}
