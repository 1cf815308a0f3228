// SPDX-License-Identifier: LGPL-2.1-or-later
/* Snapshots of several disks at one instant, by QEMU's `transaction`: of all, or of none. Threads and deadly
 * errors as in block_nodes.h. */
#pragma once

#include "hypervisor/block_nodes.h"

#define BLOCK_TAG_BYTES_MAX 255 /* of an internal snapshot's name, which QEMU would cut off */

/* 0, or EINVAL or ENAMETOOLONG for what is no tag, as below. */
int block_snapshot_check_tag(const char *tag, struct error *err);

/*
 * Makes an internal snapshot named `tag` in each of the nodes. It is in the files when this returns.
 * Errors, after which no node has it: EEXIST where one has that tag already; EOPNOTSUPP where a format can't;
 * EINVAL for a tag that is empty or only digits, which QEMU would confuse with an id; ENAMETOOLONG; as
 * qmp_command.
 */
int block_snapshot_internal(const struct block_engine *engine, const char *const *node_names, size_t count,
                            const char *tag, struct error *err);

/*
 * Deletes an internal snapshot of one node. `id` says which where several have that tag; NULL: the one.
 * Several nodes are no transaction: ENOENT says that it is gone already, so that a loop can be repeated; a
 * node that is not there is ENODEV. Errors: as qmp_command.
 */
int block_snapshot_delete(const struct block_engine *engine, const char *node_name, const char *id,
                          const char *tag, struct error *err);

/* The id of the first internal snapshot with that tag in a node's image; the caller frees. Errors: ENOENT
 * where there is none; ENODEV; EPROTO; as qmp_command. */
int block_snapshot_find(const struct block_engine *engine, const char *node_name, const char *tag, char **id,
                        struct error *err);

struct block_snapshot_pair {
    const char *node; /* is frozen, and becomes the backing of */
    const char
        *overlay; /* a node opened with "backing": null, on a file whose header names the node's file */
};

/*
 * Puts the overlays on top. Nothing is written to the files: headers are the caller's. Errors, after which no
 * node has changed: EBUSY where an overlay or node is in use; ENODEV; as qmp_command.
 */
int block_snapshot_external(const struct block_engine *engine, const struct block_snapshot_pair *pairs,
                            size_t count, struct error *err);

struct block_snapshot {
    const char *tag;          /* of the internal ones */
    const char *const *nodes; /* that get one */
    size_t node_count;
    const struct block_snapshot_pair *pairs;
    size_t pair_count;
};

/* Both kinds at one instant. Errors: as the two, after which no node has changed. */
int block_snapshot_take(const struct block_engine *engine, const struct block_snapshot *snapshot,
                        struct error *err);
