// SPDX-License-Identifier: LGPL-2.1-or-later
/* From a draft to a domain and its state; see assemble.h. */
#include "catalog/assemble.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "catalog/assembly.h"
#include "catalog/scan_images.h"

/* ---- Disks and layers ---- */

/* A target keeps its position for ever, and a new one gets a position that none had. */
static int give_positions(struct assembly *assembly)
{
    struct draft *draft = assembly->draft;
    const struct state_domain *known = draft->state;
    unsigned next = 0;
    for (size_t i = 0; known && i < known->disk_count; i++)
        if (known->disks[i].position >= next)
            next = known->disks[i].position + 1;
    size_t kept = 0;
    for (size_t i = 0; i < draft->disk_count; i++) {
        unsigned position = next;
        for (size_t j = 0; known && j < known->disk_count; j++)
            if (strcmp(known->disks[j].target, draft->disks[i].target) == 0)
                position = known->disks[j].position;
        if (position >= DOMAIN_DISKS_MAX) {
            draft_problem(draft, "disk %s is left out: a domain has at most %d disks in all its life",
                          draft->disks[i].target, DOMAIN_DISKS_MAX);
            scan_chain_done(&draft->disks[i].chain);
            free(draft->disks[i].layers);
            continue;
        }
        next += position == next;
        assembly->positions[kept] = position;
        draft->disks[kept++] = draft->disks[i];
    }
    draft->disk_count = kept;
    return 0;
}

/* What the store knows of the disk; NULL: nothing. */
static const struct state_disk *disk_state(const struct assembly *assembly, size_t index)
{
    const struct state_domain *known = assembly->draft->state;
    return known && known->is_administered ? state_find_disk(known, assembly->positions[index]) : NULL;
}

static int add_layer(struct assembly *assembly, size_t index, size_t at)
{
    struct draft *draft = assembly->draft;
    struct domain *domain = assembly->domain;
    const struct scan_image *image = draft->disks[index].layers[at].image;
    const struct state_disk *state = disk_state(assembly, index);
    const char *path = path_in_store(assembly->input->source, image->path);
    struct layer *layer = calloc(1, sizeof *layer);
    if (!layer)
        return -ENOMEM;
    domain->layers[domain->layer_count++] = layer;
    assembly->layers[index][at] = layer;
    *layer = (struct layer){
        .path = strdup(image->path),
        .remote = image->is_remote,
        .format = image->format,
        .identity = image->identity,
        .size = image->size,
        .active = draft->disks[index].chain.count && at == 0,
        .made = state && state_paths_have(draft->state->made, path),
        .touched = state && state_paths_have(draft->state->touched, path),
        .original = state && state->original && strcmp(state->original, path) == 0,
        .original_disk = assembly->positions[index],
    };
    if (!layer->path)
        return -ENOMEM;
    if (image->info && image->info->encrypted)
        draft_problem(draft, "%s is encrypted: its frozen disks can't be read", image->path);
    if (image->info && image->info->problem)
        draft_problem(draft, "%s", image->info->problem);
    if (image->size_problem)
        draft_problem(draft, "%s", image->size_problem);
    return 0;
}

static int add_layers(struct assembly *assembly, size_t index)
{
    const struct draft_disk *disk = &assembly->draft->disks[index];
    assembly->layers[index] = calloc(disk->layer_count + 1, sizeof **assembly->layers);
    if (!assembly->layers[index])
        return -ENOMEM;
    for (size_t i = disk->layer_count; i-- > 0;) {
        int r = add_layer(assembly, index, i);
        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < disk->layer_count; i++)
        if (disk->layers[i].backing != DRAFT_NO_LAYER)
            assembly->layers[index][i]->backing = assembly->layers[index][disk->layers[i].backing];
    return 0;
}

static int add_disks(struct assembly *assembly)
{
    struct draft *draft = assembly->draft;
    struct domain *domain = assembly->domain;
    size_t images = 0;
    for (size_t i = 0; i < draft->disk_count; i++)
        images += draft->disks[i].layer_count;
    domain->disks = calloc(draft->disk_count ? draft->disk_count : 1, sizeof *domain->disks);
    domain->layers = calloc(images ? images : 1, sizeof *domain->layers);
    assembly->layers = calloc(draft->disk_count ? draft->disk_count : 1, sizeof *assembly->layers);
    if (!domain->disks || !domain->layers || !assembly->layers)
        return -ENOMEM;
    for (size_t i = 0; i < draft->disk_count; i++) {
        const struct draft_disk *from = &draft->disks[i];
        int r = add_layers(assembly, i);
        if (r < 0)
            return r;
        struct disk *disk = &domain->disks[domain->disk_count++];
        *disk = (struct disk){
            .position = assembly->positions[i],
            .target = strdup(from->target),
            .source = strdup(from->source),
            .format = from->format,
            .active = from->chain.count ? assembly->layers[i][0] : NULL,
            .snapshot = from->snapshot,
            .persistent = from->persistent,
        };
        if (!disk->target || !disk->source)
            return -ENOMEM;
    }
    return 0;
}

