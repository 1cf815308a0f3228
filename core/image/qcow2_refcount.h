// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Reference counts of a qcow2 file's clusters (QEMU docs/interop/qcow2.txt, "Host cluster management").
 * Reading never needs them; they tell what deleting a snapshot would free. Belongs to one thread.
 */
#pragma once

#include <stdint.h>

#include "image/qcow2_header.h"
#include "io/byte_source.h"

struct qcow2_refcounts {
    struct byte_source source;
    uint64_t table_offset;
    uint64_t table_entries;
    uint32_t cluster_bits;
    uint32_t order;        /* a reference count has 1 << order bits */
    uint64_t window_first; /* cluster of window[0]; the window holds one piece of a refcount block */
    uint64_t window_count; /* clusters in the window; 0: nothing yet */
    uint8_t window[4096];
};

/* EINVAL if the header's fields can't be. */
int qcow2_refcounts_init(struct qcow2_refcounts *refcounts, const struct byte_source *source,
                         const struct qcow2_header *header);

/* How often the cluster at `offset` of the file is referred to. Errors: EIO, ENODATA for damaged tables. */
int qcow2_refcounts_get(struct qcow2_refcounts *refcounts, uint64_t offset, uint64_t *count);
