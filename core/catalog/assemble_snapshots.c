// SPDX-License-Identifier: LGPL-2.1-or-later
/* The snapshots of a domain that is being put together, with what each holds and which one each stands on. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "catalog/assembly.h"
#include "catalog/scan_images.h"

/* ---- One ---- */

static bool is_later(struct timespec a, struct timespec b)
{
    return a.tv_sec != b.tv_sec ? a.tv_sec > b.tv_sec : a.tv_nsec > b.tv_nsec;
}

static struct timespec entry_time(const struct draft *draft, const struct entry *entry,
                                  const struct freeze *freeze)
{
    if (entry->internal)
        return (struct timespec){entry->internal->date_sec, (long)entry->internal->date_nsec};
    /* The last write: not later than the freezing, and the same wherever the files are copied to. The clock
     * of a file's times lags by a tick, so that snapshots in the layer can seem younger than its last write.
     */
    struct timespec time = {freeze->layer.mtime_sec, (long)freeze->layer.mtime_nsec};
    const struct image_info *info = entry_image(draft, entry)->info;
    for (size_t i = 0; info && i < info->snapshot_count; i++) {
        struct timespec inside = {info->snapshots[i]->date_sec, (long)info->snapshots[i]->date_nsec};
        if (is_later(inside, time))
            time = inside;
    }
    return time;
}

/* What tells a snapshot from others of its name that there were or will be. */
static int draw_serial(struct assembly *assembly, const struct group *group, uint64_t *serial)
{
    if (group->known) {
        *serial = group->known->serial;
        return 0;
    }
    const struct internal_snapshot *internal = group->entries[0]->internal;
    const struct domain *domain = assembly->domain;
    char name[512];
    if (internal)
        snprintf(name, sizeof name, "%s %s %" PRIu32 ".%09" PRIu32 " %" PRIu64, group->name, internal->id,
                 internal->date_sec, internal->date_nsec, internal->l1_table_offset);
    else
        snprintf(name, sizeof name, "%s", group->name);
    return assembly->input->next_serial(assembly->input->opaque, "snapshot",
                                        domain->uuid ? domain->uuid : domain->name, name, serial);
}

/* The layer is frozen: it has what it had then, or is known to have something else now. */
static void freeze_layer(struct assembly *assembly, const struct entry *entry, struct layer *layer,
                         const struct freeze *freeze)
{
    layer->identity = freeze->layer;
    layer->data_identity = freeze->data;
    layer->changed = freeze->is_changed;
    if (layer->remote)
        layer->size = freeze->layer.size;
    if (!freeze->is_changed)
        return;
    const struct scan_image *overlay = entry_overlay(assembly->draft, entry);
    draft_problem(assembly->draft,
                  "%s was changed by someone else since it was frozen: what stands on it can't be read%s%s%s",
                  layer->path, overlay ? "; if the overlay on it (" : "", overlay ? overlay->path : "",
                  overlay ? ") is no longer used, remove that" : "");
}

static int add_frozen(struct assembly *assembly, struct snapshot *snapshot, const struct entry *entry,
                      const struct freeze *freeze)
{
    struct layer *layer = assembly->layers[entry->disk][entry->depth];
    struct frozen *frozen = &snapshot->frozen[snapshot->frozen_count++];
    frozen->disk = &assembly->domain->disks[entry->disk];
    frozen->layer = layer;
    frozen->size = layer->size;
    uint64_t allocated = ALLOCATED_UNKNOWN;
    if (entry->known_frozen && !freeze->is_changed)
        allocated = entry->known_frozen->allocated;
    atomic_init(&frozen->allocated, allocated);
    if (!entry->internal) {
        snapshot->is_protected = true;
        freeze_layer(assembly, entry, layer, freeze);
        frozen->size = layer->size;
        return 0;
    }
    frozen->internal = internal_snapshot_copy(entry->internal);
    if (!frozen->internal)
        return -ENOMEM;
    frozen->size = entry->internal->disk_size;
    if (__builtin_add_overflow(snapshot->memory_size, entry->internal->vm_state_size, &snapshot->memory_size))
        snapshot->memory_size = UINT64_MAX;
    return 0;
}

struct saved_memory *assembly_memory(const struct assembly *assembly, const struct state_memory *known)
{
    cleanup_free char *path = path_from_store(assembly->input->source, known->path);
    return path ? saved_memory_new(path, known->compression, &known->identity) : NULL;
}

static int restore_memory(const struct assembly *assembly, const struct state_snapshot *known,
                          struct snapshot *snapshot)
{
    if (known->launch && assembly_copy_list(known->launch, &snapshot->launch) < 0)
        return -ENOMEM;
    if (known->memory.path)
        snapshot->memory = assembly_memory(assembly, &known->memory);
    return snapshot->memory || !known->memory.path ? 0 : -ENOMEM;
}

