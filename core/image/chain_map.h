// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Where the bytes of a frozen disk are: the layers of a chain, seen as one.
 *
 * A region of the disk is resolved through all layers once, into a compact immutable array that is kept in
 * the cache; reading then costs the same whatever the depth. Each layer is walked at most once for a region,
 * from the first to the last byte that no layer above it has.
 *
 * Layers smaller than the disk read as zeros beyond their end, whatever lies below them, as in QEMU.
 */
#pragma once

#include "image/chain.h"
#include "image/extent.h"

#define CHAIN_MAP_REGION_MIN (UINT64_C(1) << 20)
#define CHAIN_MAP_REGION_MAX (UINT64_C(32) << 20)

#define CHAIN_MAP_NO_LAYER UINT16_MAX /* zeros because no layer has anything */

/* One run of the disk. Its `kind` is never EXTENT_UNALLOCATED. */
struct chain_extent {
    uint64_t guest;
    uint64_t length;
    uint64_t offset;            /* as in struct extent, for its first byte */
    uint32_t compressed_length; /* as in struct extent */
    uint16_t layer;             /* index in the chain, or CHAIN_MAP_NO_LAYER */
    uint8_t kind;               /* enum extent_kind */
};

struct chain_extents {
    struct chain_extent *items; /* in guest order, without gaps */
    size_t count;
    size_t capacity;
};

/*
 * Resolves the disk from `start` on, up to `end` at most, and stops early once there are about `limit`
 * extents (SIZE_MAX: never); at least one byte is resolved. What is there replaces `extents`. On failure
 * `*failed_layer` is the layer that could not be walked. Errors: those of the walk, ENOMEM.
 */
int chain_map_resolve(const struct chain *chain, uint64_t start, uint64_t end, size_t limit,
                      struct chain_extents *extents, size_t *failed_layer);
void chain_extents_done(struct chain_extents *extents);

/* Bytes that one region covers: a power of two that gives the smallest unit of the chain some hundred
 * entries. */
uint64_t chain_map_region_size(const struct chain *chain);

/* One region's map, as it lies in the cache. Offsets in it count from the start of the region. */
struct map_entry {
    uint64_t offset;
    uint32_t guest; /* of its first byte; it ends where the next one begins */
    uint32_t compressed_length;
    uint16_t layer;
    uint8_t kind;
};

struct map_region {
    uint32_t count;
    uint32_t length; /* bytes that the region covers */
    struct map_entry entries[];
};

/* Makes the map of [start, start + length), length <= CHAIN_MAP_REGION_MAX, with malloc. Errors as above. */
int chain_map_make_region(const struct chain *chain, uint64_t start, uint64_t length,
                          struct map_region **region, size_t *size, size_t *failed_layer);

/* The entry that `offset` (< region->length) lies in. */
uint32_t map_region_find(const struct map_region *region, uint32_t offset);

/* The extent of entry `index`, from `from` on (inside it), with guest offsets counted from `region_start`. */
struct chain_extent map_region_extent(const struct map_region *region, uint64_t region_start, uint32_t index,
                                      uint32_t from);
