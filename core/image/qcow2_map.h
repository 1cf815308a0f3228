// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * From guest offsets to extents: the L1 and L2 tables of a qcow2 file (QEMU docs/interop/qcow2.txt, "Cluster
 * mapping"), standard and extended L2 entries. Tables are read in the pieces that are needed and never kept:
 * the map of a chain's region, which is kept, is made from them once (chain_map.h).
 */
#pragma once

#include "image/extent.h"
#include "image/qcow2_header.h"

/* One L1 table: the active one's, or an internal snapshot's. */
struct qcow2_map {
    struct byte_source source;
    uint64_t l1_table_offset;
    uint32_t l1_size; /* entries */
    uint32_t version; /* 2 has no zero clusters */
    uint32_t cluster_bits;
    bool extended_l2;
    bool external_data;      /* offset 0 is a place like any other */
    uint64_t file_size;      /* of the qcow2 file, bytes: what tables and data may lie in */
    uint64_t data_file_size; /* of the file that holds the data: the same one, or the external data file */
};

/* Checks the place of the L1 table against the limits. EINVAL with a text. */
int qcow2_map_init(struct qcow2_map *map, const struct byte_source *source, const struct qcow2_header *header,
                   uint64_t l1_table_offset, uint32_t l1_size, uint64_t data_file_size, struct error *err);

/*
 * Visits [offset, offset + length) as extents, neighbours joined where kind and place go on. What lies beyond
 * the L1 table is unallocated. A damaged table or entry becomes EXTENT_DAMAGED for just what it maps (and is
 * logged with its place by the caller that reads it), and the walk goes on. An unallocated L1 entry costs one
 * step, however much it covers. A cluster that begins beyond the end of the file is damaged; one that ends
 * beyond it is EXTENT_ZERO from there on, as QEMU reads it. More L2 tables than the file has clusters are
 * damaged, too: one table under many entries could be walked for hours. Errors: EIO and others of reading,
 * EINVAL for a range that overflows, what the visitor returned.
 */
int qcow2_map_walk(const struct qcow2_map *map, uint64_t offset, uint64_t length, extent_visitor visitor,
                   void *opaque);
