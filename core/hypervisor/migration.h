// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * QEMU's commands for migrations (its qapi/migration.json), which are how it saves and loads the memory of a
 * domain, too. memory_save.h and memory_load.h put them in order. The same threads and deadly errors as for
 * qmp.h.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "hypervisor/qmp.h"

enum migration_phase {
    MIGRATION_NONE,
    MIGRATION_ACTIVE,         /* being set up, copying, or a word that is not known yet */
    MIGRATION_PRE_SWITCHOVER, /* the guest has been stopped; waits for migrate-continue */
    MIGRATION_SWITCHING,      /* the rest is written */
    MIGRATION_CANCELLING,
    MIGRATION_COMPLETED,
    MIGRATION_FAILED,
    MIGRATION_CANCELLED,
};

struct migration_status {
    enum migration_phase phase;
    uint64_t done_bytes, total_bytes; /* of memory, both can grow; 0 where it does not say */
    uint64_t passes;                  /* over the memory that were begun */
    char problem[ERROR_TEXT_MAX / 2]; /* why it failed; may be empty */
};

/* Errors: as qmp_command; EPROTO for an answer that is none. */
int migration_query(struct qmp *qmp, int timeout_ms, struct migration_status *status, struct error *err);

/* True while QEMU refuses another migration because of this one. */
bool migration_is_under_way(const struct migration_status *status);

/* Waits until QEMU says that something changed, or for 200 ms; takes all that it said. Of a client that dies
 * meanwhile, the next command says so. (It says so only with the capability "events" on.) */
void migration_await_change(struct qmp *qmp);

/* The error of a migration that failed. Returns -errno, by QEMU's words for it. */
int migration_failure(const struct migration_status *status, struct error *err);

/* What can be set, of what is of use here. It can't be changed while a migration is under way. */
struct migration_settings {
    bool events; /* it says when something changes */
    bool
        pause_before_switchover; /* it waits when the guest has been stopped and the disks are still active */
    int64_t max_bandwidth;       /* bytes a second */
};

/* Errors: EOPNOTSUPP where QEMU does not know them; EPROTO; as qmp_command. */
int migration_settings_query(struct qmp *qmp, int timeout_ms, struct migration_settings *settings,
                             struct error *err);

/* Errors: EBUSY where a migration is under way; as qmp_command. Some may have been set then. */
int migration_settings_apply(struct qmp *qmp, const struct migration_settings *settings, int timeout_ms,
                             struct error *err);

/* Starts `command`, "migrate" or "migrate-incoming", with a duplicate of the descriptor, which QEMU does not
 * keep after a failure. Errors: EBUSY, EOPNOTSUPP (a device of this machine can't); as qmp_command. */
int migration_start(struct qmp *qmp, const char *command, int fd, int timeout_ms, struct error *err);
