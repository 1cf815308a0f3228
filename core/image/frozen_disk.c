// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A frozen disk, open for reading; see frozen_disk.h.
 *
 * A read is planned over the maps of the regions that it touches: zeros are written at once; runs of data and
 * parts of compressed clusters are collected, and read when there are many or the request ends. Then the
 * layers that bytes came from are asked whether those were right, and only if they were, the caller gets
 * them.
 *
 * A request that touches a damaged place fails as a whole. The kernel then asks again, page by page, so that
 * programs get everything around it; a short count instead would tell the kernel that the file ends there.
 */
#include "image/frozen_disk.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/log.h"
#include "base/stats.h"
#include "image/compressed.h"
#include "image/data_seek.h"
#include "image/frozen_disk_chain.h"
#include "image/streams.h"
#include "io/page_cache.h"
#include "io/read_batch.h"

/* Runs that are read together. */
#define RUNS_MAX 64

/* Reading ahead of streams of compressed clusters: bytes in one job, and ahead of each stream. */
#define AHEAD_PIECE_MIN  (128 * KIB)
#define AHEAD_WINDOW_MIN (1 * MIB)
#define AHEAD_WINDOW_MAX (4 * MIB)

/* Failures of one disk that are logged: the kernel reads a damaged gigabyte again page by page. */
#define FAILURES_LOGGED 20

struct frozen_disk {
    struct frozen_disk_env env;
    struct chain chain;
    uint64_t size;
    uint64_t region_size; /* a power of two */
    uint64_t map_owner;   /* of the regions, in the cache */
    uint64_t ahead_piece; /* a power of two; 0 where nothing is compressed */
    uint64_t ahead_window;
    bool slow;
    struct page_cache_once *once; /* of each layer's data file */
    struct streams streams;
    struct data_seek seek;
    atomic_uint failures; /* so far */
};

/* One request on its way. */
struct request {
    struct frozen_disk *disk;
    uint64_t start;
    char *buffer;
    enum read_hint hint;
    struct read_run runs[RUNS_MAX];
    uint16_t run_layers[RUNS_MAX];
    uint64_t run_guests[RUNS_MAX];
    size_t run_count;
    struct compressed_part parts[COMPRESSED_PARTS_MAX];
    size_t part_count;
    bool met_compressed;
    struct layer_set used;
    struct failure failure;
};

/* How the disk reads ahead of streams, if any of its layers can have compressed clusters. */
static void choose_ahead(struct frozen_disk *disk)
{
    uint64_t cluster = 0;
    for (size_t i = 0; i < disk->chain.count; i++)
        cluster = max_u64(cluster, disk->chain.layers[i]->cluster_size);
    if (cluster == 0 || !disk->env.workers)
        return;
    uint64_t piece = max_u64(cluster, AHEAD_PIECE_MIN);
    uint64_t window = min_u64(max_u64(8 * piece, AHEAD_WINDOW_MIN), AHEAD_WINDOW_MAX);
    /* What is read ahead must still be there when the reader comes, also with several streams. */
    window = min_u64(window, cache_limit(disk->env.cache) / 8);
    if (window < piece)
        return;
    disk->ahead_piece = piece;
    disk->ahead_window = window;
}

int frozen_disk_new(const struct frozen_disk_env *env, struct chain *chain, struct frozen_disk **result)
{
    struct frozen_disk *disk = calloc(1, sizeof *disk);
    struct page_cache_once *once = calloc(chain->count, sizeof *once);
    if (!disk || !once) {
        free(disk);
        free(once);
        return -ENOMEM;
    }
    disk->env = *env;
    disk->chain = *chain;
    *chain = (struct chain){0};
    disk->size = disk->chain.layers[0]->size;
    disk->region_size = chain_map_region_size(&disk->chain);
    disk->map_owner = cache_new_owner(env->cache);
    for (size_t i = 0; i < disk->chain.count; i++) {
        struct layer_reader *layer = disk->chain.layers[i];
        layer->cache_owner = cache_new_owner(env->cache);
        disk->slow |= layer->slow;
        page_cache_once_init(&once[i]);
    }
    disk->once = once;
    choose_ahead(disk);
    streams_init(&disk->streams);
    data_seek_init(&disk->seek, &disk->chain, disk->size);
    stats_add(STAT_DISKS_OPEN, 1);
    *result = disk;
    return 0;
}