/* What the store tells of a snapshot, and the images don't. */
static int restore_attributes(const struct assembly *assembly, struct snapshot *snapshot,
                              const struct state_snapshot *known)
{
    snapshot->serial = known->serial;
    snapshot->created = (struct timespec){known->created_sec, known->created_nsec};
    snapshot->state = known->state;
    snapshot->consistency = known->consistency;
    snapshot->is_protected = known->is_protected;
    int r = restore_memory(assembly, known, snapshot);
    if (r < 0 || !known->description)
        return r;
    free(snapshot->description);
    snapshot->description = strdup(known->description);
    return snapshot->description ? 0 : -ENOMEM;
}

/* Is the disk at this position in the definition now? */
bool assembly_has_disk(const struct assembly *assembly, unsigned position)
{
    for (size_t i = 0; i < assembly->draft->disk_count; i++)
        if (assembly->positions[i] == position)
            return true;
    return false;
}

static size_t count_lost(const struct assembly *assembly, const struct state_snapshot *known)
{
    size_t lost = 0;
    for (size_t i = 0; i < known->frozen_count; i++)
        lost += !assembly_has_disk(assembly, known->frozen[i].position);
    return lost;
}

static int add_snapshot(struct assembly *assembly, const struct group *group)
{
    struct domain *domain = assembly->domain;
    struct snapshot *snapshot = calloc(1, sizeof *snapshot);
    if (!snapshot)
        return -ENOMEM;
    domain->snapshots[domain->snapshot_count++] = snapshot;
    snapshot->name = strdup(group->name);
    snapshot->description = strdup("");
    snapshot->frozen = calloc(group->count + 1, sizeof *snapshot->frozen);
    if (!snapshot->name || !snapshot->description || !snapshot->frozen)
        return -ENOMEM;
    for (size_t i = 0; i < group->count; i++) {
        const struct entry *entry = group->entries[i];
        struct freeze freeze = {0};
        if (!entry->internal)
            freeze = entry_freeze(assembly->draft, entry);
        int r = add_frozen(assembly, snapshot, entry, &freeze);
        if (r < 0)
            return r;
        struct timespec time = entry_time(assembly->draft, entry, &freeze);
        if (i == 0 || is_later(time, snapshot->created))
            snapshot->created = time;
    }
    /* Memory makes it a checkpoint of a domain that ran; without it, nothing is known that is better than
     * what a crash leaves. */
    const struct state_domain *known = assembly->draft->state;
    if (group->known)
        snapshot->lost_disks = count_lost(assembly, group->known);
    if (group->known && known->is_administered)
        return restore_attributes(assembly, snapshot, group->known);
    snapshot->state = snapshot->memory_size ? SNAPSHOT_STATE_RUNNING : SNAPSHOT_STATE_UNKNOWN;
    snapshot->consistency = snapshot->memory_size ? CONSISTENCY_CHECKPOINT : CONSISTENCY_CRASH;
    return draw_serial(assembly, group, &snapshot->serial);
}

/* The entry of the layer that this one stands on, or NULL. */
static const struct entry *layer_below(const struct assembly *assembly, const struct entry *entry)
{
    size_t below = assembly->draft->disks[entry->disk].layers[entry->depth].backing;
    for (size_t i = 0; below != DRAFT_NO_LAYER && i < assembly->entries.count; i++) {
        const struct entry *other = &assembly->entries.list[i];
        if (other->disk == entry->disk && other->depth == below && !other->internal)
            return other;
    }
    return NULL;
}

/* The snapshot that all disks of the group have next below, where all are layers; else NULL. What follows
 * parents goes down in each chain, so it comes to an end. */
static const struct group *parent_of(const struct assembly *assembly, const struct group *group)
{
    const struct group *parent = NULL;
    for (size_t i = 0; i < group->count; i++) {
        const struct entry *below =
            group->entries[i]->internal ? NULL : layer_below(assembly, group->entries[i]);
        if (!below || (parent && below->group != parent))
            return NULL;
        parent = below->group;
    }
    return parent;
}

/*
 * The present state descends from the topmost frozen layer of every disk that has one, where that is one
 * snapshot; and if no internal snapshot in an active layer is younger, since nobody knows whether the domain
 * went back to that one.
 */
static const struct group *current_by_images(const struct assembly *assembly)
{
    const struct draft *draft = assembly->draft;
    const struct group *current = NULL;
    struct timespec frozen_at = {0}, internal_at = {0};
    bool has_internal = false;
    for (size_t i = 0; i < assembly->entries.count; i++) {
        const struct entry *entry = &assembly->entries.list[i];
        if (entry->internal && entry_is_active(draft, entry)) {
            struct timespec time = entry_time(draft, entry, NULL);
            if (!has_internal || is_later(time, internal_at))
                internal_at = time;
            has_internal = true;
        } else if (!entry->internal && entry->depth == 1) {
            struct freeze freeze = entry_freeze(draft, entry);
            struct timespec time = entry_time(draft, entry, &freeze);
            if (current && current != entry->group)
                return NULL;
            current = entry->group;
            if (is_later(time, frozen_at))
                frozen_at = time;
        }
    }
    return has_internal && !is_later(frozen_at, internal_at) ? NULL : current;
}

