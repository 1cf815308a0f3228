// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Domains as values to plan with (operation/tree.h, operation/layer_set.h), and the way back from a layer or
 * an internal snapshot there to the file that it is.
 *
 * Files that several domains have in their chains are one layer. Everything is borrowed from the domains.
 * Not locked.
 */
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "domain/domain.h"
#include "operation/layer_set.h"
#include "operation/tree.h"

struct world_file {
    uint64_t id;                           /* of the layer */
    const struct layer *layer;             /* that of one of the domains */
    bool made, original, changed, touched; /* as any of the domains says */
    bool is_shared;                        /* several disks, of one domain or several, have it */
};

struct world_internal {
    uint64_t id;
    const struct layer *layer;
    const struct internal_snapshot *internal;
};

struct world {
    struct domain *const *domains; /* borrowed */
    struct tree **trees;           /* one for each */
    size_t count;
    struct layer_set layers;
    struct world_file *files; /* by path */
    size_t file_count;
    struct world_internal *internals; /* by id */
    size_t internal_count;
};

typedef bool world_is_open(void *opaque, uint64_t snapshot);

/*
 * `is_open` may be NULL: nothing is. Errors: EIO where a domain is not as it must be (tree_check), with a
 * sentence; ENOMEM.
 */
int world_make(struct domain *const *domains, size_t count, world_is_open *is_open, void *opaque,
               struct world *world, struct error *err);
void world_done(struct world *world);

/* NULL if there is none of this id. */
const struct world_file *world_find_file(const struct world *world, uint64_t layer);
const struct world_internal *world_find_internal(const struct world *world, uint64_t internal);

/* 0 if no domain has the file. */
uint64_t world_layer_at(const struct world *world, const char *path);