void frozen_disk_free(struct frozen_disk *disk)
{
    if (!disk)
        return;
    workers_cancel(disk->env.workers, disk);
    for (size_t i = 0; i < disk->chain.count; i++) {
        cache_drop_owner(disk->env.cache, disk->chain.layers[i]->cache_owner);
        page_cache_once_done(&disk->once[i], disk->chain.layers[i]->data_fd);
    }
    free(disk->once);
    cache_drop_owner(disk->env.cache, disk->map_owner);
    data_seek_done(&disk->seek);
    streams_done(&disk->streams);
    chain_done(&disk->chain);
    free(disk);
    stats_add(STAT_DISKS_OPEN, -1);
}

uint64_t frozen_disk_size(const struct frozen_disk *disk)
{
    return disk->size;
}

bool frozen_disk_is_slow(const struct frozen_disk *disk)
{
    return disk->slow;
}

int frozen_disk_passthrough_fd(const struct frozen_disk *disk)
{
    struct layer_reader *top = disk->chain.layers[0];
    struct layer_set none = {0};
    struct stat stat;
    if (disk->chain.count != 1 || strcmp(top->ops->name, "raw") != 0 || fstat(top->data_fd, &stat) < 0 ||
        !S_ISREG(stat.st_mode) || (uint64_t)stat.st_size != disk->size ||
        (disk->env.locks && !top->is_locked) || chain_check(&disk->chain, &none) < 0)
        return -1;
    return top->data_fd;
}

/* What becomes of a failure: the layers are asked first, since whoever deletes a snapshot also takes its
 * clusters from under us, and that is no damage. */
static int report(struct frozen_disk *disk, const struct failure *failure)
{
    struct layer_set failed = {0};
    layer_set_add(&failed, failure->layer);
    int rc = chain_check(&disk->chain, &failed);
    if (rc == -ESTALE)
        return rc;
    int code = failure->error == -ENOMEM ? -ENOMEM : -EIO;
    const char *path = disk->chain.layers[failure->layer]->path;
    unsigned failures = atomic_fetch_add(&disk->failures, 1) + 1;
    if (failures == FAILURES_LOGGED)
        log_error("%s: so many failures that the next ones are not logged", path);
    if (failures >= FAILURES_LOGGED)
        return code;
    const char *reason =
        failure->error == -ENODATA ? "the file is shorter than it was" : strerror(-failure->error);
    if (failure->offset == UINT64_MAX)
        log_error("%s: guest offset %" PRIu64 ": %s (%s)", path, failure->guest, failure->what, reason);
    else
        log_error("%s: guest offset %" PRIu64 ", file offset %" PRIu64 ": %s (%s)", path, failure->guest,
                  failure->offset, failure->what, reason);
    return code;
}

struct region_fill {
    struct frozen_disk *disk;
    struct failure *failure;
};

static int fill_region(void *opaque, struct cache_key key, void **data, size_t *size)
{
    struct region_fill *fill = opaque;
    struct frozen_disk *disk = fill->disk;
    uint64_t start = key.index * disk->region_size;
    size_t layer = 0;
    struct map_region *region;
    stats_add(STAT_MAP_MISSES, 1);
    int rc = chain_map_make_region(&disk->chain, start, min_u64(disk->region_size, disk->size - start),
                                   &region, size, &layer);
    if (rc < 0)
        return failure_note(fill->failure, rc, layer, start, UINT64_MAX, "the tables could not be read");
    *data = region;
    return 0;
}

/* The map of the region that `offset` lies in. On failure `*failure` is set. */
static int get_region(struct frozen_disk *disk, uint64_t offset, struct cache_block **block,
                      struct failure *failure)
{
    struct region_fill fill = {.disk = disk, .failure = failure};
    struct cache_key key = {.owner = disk->map_owner, .index = offset / disk->region_size};
    int rc = cache_get(disk->env.cache, key, fill_region, &fill, block);
    if (rc < 0) /* perhaps in another thread that filled it */
        return failure_note(failure, rc, 0, offset, UINT64_MAX, "the tables could not be read");
    return 0;
}

static struct compressed_env compressed_env(const struct frozen_disk *disk, enum read_hint hint)
{
    return (struct compressed_env){
        .chain = &disk->chain,
        .cache = disk->env.cache,
        .workers = disk->env.workers,
        .once = hint == READ_ONCE ? disk->once : NULL,
    };
}

