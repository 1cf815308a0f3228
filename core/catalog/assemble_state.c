// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What the store is to know of a domain from now on: its numbers, its names, and what its frozen layers were
 * when they were frozen. What can't be seen at the moment is kept as it is known.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "catalog/assembly.h"

static char *copy_or_null(const char *string)
{
    return string ? strdup(string) : NULL;
}

static int fill_frozen(const struct assembly *assembly, const struct entry *entry,
                       struct state_frozen *frozen)
{
    const struct scan_image *image = entry_image(assembly->draft, entry);
    const struct disk *disk = &assembly->domain->disks[entry->disk];
    const struct snapshot *snapshot = entry->group->snapshot;
    frozen->target = strdup(disk->target);
    frozen->position = disk->position;
    frozen->layer = strdup(path_in_store(assembly->input->source, image->path));
    frozen->allocated = atomic_load(&snapshot_find_frozen(snapshot, disk)->allocated);
    if (!frozen->target || !frozen->layer)
        return -ENOMEM;
    if (!entry->internal) {
        struct freeze freeze = entry_freeze(assembly->draft, entry);
        frozen->layer_identity = freeze.layer;
        frozen->data_identity = freeze.data;
        frozen->overlay_identity = freeze.overlay;
        frozen->is_settled = freeze.is_settled;
        return 0;
    }
    frozen->internal = true;
    frozen->l1_table_offset = entry->internal->l1_table_offset;
    frozen->date_sec = entry->internal->date_sec;
    frozen->date_nsec = entry->internal->date_nsec;
    frozen->internal_id = strdup(entry->internal->id);
    return frozen->internal_id ? 0 : -ENOMEM;
}

static int fill_memory(const struct assembly *assembly, const struct snapshot *from,
                       struct state_snapshot *snapshot)
{
    if (from->launch && assembly_copy_list(from->launch, &snapshot->launch) < 0)
        return -ENOMEM;
    if (!from->memory)
        return 0;
    snapshot->memory = (struct state_memory){
        .path = strdup(path_in_store(assembly->input->source, from->memory->layer.path)),
        .compression = from->memory->compression,
        .identity = from->memory->layer.identity,
    };
    return snapshot->memory.path ? 0 : -ENOMEM;
}

/* What the domain shows of the snapshot, for a store that tells it from now on. */
static int fill_attributes(const struct assembly *assembly, const struct snapshot *from,
                           struct state_snapshot *snapshot)
{
    if (!assembly->state->is_administered)
        return 0;
    snapshot->parent = from->parent ? from->parent->serial : 0;
    snapshot->created_sec = from->created.tv_sec;
    snapshot->created_nsec = (uint32_t)from->created.tv_nsec;
    snapshot->state = from->state;
    snapshot->consistency = from->consistency;
    snapshot->is_protected = from->is_protected;
    snapshot->description = *from->description ? strdup(from->description) : NULL;
    return snapshot->description || !*from->description ? fill_memory(assembly, from, snapshot) : -ENOMEM;
}

/* Is any disk's chain not to be seen whole now? Then what is missing may come back, with its numbers. */
static bool is_incomplete(const struct draft *draft)
{
    for (size_t i = 0; i < draft->disk_count; i++) {
        const struct draft_disk *disk = &draft->disks[i];
        if (disk->chain.problem)
            return true;
        for (size_t j = 0; j < disk->layer_count; j++)
            if (disk->layers[j].image->info && disk->layers[j].image->info->problem)
                return true;
    }
    return draft->is_incomplete;
}

static bool has_position(const struct state_snapshot *snapshot, unsigned position)
{
    for (size_t i = 0; i < snapshot->frozen_count; i++)
        if (snapshot->frozen[i].position == position)
            return true;
    return false;
}

/* What the snapshot holds of disks that the definition has no more, or that can't be seen whole now: it may
 * come back. */
static int keep_lost(const struct assembly *assembly, const struct state_snapshot *known,
                     struct state_snapshot *snapshot)
{
    for (size_t i = 0; i < known->frozen_count; i++) {
        unsigned position = known->frozen[i].position;
        if (has_position(snapshot, position) ||
            (assembly_has_disk(assembly, position) && !is_incomplete(assembly->draft)))
            continue;
        if (state_frozen_copy(&known->frozen[i], &snapshot->frozen[snapshot->frozen_count]) < 0)
            return -ENOMEM;
        snapshot->frozen_count++;
    }
    return 0;
}

