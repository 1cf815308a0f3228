// SPDX-License-Identifier: LGPL-2.1-or-later
/* From a changed tree to the state that is saved; see change_follow_tree. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "administration/change.h"
#include "base/cleanup.h"
#include "catalog/discover.h"

/* Is the record of the store about this content? */
static bool is_about(const struct change *change, const struct content *content,
                     const struct state_frozen *record)
{
    if (record->position != content->disk || record->internal != (content->internal != 0))
        return false;
    const struct world_file *file = world_find_file(&change->world, content->layer);
    if (!file || strcmp(path_in_store(change_source(change), file->layer->path), record->layer) != 0)
        return false;
    if (!content->internal)
        return true;
    const struct world_internal *internal = world_find_internal(&change->world, content->internal);
    return internal && strcmp(internal->internal->id, record->internal_id) == 0 &&
           internal->internal->l1_table_offset == record->l1_table_offset &&
           internal->internal->date_sec == record->date_sec &&
           internal->internal->date_nsec == record->date_nsec;
}

static const struct state_frozen *find_in(const struct change *change, const struct content *content,
                                          const struct state_frozen *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (is_about(change, content, &list[i]))
            return &list[i];
    return NULL;
}

/* What the store knew of the content, or is told of a new one. The snapshot of the same serial most likely
 * has it. */
static const struct state_frozen *record_of(const struct change *change, uint64_t serial,
                                            const struct content *content)
{
    for (size_t i = 0; i < change->content_count; i++)
        if (change->contents[i].layer == content->layer &&
            change->contents[i].internal == content->internal &&
            change->contents[i].record.position == content->disk)
            return &change->contents[i].record;
    const struct state_domain *before = change->before;
    const struct state_snapshot *same = state_find_snapshot(before, serial);
    const struct state_frozen *found =
        same ? find_in(change, content, same->frozen, same->frozen_count) : NULL;
    for (size_t i = 0; !found && i < before->snapshot_count; i++)
        found = find_in(change, content, before->snapshots[i].frozen, before->snapshots[i].frozen_count);
    return found ? found : find_in(change, content, before->hidden, before->hidden_count);
}

/* What the snapshot was, or what is told of a new one; without contents. */
static int copy_attributes(const struct change *change, const struct tree_snapshot *from,
                           struct state_snapshot *snapshot)
{
    const struct state_snapshot *before = state_find_snapshot(change->state, from->serial);
    const struct state_snapshot *source = before ? before : &change->fresh;
    const struct state_snapshot *taken =
        from->state_of ? state_find_snapshot(change->before, from->state_of) : NULL;
    struct state_snapshot plain = *source;
    plain.frozen = NULL;
    plain.frozen_count = 0;
    if (taken) {
        plain.state = taken->state;
        plain.consistency = taken->consistency;
        plain.memory = taken->memory;
        plain.launch = taken->launch;
    }
    int r = state_snapshot_copy(&plain, snapshot);
    if (r < 0)
        return r;
    snapshot->serial = from->serial;
    snapshot->parent = from->parent;
    snapshot->is_protected = from->is_protected;
    free(snapshot->name);
    snapshot->name = strdup(from->name);
    return snapshot->name ? 0 : -ENOMEM;
}

static int make_snapshot(const struct change *change, const struct tree_snapshot *from,
                         struct state_snapshot *snapshot)
{
    int r = copy_attributes(change, from, snapshot);
    free(snapshot->frozen);
    const struct state_snapshot *before = state_find_snapshot(change->before, from->serial);
    snapshot->frozen =
        calloc(from->content_count + (before ? before->frozen_count : 0) + 1, sizeof *snapshot->frozen);
    if (r < 0 || !snapshot->frozen)
        return -ENOMEM;
    for (size_t i = 0; i < from->content_count; i++) {
        const struct state_frozen *record = record_of(change, from->serial, &from->contents[i]);
        if (!record)
            return -EINVAL;
        if (state_frozen_copy(record, &snapshot->frozen[snapshot->frozen_count]) < 0)
            return -ENOMEM;
        snapshot->frozen_count++;
    }
    /* What it holds of disks that the domain has no more. */
    for (size_t i = 0; before && i < before->frozen_count; i++) {
        if (tree_find_disk(change->tree, before->frozen[i].position))
            continue;
        if (state_frozen_copy(&before->frozen[i], &snapshot->frozen[snapshot->frozen_count]) < 0)
            return -ENOMEM;
        snapshot->frozen_count++;
    }
    return 0;
}

/* ---- What no snapshot refers to any more ---- */

static bool same_record(const struct state_frozen *a, const struct state_frozen *b)
{
    return a->position == b->position && a->internal == b->internal && strcmp(a->layer, b->layer) == 0 &&
           (!a->internal ||
            (strcmp(a->internal_id, b->internal_id) == 0 && a->l1_table_offset == b->l1_table_offset &&
             a->date_sec == b->date_sec && a->date_nsec == b->date_nsec));
}

static bool has_record(const struct state_frozen *list, size_t count, const struct state_frozen *record)
{
    for (size_t i = 0; i < count; i++)
        if (same_record(&list[i], record))
            return true;
    return false;
}

static bool is_referred_to(const struct state_snapshot *snapshots, size_t count,
                           const struct state_frozen *record)
{
    for (size_t i = 0; i < count; i++)
        if (has_record(snapshots[i].frozen, snapshots[i].frozen_count, record))
            return true;
    return false;
}

