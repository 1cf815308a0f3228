// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Where things lie in a qcow2 file (QEMU docs/interop/qcow2.txt), for the parsers in this folder. Offsets are
 * in bytes from the start of the structure; all numbers are big-endian.
 */
#pragma once

#include <stdint.h>

/* "Header" */
#define QCOW2_MAGIC UINT32_C(0x514649fb) /* "QFI\xfb" */

enum {
    QCOW2_AT_MAGIC = 0,
    QCOW2_AT_VERSION = 4,
    QCOW2_AT_BACKING_OFFSET = 8,
    QCOW2_AT_BACKING_BYTES = 16,
    QCOW2_AT_CLUSTER_BITS = 20,
    QCOW2_AT_SIZE = 24,
    QCOW2_AT_CRYPT_METHOD = 32,
    QCOW2_AT_L1_SIZE = 36,
    QCOW2_AT_L1_TABLE_OFFSET = 40,
    QCOW2_AT_REFCOUNT_TABLE_OFFSET = 48,
    QCOW2_AT_REFCOUNT_TABLE_CLUSTERS = 56,
    QCOW2_AT_SNAPSHOT_COUNT = 60,
    QCOW2_AT_SNAPSHOTS_OFFSET = 64,
    QCOW2_V2_HEADER_BYTES = 72,
    QCOW2_AT_INCOMPATIBLE = 72,
    QCOW2_AT_AUTOCLEAR = 88,
    QCOW2_AT_REFCOUNT_ORDER = 96,
    QCOW2_AT_HEADER_BYTES = 100,
    QCOW2_V3_HEADER_BYTES_MIN = 104,
    QCOW2_AT_COMPRESSION_TYPE = 104, /* only where the header is longer than this */
    QCOW2_HEADER_BYTES_KNOWN = 112,
};

#define QCOW2_INCOMPATIBLE_DIRTY         (UINT64_C(1) << 0)
#define QCOW2_INCOMPATIBLE_CORRUPT       (UINT64_C(1) << 1)
#define QCOW2_INCOMPATIBLE_EXTERNAL_DATA (UINT64_C(1) << 2)
#define QCOW2_INCOMPATIBLE_COMPRESSION   (UINT64_C(1) << 3)
#define QCOW2_INCOMPATIBLE_EXTENDED_L2   (UINT64_C(1) << 4)
#define QCOW2_INCOMPATIBLE_KNOWN         UINT64_C(0x1f)
#define QCOW2_AUTOCLEAR_RAW_EXTERNAL     (UINT64_C(1) << 1)

/* "Header extensions" */
#define QCOW2_EXTENSION_END            UINT32_C(0)
#define QCOW2_EXTENSION_BACKING_FORMAT UINT32_C(0xe2792aca)
#define QCOW2_EXTENSION_FEATURE_NAMES  UINT32_C(0x6803f857)
#define QCOW2_EXTENSION_DATA_NAME      UINT32_C(0x44415441)

/* "Cluster mapping" and "Extended L2 Entries" */
#define QCOW2_ENTRY_OFFSET_MASK     UINT64_C(0x00fffffffffffe00) /* of L1 and standard L2 entries */
#define QCOW2_ENTRY_COPIED          (UINT64_C(1) << 63)
#define QCOW2_ENTRY_COMPRESSED      (UINT64_C(1) << 62)
#define QCOW2_ENTRY_ZERO            (UINT64_C(1) << 0)
#define QCOW2_SUBCLUSTERS           32
#define QCOW2_SUBCLUSTERS_ALLOCATED UINT64_C(0x00000000ffffffff) /* bitmap of a cluster that is all data */
#define QCOW2_SUBCLUSTERS_ZERO      UINT64_C(0xffffffff00000000) /* and all zeros */
#define QCOW2_SECTOR_BYTES          512                          /* what compressed lengths are counted in */

/* How many bits of a guest offset the entries of one L2 table tell apart, in clusters. */
static inline unsigned qcow2_l2_bits(unsigned cluster_bits, int extended_l2)
{
    return cluster_bits - (extended_l2 ? 4 : 3);
}

/* "Snapshots": the fixed part of a table entry; extra data, id and name follow */
enum {
    QCOW2_SNAPSHOT_AT_L1_TABLE_OFFSET = 0,
    QCOW2_SNAPSHOT_AT_L1_SIZE = 8,
    QCOW2_SNAPSHOT_AT_ID_BYTES = 12,
    QCOW2_SNAPSHOT_AT_NAME_BYTES = 14,
    QCOW2_SNAPSHOT_AT_DATE_SEC = 16,
    QCOW2_SNAPSHOT_AT_DATE_NSEC = 20,
    QCOW2_SNAPSHOT_AT_VM_CLOCK = 24,
    QCOW2_SNAPSHOT_AT_VM_STATE_SIZE32 = 32,
    QCOW2_SNAPSHOT_AT_EXTRA_BYTES = 36,
    QCOW2_SNAPSHOT_FIXED_BYTES = 40,
    /* in the extra data */
    QCOW2_EXTRA_AT_VM_STATE_SIZE = 0,
    QCOW2_EXTRA_AT_DISK_SIZE = 8,
    QCOW2_EXTRA_BYTES_KNOWN = 16,
};

#define QCOW2_SNAPSHOT_EXTRA_MAX 1024 /* QEMU's QCOW_MAX_SNAPSHOT_EXTRA_DATA */
#define QCOW2_SNAPSHOT_TABLE_MAX (UINT64_C(1024) * QCOW2_SNAPSHOTS_MAX) /* QEMU's QCOW_MAX_SNAPSHOTS_SIZE */

/* The largest disk that 32 MiB of L1 table with clusters of 2 MiB can map, and so any that makes sense. */
#define QCOW2_SIZE_MAX (UINT64_C(1) << 61)
