// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Which block node of a running QEMU is which disk of its domain: found by the file that it has open,
 * whatever the nodes are called, and whoever has started it.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/image_format.h"
#include "hypervisor/block_nodes.h"

struct running_disk {
    const char *target; /* for texts, as `path`; borrowed */
    const char *path;
    int fd; /* its image, open in any mode */
    enum image_format format;
    char *node; /* what running_disks_find has found; running_disks_done frees it */
};

/*
 * Finds the node of the format of each disk's image, which QEMU has open for writing. Errors: ENODEV where it
 * has not, with what it may have open instead, and EINVAL where two nodes have it; as block_nodes_query.
 */
int running_disks_find(const struct block_engine *engine, struct running_disk *disks, size_t count,
                       struct error *err);
void running_disks_done(struct running_disk *disks, size_t count);

/*
 * The file of a node, as QEMU says it: a path, or where options make it so "json:" and what it was opened
 * with (QEMU's qapi/block-core.json, ImageInfo). The caller frees; NULL: it is no file, or memory ran out.
 */
char *running_disk_path(const char *filename);

/*
 * Whether an image that names a backing file was opened without one, as an overlay is before a snapshot has
 * put it on top of a disk. QEMU counts a node's chain only where it tells all of it, nested.
 */
bool running_disk_stands_on_none(const char *filename);
