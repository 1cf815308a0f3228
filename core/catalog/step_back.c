// SPDX-License-Identifier: LGPL-2.1-or-later
/* See step_back.h. */
#include "catalog/step_back.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "catalog/discover.h"

/* What stands on it becomes its parent's. */
static void remove_snapshot(struct state_domain *state, size_t index)
{
    uint64_t serial = state->snapshots[index].serial, parent = state->snapshots[index].parent;
    state_snapshot_done(&state->snapshots[index]);
    memmove(&state->snapshots[index], &state->snapshots[index + 1],
            (state->snapshot_count - index - 1) * sizeof *state->snapshots);
    state->snapshot_count--;
    for (size_t i = 0; i < state->snapshot_count; i++)
        if (state->snapshots[i].parent == serial)
            state->snapshots[i].parent = parent;
    if (state->current == serial)
        state->current = parent;
}

/* Nobody has made it his own: it is as it was found. */
static bool is_untouched(const struct state_snapshot *snapshot)
{
    return snapshot->is_protected && !snapshot->description;
}

/* Was the snapshot found because this overlay stands on the layer that it holds? */
static bool came_with(const struct state_snapshot *snapshot, unsigned disk, const struct layer *overlay,
                      const char *below)
{
    for (size_t i = 0; i < snapshot->frozen_count; i++) {
        const struct state_frozen *frozen = &snapshot->frozen[i];
        if (frozen->position == disk && !frozen->internal && strcmp(frozen->layer, below) == 0 &&
            frozen->overlay_identity.inode == overlay->identity.inode)
            return true;
    }
    return false;
}

static int step_disk_back(const struct disk *disk, const char *source, char *const *planned,
                          struct state_domain *state)
{
    struct state_disk *known = state_find_disk(state, disk->position);
    const struct layer *active = disk->active;
    while (known && known->active && active && active->backing && state_paths_have(planned, active->path)) {
        const char *overlay = path_in_store(source, active->path);
        const char *below = path_in_store(source, active->backing->path);
        if (state_paths_have(state->made, overlay) || state_paths_have(state->reused, overlay))
            return 0;
        for (size_t i = 0; i < state->snapshot_count; i++)
            if (came_with(&state->snapshots[i], disk->position, active, below) &&
                !is_untouched(&state->snapshots[i]))
                return 0;
        for (size_t i = state->snapshot_count; i-- > 0;)
            if (came_with(&state->snapshots[i], disk->position, active, below))
                remove_snapshot(state, i);
        char *copy = strdup(below);
        if (!copy)
            return -ENOMEM;
        free(known->active);
        known->active = copy;
        active = active->backing;
    }
    return 0;
}

int step_back(const struct domain *domain, const char *source, char *const *planned,
              struct state_domain *state)
{
    int r = 0;
    for (size_t i = 0; r == 0 && state->is_administered && i < domain->disk_count; i++)
        r = step_disk_back(&domain->disks[i], source, planned, state);
    return r;
}
