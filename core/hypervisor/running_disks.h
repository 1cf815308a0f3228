// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Which block node of a running QEMU is which disk of its domain: found by the file that it has open,
 * whatever the nodes are called, and whoever has started it.
 */
#pragma once

#include <sys/stat.h>
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
 * Has the QEMU this very file open, which its nodes say by a name that may lead to another one by now? 0 also
 * where that can't be seen. ENODEV, with a text.
 */
int running_disk_check_open(const struct block_engine *engine, const char *path, const struct stat *file,
                            struct error *err);

/*
 * Finds the node of the format of each disk's image, which QEMU has open for writing. Errors: ENODEV where it
 * has not, or has another file of that name, and EINVAL where two nodes have it; as block_nodes_query.
 */
int running_disks_find(const struct block_engine *engine, struct running_disk *disks, size_t count,
                       struct error *err);
void running_disks_done(struct running_disk *disks, size_t count);
