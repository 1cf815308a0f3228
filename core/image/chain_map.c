// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Where the bytes of a frozen disk are; see chain_map.h.
 *
 * The layers are gone through from the top down. What is known so far is a list of extents without gaps, in
 * which EXTENT_UNALLOCATED is what no layer yet had anything for. Walking the next layer makes a new list out
 * of it, by merging: both are in guest order. So a list is never longer than the tables make it, and nothing
 * recurses.
 */
#include "image/chain_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"

/* What the visitor returns to end a walk when the list is long enough. No errno. */
#define ENOUGH 1

/* The merging of what is known with what the next layer says. */
struct merge {
    const struct chain *chain;
    const struct chain_extents *known;
    size_t index; /* in `known`: where `at` lies */
    uint64_t at;  /* everything before is in `next` */
    struct chain_extents *next;
    size_t limit;
    uint64_t walk_end;
    uint16_t layer;
};

void chain_extents_done(struct chain_extents *extents)
{
    free(extents->items);
    *extents = (struct chain_extents){0};
}

/* True if `b`, which begins where `a` ends, only goes on with it. Two clusters never become one extent,
 * though a damaged image may say that both lie in the same place. */
static bool goes_on(const struct chain *chain, const struct chain_extent *a, const struct chain_extent *b)
{
    if (a->kind != b->kind || a->layer != b->layer)
        return false;
    switch ((enum extent_kind)a->kind) {
    case EXTENT_DATA:
        return a->offset + a->length == b->offset;
    case EXTENT_COMPRESSED:
        return (b->guest & chain->layers[b->layer]->compressed_guest_mask) != 0;
    case EXTENT_UNALLOCATED:
    case EXTENT_ZERO:
    case EXTENT_FOREIGN:
    case EXTENT_DAMAGED:
        return true;
    }
    return false;
}

static int append(const struct chain *chain, struct chain_extents *extents, const struct chain_extent *extent)
{
    if (extent->length == 0)
        return 0;
    struct chain_extent *last = extents->count ? &extents->items[extents->count - 1] : NULL;
    if (last && goes_on(chain, last, extent)) {
        last->length += extent->length;
        return 0;
    }
    if (extents->count == extents->capacity) {
        size_t capacity = extents->capacity ? extents->capacity * 2 : 64;
        struct chain_extent *items = reallocarray(extents->items, capacity, sizeof *items);
        if (!items)
            return -ENOMEM;
        extents->items = items;
        extents->capacity = capacity;
    }
    extents->items[extents->count++] = *extent;
    return 0;
}

/* [from, from + length) of `extent`, which contains it. */
static struct chain_extent part_of(const struct chain_extent *extent, uint64_t from, uint64_t length)
{
    struct chain_extent part = *extent;
    if (part.kind == EXTENT_DATA || part.kind == EXTENT_FOREIGN)
        part.offset += from - part.guest;
    part.guest = from;
    part.length = length;
    return part;
}

/* Merges everything up to the end of `said`, which begins at merge->at, into the next list. */
static int merge_extent(struct merge *merge, const struct chain_extent *said)
{
    uint64_t end = said->guest + said->length;
    while (merge->at < end) {
        if (merge->next->count >= merge->limit)
            return ENOUGH;
        const struct chain_extent *known = &merge->known->items[merge->index];
        uint64_t known_end = known->guest + known->length;
        uint64_t length = min_u64(end, known_end) - merge->at;
        const struct chain_extent *from = known->kind == EXTENT_UNALLOCATED ? said : known;
        struct chain_extent part = part_of(from, merge->at, length);
        int rc = append(merge->chain, merge->next, &part);
        if (rc < 0)
            return rc;
        merge->at += length;
        if (merge->at == known_end)
            merge->index++;
    }
    return 0;
}

static int visit(void *opaque, const struct extent *extent)
{
    struct merge *merge = opaque;
    if (extent->guest != merge->at)
        return -EIO; /* a reader that leaves gaps: nothing that it says can be believed */
    struct chain_extent said = {
        .guest = extent->guest,
        .length = min_u64(extent->length, merge->walk_end - extent->guest),
        .offset = extent->offset,
        .compressed_length = extent->compressed_length,
        .layer = merge->layer,
        .kind = (uint8_t)extent->kind,
    };
    return merge_extent(merge, &said);
}

/* The first and the last byte that no layer has yet; false where there are none. */
static bool open_span(const struct chain_extents *extents, uint64_t *start, uint64_t *end)
{
    size_t first = 0, last = extents->count;
    while (first < last && extents->items[first].kind != EXTENT_UNALLOCATED)
        first++;
    while (last > first && extents->items[last - 1].kind != EXTENT_UNALLOCATED)
        last--;
    if (first == last)
        return false;
    *start = extents->items[first].guest;
    *end = extents->items[last - 1].guest + extents->items[last - 1].length;
    return true;
}

/* What `kind` makes of everything unallocated from merge->at up to `end`. */
static int merge_rest(struct merge *merge, uint64_t end, enum extent_kind kind, uint16_t layer)
{
    if (merge->at >= end)
        return 0;
    struct chain_extent rest = {
        .guest = merge->at, .length = end - merge->at, .layer = layer, .kind = (uint8_t)kind};
    return merge_extent(merge, &rest);
}

