// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The block nodes around a mirror (block_mirror.h) in a running QEMU: what is copied into, which node a
 * guest's disk stands on, and closing what it stood on before.
 *
 * Threads and deadly errors as in block_nodes.h.
 */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>

#include "base/image_format.h"
#include "hypervisor/block_nodes.h"

struct mirror_target {
    const char *node, *file_node; /* names that no node has */
    const char *path;             /* absolute */
    enum image_format format;     /* raw or qcow2 */
    const char *backing;          /* the node that it lies on, which may have others on top; NULL: none */
};

/* Opens it. Errors, after which neither node is there: as qmp_command. */
int mirror_target_open(const struct block_engine *engine, const struct mirror_target *target,
                       struct error *err);

/* Closes it, as far as it is open, and nothing uses it. */
void mirror_target_close(const struct block_engine *engine, const char *node, const char *file_node);

/*
 * The read-only node of a file, opened in that format, that stands on `depth` others; the caller frees. What
 * lies on it may be several. Errors: ENODEV; as block_nodes_query.
 */
int mirror_find_backing(const struct block_engine *engine, const struct stat *file, enum image_format format,
                        unsigned depth, char **node, struct error *err);

/* Does a disk of the guest stand on this node itself, with no more than a running job's filter between? */
int mirror_is_disk(const struct block_engine *engine, const char *node, bool *is_disk, struct error *err);

/*
 * Closes the nodes of these files that nothing uses any more, those on top first. What is in use, and what
 * can't be closed, stays.
 */
void mirror_close_unused(const struct block_engine *engine, const struct stat *files, size_t count);
