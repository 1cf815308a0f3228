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

static int copy_frozen(const struct state_frozen *from, struct state_frozen *copy)
{
    *copy = *from;
    copy->target = strdup(from->target);
    copy->layer = strdup(from->layer);
    copy->internal_id = copy_or_null(from->internal_id);
    return copy->target && copy->layer && (copy->internal_id || !from->internal_id) ? 0 : -ENOMEM;
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
        snapshot->frozen = calloc(group->count, sizeof *snapshot->frozen);
        if (!snapshot->name || !snapshot->frozen)
            return -ENOMEM;
        for (size_t j = 0; j < group->count; j++) {
            int r = fill_frozen(assembly, group->entries[j], &snapshot->frozen[snapshot->frozen_count++]);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

/* Is any disk's chain not to be seen whole now? Then what is missing may come back, with its numbers. */
static bool is_incomplete(const struct draft *draft)
{
    for (size_t i = 0; i < draft->disk_count; i++) {
        const struct scan_chain *chain = &draft->disks[i].chain;
        if (chain->problem)
            return true;
        for (size_t j = 0; j < chain->count; j++)
            if (chain->images[j]->info && chain->images[j]->info->problem)
                return true;
    }
    return false;
}

static int keep_missing_snapshots(struct assembly *assembly)
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
        if (is_there[i] || groups_find(&assembly->groups, from->name))
            continue;
        struct state_snapshot *copy = &state->snapshots[state->snapshot_count++];
        copy->serial = from->serial;
        copy->name = strdup(from->name);
        copy->frozen = calloc(from->frozen_count ? from->frozen_count : 1, sizeof *copy->frozen);
        if (!copy->name || !copy->frozen)
            return -ENOMEM;
        for (size_t j = 0; j < from->frozen_count; j++) {
            int r = copy_frozen(&from->frozen[j], &copy->frozen[copy->frozen_count++]);
            if (r < 0)
                return r;
        }
    }
    return 0;
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
        disk->position = position;
        disk->target = strdup(target);
        if (!disk->target)
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
    if (r == 0 && is_incomplete(assembly->draft))
        r = keep_missing_snapshots(assembly);
    if (r == 0 && state->snapshot_count)
        qsort(state->snapshots, state->snapshot_count, sizeof *state->snapshots, compare_serial);
    return r;
}
