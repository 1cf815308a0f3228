// SPDX-License-Identifier: LGPL-2.1-or-later
/* See machine_state.h. */
#include "machine/machine_state.h"

#include <stddef.h>
#include <string.h>

static const char *const names[] = {
    [MACHINE_SHUTOFF] = "shutoff",     [MACHINE_RUNNING] = "running",
    [MACHINE_PAUSED] = "paused",       [MACHINE_SHUTTING_DOWN] = "shutting-down",
    [MACHINE_MIGRATING] = "migrating", [MACHINE_CRASHED] = "crashed",
};

const char *machine_state_name(enum machine_state state)
{
    return names[state];
}

/*
 * Those of RunState that are more than running or stopped. From `postmigrate` the guest can go on; so it can
 * from `finish-migrate` once the migration is over, since what follows is told by no event. `restore-vm` is
 * also what a failed load leaves behind.
 */
static const struct {
    const char *status;
    enum machine_state state;
} statuses[] = {
    {"inmigrate", MACHINE_MIGRATING},    {"save-vm", MACHINE_MIGRATING},
    {"colo", MACHINE_MIGRATING},         {"shutdown", MACHINE_SHUTTING_DOWN},
    {"guest-panicked", MACHINE_CRASHED}, {"internal-error", MACHINE_CRASHED},
};

static const char *const over[] = {"none", "completed", "failed", "cancelled"};

static bool is_under_way(const char *migration)
{
    for (size_t i = 0; migration && i < sizeof over / sizeof *over; i++)
        if (strcmp(migration, over[i]) == 0)
            return false;
    return migration;
}

enum machine_state machine_state_of(const char *status, bool runs, const char *migration)
{
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++)
        if (strcmp(status, statuses[i].status) == 0)
            return statuses[i].state;
    if (is_under_way(migration))
        return MACHINE_MIGRATING;
    return runs ? MACHINE_RUNNING : MACHINE_PAUSED;
}
