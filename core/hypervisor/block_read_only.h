// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Opening a layer for reading only again that QEMU has left open for writing: a commit of an active layer
 * that is given up does that to its base (QEMU 7.2), and one that finds the base so leaves it so. As long as
 * it holds the lock of one who writes, no other QEMU can be started on that layer, and nobody claim it.
 *
 * Threads and deadly errors as in block_nodes.h.
 */
#pragma once

#include "hypervisor/block_nodes.h"

/*
 * `node` is one that stands below others, and to which no job writes. QEMU wants to be told all that such a
 * node was opened with, and does not tell: caching and the detection of zeros stay, discards of its file are
 * allowed, and settings of its format are those that QEMU chooses. What it wrote and still has in memory is
 * written to the file. Errors: EOPNOTSUPP where it can't be told what the node lies on, for a raw image of
 * which only a part may be the disk, or for an encrypted image; as qmp_command. It stays as it was then.
 */
int block_make_read_only(const struct block_engine *engine, const struct block_node *node, struct error *err);
