// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A layer whose extents and bytes a test makes up: what chain_map, frozen_disk and data_seek are tested over,
 * without image files. The bytes lie in a memfd. Header only; not every test uses all of it.
 */
#pragma once

#include "unit.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "base/bytes.h"
#include "image/chain.h"

struct fake_layer {
    struct layer_reader base;
    struct extent *extents; /* in guest order; gaps and the end are unallocated */
    size_t count;
    uint64_t file_end; /* of the memfd: where bytes are added */
    int walk_result;   /* what a walk returns instead of walking, if not 0 */
    _Atomic int check_result;
    _Atomic unsigned checks;
    _Atomic unsigned walks;
    _Atomic unsigned visits;
};

static inline struct fake_layer *fake_layer_of(struct layer_reader *reader)
{
    return (struct fake_layer *)(void *)reader;
}

static inline unsigned char fake_foreign_byte(uint64_t offset)
{
    return (unsigned char)(offset % 251 + 3);
}

static inline int fake_visit(struct fake_layer *layer, struct extent extent, uint64_t from, uint64_t to,
                             extent_visitor visitor, void *opaque)
{
    if (from >= to)
        return 0;
    if (extent.kind == EXTENT_DATA || extent.kind == EXTENT_FOREIGN)
        extent.offset += from - extent.guest;
    extent.guest = from;
    extent.length = to - from;
    layer->visits++;
    return visitor(opaque, &extent);
}

static inline int fake_walk(struct layer_reader *reader, uint64_t offset, uint64_t length,
                            extent_visitor visitor, void *opaque)
{
    struct fake_layer *layer = fake_layer_of(reader);
    layer->walks++;
    if (layer->walk_result)
        return layer->walk_result;
    uint64_t end = offset + length;
    assert_true(end <= reader->size); /* the map never asks beyond a layer's end */
    int rc = 0;
    for (size_t i = 0; rc == 0 && offset < end && i < layer->count; i++) {
        const struct extent *extent = &layer->extents[i];
        if (extent->guest + extent->length <= offset)
            continue;
        uint64_t gap_end = min_u64(extent->guest, end);
        rc = fake_visit(layer, (struct extent){.kind = EXTENT_UNALLOCATED}, offset, gap_end, visitor, opaque);
        offset = max_u64(offset, gap_end);
        uint64_t to = min_u64(extent->guest + extent->length, end);
        if (rc == 0)
            rc = fake_visit(layer, *extent, offset, to, visitor, opaque);
        offset = max_u64(offset, to);
    }
    return rc ? rc
              : fake_visit(layer, (struct extent){.kind = EXTENT_UNALLOCATED}, offset, end, visitor, opaque);
}

static inline int fake_read(struct layer_reader *reader, uint64_t offset, void *buffer, size_t length)
{
    for (size_t i = 0; i < length; i++)
        ((unsigned char *)buffer)[i] = fake_foreign_byte(offset + i);
    return 0;
}

static inline int fake_check(struct layer_reader *reader)
{
    struct fake_layer *layer = fake_layer_of(reader);
    layer->checks++;
    return layer->check_result;
}

static inline void fake_free(struct layer_reader *reader)
{
    struct fake_layer *layer = fake_layer_of(reader);
    close(reader->data_fd);
    free(reader->path);
    free(layer->extents);
    free(layer);
}

static const struct layer_reader_ops fake_layer_ops = {
    .name = "fake", .walk = fake_walk, .read = fake_read, .check = fake_check, .free = fake_free};

static inline struct fake_layer *fake_layer_new(uint64_t size, uint32_t cluster_size)
{
    struct fake_layer *layer = calloc(1, sizeof *layer);
    assert_non_null(layer);
    layer->base = (struct layer_reader){
        .ops = &fake_layer_ops,
        .path = strdup("/fake"),
        .size = size,
        .data_fd = memfd_create("fake", MFD_CLOEXEC),
        .smallest_unit = cluster_size,
        .cluster_size = cluster_size,
        .compressed_guest_mask = cluster_size - 1,
        .compression = COMPRESSION_DEFLATE,
    };
    assert_true(layer->base.data_fd >= 0);
    return layer;
}

/* Adds an extent behind those that are there. */
static inline void fake_layer_add(struct fake_layer *layer, struct extent extent)
{
    layer->extents = reallocarray(layer->extents, layer->count + 1, sizeof *layer->extents);
    assert_non_null(layer->extents);
    layer->extents[layer->count++] = extent;
}

static inline uint64_t fake_layer_append(struct fake_layer *layer, const void *bytes, size_t length)
{
    uint64_t at = layer->file_end;
    assert_int_equal(pwrite(layer->base.data_fd, bytes, length, (off_t)at), length);
    layer->file_end += length;
    return at;
}

static inline void fake_layer_add_data(struct fake_layer *layer, uint64_t guest, const void *bytes,
                                       size_t length)
{
    fake_layer_add(layer, (struct extent){.guest = guest,
                                          .length = length,
                                          .kind = EXTENT_DATA,
                                          .offset = fake_layer_append(layer, bytes, length)});
}

/* One compressed cluster; `guest` is a multiple of the cluster's size. */
static inline void fake_layer_add_compressed(struct fake_layer *layer, uint64_t guest, const void *bytes)
{
    uint32_t size = layer->base.cluster_size;
    z_stream stream = {0};
    assert_int_equal(deflateInit2(&stream, 1, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
    size_t room = deflateBound(&stream, size);
    unsigned char *packed = malloc(room);
    assert_non_null(packed);
    stream.next_in = (unsigned char *)(uintptr_t)bytes;
    stream.avail_in = size;
    stream.next_out = packed;
    stream.avail_out = (uInt)room;
    assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
    size_t length = room - stream.avail_out;
    deflateEnd(&stream);
    fake_layer_add(layer, (struct extent){.guest = guest,
                                          .length = size,
                                          .kind = EXTENT_COMPRESSED,
                                          .compressed_length = (uint32_t)length,
                                          .offset = fake_layer_append(layer, packed, length)});
    free(packed);
}

static inline struct chain fake_chain_new(struct fake_layer *const *layers, size_t count)
{
    struct chain chain = {.layers = calloc(count, sizeof *chain.layers), .count = count};
    assert_non_null(chain.layers);
    for (size_t i = 0; i < count; i++)
        chain.layers[i] = &layers[i]->base;
    return chain;
}

/* VMSNAPFS_SEED, or one of the moment; printed. */
static inline unsigned fake_seed(void)
{
    const char *given = getenv("VMSNAPFS_SEED");
    unsigned seed = given ? (unsigned)strtoul(given, NULL, 0) : (unsigned)getpid() * 2654435761u;
    printf("VMSNAPFS_SEED=%u\n", seed);
    return seed;
}