static int read_runs_once(struct request *request, size_t count)
{
    struct read_run *runs = request->runs;
    struct page_cache_once *once[RUNS_MAX];
    bool drop[RUNS_MAX];
    for (size_t i = 0; i < count; i++) {
        once[i] = &request->disk->once[request->run_layers[i]];
        drop[i] = page_cache_once_before(once[i], runs[i].fd, runs[i].offset, runs[i].length);
    }
    int rc = read_batch(runs, count);
    for (size_t i = 0; i < count; i++)
        page_cache_once_after(once[i], runs[i].fd, runs[i].offset, runs[i].length, drop[i]);
    return rc;
}

static int flush_runs(struct request *request)
{
    size_t count = request->run_count;
    request->run_count = 0;
    int rc = request->hint == READ_ONCE ? read_runs_once(request, count) : read_batch(request->runs, count);
    if (rc == 0)
        return 0;
    size_t i = 0;
    while (request->runs[i].result == 0)
        i++;
    const struct read_run *run = &request->runs[i];
    return failure_note(&request->failure, run->result, request->run_layers[i],
                        request->run_guests[i] + run->done, run->offset + run->done, "reading failed");
}

static int flush_parts(struct request *request)
{
    size_t count = request->part_count;
    request->part_count = 0;
    if (count == 0)
        return 0;
    struct compressed_env env = compressed_env(request->disk, request->hint);
    return compressed_read(&env, request->parts, count, &request->failure);
}

static int add_run(struct request *request, const struct chain_extent *extent, void *buffer)
{
    const struct layer_reader *layer = request->disk->chain.layers[extent->layer];
    if (request->run_count) {
        struct read_run *last = &request->runs[request->run_count - 1];
        if (last->fd == layer->data_fd && last->offset + last->length == extent->offset &&
            (char *)last->buffer + last->length == buffer) {
            last->length += extent->length;
            return 0;
        }
    }
    int rc = request->run_count == RUNS_MAX ? flush_runs(request) : 0;
    request->run_layers[request->run_count] = extent->layer;
    request->run_guests[request->run_count] = extent->guest;
    request->runs[request->run_count++] = (struct read_run){
        .fd = layer->data_fd,
        .offset = extent->offset,
        .buffer = buffer,
        .length = extent->length,
    };
    return rc;
}

static int add_part(struct request *request, const struct chain_extent *extent, void *buffer)
{
    int rc = request->part_count == COMPRESSED_PARTS_MAX ? flush_parts(request) : 0;
    request->met_compressed = true;
    request->parts[request->part_count++] = (struct compressed_part){.extent = *extent, .buffer = buffer};
    return rc;
}

static int add_extent(struct request *request, const struct chain_extent *extent)
{
    void *buffer = request->buffer + (extent->guest - request->start);
    if (extent->layer != CHAIN_MAP_NO_LAYER)
        layer_set_add(&request->used, extent->layer);
    switch ((enum extent_kind)extent->kind) {
    case EXTENT_UNALLOCATED:
    case EXTENT_ZERO:
        memset(buffer, 0, extent->length);
        return 0;
    case EXTENT_DATA:
        return add_run(request, extent, buffer);
    case EXTENT_COMPRESSED:
        return add_part(request, extent, buffer);
    case EXTENT_FOREIGN: {
        struct layer_reader *layer = request->disk->chain.layers[extent->layer];
        int rc = layer->ops->read(layer, extent->offset, buffer, extent->length);
        return rc < 0 ? failure_note(&request->failure, rc, extent->layer, extent->guest, UINT64_MAX,
                                     "the helper could not read it")
                      : 0;
    }
    case EXTENT_DAMAGED:
        break;
    }
    return failure_note(&request->failure, -EIO, extent->layer, extent->guest, UINT64_MAX,
                        "the tables are damaged here");
}

/* Adds what [offset, end) is made of; both lie in the region. */
static int add_region(struct request *request, const struct map_region *region, uint64_t region_start,
                      uint64_t offset, uint64_t end)
{
    int rc = 0;
    uint32_t index = map_region_find(region, (uint32_t)(offset - region_start));
    for (; rc == 0 && offset < end; index++) {
        struct chain_extent extent =
            map_region_extent(region, region_start, index, (uint32_t)(offset - region_start));
        extent.length = min_u64(extent.length, end - offset);
        offset += extent.length;
        rc = add_extent(request, &extent);
    }
    return rc;
}

