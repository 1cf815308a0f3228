// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Merging the active layer of a running disk into the layer that it stands on, in which the disk goes on: the
 * one merge after which QEMU writes to another file than before. So it has an instant of its own:
 *
 *     block_pivot_copy      the base comes in step with the active layer, and is kept so
 *     block_pivot_hold      the guest's requests wait; all it has written is in the base, durably
 *                           … here, and only here, both files read the same: note which one is to be active
 *     block_pivot_switch    it goes on in the base
 *
 * Until the last QEMU goes on in the active layer whatever is killed, and qmp_job_abort has it do so. Held,
 * a guest waits for as long as nobody says which of both: say it soon. A QEMU that is killed while it is held
 * has written to neither (7.2: what is drained stays drained until the job is concluded).
 *
 * Threads and deadly errors as in block_nodes.h.
 */
#pragma once

#include "hypervisor/block_nodes.h"
#include "hypervisor/qmp_job.h"

struct block_pivot {
    const char *job_id;
    const char *active; /* the node that the guest's disk is */
    const char *base;   /* the node that it stands on */
};

/*
 * Errors, after which nothing has changed but what the base alone reads as, which is lost: EOPNOTSUPP, the
 * two have different sizes; ECANCELED by `watch`; ENOSPC, EROFS, EBUSY (somebody else has the base open),
 * ENODEV; as qmp_job_wait.
 */
int block_pivot_copy(const struct block_engine *engine, const struct block_pivot *pivot,
                     const struct qmp_job_watch *watch, struct error *err);

/* Errors: the same; ETIMEDOUT, the guest writes faster than that is copied. The job is gone then. */
int block_pivot_hold(const struct block_engine *engine, const struct block_pivot *pivot,
                     const struct qmp_job_watch *watch, struct error *err);

/* Of what is held. After an error it has to be asked where the disk is. Errors: as qmp_job_wait. */
int block_pivot_switch(const struct block_engine *engine, const char *job_id, struct error *err);
