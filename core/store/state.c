// SPDX-License-Identifier: LGPL-2.1-or-later
/* Copying and freeing what store.h declares. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "store/store.h"

/* ---- Freeing ---- */

void state_frozen_done(struct state_frozen *frozen)
{
    free(frozen->target);
    free(frozen->layer);
    free(frozen->internal_id);
    *frozen = (struct state_frozen){0};
}

static void free_frozen(struct state_frozen *list, size_t count)
{
    for (size_t i = 0; list && i < count; i++)
        state_frozen_done(&list[i]);
    free(list);
}

static void free_paths(char **paths)
{
    for (char **path = paths; path && *path; path++)
        free(*path);
    free(paths);
}

void state_snapshot_done(struct state_snapshot *snapshot)
{
    free_frozen(snapshot->frozen, snapshot->frozen_count);
    free(snapshot->name);
    free(snapshot->description);
    free(snapshot->memory.path);
    free_paths(snapshot->launch);
    *snapshot = (struct state_snapshot){0};
}

void state_domain_free(struct state_domain *state)
{
    if (!state)
        return;
    for (size_t i = 0; state->snapshots && i < state->snapshot_count; i++)
        state_snapshot_done(&state->snapshots[i]);
    for (size_t i = 0; state->disks && i < state->disk_count; i++) {
        free(state->disks[i].target);
        free(state->disks[i].active);
        free(state->disks[i].original);
    }
    free_frozen(state->hidden, state->hidden_count);
    free_paths(state->files);
    free_paths(state->made);
    free_paths(state->reused);
    free_paths(state->touched);
    free_paths(state->raw);
    free_paths(state->left);
    for (size_t i = 0; i < state->mirror_count; i++)
        free(state->mirrors[i].path);
    free(state->mirrors);
    for (size_t i = 0; i < state->unneeded_count; i++)
        free(state->unneeded[i].path);
    free(state->unneeded);
    free(state->disks);
    free(state->snapshots);
    free(state->defaults);
    free(state->name);
    free(state->uuid);
    free(state);
}

/* ---- Copying ---- */

/* A copy of a string that may be NULL; false where memory ran out. */
static bool copy_string(const char *from, char **copy)
{
    *copy = from ? strdup(from) : NULL;
    return *copy || !from;
}

int state_frozen_copy(const struct state_frozen *from, struct state_frozen *copy)
{
    struct state_frozen made = *from;
    made.target = made.layer = made.internal_id = NULL;
    if (!copy_string(from->target, &made.target) || !copy_string(from->layer, &made.layer) ||
        !copy_string(from->internal_id, &made.internal_id)) {
        state_frozen_done(&made);
        return -ENOMEM;
    }
    *copy = made;
    return 0;
}

static int copy_frozen_list(const struct state_frozen *from, size_t count, struct state_frozen **copy)
{
    struct state_frozen *list = calloc(count + 1, sizeof *list);
    for (size_t i = 0; list && i < count; i++)
        if (state_frozen_copy(&from[i], &list[i]) < 0) {
            free_frozen(list, i);
            return -ENOMEM;
        }
    *copy = list;
    return list ? 0 : -ENOMEM;
}

int state_paths_copy(char *const *from, char ***copy)
{
    size_t count = 0;
    while (from && from[count])
        count++;
    char **list = calloc(count + 1, sizeof *list);
    for (size_t i = 0; list && i < count; i++)
        if (!(list[i] = strdup(from[i]))) {
            free_paths(list);
            return -ENOMEM;
        }
    *copy = list;
    return list ? 0 : -ENOMEM;
}

int state_snapshot_copy(const struct state_snapshot *from, struct state_snapshot *copy)
{
    struct state_snapshot made = *from;
    made.frozen = NULL;
    made.name = made.description = made.memory.path = NULL;
    made.launch = NULL;
    if (!copy_string(from->name, &made.name) || !copy_string(from->description, &made.description) ||
        !copy_string(from->memory.path, &made.memory.path) ||
        (from->launch && state_paths_copy(from->launch, &made.launch) < 0) ||
        copy_frozen_list(from->frozen, from->frozen_count, &made.frozen) < 0) {
        state_snapshot_done(&made);
        return -ENOMEM;
    }
    *copy = made;
    return 0;
}

static int copy_arrays(const struct state_domain *from, struct state_domain *made)
{
    made->disks = calloc(from->disk_count + 1, sizeof *made->disks);
    made->snapshots = calloc(from->snapshot_count + 1, sizeof *made->snapshots);
    if (!made->disks || !made->snapshots)
        return -ENOMEM;
    for (size_t i = 0; i < from->disk_count; i++) {
        const struct state_disk *disk = &from->disks[i];
        struct state_disk *copy = &made->disks[made->disk_count++];
        copy->position = disk->position;
        if (!copy_string(disk->target, &copy->target) || !copy_string(disk->active, &copy->active) ||
            !copy_string(disk->original, &copy->original))
            return -ENOMEM;
    }
    for (size_t i = 0; i < from->mirror_count; i++)
        if (state_add_mirror(made, &from->mirrors[i]) < 0)
            return -ENOMEM;
    for (size_t i = 0; i < from->snapshot_count; i++) {
        if (state_snapshot_copy(&from->snapshots[i], &made->snapshots[i]) < 0)
            return -ENOMEM;
        made->snapshot_count++;
    }
    return 0;
}

