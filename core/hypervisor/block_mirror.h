// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Copying a disk to another block node while it is written to, by QEMU's job blockdev-mirror: until the
 * target is in step, and then on, until it takes the disk's place or is let go.
 *
 * The job is known by its id alone, so that it can be ended over another connection than it was begun. The
 * target's node is opened before by the caller ("backing": null for a sync that copies only the top), and
 * closed again after a job that did not pivot; its size is the disk's. Threads and deadly errors as in
 * block_nodes.h.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "hypervisor/block_nodes.h"
#include "hypervisor/qmp_job.h"

enum block_mirror_sync {
    BLOCK_MIRROR_FULL, /* all that the disk reads as */
    BLOCK_MIRROR_TOP,  /* what its top layer has itself */
    BLOCK_MIRROR_NONE, /* only what is written from now on */
};

struct block_mirror {
    const char *job_id;
    const char *device; /* the disk's active node */
    const char *target; /* a node that nothing uses */
    enum block_mirror_sync sync;
    uint64_t speed;     /* bytes a second; 0: any */
    bool write_through; /* the guest's writes go to both before they are done, so that the target gets in step
                           however much the guest writes */
};

/* Errors, after which there is no job: ENODEV; EBUSY (a node in use, a disk that is mirrored already, a job
 * of that id); EINVAL (a speed beyond INT64_MAX); as qmp_command. */
int block_mirror_start(const struct block_engine *engine, const struct block_mirror *mirror,
                       struct error *err);

/*
 * Waits until the target is in step, as it stays from then on. Errors, after which there is no job, and the
 * target is garbage: EINVAL (it has another size), ECANCELED, ENOSPC, EIO; as qmp_job_wait.
 */
int block_mirror_await(const struct block_engine *engine, const char *job_id,
                       const struct qmp_job_watch *watch, struct error *err);

/*
 * Moves the disk over to the `target`, durably; what was the disk's node is used no more. Waits until it is
 * in step. Errors: as block_mirror_await, and the disk is where it was; ENOENT where there is no such job.
 * After a deadly one, or ETIMEDOUT, it may be on either, which query-block tells.
 */
int block_mirror_pivot(const struct block_engine *engine, const char *job_id, const char *target,
                       const struct qmp_job_watch *watch, struct error *err);

/* Lets go of the target, which then holds, durably, what the disk held at that instant; the rest as
 * block_mirror_pivot. */
int block_mirror_detach(const struct block_engine *engine, const char *job_id, const char *target,
                        const struct qmp_job_watch *watch, struct error *err);

/* Ends the job at once; the target is garbage. Errors: as qmp_job_abort. */
int block_mirror_drop(const struct block_engine *engine, const char *job_id, struct error *err);
