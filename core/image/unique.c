// SPDX-License-Identifier: LGPL-2.1-or-later
/* What deleting a snapshot would free; see unique.h. */
#include "image/unique.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "image/layer_reader.h"
#include "image/qcow2_format.h"
#include "image/qcow2_map.h"
#include "image/qcow2_refcount.h"

#define SECONDS_MAX 60

/* What is walked at a time: between two of these, too, it is asked whether to go on, since a visitor sees a
 * hole only when it ends. */
#define WALK_BYTES (64 * GIB)

/* --- when to give up --- */

struct patience {
    const struct unique_stop *stop;
    time_t until;
};

static time_t seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return now.tv_sec;
}

/* 0, or -ECANCELED, or -ETIME. */
static int patience_check(const struct patience *patience)
{
    if (patience->stop && patience->stop->wanted(patience->stop->opaque))
        return -ECANCELED;
    return seconds_now() > patience->until ? -ETIME : 0;
}

static int set_error(struct error *err, int result, const char *path)
{
    if (result == -ETIME)
        return error_set(err, EIO, "%s: its tables are too long to be counted within %d seconds", path,
                         SECONDS_MAX);
    return error_set(err, -result, "%s: %s", path, strerror(-result));
}

/* --- internal snapshots --- */

/*
 * Data clusters are counted one by one. Compressed clusters share host clusters, which count each of them;
 * they lie in the file in the order in which they were written, so references to one host cluster come one
 * after the other, and the cluster is the snapshot's own if all of its references came. Where they come in
 * another order, less is counted.
 */
struct own_clusters {
    const struct patience *patience;
    struct qcow2_refcounts refcounts;
    uint64_t cluster_size;
    uint64_t host;       /* the host cluster that compressed data is being counted in; UINT64_MAX: none */
    uint64_t references; /* to it, from this snapshot */
    uint64_t bytes;      /* the sum */
};

static int add_host_cluster(struct own_clusters *own, uint64_t host, uint64_t references)
{
    uint64_t count;
    int result = qcow2_refcounts_get(&own->refcounts, host, &count);
    if (result == -ENODATA) /* a damaged count frees nothing */
        return 0;
    if (result == 0 && count == references)
        own->bytes += own->cluster_size;
    return result;
}

static int add_compressed(struct own_clusters *own, uint64_t offset, uint64_t length)
{
    uint64_t last = align_down(offset + length - 1, own->cluster_size);
    for (uint64_t host = align_down(offset, own->cluster_size); host <= last; host += own->cluster_size) {
        if (host == own->host) {
            own->references++;
            continue;
        }
        int result = own->host == UINT64_MAX ? 0 : add_host_cluster(own, own->host, own->references);
        if (result != 0)
            return result;
        own->host = host;
        own->references = 1;
    }
    return 0;
}

static int visit_own(void *opaque, const struct extent *extent)
{
    struct own_clusters *own = opaque;
    int result = patience_check(own->patience);
    if (result != 0)
        return result;
    if (extent->kind == EXTENT_COMPRESSED)
        return extent->compressed_length ? add_compressed(own, extent->offset, extent->compressed_length) : 0;
    if (extent->kind != EXTENT_DATA || extent->length == 0)
        return 0;
    uint64_t last = align_down(extent->offset + extent->length - 1, own->cluster_size);
    for (uint64_t host = align_down(extent->offset, own->cluster_size); result == 0 && host <= last;
         host += own->cluster_size)
        result = add_host_cluster(own, host, 1);
    return result;
}

/* All that the L1 table reaches: memory is saved beyond the end of the disk. */
static int walk_own(const struct qcow2_map *map, struct own_clusters *own)
{
    unsigned shift = map->cluster_bits + qcow2_l2_bits(map->cluster_bits, map->extended_l2);
    uint64_t end = (uint64_t)map->l1_size << shift;
    int result = 0;
    for (uint64_t offset = 0; result == 0 && offset < end; offset += WALK_BYTES) {
        result = qcow2_map_walk(map, offset, min_u64(WALK_BYTES, end - offset), visit_own, own);
        if (result == 0)
            result = patience_check(own->patience);
    }
    if (result == 0 && own->host != UINT64_MAX)
        result = add_host_cluster(own, own->host, own->references);
    return result;
}

