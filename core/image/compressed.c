// SPDX-License-Identifier: LGPL-2.1-or-later
/* Compressed clusters, decompressed once; see compressed.h. */
#include "image/compressed.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/stats.h"
#include "io/read_batch.h"

/* Longest input that is read onto the stack. */
#define STACK_INPUT_MAX (64 * KIB)

struct fill {
    const struct compressed_env *env;
    const struct chain_extent *extent;
    const char *problem; /* static; NULL while there is none */
};

static int fill_from(struct fill *fill, const struct layer_reader *layer, void *input, void **data,
                     size_t *size)
{
    struct read_run run = {
        .fd = layer->data_fd,
        .offset = fill->extent->offset,
        .buffer = input,
        .length = fill->extent->compressed_length,
    };
    struct page_cache_once *once = fill->env->once ? &fill->env->once[fill->extent->layer] : NULL;
    bool drop = once && page_cache_once_before(once, run.fd, run.offset, run.length);
    int rc = read_batch(&run, 1);
    if (once)
        page_cache_once_after(once, run.fd, run.offset, run.length, drop);
    /* Its length is counted in whole sectors, so that of the last cluster may go beyond the end of the file.
     */
    if (rc < 0 && (rc != -ENODATA || run.done == 0)) {
        fill->problem = rc == -ENODATA ? "the file ends before this compressed cluster" : "reading failed";
        return rc;
    }
    cleanup_free void *output = malloc(layer->cluster_size);
    if (!output)
        return -ENOMEM;
    rc = decompress_cluster(layer->compression, input, run.done, output, layer->cluster_size);
    if (rc < 0) {
        fill->problem = "the compressed cluster is damaged";
        return rc;
    }
    *data = steal_pointer(output);
    *size = layer->cluster_size;
    return 0;
}

static int fill_cluster(void *opaque, struct cache_key key, void **data, size_t *size)
{
    struct fill *fill = opaque;
    const struct layer_reader *layer = fill->env->chain->layers[fill->extent->layer];
    size_t length = fill->extent->compressed_length;
    stats_add(STAT_CLUSTER_MISSES, 1);
    /* The format allows no more; nothing else bounds the buffer. */
    if (length == 0 || length > 2 * (size_t)layer->cluster_size) {
        fill->problem = "the length of the compressed cluster is wrong";
        return -EIO;
    }
    if (length <= STACK_INPUT_MAX) {
        char input[STACK_INPUT_MAX];
        return fill_from(fill, layer, input, data, size);
    }
    cleanup_free void *input = malloc(length);
    return input ? fill_from(fill, layer, input, data, size) : -ENOMEM;
}

static struct cache_key key_of(const struct compressed_env *env, const struct chain_extent *extent)
{
    const struct layer_reader *layer = env->chain->layers[extent->layer];
    return (struct cache_key){.owner = layer->cache_owner, .index = extent->guest / layer->cluster_size};
}

static int get(const struct compressed_env *env, const struct chain_extent *extent,
               struct cache_block **block, const char **problem)
{
    struct fill fill = {.env = env, .extent = extent};
    int rc = cache_get(env->cache, key_of(env, extent), fill_cluster, &fill, block);
    *problem = fill.problem ? fill.problem : "the compressed cluster could not be read";
    return rc;
}

/* What the threads that read one request's clusters share. */
struct reading {
    const struct compressed_env *env;
    const struct compressed_part *parts;
    const uint16_t *missing;
    pthread_mutex_t lock; /* protects failure */
    struct failure *failure;
};

static void read_part(struct reading *reading, const struct compressed_part *part)
{
    const struct chain_extent *extent = &part->extent;
    struct cache_block *block;
    const char *problem;
    uint64_t mask = reading->env->chain->layers[extent->layer]->compressed_guest_mask;
    int rc;
    if ((extent->guest & mask) + extent->length > mask + 1) {
        problem = "a compressed extent is longer than its cluster";
        rc = -EIO;
    } else {
        rc = get(reading->env, extent, &block, &problem);
    }
    if (rc < 0) {
        pthread_mutex_lock(&reading->lock);
        failure_note(reading->failure, rc, extent->layer, extent->guest, extent->offset, problem);
        pthread_mutex_unlock(&reading->lock);
        return;
    }
    const char *data = cache_block_data(block, NULL);
    memcpy(part->buffer, data + (extent->guest & mask), extent->length);
    cache_put(reading->env->cache, block);
}

static void read_missing(void *opaque, size_t index)
{
    struct reading *reading = opaque;
    read_part(reading, &reading->parts[reading->missing[index]]);
}

int compressed_read(const struct compressed_env *env, const struct compressed_part *parts, size_t count,
                    struct failure *failure)
{
    uint16_t missing[COMPRESSED_PARTS_MAX];
    uint16_t there[COMPRESSED_PARTS_MAX];
    size_t missing_count = 0, there_count = 0;
    for (size_t i = 0; i < count; i++)
        if (cache_has(env->cache, key_of(env, &parts[i].extent)))
            there[there_count++] = (uint16_t)i;
        else
            missing[missing_count++] = (uint16_t)i;

    struct reading reading = {.env = env,
                              .parts = parts,
                              .missing = missing,
                              .lock = PTHREAD_MUTEX_INITIALIZER,
                              .failure = failure};
    /* Those that are there may be on their way only: wait for them last. */
    workers_for_each(env->workers, missing_count, read_missing, &reading);
    stats_add(STAT_CLUSTER_HITS, (int64_t)there_count);
    for (size_t i = 0; i < there_count; i++)
        read_part(&reading, &parts[there[i]]);
    return failure->error;
}

void compressed_prefetch(const struct compressed_env *env, const struct chain_extent *extent)
{
    struct cache_block *block;
    const char *problem;
    if (!cache_has(env->cache, key_of(env, extent)) && get(env, extent, &block, &problem) == 0)
        cache_put(env->cache, block);
}
