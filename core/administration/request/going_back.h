// SPDX-License-Identifier: LGPL-2.1-or-later
/* A domain that goes back to a snapshot. Inside of revert.c and revert_running.c. */
#pragma once

#include "administration/change.h"
#include "administration/memory/memory_back.h"
#include "administration/request/reversion.h"
#include "administration/request/start.h"
#include "administration/running.h"
#include "hypervisor/memory_save.h"
#include "operation/tree_change.h"
#include "store/restart.h"

struct going_back {
    struct change change;
    const struct snapshot *snapshot;
    struct tree_reversion plan;
    struct reversion reversion;
    enum restart_state wanted; /* what it does afterwards */

    /* Where its QEMU is ended or started: */
    struct machine *machine; /* borrowed from `running` */
    struct running running;  /* the QEMU that is there */
    struct restart restart;
    bool is_launched; /* the new QEMU is there */
    struct memory_back memory;
    struct start start;
    struct disk *disks;   /* as they will be */
    struct layer *layers; /* the new ones of them */
};

/*
 * Goes back, up to the change's commit: what can be refused is refused first; the memory of the QEMU that
 * runs is put aside, for the case of a failure, and that is ended; the disks go back; the new one is started,
 * and stands still. After an error resume_pending (resume.h) has the domain go on where it was, when
 * revert_running_done and change_end were called. Errors: EOPNOTSUPP, EINVAL, ENODEV with the reason; ENOSPC;
 * EINTR; as reversion_prepare, reversion_carry_out and start_launch.
 */
int revert_running_make(struct going_back *going, struct error *err);

/* After the commit: it runs, if it is to. An error does not undo anything: resume_pending tries it again. */
int revert_running_go_on(struct going_back *going, struct error *err);

/* Before change_end: what was not committed is about to be undone, so the new QEMU has to be gone. */
void revert_running_stop(struct going_back *going);
void revert_running_done(struct going_back *going);
