// SPDX-License-Identifier: LGPL-2.1-or-later
/* Which file a block node is, or lies on by its format and by filters: what `path` of block_nodes.h says. */
#pragma once

#include "hypervisor/block_nodes.h"

/*
 * Sets the path of each node. QEMU's name of a node (qapi/block-core.json, ImageInfo) is a path, or, where
 * options make it so, "json:" and all that it was opened with. That has the whole chain below where an image
 * does not name its backing file as QEMU does, relative to itself for instance; and is cut off when it gets
 * too long, upon which QEMU is asked what the node stands on (block_graph.h). Errors: ENOMEM, and those after
 * which the connection has ended.
 */
int node_paths_find(const struct block_engine *engine, struct block_nodes *nodes, struct error *err);
