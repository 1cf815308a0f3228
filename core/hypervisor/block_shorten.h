// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Making an image shorter in a way that survives being killed.
 *
 * QEMU (7.2) shortens a qcow2 image's file before it has written the tables that no longer name what was cut
 * off: killed there, it leaves entries that point behind the file, and whoever makes the image larger again
 * meets other data. So the clusters are given back first, durably, and then there is nothing left to cut off
 * that a table names.
 *
 * Threads and deadly errors as in block_nodes.h.
 */
#pragma once

#include <stdint.h>

#include "hypervisor/block_nodes.h"
#include "hypervisor/qmp_job.h"

/*
 * Makes what a writable `node`, which no other node stands on, reads as end at `size`, below its own size (in
 * bytes, both a multiple of 512). `backing` is the node that is its backing; NULL: none. Durable.
 * Errors: EOPNOTSUPP and EINVAL for what can't be made shorter (a device); ENODEV; as qmp_job_wait. After an
 * error, or killed, it has its old size, or up to a cluster more, and anything from `size` on.
 * Not for a qcow2 image of version 2 (compat=0.10) with a backing: such can't give clusters back, and are
 * made shorter as QEMU does it.
 */
int block_shorten(const struct block_engine *engine, const char *node, const char *backing, uint64_t size,
                  const struct qmp_job_watch *watch, struct error *err);
