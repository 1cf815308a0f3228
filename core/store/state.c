// SPDX-License-Identifier: LGPL-2.1-or-later
/* Freeing what store.h declares. */
#include "store/store.h"

#include <stdlib.h>

static void state_snapshot_done(struct state_snapshot *snapshot)
{
    for (size_t i = 0; i < snapshot->frozen_count; i++) {
        free(snapshot->frozen[i].target);
        free(snapshot->frozen[i].layer);
        free(snapshot->frozen[i].internal_id);
    }
    free(snapshot->frozen);
    free(snapshot->name);
}

void state_domain_free(struct state_domain *state)
{
    if (!state)
        return;
    for (size_t i = 0; i < state->snapshot_count; i++)
        state_snapshot_done(&state->snapshots[i]);
    for (size_t i = 0; i < state->disk_count; i++)
        free(state->disks[i].target);
    for (char **file = state->files; file && *file; file++)
        free(*file);
    free(state->files);
    free(state->disks);
    free(state->snapshots);
    free(state->name);
    free(state->uuid);
    free(state);
}
