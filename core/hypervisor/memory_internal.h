// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Memory and disks of a running domain as one internal snapshot, by QEMU's job snapshot-save. (It is gone
 * back to in a new QEMU, administration/memory/memory_back.h.) The same threads and deadly errors as for
 * qmp.h.
 *
 * QEMU does nothing else meanwhile: the guest stands still, and no command is answered before all is written.
 * So an answer may take watch.stall_ms instead of watch.timeout_ms; and since QEMU calls a job
 * cancelled that has done all its work, none is: what watch.progress returns does not count.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "hypervisor/qmp.h"
#include "hypervisor/qmp_job.h"

struct memory_internal {
    const char *job_id;
    const char *tag;            /* as block_snapshot_internal wants it */
    const char *vmstate;        /* the node whose image takes the memory; one of */
    const char *const *devices; /* the nodes of all disks that the snapshot has */
    size_t device_count;
};

/*
 * Saves. The guest runs on afterwards where it ran before. Errors, after which no disk has a new one: EEXIST
 * where an image has that tag; ENODEV; EOPNOTSUPP where a disk can't, or one that is written to is left out;
 * EBUSY where a migration is under way; ENOSPC; EINVAL and ENAMETOOLONG for the tag; as qmp_job_run. After
 * ETIMEDOUT and the deadly ones it is not known: the images have to be looked at.
 */
int memory_internal_save(struct qmp *qmp, const struct memory_internal *snapshot,
                         const struct qmp_job_watch *watch, struct error *err);
