// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * qcow2 images made by hand, in memory, for tests of their parsers: byte by byte from the specification, with
 * numbers of its own, so that a wrong constant in the parsers is not repeated here. Nothing is checked:
 * whatever a test wants to lie about, it can.
 */
#pragma once

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "io/byte_source.h"

struct qcow2_image {
    uint8_t *bytes;
    size_t size; /* of the file */
    unsigned cluster_bits;
};

#define FEATURE_DIRTY         0x01
#define FEATURE_CORRUPT       0x02
#define FEATURE_EXTERNAL_DATA 0x04
#define FEATURE_COMPRESSION   0x08
#define FEATURE_EXTENDED_L2   0x10

#define COPIED     0x8000000000000000u
#define COMPRESSED 0x4000000000000000u
#define ZERO       1u

static inline void image_done(struct qcow2_image *image)
{
    free(image->bytes);
    *image = (struct qcow2_image){0};
}

static inline struct byte_source image_source(const struct qcow2_image *image)
{
    return byte_source_memory(image->bytes, image->size);
}

/* Makes the file at least this long, with zeros. Not inline: with -O3, gcc 12 takes the empty file at the
 * start of a test for one that stays empty, and warns of what is written to it. */
static __attribute__((noinline, unused)) void image_grow(struct qcow2_image *image, size_t size)
{
    if (size <= image->size)
        return;
    image->bytes = realloc(image->bytes, size);
    assert(image->bytes);
    memset(image->bytes + image->size, 0, size - image->size);
    image->size = size;
}

static inline void image_put(struct qcow2_image *image, uint64_t offset, const void *bytes, size_t length)
{
    image_grow(image, offset + length);
    memcpy(image->bytes + offset, bytes, length);
}

static inline void image_put_number(struct qcow2_image *image, uint64_t offset, uint64_t value,
                                    unsigned bytes)
{
    image_grow(image, offset + bytes);
    for (unsigned i = 0; i < bytes; i++)
        image->bytes[offset + i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
}

static inline void put16(struct qcow2_image *image, uint64_t offset, uint16_t value)
{
    image_put_number(image, offset, value, 2);
}

static inline void put32(struct qcow2_image *image, uint64_t offset, uint32_t value)
{
    image_put_number(image, offset, value, 4);
}

static inline void put64(struct qcow2_image *image, uint64_t offset, uint64_t value)
{
    image_put_number(image, offset, value, 8);
}

/* Clusters at the end of the file; returns where. */
static inline uint64_t image_add_clusters(struct qcow2_image *image, unsigned count)
{
    size_t cluster = (size_t)1 << image->cluster_bits;
    size_t begin = (image->size + cluster - 1) / cluster * cluster;
    image_grow(image, begin + count * cluster);
    return begin;
}

/* How many L1 entries a disk of `size` bytes needs. */
static inline uint32_t image_l1_size(unsigned cluster_bits, int extended_l2, uint64_t size)
{
    unsigned shift = 2 * cluster_bits - (extended_l2 ? 4 : 3);
    return (uint32_t)((size + ((uint64_t)1 << shift) - 1) >> shift);
}

/*
 * A header (version 3: of 112 bytes), a refcount table and an L1 table of the size that fits, all
 * unallocated. Returns where the L1 table is.
 */
static inline uint64_t image_start(struct qcow2_image *image, uint32_t version, unsigned cluster_bits,
                                   uint64_t size, uint64_t features)
{
    *image = (struct qcow2_image){.cluster_bits = cluster_bits};
    image_add_clusters(image, 1);
    uint32_t l1_size = image_l1_size(cluster_bits, features & FEATURE_EXTENDED_L2, size);
    uint64_t refcounts = image_add_clusters(image, 1);
    uint64_t l1 = image_add_clusters(image, (l1_size * 8 >> cluster_bits) + 1);
    image_put(image, 0, "QFI\xfb", 4);
    put32(image, 4, version);
    put32(image, 20, cluster_bits);
    put64(image, 24, size);
    put32(image, 36, l1_size);
    put64(image, 40, l1);
    put64(image, 48, refcounts);
    put32(image, 56, 1);
    if (version >= 3) {
        put64(image, 72, features);
        put32(image, 96, 4);
        put32(image, 100, 112);
    }
    return l1;
}

/* A header extension; returns where the next one goes. */
static inline uint64_t image_put_extension(struct qcow2_image *image, uint64_t offset, uint32_t type,
                                           const void *bytes, uint32_t length)
{
    put32(image, offset, type);
    put32(image, offset + 4, length);
    if (length)
        image_put(image, offset + 8, bytes, length);
    return offset + 8 + (length + 7) / 8 * 8;
}

/* An entry of the snapshot table. */
struct image_snapshot {
    const char *id;
    const char *name;
    uint64_t l1_table_offset;
    uint32_t l1_size;
    uint32_t date_sec;
    uint32_t date_nsec;
    uint64_t vm_clock_nsec;
    uint64_t vm_state_size;
    uint64_t disk_size;
    uint32_t extra_bytes; /* 0, 8, 16, 24 ... */
};

/* Writes an entry at `offset` (rounded up to 8); returns where it ends. */
static inline uint64_t image_put_snapshot(struct qcow2_image *image, uint64_t offset,
                                          const struct image_snapshot *snapshot)
{
    offset = (offset + 7) / 8 * 8;
    put64(image, offset, snapshot->l1_table_offset);
    put32(image, offset + 8, snapshot->l1_size);
    put16(image, offset + 12, (uint16_t)strlen(snapshot->id));
    put16(image, offset + 14, (uint16_t)strlen(snapshot->name));
    put32(image, offset + 16, snapshot->date_sec);
    put32(image, offset + 20, snapshot->date_nsec);
    put64(image, offset + 24, snapshot->vm_clock_nsec);
    put32(image, offset + 32, (uint32_t)snapshot->vm_state_size);
    put32(image, offset + 36, snapshot->extra_bytes);
    image_grow(image, offset + 40 + snapshot->extra_bytes);
    if (snapshot->extra_bytes >= 8)
        put64(image, offset + 40, snapshot->vm_state_size);
    if (snapshot->extra_bytes >= 16)
        put64(image, offset + 48, snapshot->disk_size);
    offset += 40 + snapshot->extra_bytes;
    image_put(image, offset, snapshot->id, strlen(snapshot->id));
    offset += strlen(snapshot->id);
    image_put(image, offset, snapshot->name, strlen(snapshot->name));
    return offset + strlen(snapshot->name);
}

/* Makes the header point to a table. */
static inline void image_set_snapshots(struct qcow2_image *image, uint64_t offset, uint32_t count)
{
    put32(image, 60, count);
    put64(image, 64, offset);
}
