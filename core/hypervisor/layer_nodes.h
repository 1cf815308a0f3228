// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Which block nodes of a QEMU have an image file open, active or not, and closing those that nothing in it
 * uses any more. As running_disks.h does, files are told by what they are, and not by what nodes are called.
 * Threads and deadly errors as in block_nodes.h.
 */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>

#include "base/image_format.h"
#include "hypervisor/block_nodes.h"

/* Does any node have the file open? */
bool layer_nodes_have(const struct block_nodes *nodes, const struct stat *file);

/*
 * The node of the format that has the file open, borrowed from `nodes`. Errors: ENODEV, there is none; EBUSY,
 * there are several, of which it is not known which one is meant. `path` is for texts.
 */
int layer_nodes_find(const struct block_nodes *nodes, const struct stat *file, const char *path,
                     enum image_format format, const struct block_node **node, struct error *err);

/*
 * Closes all nodes that have the file open, after which its space is free as soon as it has no name. Those
 * that are in use stay (QEMU says so): EBUSY. Errors: as qmp_command.
 */
int layer_nodes_close(const struct block_engine *engine, const struct stat *file, const char *path,
                      struct error *err);

/*
 * Is the file what a disk of the guest is in at the moment? `*can_wait` (may be NULL) tells whether that is a
 * device whose requests can be made to wait (block_pivot.h): some devices, flash memory and diskettes, keep
 * all of QEMU waiting for theirs. Errors: as qmp_command; EPROTO.
 */
int layer_nodes_is_disk(const struct block_engine *engine, const struct stat *file, bool *is, bool *can_wait,
                        struct error *err);