/* ---- Of administered domains: the store tells ---- */

static struct group *group_of_serial(const struct assembly *assembly, uint64_t serial)
{
    for (size_t i = 0; i < assembly->groups.count; i++)
        if (assembly->groups.list[i]->known && assembly->groups.list[i]->known->serial == serial)
            return assembly->groups.list[i];
    return NULL;
}

/* The snapshot of this serial, or its nearest ancestor that is there: others can have gone by another
 * program's doing. */
static const struct group *nearest(const struct assembly *assembly, uint64_t serial)
{
    const struct state_domain *known = assembly->draft->state;
    for (size_t steps = 0; serial && steps <= known->snapshot_count; steps++) {
        const struct group *group = group_of_serial(assembly, serial);
        if (group)
            return group;
        const struct state_snapshot *gone = state_find_snapshot(known, serial);
        serial = gone ? gone->parent : 0;
    }
    return NULL;
}

/* Another program has frozen what was the active layer: then this is the snapshot that came of it. */
static const struct group *frozen_by_others(const struct assembly *assembly)
{
    const struct draft *draft = assembly->draft;
    for (size_t i = 0; i < assembly->entries.count; i++) {
        const struct entry *entry = &assembly->entries.list[i];
        if (!entry->known && !entry->internal && entry->depth == 1 &&
            draft->disks[entry->disk].chain.count > 1)
            return entry->group;
    }
    return NULL;
}

static const struct group *administered_parent(const struct assembly *assembly, const struct group *group)
{
    const struct state_domain *known = assembly->draft->state;
    if (group->known)
        return nearest(assembly, group->known->parent);
    return group == frozen_by_others(assembly) ? nearest(assembly, known->current)
                                               : parent_of(assembly, group);
}

static const struct group *current_of(const struct assembly *assembly)
{
    const struct state_domain *known = assembly->draft->state;
    if (!known || !known->is_administered)
        return current_by_images(assembly);
    const struct group *by_others = frozen_by_others(assembly);
    return by_others ? by_others : nearest(assembly, known->current);
}

/* What deleted snapshots leave: layers that are frozen for what stands on them, and internal snapshots that
 * are to go. */
static int add_hidden(struct assembly *assembly)
{
    struct domain *domain = assembly->domain;
    const struct entries *entries = &assembly->entries;
    domain->released = calloc(entries->hidden_count + 1, sizeof *domain->released);
    if (!domain->released)
        return -ENOMEM;
    for (size_t i = 0; i < entries->hidden_count; i++) {
        const struct entry *entry = &entries->hidden[i];
        struct layer *layer = assembly->layers[entry->disk][entry->depth];
        if (!entry->internal) {
            struct freeze freeze = entry_freeze(assembly->draft, entry);
            freeze_layer(assembly, entry, layer, &freeze);
            continue;
        }
        struct internal_snapshot *internal = internal_snapshot_copy(entry->internal);
        if (!internal)
            return -ENOMEM;
        domain->released[domain->released_count++] =
            (struct released){&domain->disks[entry->disk], layer, internal};
    }
    return 0;
}

int assembly_add_snapshots(struct assembly *assembly)
{
    struct domain *domain = assembly->domain;
    struct groups *groups = &assembly->groups;
    int r = entries_collect(assembly->input->source, assembly->draft, assembly->positions,
                            assembly->input->room, &assembly->entries);
    if (r == 0)
        r = groups_make(assembly->draft, &assembly->entries, groups);
    if (r < 0)
        return r;
    domain->snapshots = calloc(groups->count ? groups->count : 1, sizeof *domain->snapshots);
    if (!domain->snapshots)
        return -ENOMEM;
    for (size_t i = 0; r == 0 && i < groups->count; i++) {
        r = add_snapshot(assembly, groups->list[i]);
        groups->list[i]->snapshot = domain->snapshots[i];
    }
    if (r == 0)
        r = add_hidden(assembly);
    if (r < 0)
        return r;
    const bool is_administered = assembly->draft->state && assembly->draft->state->is_administered;
    for (size_t i = 0; i < groups->count; i++) {
        const struct group *parent = is_administered ? administered_parent(assembly, groups->list[i])
                                                     : parent_of(assembly, groups->list[i]);
        groups->list[i]->snapshot->parent = parent ? parent->snapshot : NULL;
    }
    const struct group *current = current_of(assembly);
    domain->current = current ? current->snapshot : NULL;
    return domain_seal(domain);
}