static int count_internal(const struct locate *locate, const struct domain *domain,
                          const struct frozen *frozen, const struct patience *patience, uint64_t *bytes,
                          struct error *err)
{
    cleanup_close int fd = -1;
    int result = locate_open(locate, domain->named_files, frozen->layer->path, &fd, err);
    if (result != 0)
        return result;
    struct byte_source source = byte_source_fd(fd);
    cleanup(qcow2_header_done) struct qcow2_header header = {0};
    result = qcow2_header_read(&source, &header, err);
    if (result != 0)
        return result;
    if (header.external_data || header.encrypted)
        return 0;
    struct own_clusters own = {
        .patience = patience, .cluster_size = UINT64_C(1) << header.cluster_bits, .host = UINT64_MAX};
    struct qcow2_map map;
    uint64_t file_size;
    result = byte_source_size(&source, &file_size);
    if (result == 0)
        result = qcow2_refcounts_init(&own.refcounts, &source, &header);
    if (result == 0)
        result = qcow2_map_init(&map, &source, &header, frozen->internal->l1_table_offset,
                                frozen->internal->l1_size, file_size, err);
    if (result != 0) /* qcow2_map_init says why, the others don't */
        return err && err->code ? result : set_error(err, result, frozen->layer->path);
    result = walk_own(&map, &own);
    if (result != 0)
        return set_error(err, result, frozen->layer->path);
    *bytes += own.bytes;
    return 0;
}

/* --- frozen layers --- */

struct hidden {
    const struct patience *patience;
    struct layer_reader *below;
    uint64_t bytes;
};

static int visit_below(void *opaque, const struct extent *extent)
{
    struct hidden *hidden = opaque;
    if (extent->kind == EXTENT_DATA || extent->kind == EXTENT_COMPRESSED || extent->kind == EXTENT_FOREIGN)
        hidden->bytes += extent->length;
    return patience_check(hidden->patience);
}

static int visit_overlay(void *opaque, const struct extent *extent)
{
    struct hidden *hidden = opaque;
    if (extent->kind == EXTENT_UNALLOCATED || extent->guest >= hidden->below->size)
        return patience_check(hidden->patience);
    uint64_t length = min_u64(extent->length, hidden->below->size - extent->guest);
    return hidden->below->ops->walk(hidden->below, extent->guest, length, visit_below, hidden);
}

static int open_reader(const struct locate *locate, const struct domain *domain, const struct layer *layer,
                       struct layer_reader **reader, struct error *err)
{
    const struct layer_request request = {
        .locate = locate,
        .named = domain->named_files,
        .path = layer->path,
        .remote = layer->remote,
        .format = layer->format,
    };
    struct image_reference backing = {0};
    int result = layer_reader_open(&request, reader, &backing, err);
    image_reference_done(&backing);
    return result;
}

static void drop_reader(struct layer_reader **reader)
{
    layer_reader_free(*reader);
}

static int count_layer(const struct locate *locate, const struct domain *domain, const struct frozen *frozen,
                       const struct layer *overlay, const struct patience *patience, uint64_t *bytes,
                       struct error *err)
{
    if (!overlay)
        return 0;
    cleanup(drop_reader) struct layer_reader *below = NULL;
    cleanup(drop_reader) struct layer_reader *above = NULL;
    int result = open_reader(locate, domain, frozen->layer, &below, err);
    if (result == 0)
        result = open_reader(locate, domain, overlay, &above, err);
    if (result != 0)
        return result;
    struct hidden hidden = {.patience = patience, .below = below};
    for (uint64_t offset = 0; result == 0 && offset < above->size; offset += WALK_BYTES) {
        uint64_t length = min_u64(WALK_BYTES, above->size - offset);
        result = above->ops->walk(above, offset, length, visit_overlay, &hidden);
        if (result == 0)
            result = patience_check(patience);
    }
    if (result != 0)
        return set_error(err, result, overlay->path);
    *bytes += hidden.bytes;
    return 0;
}

/* True if some snapshot keeps an internal snapshot in the layer. */
static bool holds_internal(const struct domain *domain, const struct layer *layer)
{
    for (size_t i = 0; i < domain->snapshot_count; i++)
        for (size_t j = 0; j < domain->snapshots[i]->frozen_count; j++)
            if (domain->snapshots[i]->frozen[j].layer == layer && domain->snapshots[i]->frozen[j].internal)
                return true;
    return false;
}

int unique_bytes_count(const struct locate *locate, const struct domain *domain,
                       const struct snapshot *snapshot, const struct layer *const *overlays,
                       const struct unique_stop *stop, uint64_t *bytes, struct error *err)
{
    const struct patience patience = {.stop = stop, .until = seconds_now() + SECONDS_MAX};
    uint64_t sum = 0;
    for (size_t i = 0; i < snapshot->frozen_count; i++) {
        const struct frozen *frozen = &snapshot->frozen[i];
        int result = 0;
        if (frozen->internal)
            result = count_internal(locate, domain, frozen, &patience, &sum, err);
        else if (!holds_internal(domain, frozen->layer))
            result = count_layer(locate, domain, frozen, overlays[i], &patience, &sum, err);
        if (result != 0)
            return result;
    }
    *bytes = sum;
    return 0;
}