static int read_all(struct request *request, uint64_t length)
{
    struct frozen_disk *disk = request->disk;
    uint64_t end = request->start + length;
    int rc = 0;
    for (uint64_t offset = request->start; rc == 0 && offset < end;) {
        uint64_t region_start = align_down(offset, disk->region_size);
        uint64_t region_end = min_u64(end, region_start + disk->region_size);
        struct cache_block *block;
        rc = get_region(disk, offset, &block, &request->failure);
        if (rc < 0)
            break;
        rc = add_region(request, cache_block_data(block, NULL), region_start, offset, region_end);
        cache_put(disk->env.cache, block);
        offset = region_end;
    }
    if (rc == 0)
        rc = flush_runs(request);
    if (rc == 0)
        rc = flush_parts(request);
    return rc;
}

/* Brings the compressed clusters of one piece into the cache. */
static void read_ahead(struct frozen_disk *disk, uint64_t offset, enum read_hint hint)
{
    struct compressed_env env = compressed_env(disk, hint);
    uint64_t region_start = align_down(offset, disk->region_size);
    uint64_t end = min_u64(min_u64(offset + disk->ahead_piece, disk->size), region_start + disk->region_size);
    struct failure failure = {0};
    struct cache_block *block;
    if (!streams_want(&disk->streams, offset + disk->ahead_piece) ||
        get_region(disk, offset, &block, &failure) < 0)
        return;
    const struct map_region *region = cache_block_data(block, NULL);
    uint32_t index = map_region_find(region, (uint32_t)(offset - region_start));
    for (; offset < end; index++) {
        struct chain_extent extent =
            map_region_extent(region, region_start, index, (uint32_t)(offset - region_start));
        if (extent.kind == EXTENT_COMPRESSED)
            compressed_prefetch(&env, &extent);
        offset += extent.length;
    }
    cache_put(disk->env.cache, block);
}

static void read_ahead_keep(void *opaque, uint64_t offset)
{
    read_ahead(opaque, offset, READ_KEEP);
}

static void read_ahead_once(void *opaque, uint64_t offset)
{
    read_ahead(opaque, offset, READ_ONCE);
}

static void start_ahead(struct frozen_disk *disk, uint64_t offset, uint64_t length, enum read_hint hint)
{
    uint64_t from, to;
    if (disk->ahead_piece == 0 ||
        !streams_note(&disk->streams, offset, length, disk->ahead_window, disk->ahead_piece, &from, &to))
        return;
    for (; from < to && from < disk->size; from += disk->ahead_piece)
        if (!workers_submit(disk->env.workers, hint == READ_ONCE ? read_ahead_once : read_ahead_keep, disk,
                            from))
            return;
}

ssize_t frozen_disk_read(struct frozen_disk *disk, uint64_t offset, void *buffer, size_t length,
                         enum read_hint hint)
{
    if (offset >= disk->size || length == 0)
        return 0;
    length = min_u64(min_u64(length, disk->size - offset), SSIZE_MAX);
    struct request request;
    request.disk = disk;
    request.start = offset;
    request.buffer = buffer;
    request.hint = hint;
    request.run_count = request.part_count = 0;
    request.met_compressed = false;
    request.used = (struct layer_set){0};
    request.failure = (struct failure){0};
    int rc = read_all(&request, length);
    if (request.met_compressed)
        start_ahead(disk, offset, length, hint);
    rc = rc < 0 ? report(disk, &request.failure) : chain_check(&disk->chain, &request.used);
    return rc < 0 ? rc : (ssize_t)length;
}

int64_t frozen_disk_seek(struct frozen_disk *disk, uint64_t offset, int whence)
{
    struct layer_set none = {0};
    struct failure failure = {0};
    int64_t found = data_seek_next(&disk->seek, offset, whence, &failure);
    if (failure.error)
        return report(disk, &failure);
    int rc = chain_check(&disk->chain, &none);
    return rc < 0 ? rc : found;
}

uint64_t frozen_disk_piece_end(struct frozen_disk *disk, uint64_t offset, uint64_t limit)
{
    return data_seek_piece_end(&disk->seek, offset, limit);
}

int frozen_disk_count_allocated(struct frozen_disk *disk, const atomic_bool *stop, uint64_t *bytes)
{
    struct layer_set none = {0};
    struct failure failure = {0};
    uint64_t sum;
    int rc = data_seek_count(&disk->seek, stop, &sum, &failure);
    if (rc == -ECANCELED)
        return rc;
    rc = rc < 0 ? report(disk, &failure) : chain_check(&disk->chain, &none);
    if (rc == 0)
        *bytes = sum;
    return rc;
}