static int fill_snapshots(struct assembly *assembly)
{
    struct state_domain *state = assembly->state;
    const struct groups *groups = &assembly->groups;
    for (size_t i = 0; i < groups->count; i++) {
        const struct group *group = groups->list[i];
        struct state_snapshot *snapshot = &state->snapshots[state->snapshot_count++];
        snapshot->serial = group->snapshot->serial;
        snapshot->name = strdup(group->name);
        size_t known_count = group->known ? group->known->frozen_count : 0;
        snapshot->frozen = calloc(group->count + known_count, sizeof *snapshot->frozen);
        if (!snapshot->name || !snapshot->frozen || fill_attributes(assembly, group->snapshot, snapshot) < 0)
            return -ENOMEM;
        for (size_t j = 0; j < group->count; j++) {
            int r = fill_frozen(assembly, group->entries[j], &snapshot->frozen[snapshot->frozen_count++]);
            if (r < 0)
                return r;
        }
        if (group->known && keep_lost(assembly, group->known, snapshot) < 0)
            return -ENOMEM;
    }
    return 0;
}

/* Does all that it holds belong to disks that the definition has no more? */
static bool is_lost(const struct assembly *assembly, const struct state_snapshot *snapshot)
{
    for (size_t i = 0; i < snapshot->frozen_count; i++)
        if (assembly_has_disk(assembly, snapshot->frozen[i].position))
            return false;
    return snapshot->frozen_count > 0;
}

static int keep_missing_snapshots(struct assembly *assembly, bool incomplete)
{
    const struct state_domain *known = assembly->draft->state;
    struct state_domain *state = assembly->state;
    size_t count = known ? known->snapshot_count : 0;
    cleanup_free bool *is_there = calloc(count + 1, sizeof *is_there);
    if (!is_there)
        return -ENOMEM;
    for (size_t i = 0; i < assembly->groups.count; i++)
        if (assembly->groups.list[i]->known)
            is_there[assembly->groups.list[i]->known - known->snapshots] = true;
    for (size_t i = 0; i < count; i++) {
        const struct state_snapshot *from = &known->snapshots[i];
        if (is_there[i])
            continue;
        /* A file with its memory stays: nobody asked for that to be deleted. */
        if (groups_find(&assembly->groups, from->name) || (!incomplete && !is_lost(assembly, from)))
            continue;
        if (state_snapshot_copy(from, &state->snapshots[state->snapshot_count]) < 0)
            return -ENOMEM;
        state->snapshot_count++;
    }
    return 0;
}

/* ---- Administered domains ---- */

static int copy_known_paths(char *const *from, char ***to)
{
    int r = 0;
    for (; r == 0 && from && *from; from++)
        r = state_paths_add(to, *from);
    return r;
}

/* Which file is active: as the store knew, unless another program has put something on it. */
static int fill_active(const struct assembly *assembly)
{
    const struct draft *draft = assembly->draft;
    for (size_t i = 0; i < draft->disk_count; i++) {
        struct state_disk *disk = state_find_disk(assembly->state, assembly->positions[i]);
        if (!disk->active || draft->disks[i].chain.count == 0)
            continue;
        free(disk->active);
        disk->active = strdup(path_in_store(assembly->input->source, draft->disks[i].chain.images[0]->path));
        if (!disk->active)
            return -ENOMEM;
    }
    return 0;
}

/* The layers and internal snapshots of deleted snapshots, as far as they are still there. */
static int fill_hidden(const struct assembly *assembly, bool is_incomplete)
{
    const struct state_domain *known = assembly->draft->state;
    struct state_domain *state = assembly->state;
    state->hidden = calloc(known->hidden_count + 1, sizeof *state->hidden);
    if (!state->hidden)
        return -ENOMEM;
    for (size_t i = 0; i < known->hidden_count; i++) {
        const struct entry *entry = NULL;
        for (size_t j = 0; j < assembly->entries.hidden_count && !entry; j++)
            if (assembly->entries.hidden[j].known_frozen == &known->hidden[i])
                entry = &assembly->entries.hidden[j];
        if (!entry && !is_incomplete && assembly_has_disk(assembly, known->hidden[i].position))
            continue;
        if (state_frozen_copy(&known->hidden[i], &state->hidden[state->hidden_count]) < 0)
            return -ENOMEM;
        state->hidden_count++;
    }
    return 0;
}

