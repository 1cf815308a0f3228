// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The one cache: maps of disk regions and decompressed clusters, under one bound on memory.
 *
 * A block is found by (owner, index). Owners are numbers, drawn once for each open disk or image and never
 * used again, so nothing stale can be found. Blocks are filled once, by one thread, while others that want
 * the same one wait for it; then they are immutable and counted. The least recently used ones go when the
 * bound is reached; those in use stay until they are put back, so the bound can be passed only by what is
 * being read at that moment. Any thread may call anything here. No lock is held while a block is filled.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cache;
struct cache_block;

struct cache_key {
    uint64_t owner;
    uint64_t index;
};

/* Makes the bytes of a block: `*data` from malloc, given to the cache. 0 or a negative errno, which cache_get
 * returns (to every waiter) and which is not kept. */
typedef int (*cache_fill)(void *opaque, struct cache_key key, void **data, size_t *size);

struct cache *cache_new(size_t limit_bytes);
void cache_free(struct cache *cache); /* no block may be in use */

/* The bound that it was made with, bytes. */
size_t cache_limit(const struct cache *cache);

uint64_t cache_new_owner(struct cache *cache);

/* Finds the block or fills it. On success the caller holds `*block` until cache_put. */
int cache_get(struct cache *cache, struct cache_key key, cache_fill fill, void *opaque,
              struct cache_block **block);

/* True if the block is there or being filled; changes nothing, not even its age. */
bool cache_has(struct cache *cache, struct cache_key key);

const void *cache_block_data(const struct cache_block *block, size_t *size);
void cache_put(struct cache *cache, struct cache_block *block);

/* Forgets everything of an owner, but for what is in use, which goes when it is put back. */
void cache_drop_owner(struct cache *cache, uint64_t owner);

/* Bytes held now, bookkeeping included. */
size_t cache_bytes(struct cache *cache);
