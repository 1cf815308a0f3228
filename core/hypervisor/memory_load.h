// SPDX-License-Identifier: LGPL-2.1-or-later
/* The other end of memory_save.h: loading saved memory into a QEMU that was started for it. The same threads
 * and deadly errors as for qmp.h. */
#pragma once

#include "base/error.h"
#include "hypervisor/qmp.h"
#include "hypervisor/qmp_job.h"

/*
 * Loads from `fd`, a file from its offset on or the reading end of a pipe, into a QEMU that was started with
 * "-S -incoming defer", the machine that the memory was saved from, and its disks as they were at that
 * instant. Afterwards it stands still, also where it was saved while it ran: run_state_continue. `watch` (not
 * NULL) is told of bytes where `fd` is a file; of a pipe, it is its caller who sees whether bytes
 * move, and `progress` has to say so where they no longer do.
 *
 * Errors: EINVAL where this QEMU waits for no memory; ECANCELED; ETIMEDOUT; EIO, ECONNRESET or EPIPE where it
 * is none for this machine, or damaged, which ends QEMU (7.2), so that the reason is found in what it wrote
 * on its standard error. After any of them that QEMU can only be ended.
 */
int memory_load(struct qmp *qmp, int fd, const struct qmp_job_watch *watch, struct error *err);
