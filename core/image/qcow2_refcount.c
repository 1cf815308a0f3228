// SPDX-License-Identifier: LGPL-2.1-or-later
/* Reference counts of clusters; see qcow2_refcount.h. */
#include "image/qcow2_refcount.h"

#include <errno.h>

#include "base/bytes.h"

#define REFCOUNT_ORDER_MAX 6 /* 64 bits */

int qcow2_refcounts_init(struct qcow2_refcounts *refcounts, const struct byte_source *source,
                         const struct qcow2_header *header)
{
    if (header->refcount_order > REFCOUNT_ORDER_MAX)
        return -EINVAL;
    *refcounts = (struct qcow2_refcounts){
        .source = *source,
        .table_offset = header->refcount_table_offset,
        .table_entries =
            ((uint64_t)header->refcount_table_clusters << header->cluster_bits) / sizeof(uint64_t),
        .cluster_bits = header->cluster_bits,
        .order = header->refcount_order,
    };
    return 0;
}

/* Counts narrower than a byte are packed from the least significant bit on; wider ones are big-endian. */
static uint64_t count_at(const struct qcow2_refcounts *refcounts, uint64_t index)
{
    unsigned bits = 1U << refcounts->order;
    switch (refcounts->order) {
    case 3:
        return refcounts->window[index];
    case 4:
        return load_be16(refcounts->window + index * 2);
    case 5:
        return load_be32(refcounts->window + index * 4);
    case 6:
        return load_be64(refcounts->window + index * 8);
    default:
        return refcounts->window[index * bits / 8] >> (index * bits % 8) & ((1U << bits) - 1);
    }
}

/* Brings the piece of the refcount block that holds `cluster` into the window. */
static int load_window(struct qcow2_refcounts *refcounts, uint64_t cluster)
{
    uint64_t cluster_size = UINT64_C(1) << refcounts->cluster_bits;
    uint64_t piece_bytes = min_u64(cluster_size, sizeof refcounts->window);
    uint64_t in_block = (cluster_size * 8) >> refcounts->order; /* clusters that a block counts */
    uint64_t in_piece = (piece_bytes * 8) >> refcounts->order;

    if (cluster / in_block >= refcounts->table_entries)
        return -ENODATA;
    uint8_t entry[8];
    uint64_t entry_offset;
    if (__builtin_add_overflow(refcounts->table_offset, cluster / in_block * sizeof entry, &entry_offset))
        return -ENODATA;
    int result = byte_source_read(&refcounts->source, entry_offset, entry, sizeof entry);
    if (result != 0)
        return result;
    uint64_t block = load_be64(entry) & ~UINT64_C(511); /* bits 0 to 8 are reserved */
    if (block == 0 || block % cluster_size)
        return -ENODATA;
    uint64_t piece = cluster % in_block / in_piece;
    refcounts->window_count = 0;
    result =
        byte_source_read(&refcounts->source, block + piece * piece_bytes, refcounts->window, piece_bytes);
    if (result != 0)
        return result;
    refcounts->window_first = cluster - cluster % in_piece;
    refcounts->window_count = in_piece;
    return 0;
}

int qcow2_refcounts_get(struct qcow2_refcounts *refcounts, uint64_t offset, uint64_t *count)
{
    uint64_t cluster = offset >> refcounts->cluster_bits;
    if (cluster < refcounts->window_first || cluster - refcounts->window_first >= refcounts->window_count) {
        int result = load_window(refcounts, cluster);
        if (result != 0)
            return result;
    }
    *count = count_at(refcounts, cluster - refcounts->window_first);
    return 0;
}
