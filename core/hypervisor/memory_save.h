// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Saving the memory of a running domain into a file, at an instant that its disks can share: a migration into
 * a descriptor, which waits before its end.
 *
 *     memory_save_begin    the memory is being copied, while the guest runs, or from a stop
 *     memory_save_copy     all but little is; the guest has been stopped, its disks are still active:
 *                          now is the instant for a transaction on them (block_snapshot.h)
 *     memory_save_finish   the rest is; the guest is still stopped, and its disks are not active any more
 *     memory_save_resume   the guest goes on as before. Now the caller makes the file durable
 *
 * memory_save_cancel takes the place of any of these, and has to be called after one that failed: afterwards
 * the guest is as it was before, and what was written is garbage. Both it and memory_save_resume are all that
 * may follow a finish. Whoever was killed in between calls memory_save_recover over a connection of its own.
 *
 * Into a pipe, its reader decides how fast it goes. One that reads no more holds up QEMU, in
 * memory_save_finish so wholly that it answers nothing. So before cancelling, or where something ran into its
 * time, the caller closes the reading end, or reads on: QEMU then fails by itself.
 *
 * QEMU before 9.0 without KVM does not see all pages that the guest changes while its memory is copied (its
 * dirty bitmap and its translated code's idea of it part), and what it saves of one that runs crashes after
 * a while. There it is always stopped first.
 *
 * A domain that was stopped runs for an instant at the end: QEMU (7.2) gives one that was migrated its disks
 * back, and lets it be migrated again, only when it has run. What it writes then comes after the snapshot.
 * With 10.0 it gets its disks back while it stands still, and is called "postmigrate" then; so it runs for an
 * instant only if it is saved again before it was continued, and before that.
 *
 * The same threads and deadly errors as for qmp.h.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "hypervisor/migration.h"
#include "hypervisor/qmp_job.h"

#define MEMORY_SAVE_PASSES 30 /* what memory_save_spec.passes_max is where it is 0 */

/* What was before, and is to be again: plain values, so that they can be kept for memory_save_recover. */
struct memory_save_before {
    bool running;
    bool loses_pages; /* what it changes while it is copied would be missing: it is never copied live */
    struct migration_settings settings;
};

struct memory_save {
    struct qmp *qmp;
    struct memory_save_before before;
    uint64_t passes_max;
    int timeout_ms;
};

struct memory_save_spec {
    int fd;    /* open for writing, blocking; a file is written from its offset on. Stays the caller's */
    bool live; /* the guest runs on while most is copied, where QEMU can; else it is stopped first */
    uint32_t passes_max; /* a live guest that changes its memory faster than it is copied is stopped after so
                          many passes over it; 0: MEMORY_SAVE_PASSES */
    int timeout_ms;      /* for the answer to each command */
};

/* Finds out what is before. Errors: EBUSY where the domain is shutting down, migrating, being saved or
 * restored, and EIO where it has crashed; as qmp_command. */
int memory_save_look(struct qmp *qmp, int timeout_ms, struct memory_save_before *before, struct error *err);

/* Bytes of memory that the domain has, a part of which may never have been used. Errors: as qmp_command. */
int memory_save_size(struct qmp *qmp, int timeout_ms, uint64_t *bytes, struct error *err);

/*
 * Starts; `before` is what memory_save_look gave. Errors, after which nothing has changed (where not even
 * that could be had, the client is dead): EBUSY where another migration is under way; EOPNOTSUPP for a QEMU
 * or a device in it that can't be migrated; as qmp_command.
 */
int memory_save_begin(struct qmp *qmp, const struct memory_save_spec *spec,
                      const struct memory_save_before *before, struct memory_save *save, struct error *err);

/*
 * Waits until the guest has been stopped at the instant of the snapshot. `watch` (not NULL) is told of bytes
 * of memory. Errors: ECANCELED where its `progress` said so; ETIMEDOUT where nothing moved for its stall_ms;
 * ENOSPC, EIO and others where QEMU could not write; EBUSY where somebody else has interfered.
 */
int memory_save_copy(struct memory_save *save, const struct qmp_job_watch *watch, struct error *err);

/* Lets the rest be written. Errors: as memory_save_copy. */
int memory_save_finish(struct memory_save *save, const struct qmp_job_watch *watch, struct error *err);

/*
 * Lets the guest run where it did before, and stops it where not. Errors: as run_state_continue; the saved
 * memory is right also then.
 */
int memory_save_resume(struct memory_save *save, struct error *err);

/* Errors: ETIMEDOUT where QEMU does not leave off (the client is dead); as run_state_continue. */
int memory_save_cancel(struct memory_save *save, struct error *err);

/* The same for what was begun over another connection, at any stage of it, also where nothing was begun or
 * all was over. Errors: as memory_save_cancel. */
int memory_save_recover(struct qmp *qmp, const struct memory_save_before *before, int timeout_ms,
                        struct error *err);
