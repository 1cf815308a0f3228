// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * SEEK_DATA and SEEK_HOLE over a chain, and counting what is data.
 *
 * The tables are walked directly, not region by region, since a terabyte of hole is one step in them. What
 * was found last is remembered (a few KiB), since programs that look for holes ask for one edge after the
 * other. What the tables can't tell because they are damaged counts as data, so that nobody takes it for
 * zeros. Any thread may call.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "image/chain_map.h"
#include "image/failure.h"

#define DATA_SEEK_EDGES_MAX 1024

struct data_seek {
    const struct chain *chain;
    uint64_t size;        /* of the disk */
    pthread_mutex_t lock; /* protects everything below */
    /* [start, end) of the disk is known: it begins with data or hole, and changes at each of the edges. */
    uint64_t start;
    uint64_t end;
    bool begins_with_data;
    size_t edge_count;
    uint64_t *edges; /* NULL until the first call; DATA_SEEK_EDGES_MAX */
};

void data_seek_init(struct data_seek *seek, const struct chain *chain, uint64_t size);
void data_seek_done(struct data_seek *seek);

/* As frozen_disk_seek; the caller checks the layers. -EIO and others with `*failure` where a table could not
 * be read. */
int64_t data_seek_next(struct data_seek *seek, uint64_t offset, int whence, struct failure *failure);

/* As frozen_disk_piece_end. */
uint64_t data_seek_piece_end(const struct data_seek *seek, uint64_t offset, uint64_t limit);

/* As frozen_disk_count_allocated. */
int data_seek_count(const struct data_seek *seek, const atomic_bool *stop, uint64_t *bytes,
                    struct failure *failure);