int state_add_unneeded(struct state_domain *state, const struct state_memory *memory)
{
    for (size_t i = 0; i < state->unneeded_count; i++)
        if (strcmp(state->unneeded[i].path, memory->path) == 0)
            return 0;
    struct state_memory *grown = realloc(state->unneeded, (state->unneeded_count + 1) * sizeof *grown);
    char *path = strdup(memory->path);
    if (grown)
        state->unneeded = grown;
    if (!grown || !path) {
        free(path);
        return -ENOMEM;
    }
    grown[state->unneeded_count] = *memory;
    grown[state->unneeded_count++].path = path;
    return 0;
}

void state_remove_unneeded(struct state_domain *state, size_t index)
{
    free(state->unneeded[index].path);
    state->unneeded_count--;
    memmove(&state->unneeded[index], &state->unneeded[index + 1],
            (state->unneeded_count - index) * sizeof *state->unneeded);
}

static int copy_unneeded(const struct state_domain *from, struct state_domain *made)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < from->unneeded_count; i++)
        r = state_add_unneeded(made, &from->unneeded[i]);
    return r;
}

int state_domain_copy(const struct state_domain *from, struct state_domain **copy)
{
    struct state_domain *made = calloc(1, sizeof *made);
    if (!made)
        return -ENOMEM;
    made->serial = from->serial;
    made->is_administered = from->is_administered;
    made->current = from->current;
    made->operation = from->operation;
    made->guard = from->guard;
    if (!copy_string(from->name, &made->name) || !copy_string(from->uuid, &made->uuid) ||
        !copy_string(from->defaults, &made->defaults) || state_paths_copy(from->files, &made->files) < 0 ||
        state_paths_copy(from->made, &made->made) < 0 || state_paths_copy(from->reused, &made->reused) < 0 ||
        state_paths_copy(from->touched, &made->touched) < 0 || copy_unneeded(from, made) < 0 ||
        state_paths_copy(from->raw, &made->raw) < 0 || state_paths_copy(from->left, &made->left) < 0 ||
        copy_frozen_list(from->hidden, from->hidden_count, &made->hidden) < 0 ||
        copy_arrays(from, made) < 0) {
        made->hidden_count = made->hidden ? from->hidden_count : 0;
        state_domain_free(made);
        return -ENOMEM;
    }
    made->hidden_count = from->hidden_count;
    *copy = made;
    return 0;
}

/* ---- Finding ---- */

struct state_snapshot *state_find_snapshot(const struct state_domain *state, uint64_t serial)
{
    size_t low = 0, high = state->snapshot_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (state->snapshots[middle].serial == serial)
            return &state->snapshots[middle];
        if (state->snapshots[middle].serial < serial)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

struct state_disk *state_find_disk(const struct state_domain *state, unsigned position)
{
    for (size_t i = 0; i < state->disk_count; i++)
        if (state->disks[i].position == position)
            return &state->disks[i];
    return NULL;
}

/* ---- Mirrors ---- */

struct state_mirror *state_find_mirror(const struct state_domain *state, unsigned position)
{
    for (size_t i = 0; i < state->mirror_count; i++)
        if (state->mirrors[i].position == position)
            return &state->mirrors[i];
    return NULL;
}

int state_add_mirror(struct state_domain *state, const struct state_mirror *mirror)
{
    struct state_mirror *grown = realloc(state->mirrors, (state->mirror_count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    state->mirrors = grown;
    char *path = strdup(mirror->path);
    if (!path)
        return -ENOMEM;
    grown[state->mirror_count] = *mirror;
    grown[state->mirror_count++].path = path;
    return 0;
}

void state_remove_mirror(struct state_domain *state, unsigned position)
{
    struct state_mirror *mirror = state_find_mirror(state, position);
    if (!mirror)
        return;
    free(mirror->path);
    size_t after = state->mirror_count - 1 - (size_t)(mirror - state->mirrors);
    memmove(mirror, mirror + 1, after * sizeof *mirror);
    state->mirror_count--;
}

/* ---- Lists of paths ---- */

bool state_paths_have(char *const *paths, const char *path)
{
    for (; paths && *paths; paths++)
        if (strcmp(*paths, path) == 0)
            return true;
    return false;
}

int state_paths_add(char ***paths, const char *path)
{
    size_t count = 0;
    if (state_paths_have(*paths, path))
        return 0;
    while (*paths && (*paths)[count])
        count++;
    cleanup_free char *copy = strdup(path);
    char **grown = copy ? realloc(*paths, (count + 2) * sizeof *grown) : NULL;
    if (!grown)
        return -ENOMEM;
    grown[count] = steal_pointer(copy);
    grown[count + 1] = NULL;
    *paths = grown;
    return 0;
}

void state_paths_remove(char **paths, const char *path)
{
    for (; paths && *paths; paths++)
        if (strcmp(*paths, path) == 0) {
            free(*paths);
            for (; *paths; paths++)
                paths[0] = paths[1];
            return;
        }
}

void state_paths_free(char ***paths)
{
    free_paths(*paths);
    *paths = NULL;
}