static int hide(struct state_frozen **hidden, size_t *count, const struct state_frozen *record)
{
    struct state_frozen *grown = realloc(*hidden, (*count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    *hidden = grown;
    if (state_frozen_copy(record, &grown[*count]) < 0)
        return -ENOMEM;
    (*count)++;
    return 0;
}

/* A snapshot that is as it was refers to what it referred to: only those that went or lost something are
 * looked at. */
static bool is_as_before(const struct state_snapshot *before, const struct state_snapshot *after)
{
    if (!after || before->frozen_count != after->frozen_count)
        return false;
    for (size_t i = 0; i < before->frozen_count; i++)
        if (!same_record(&before->frozen[i], &after->frozen[i]))
            return false;
    return true;
}

static const struct state_snapshot *find_serial(const struct state_snapshot *list, size_t count,
                                                uint64_t serial)
{
    const struct state_domain in = {.snapshots = (struct state_snapshot *)list, .snapshot_count = count};
    return state_find_snapshot(&in, serial);
}

static int hide_released(struct change *change, const struct state_snapshot *snapshots, size_t count)
{
    struct state_domain *state = change->state;
    const struct state_domain *before = change->before;
    int r = 0;
    for (size_t i = 0; r == 0 && i < before->snapshot_count; i++) {
        const struct state_snapshot *old = &before->snapshots[i];
        if (is_as_before(old, find_serial(snapshots, count, old->serial)))
            continue;
        for (size_t j = 0; r == 0 && j < old->frozen_count; j++)
            if (!is_referred_to(snapshots, count, &old->frozen[j]) &&
                !has_record(state->hidden, state->hidden_count, &old->frozen[j]))
                r = hide(&state->hidden, &state->hidden_count, &old->frozen[j]);
    }
    return r;
}

/* Layers that were told of as new contents, but of no snapshot: what was active, and is no more. */
static int hide_told(struct change *change, const struct state_snapshot *snapshots, size_t count)
{
    struct state_domain *state = change->state;
    int r = 0;
    for (size_t i = 0; r == 0 && i < change->content_count; i++) {
        const struct state_frozen *record = &change->contents[i].record;
        if (!is_referred_to(snapshots, count, record) &&
            !has_record(state->hidden, state->hidden_count, record))
            r = hide(&state->hidden, &state->hidden_count, record);
    }
    return r;
}

/* Files of memory that went with its snapshot. */
static int release_memory(struct change *change, const struct state_snapshot *snapshots, size_t count)
{
    struct state_domain *state = change->state;
    const struct state_domain *before = change->before;
    for (size_t i = 0; i < before->snapshot_count; i++) {
        const struct state_memory *memory = &before->snapshots[i].memory;
        bool is_needed = !memory->path;
        for (size_t j = 0; j < count && !is_needed; j++)
            is_needed = snapshots[j].memory.path && strcmp(snapshots[j].memory.path, memory->path) == 0;
        if (!is_needed && state_add_unneeded(state, memory) < 0)
            return -ENOMEM;
    }
    return 0;
}

static int set_active(struct change *change, const struct tree_disk *disk)
{
    struct state_disk *state = state_find_disk(change->state, disk->position);
    const char *path = change_layer_path(change, disk->active);
    if (!state || !state->active || !path)
        return 0;
    char *copy = strdup(path);
    if (!copy)
        return -ENOMEM;
    free(state->active);
    state->active = copy;
    return 0;
}

static int follow(struct change *change, struct state_snapshot **snapshots, size_t *count)
{
    const struct tree *tree = change->tree;
    struct state_domain *state = change->state;
    struct state_snapshot *made = calloc(tree->count + 1, sizeof *made);
    *snapshots = made;
    if (!made)
        return -ENOMEM;
    for (; *count < tree->count; (*count)++) {
        int r = make_snapshot(change, &tree->snapshots[*count], &made[*count]);
        if (r < 0)
            return (*count)++, r;
    }
    if (hide_released(change, made, *count) < 0 || hide_told(change, made, *count) < 0 ||
        release_memory(change, made, *count) < 0)
        return -ENOMEM;
    for (size_t i = 0; i < change->layer_count; i++)
        if (state_paths_add(change->layers[i].is_made ? &state->made : &state->reused,
                            change->layers[i].path) < 0)
            return -ENOMEM;
    if (change->fresh.memory.path && state_paths_add(&state->made, change->fresh.memory.path) < 0)
        return -ENOMEM;
    for (size_t i = 0; i < tree->disk_count; i++)
        if (set_active(change, &tree->disks[i]) < 0)
            return -ENOMEM;
    state->current = tree->current;
    if (state->guard && !tree_find(change->tree, state->guard))
        state->guard = 0;
    return 0;
}

int change_follow_tree(struct change *change, struct error *err)
{
    struct state_domain *state = change->state;
    struct state_snapshot *made = NULL;
    size_t count = 0;
    int r = follow(change, &made, &count);
    struct state_snapshot *unused = r < 0 ? made : state->snapshots;
    size_t unused_count = r < 0 ? count : state->snapshot_count;
    if (r == 0) {
        state->snapshots = made;
        state->snapshot_count = count;
    }
    for (size_t i = 0; unused && i < unused_count; i++)
        state_snapshot_done(&unused[i]);
    free(unused);
    return r < 0
               ? error_set(err, -r, "%s", r == -ENOMEM ? "out of memory" : "a snapshot's content is unknown")
               : 0;
}
