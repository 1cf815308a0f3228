// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The header of a qcow2 file, versions 2 and 3, and its extensions (QEMU docs/interop/qcow2.txt, "Header",
 * "Header extensions"). Everything is checked against the limits here before anything is allocated or
 * followed; the places of tables by whoever follows them.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "io/byte_source.h"
#include "io/decompress.h"

#define QCOW2_CLUSTER_BITS_MIN 9                    /* 512 bytes: QEMU's MIN_CLUSTER_BITS */
#define QCOW2_CLUSTER_BITS_MAX 21                   /* 2 MiB: QEMU's MAX_CLUSTER_BITS */
#define QCOW2_L1_BYTES_MAX     (UINT64_C(32) << 20) /* QEMU's QCOW_MAX_L1_SIZE */
#define QCOW2_SNAPSHOTS_MAX    65536                /* QEMU's QCOW_MAX_SNAPSHOTS */

struct qcow2_header {
    uint32_t version;      /* 2 or 3 */
    uint32_t cluster_bits; /* 9 to 21 */
    uint64_t size;         /* virtual, bytes; whole sectors */
    uint32_t l1_size;      /* entries */
    uint64_t l1_table_offset;
    uint64_t refcount_table_offset;
    uint32_t refcount_table_clusters;
    uint32_t refcount_order;
    uint32_t snapshot_count;
    uint64_t snapshots_offset;
    uint64_t incompatible_features;
    enum compression compression;
    bool extended_l2;
    bool dirty;   /* refcounts may be wrong (lazy refcounts): nothing to a reader */
    bool corrupt; /* QEMU found damage once; still read, with care */
    bool encrypted;
    bool external_data; /* the data lies in another file */
    bool external_data_raw;
    char *backing_name;   /* as it lies in the header, relative or not; NULL if there is none */
    char *backing_format; /* NULL if not told */
    char *data_name;      /* of the external data file; NULL if not told */
};

/*
 * Reads and checks the header. Errors: EINVAL for what is no qcow2 header or a damaged one, EOPNOTSUPP for an
 * unknown version or incompatible feature (named from the feature name table where the image has one), EIO.
 * An encrypted image is no error here: `encrypted` tells. On failure `*header` is untouched.
 */
int qcow2_header_read(const struct byte_source *source, struct qcow2_header *header, struct error *err);
void qcow2_header_done(struct qcow2_header *header);
