// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What runs a domain's disks, a QEMU or a storage daemon of our own, and the block nodes in it. The commands
 * in block_snapshot.h, block_overlay.h and block_merge.h take either.
 *
 * The same threads as for qmp.h. Where a command fails with a deadly error of qmp.h, it is not known whether
 * it was carried out: the images have to be looked at.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/error.h"
#include "hypervisor/qmp.h"
#include "hypervisor/storage_daemon.h"

struct block_engine {
    struct qmp *qmp;
    struct storage_daemon *daemon; /* whose client `qmp` is; NULL: it is a QEMU's */
    int timeout_ms;                /* for the answer to each command */
};

struct block_node {
    char *name;
    char *driver;
    char *filename;         /* as QEMU says it, which is no path where options make it so */
    char *path;             /* of the file that it is, or lies on; NULL: none, or not known (node_path.h) */
    char *backing_filename; /* as the image says; NULL: none */
    uint64_t virtual_size;  /* bytes */
    uint64_t cluster_size;  /* bytes; 0: the format has none */
    unsigned depth;         /* of the chain of nodes below it; 0: it stands on none, or was not asked for */
    bool read_only;
    bool is_direct, never_flushes; /* how it is cached */
    char detect_zeroes[8];         /* "off", "on", "unmap" */
};

struct block_nodes {
    struct block_node *nodes;
    size_t count;
};

/* All named nodes, to be ended with block_nodes_done. Errors: as qmp_command; EPROTO for an answer that is
 * none. */
int block_nodes_query(const struct block_engine *engine, struct block_nodes *nodes, struct error *err);

/* The same with what each stands on, of which the answer becomes long. */
int block_nodes_query_depths(const struct block_engine *engine, struct block_nodes *nodes, struct error *err);
void block_nodes_done(struct block_nodes *nodes);

/* Borrowed; NULL: there is none of that name. */
const struct block_node *block_nodes_find(const struct block_nodes *nodes, const char *name);

/* Is the node that file, or does it lie on it? By what its path leads to now. */
bool block_node_is_file(const struct block_node *node, const struct stat *file);

/* Opens a node that is described as blockdev-add takes it; borrowed, NULL: memory had run out. Errors:
 * ENOMEM; as qmp_command. */
int block_node_add(const struct block_engine *engine, struct json_object *node, struct error *err);

/* Closes one that nothing uses. Errors: as qmp_command. */
int block_node_delete(const struct block_engine *engine, const char *name, struct error *err);

/*
 * Writes out all that is kept in memory of a writable node, and flushes its file. `backing` is the node that
 * is its backing now; NULL: none. A QEMU (7.2) tells nothing where its flush fails; a storage daemon does.
 * Errors: as qmp_command, EINVAL for a name that is not legal.
 */
int block_flush(const struct block_engine *engine, const char *node_name, const char *backing,
                struct error *err);