/* ---- Snapshots ---- */

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

/* What the store tells of a snapshot, and the images don't. */
static int restore_attributes(struct snapshot *snapshot, const struct state_snapshot *known)
{
    snapshot->serial = known->serial;
    snapshot->created = (struct timespec){known->created_sec, known->created_nsec};
    snapshot->state = known->state;
    snapshot->consistency = known->consistency;
    snapshot->is_protected = known->is_protected;
    if (!known->description)
        return 0;
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
    snapshot->frozen = calloc(group->count, sizeof *snapshot->frozen);
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
        return restore_attributes(snapshot, group->known);
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

static int add_snapshots(struct assembly *assembly)
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

/* ---- All of it ---- */

static int copy_list(char *const *from, char ***copy)
{
    size_t count = 0;
    while (from && from[count])
        count++;
    char **list = calloc(count + 1, sizeof *list);
    if (!list)
        return -ENOMEM;
    *copy = list;
    for (size_t i = 0; i < count; i++) {
        list[i] = strdup(from[i]);
        if (!list[i])
            return -ENOMEM;
    }
    return 0;
}

static int copy_string(const char *from, char **copy)
{
    *copy = from ? strdup(from) : NULL;
    return *copy || !from ? 0 : -ENOMEM;
}

/* What only a trusted definition may say. */
static int take_trusted(const struct scan_definition *from, struct domain *domain)
{
    const struct definition *definition = &from->definition;
    int r = copy_list(from->sources, &domain->named_files);
    if (r == 0)
        r = copy_string(definition->qmp, &domain->qmp);
    if (r == 0)
        r = copy_string(definition->agent, &domain->agent);
    return r == 0 && definition->launch ? copy_list(definition->launch, &domain->launch) : r;
}

static int name_domain(struct assembly *assembly)
{
    struct domain *domain = assembly->domain;
    struct draft *draft = assembly->draft;
    const struct scan_definition *definition = draft->definition;
    domain->name = strdup(draft->name);
    if (!domain->name)
        return -ENOMEM;
    if (definition) {
        domain->uuid = definition->definition.uuid ? strdup(definition->definition.uuid) : NULL;
        domain->definition = strdup(definition->path);
        if (!domain->definition || (definition->definition.uuid && !domain->uuid))
            return -ENOMEM;
        int r = definition->distrust ? 0 : take_trusted(definition, domain);
        if (r < 0)
            return r;
    }
    if (draft->state) {
        domain->serial = draft->state->serial;
        return 0;
    }
    return assembly->input->next_serial(assembly->input->opaque, "domain", domain->uuid ? domain->uuid : "",
                                        domain->name, &domain->serial);
}

static int add_administration(struct assembly *assembly)
{
    const struct draft *draft = assembly->draft;
    struct domain *domain = assembly->domain;
    domain->may_switch_files =
        draft->definition && (draft->definition->definition.follows ||
                              (draft->definition->definition.launch && !draft->definition->distrust));
    domain->is_incomplete = draft->is_incomplete;
    domain->is_administered = assembly->state->is_administered;
    domain->defaults = assembly->state->defaults ? strdup(assembly->state->defaults) : NULL;
    return domain->defaults || !assembly->state->defaults ? 0 : -ENOMEM;
}

static int run(struct assembly *assembly)
{
    struct draft *draft = assembly->draft;
    assembly->positions = calloc(draft->disk_count ? draft->disk_count : 1, sizeof *assembly->positions);
    assembly->domain = domain_new();
    if (!assembly->positions || !assembly->domain)
        return -ENOMEM;
    int r = name_domain(assembly);
    if (r == 0)
        r = give_positions(assembly);
    if (r == 0)
        r = add_disks(assembly);
    if (r == 0)
        r = add_snapshots(assembly);
    if (r == 0)
        r = assembly_make_state(assembly);
    if (r == 0 && draft->problem.length) {
        assembly->domain->problem = strdup(draft->problem.data);
        r = assembly->domain->problem ? 0 : -ENOMEM;
    }
    if (r == 0)
        r = add_administration(assembly);
    return r == 0 && draft->problem.failed ? -ENOMEM : r;
}

int assemble(const struct assembly_input *input, struct draft *draft, struct domain **domain,
             struct state_domain **state)
{
    struct assembly assembly = {.input = input, .draft = draft};
    int r = run(&assembly);
    for (size_t i = 0; assembly.layers && i < draft->disk_count; i++)
        free(assembly.layers[i]);
    free(assembly.layers);
    free(assembly.positions);
    entries_done(&assembly.entries);
    groups_done(&assembly.groups);
    if (r < 0) {
        domain_unref(assembly.domain);
        state_domain_free(assembly.state);
        return r;
    }
    *domain = assembly.domain;
    *state = assembly.state;
    return 0;
}
