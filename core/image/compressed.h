// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Compressed clusters of a chain, decompressed once, through the cache. Any thread may call.
 */
#pragma once

#include "image/chain_map.h"
#include "image/failure.h"
#include "io/cache.h"
#include "io/page_cache.h"
#include "io/workers.h"

#define COMPRESSED_PARTS_MAX 64

/* Bytes of one cluster that somebody wants. */
struct compressed_part {
    struct chain_extent extent; /* EXTENT_COMPRESSED, of one cluster */
    void *buffer;               /* extent.length bytes */
};

struct compressed_env {
    const struct chain *chain;
    struct cache *cache;
    struct workers *workers;      /* NULL: the caller does everything */
    struct page_cache_once *once; /* one for each layer; NULL: what is read may stay in the page cache */
};

/* Fills the buffers of all parts (COMPRESSED_PARTS_MAX at most); clusters that are not in the cache are
 * shared out among the workers. On failure `*failure` tells which cluster. */
int compressed_read(const struct compressed_env *env, const struct compressed_part *parts, size_t count,
                    struct failure *failure);

/* Brings the cluster of `extent` into the cache, unless it is there or on its way. Errors are dropped: who
 * reads it will meet them again. */
void compressed_prefetch(const struct compressed_env *env, const struct chain_extent *extent);