/* Makes `next` out of `known` and what one layer says of [start, end). */
static int merge_layer(const struct chain *chain, size_t layer, uint64_t start, uint64_t end, size_t limit,
                       const struct chain_extents *known, struct chain_extents *next)
{
    struct layer_reader *reader = chain->layers[layer];
    const struct chain_extent *last = &known->items[known->count - 1];
    struct merge merge = {
        .chain = chain,
        .known = known,
        .at = known->items[0].guest,
        .next = next,
        .limit = limit,
        .walk_end = min_u64(end, reader->size),
        .layer = (uint16_t)layer,
    };
    next->count = 0;
    /* What lies before the span is known, so that what is "unallocated" there is never looked at. */
    int rc = merge_rest(&merge, start, EXTENT_UNALLOCATED, CHAIN_MAP_NO_LAYER);
    if (rc == 0 && start < merge.walk_end) {
        rc = reader->ops->walk(reader, start, merge.walk_end - start, visit, &merge);
        if (rc == 0 && merge.at < merge.walk_end)
            rc = -EIO;
    }
    if (rc == 0)
        rc = merge_rest(&merge, last->guest + last->length, EXTENT_ZERO, CHAIN_MAP_NO_LAYER);
    return rc == ENOUGH ? 0 : rc;
}

/* What no layer has is zeros, as is what lies beyond a layer's end: neighbours become one. */
static void fill_with_zeros(const struct chain *chain, struct chain_extents *extents)
{
    size_t count = 0;
    for (size_t i = 0; i < extents->count; i++) {
        struct chain_extent extent = extents->items[i];
        if (extent.kind == EXTENT_UNALLOCATED) {
            extent.kind = EXTENT_ZERO;
            extent.layer = CHAIN_MAP_NO_LAYER;
        }
        if (count && goes_on(chain, &extents->items[count - 1], &extent))
            extents->items[count - 1].length += extent.length;
        else
            extents->items[count++] = extent;
    }
    extents->count = count;
}

int chain_map_resolve(const struct chain *chain, uint64_t start, uint64_t end, size_t limit,
                      struct chain_extents *extents, size_t *failed_layer)
{
    struct chain_extents *known = extents;
    struct chain_extents other = {0}, *next = &other;
    struct chain_extent all = {
        .guest = start, .length = end - start, .layer = CHAIN_MAP_NO_LAYER, .kind = EXTENT_UNALLOCATED};
    known->count = 0;
    int rc = append(chain, known, &all);
    uint64_t open_start, open_end;
    for (size_t layer = 0; rc == 0 && layer < chain->count && open_span(known, &open_start, &open_end);
         layer++) {
        *failed_layer = layer;
        rc = merge_layer(chain, layer, open_start, open_end, limit, known, next);
        struct chain_extents *swap = known;
        known = next;
        next = swap;
    }
    if (rc == 0)
        fill_with_zeros(chain, known);
    if (known != extents) {
        struct chain_extents swap = *extents;
        *extents = other;
        other = swap;
    }
    chain_extents_done(&other);
    if (rc < 0)
        extents->count = 0;
    return rc;
}

uint64_t chain_map_region_size(const struct chain *chain)
{
    uint64_t unit = CHAIN_MAP_REGION_MAX;
    for (size_t i = 0; i < chain->count; i++)
        if (chain->layers[i]->smallest_unit)
            unit = min_u64(unit, chain->layers[i]->smallest_unit);
    uint64_t size = CHAIN_MAP_REGION_MIN;
    while (size < CHAIN_MAP_REGION_MAX && size / 512 < unit)
        size *= 2;
    return size;
}

int chain_map_make_region(const struct chain *chain, uint64_t start, uint64_t length,
                          struct map_region **result, size_t *size, size_t *failed_layer)
{
    cleanup(chain_extents_done) struct chain_extents extents = {0};
    int rc = chain_map_resolve(chain, start, start + length, SIZE_MAX, &extents, failed_layer);
    if (rc < 0)
        return rc;
    size_t bytes = sizeof(struct map_region) + extents.count * sizeof(struct map_entry);
    struct map_region *region = malloc(bytes);
    if (!region)
        return -ENOMEM;
    region->count = (uint32_t)extents.count;
    region->length = (uint32_t)length;
    for (size_t i = 0; i < extents.count; i++) {
        const struct chain_extent *extent = &extents.items[i];
        region->entries[i] = (struct map_entry){
            .offset = extent->offset,
            .guest = (uint32_t)(extent->guest - start),
            .compressed_length = extent->compressed_length,
            .layer = extent->layer,
            .kind = extent->kind,
        };
    }
    *result = region;
    *size = bytes;
    return 0;
}

uint32_t map_region_find(const struct map_region *region, uint32_t offset)
{
    uint32_t low = 0, high = region->count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (region->entries[middle].guest <= offset)
            low = middle;
        else
            high = middle;
    }
    return low;
}

struct chain_extent map_region_extent(const struct map_region *region, uint64_t region_start, uint32_t index,
                                      uint32_t from)
{
    const struct map_entry *entry = &region->entries[index];
    uint32_t end = index + 1 < region->count ? region->entries[index + 1].guest : region->length;
    struct chain_extent extent = {
        .guest = region_start + entry->guest,
        .length = end - entry->guest,
        .offset = entry->offset,
        .compressed_length = entry->compressed_length,
        .layer = entry->layer,
        .kind = entry->kind,
    };
    return part_of(&extent, region_start + from, end - from);
}
