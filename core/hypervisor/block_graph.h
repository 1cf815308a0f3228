// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Which block node stands on which, as QEMU's x-debug-query-block-graph says it (qapi/block-core.json; QEMU
 * 4.0 and later, and no part of its stable interface). No other command of QEMU 7.2 tells: names of files can
 * be those of several nodes, and long ones are cut off.
 *
 * Threads and deadly errors as in block_nodes.h.
 */
#pragma once

#include "hypervisor/block_nodes.h"

struct block_edge {
    char *parent, *child; /* names of nodes */
    char *role;           /* "file", "backing", "data-file" and others, as QEMU calls them */
};

struct block_graph {
    struct block_edge *edges;
    size_t count;
};

/* To be ended with block_graph_done. Errors: as qmp_command; EPROTO for an answer that is none. */
int block_graph_query(const struct block_engine *engine, struct block_graph *graph, struct error *err);
void block_graph_done(struct block_graph *graph);

/* The name of what the node has in that role, borrowed; NULL: it has none. */
const char *block_graph_child(const struct block_graph *graph, const char *parent, const char *role);
