// SPDX-License-Identifier: LGPL-2.1-or-later
/* What state a domain is in, as the tree shows it, and how QEMU's words come to it. Pure. */
#pragma once

#include <stdbool.h>

enum machine_state {
    MACHINE_SHUTOFF,
    MACHINE_RUNNING,
    MACHINE_PAUSED,
    MACHINE_SHUTTING_DOWN, /* the guest is off, and its QEMU is about to end */
    MACHINE_MIGRATING,     /* or its state is being saved or loaded: nothing may be changed meanwhile */
    MACHINE_CRASHED,       /* the guest panicked, or its QEMU ended without being asked to */
};

/* The word that `state` shows. Static. */
const char *machine_state_name(enum machine_state state);

/*
 * QEMU's RunState (qapi/run-state.json) and MigrationStatus (qapi/migration.json) as query-status and
 * query-migrate give them; `migration` may be NULL: there was none. Words that are not known are those of a
 * newer QEMU: then it runs if `runs`, and is paused if not.
 */
enum machine_state machine_state_of(const char *status, bool runs, const char *migration);
