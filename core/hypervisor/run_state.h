// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Whether the domain in a QEMU runs (QEMU's qapi/run-state.json), and having it run, stop and end.
 *
 * A guest can change its state by itself at any time. What is asked here was so at one moment; what is done
 * here has been seen to be so after it was done. The same threads and deadly errors as for qmp.h.
 */
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "hypervisor/qmp.h"

enum run_state {
    RUN_STATE_RUNNING,
    RUN_STATE_PAUSED,        /* by a person, a watchdog, an error of a disk, or not started yet; or asleep */
    RUN_STATE_SHUTOFF,       /* there is no QEMU. Never told by one */
    RUN_STATE_SHUTTING_DOWN, /* the guest has powered itself off; its QEMU ends, or still has the images open
                              */
    RUN_STATE_MIGRATING,     /* or being saved, or restored: also while the guest runs meanwhile */
    RUN_STATE_CRASHED,       /* the guest panicked, or QEMU's emulation of it failed */
};

#define RUN_STATE_WORD_BYTES 32

struct run_state_answer {
    enum run_state state;
    bool running;                    /* the processors run, whatever the state is called */
    char word[RUN_STATE_WORD_BYTES]; /* QEMU's own, of query-status; cut to size */
};

/* Its name for users: "running", "shutting-down". */
const char *run_state_name(enum run_state state);

/* What QEMU's word means; one that is not known yet goes by `running`. */
enum run_state run_state_of_word(const char *word, bool running);

/* Asks for the state, and whether a migration is under way. Errors: as qmp_command; EPROTO for no answer. */
int run_state_query(struct qmp *qmp, int timeout_ms, struct run_state_answer *answer, struct error *err);

/* Asks for the state alone, for whoever migrates himself: it is never RUN_STATE_MIGRATING while it runs. */
int run_state_query_status(struct qmp *qmp, int timeout_ms, struct run_state_answer *answer,
                           struct error *err);

/* Stops the processors: they stand still when this returns. 0 also where they did before. */
int run_state_stop(struct qmp *qmp, int timeout_ms, struct error *err);

/*
 * Lets the processors run, and takes the disks back that a migration has left. 0 also where they ran before.
 * Errors: EBUSY where another process has taken an image meanwhile; EIO where it does not run afterwards,
 * with QEMU's word for what it does instead (a guest that has powered itself off wants a reset before).
 */
int run_state_continue(struct qmp *qmp, int timeout_ms, struct error *err);

/*
 * Takes the disks back that a migration has left, in either direction, and lets the processors stand still.
 * Until then a QEMU of 10.0 or later ends itself where one of them is written to (its assertions say so).
 * -EOPNOTSUPP: it has no such command ("blockdev-set-active"; before 10.0). Then disks are active where
 * memory was loaded; where it was saved, they are when the processors run.
 */
int run_state_activate_disks(struct qmp *qmp, int timeout_ms, struct error *err);

/*
 * Whether it has its disks: false for one that was migrated, and may run elsewhere. A QEMU before 10.0 does
 * not tell, and it is false. Errors: as qmp_command; EPROTO for an answer that is none.
 */
int run_state_has_disks(struct qmp *qmp, int timeout_ms, bool *has_disks, struct error *err);

/* Presses the power button. Whether and when the guest takes notice is its own business; a stopped one does
 * when it runs again. */
int run_state_power_down(struct qmp *qmp, int timeout_ms, struct error *err);

/* Resets the machine as its button would. What was stopped by a crash stays stopped, to be continued. */
int run_state_reset(struct qmp *qmp, int timeout_ms, struct error *err);

/*
 * Has QEMU close its images and end, whatever the guest is doing, and waits until it hangs up. The client is
 * dead then. The process may live on for a moment: who needs its death waits for that. 0 also where it had
 * hung up before. Errors: ETIMEDOUT where it has not, in `timeout_ms` altogether.
 */
int run_state_quit(struct qmp *qmp, int timeout_ms, struct error *err);