static int fill_administration(const struct assembly *assembly, bool is_incomplete)
{
    const struct state_domain *known = assembly->draft->state;
    const struct domain *domain = assembly->domain;
    struct state_domain *state = assembly->state;
    if (!state->is_administered)
        return 0;
    state->current = domain->current ? domain->current->serial : is_incomplete ? known->current : 0;
    state->operation = known->operation;
    state->guard = known->guard;
    state->defaults = copy_or_null(known->defaults);
    if ((known->defaults && !state->defaults) || copy_known_paths(known->made, &state->made) < 0 ||
        copy_known_paths(known->reused, &state->reused) < 0 ||
        copy_known_paths(known->touched, &state->touched) < 0 ||
        copy_known_paths(known->raw, &state->raw) < 0 || copy_known_paths(known->left, &state->left) < 0)
        return -ENOMEM;
    for (size_t i = 0; i < known->mirror_count; i++)
        if (state_add_mirror(state, &known->mirrors[i]) < 0)
            return -ENOMEM;
    for (size_t i = 0; i < known->unneeded_count; i++)
        if (state_add_unneeded(state, &known->unneeded[i]) < 0)
            return -ENOMEM;
    int r = fill_active(assembly);
    return r < 0 ? r : fill_hidden(assembly, is_incomplete);
}

static int fill_disks(struct assembly *assembly)
{
    const struct state_domain *known = assembly->draft->state;
    const struct domain *domain = assembly->domain;
    struct state_domain *state = assembly->state;
    size_t known_count = known ? known->disk_count : 0;
    state->disks = calloc(known_count + domain->disk_count + 1, sizeof *state->disks);
    state->files = calloc(domain->disk_count + 1, sizeof *state->files);
    if (!state->disks || !state->files)
        return -ENOMEM;
    for (size_t i = 0; i < known_count + domain->disk_count; i++) {
        unsigned position =
            i < known_count ? known->disks[i].position : domain->disks[i - known_count].position;
        const char *target = i < known_count ? known->disks[i].target : domain->disks[i - known_count].target;
        bool is_there = false;
        for (size_t j = 0; j < state->disk_count; j++)
            is_there |= state->disks[j].position == position;
        if (is_there)
            continue;
        struct state_disk *disk = &state->disks[state->disk_count++];
        const struct state_disk *before = i < known_count ? &known->disks[i] : NULL;
        disk->position = position;
        disk->target = strdup(target);
        disk->active = before ? copy_or_null(before->active) : NULL;
        disk->original = before ? copy_or_null(before->original) : NULL;
        if (!disk->target ||
            (before && ((before->active && !disk->active) || (before->original && !disk->original))))
            return -ENOMEM;
    }
    for (size_t i = 0; i < domain->disk_count; i++) {
        state->files[i] = strdup(path_in_store(assembly->input->source, domain->disks[i].source));
        if (!state->files[i])
            return -ENOMEM;
    }
    return 0;
}

static int compare_serial(const void *left, const void *right)
{
    const struct state_snapshot *a = left, *b = right;
    return a->serial < b->serial ? -1 : a->serial > b->serial;
}

int assembly_make_state(struct assembly *assembly)
{
    const struct domain *domain = assembly->domain;
    const struct state_domain *known = assembly->draft->state;
    struct state_domain *state = calloc(1, sizeof *state);
    assembly->state = state;
    if (!state)
        return -ENOMEM;
    state->is_administered = known && known->is_administered;
    state->serial = domain->serial;
    state->name = strdup(domain->name);
    state->uuid = copy_or_null(domain->uuid);
    state->snapshots =
        calloc(assembly->groups.count + (known ? known->snapshot_count : 0) + 1, sizeof *state->snapshots);
    if (!state->name || (domain->uuid && !state->uuid) || !state->snapshots)
        return -ENOMEM;
    int r = fill_disks(assembly);
    if (r == 0)
        r = fill_snapshots(assembly);
    const bool incomplete = is_incomplete(assembly->draft);
    if (r == 0)
        r = fill_administration(assembly, incomplete);
    if (r == 0)
        r = keep_missing_snapshots(assembly, incomplete);
    if (r == 0 && state->snapshot_count)
        qsort(state->snapshots, state->snapshot_count, sizeof *state->snapshots, compare_serial);
    return r;
}
