// SPDX-License-Identifier: LGPL-2.1-or-later
/* One run of guest bytes, and where they are. */
#pragma once

#include <stdint.h>

enum extent_kind {
    EXTENT_UNALLOCATED, /* this layer says nothing: the backing file's, else zeros */
    EXTENT_ZERO,        /* zeros, whatever the backing file has */
    EXTENT_DATA,        /* at `offset` of the layer's data file */
    EXTENT_COMPRESSED,  /* one cluster, whole or in part; see `offset` */
    EXTENT_FOREIGN,     /* data that the layer's helper reads; `offset` is the guest's */
    EXTENT_DAMAGED,     /* the tables that would tell are damaged: reading gives EIO */
};

struct extent {
    uint64_t guest;  /* first guest byte, in the layer */
    uint64_t length; /* bytes */
    enum extent_kind kind;
    uint32_t compressed_length; /* EXTENT_COMPRESSED: bytes of input at most, from `offset` on */
    uint64_t offset; /* EXTENT_DATA: of the first byte; EXTENT_COMPRESSED: of the compressed data */
};

/* Called with extents in guest order, without gaps. What is not 0 ends the walk and is returned by it. */
typedef int (*extent_visitor)(void *opaque, const struct extent *extent);
