// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The L1 and L2 tables of a qcow2 file; see qcow2_map.h.
 *
 * What counts as damage is what QEMU's block/qcow2-cluster.c refuses to read, and tables and clusters that
 * begin beyond the end of the file, which QEMU reads as zeros: a backup that is silently full of zeros is
 * worse than none. Reserved bits are ignored, as QEMU does.
 *
 * Time is bounded by the range asked for and by the file's size, however tables point to each other: each
 * entry that maps a part of it is looked at once, and no more L2 tables are than the file has clusters.
 */
#include "image/qcow2_map.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "image/qcow2_format.h"

/* Tables are read in pieces of this many bytes at most, on the stack. */
#define L1_PIECE_BYTES 4096
#define L2_PIECE_BYTES 16384

struct walk {
    const struct qcow2_map *map;
    extent_visitor visitor;
    void *opaque;
    uint64_t begin; /* guest bytes, what was asked for: [begin, end) */
    uint64_t end;
    struct extent pending; /* not visited yet, since it may go on; length 0: none */
    uint64_t file_size;    /* of the qcow2 file; may lag behind while it grows */
    bool file_size_is_new;
    uint64_t tables_seen; /* L2 tables; a file holds no more of them than clusters */
};

int qcow2_map_init(struct qcow2_map *map, const struct byte_source *source, const struct qcow2_header *header,
                   uint64_t l1_table_offset, uint32_t l1_size, uint64_t data_file_size, struct error *err)
{
    uint64_t l1_bytes = (uint64_t)l1_size * sizeof(uint64_t);
    if (l1_bytes > QCOW2_L1_BYTES_MAX)
        return error_set(err, EINVAL, "has an L1 table of %" PRIu32 " entries", l1_size);
    if (l1_table_offset % (UINT64_C(1) << header->cluster_bits) || l1_table_offset > INT64_MAX - l1_bytes)
        return error_set(err, EINVAL, "has an L1 table at %#" PRIx64 ", where none can be", l1_table_offset);
    uint64_t file_size;
    int ret = byte_source_size(source, &file_size);
    if (ret < 0)
        return error_set(err, -ret, "can't find out its size: %s", strerror(-ret));
    *map = (struct qcow2_map){
        .source = *source,
        .l1_table_offset = l1_table_offset,
        .l1_size = l1_size,
        .version = header->version,
        .cluster_bits = header->cluster_bits,
        .extended_l2 = header->extended_l2,
        .external_data = header->external_data,
        .file_size = file_size,
        .data_file_size = data_file_size,
    };
    return 0;
}

static int flush(struct walk *walk)
{
    if (walk->pending.length == 0)
        return 0;
    struct extent extent = walk->pending;
    walk->pending.length = 0;
    return walk->visitor(walk->opaque, &extent);
}

/* The part of [extent->guest, + length) that was asked for comes next: joins it to what is pending, if it
 * goes on there. */
static int emit(struct walk *walk, struct extent extent)
{
    uint64_t begin = max_u64(extent.guest, walk->begin);
    uint64_t end = min_u64(extent.guest + extent.length, walk->end);
    if (begin >= end)
        return 0;
    if (extent.kind == EXTENT_DATA)
        extent.offset += begin - extent.guest;
    extent.guest = begin;
    extent.length = end - begin;

    struct extent *pending = &walk->pending;
    if (pending->length && pending->kind == extent.kind && extent.kind != EXTENT_COMPRESSED &&
        (extent.kind != EXTENT_DATA || pending->offset + pending->length == extent.offset)) {
        pending->length += extent.length;
        return 0;
    }
    int ret = flush(walk);
    *pending = extent;
    return ret;
}

static int emit_plain(struct walk *walk, enum extent_kind kind, uint64_t guest, uint64_t length)
{
    return emit(walk, (struct extent){.guest = guest, .length = length, .kind = kind});
}

/* The size of the qcow2 file, asked for again once in a walk before anything is called damaged for it: an
 * image that is written to grows. */
static uint64_t file_size_now(struct walk *walk)
{
    if (!walk->file_size_is_new && byte_source_size(&walk->map->source, &walk->file_size) == 0)
        walk->file_size_is_new = true;
    return walk->file_size;
}

/*
 * Clusters, or subclusters of one, with data at `host`. A file may end inside its last cluster: what is not
 * there of it was never written, and is zeros, as in QEMU. A cluster that begins beyond the end is damage.
 */
static int emit_data(struct walk *walk, uint64_t guest, uint64_t host, uint64_t length)
{
    const struct qcow2_map *map = walk->map;
    uint64_t size = map->external_data ? map->data_file_size : walk->file_size;
    if (host + length > size && !map->external_data)
        size = file_size_now(walk);
    uint64_t present = host < size ? min_u64(length, size - host) : 0;
    uint64_t cluster_size = UINT64_C(1) << map->cluster_bits, last_end;
    if (!align_up_checked(size, cluster_size, &last_end))
        last_end = UINT64_MAX;
    uint64_t known = host < last_end ? min_u64(length, last_end - host) : 0;
    int ret =
        emit(walk, (struct extent){.guest = guest, .length = present, .kind = EXTENT_DATA, .offset = host});
    if (ret == 0)
        ret = emit_plain(walk, EXTENT_ZERO, guest + present, known - present);
    return ret ? ret : emit_plain(walk, EXTENT_DAMAGED, guest + known, length - known);
}

/*
 * Reads `count` table entries of `entry_bytes` at `offset`. `*present` is how many the file has; the rest is
 * beyond its end.
 */
static int read_entries(struct walk *walk, uint64_t offset, size_t count, size_t entry_bytes, void *buffer,
                        size_t *present)
{
    *present = count;
    int ret = byte_source_read(&walk->map->source, offset, buffer, count * entry_bytes);
    if (ret != -ENODATA)
        return ret;
    uint64_t file_size = file_size_now(walk);
    *present = offset < file_size ? (size_t)min_u64(count, (file_size - offset) / entry_bytes) : 0;
    if (*present == 0)
        return 0;
    ret = byte_source_read(&walk->map->source, offset, buffer, *present * entry_bytes);
    if (ret != -ENODATA)
        return ret;
    *present = 0; /* it is being cut off at this moment */
    return 0;
}

/* Specification, "Compressed Clusters Descriptor". */
static int walk_compressed(struct walk *walk, uint64_t guest, uint64_t entry)
{
    unsigned cluster_bits = walk->map->cluster_bits;
    unsigned offset_bits = 62 - (cluster_bits - 8);
    uint64_t offset = entry & ((UINT64_C(1) << offset_bits) - 1);
    uint64_t sectors = (entry >> offset_bits & ((UINT64_C(1) << (cluster_bits - 8)) - 1)) + 1;
    uint64_t length = sectors * QCOW2_SECTOR_BYTES - offset % QCOW2_SECTOR_BYTES;
    bool in_file = offset < walk->file_size || offset < file_size_now(walk);
    if (walk->map->external_data || !in_file)
        return emit_plain(walk, EXTENT_DAMAGED, guest, UINT64_C(1) << cluster_bits);
    /* The last sector need not be there in full. */
    if (length > walk->file_size - offset && file_size_now(walk) > offset)
        length = min_u64(length, walk->file_size - offset);
    return emit(walk, (struct extent){
                          .guest = guest,
                          .length = UINT64_C(1) << cluster_bits,
                          .kind = EXTENT_COMPRESSED,
                          .offset = offset,
                          .compressed_length = (uint32_t)length,
                      });
}

/* Are all subclusters of a kind? */
static bool is_uniform(uint64_t bitmap)
{
    return bitmap == 0 || bitmap == QCOW2_SUBCLUSTERS_ALLOCATED || bitmap == QCOW2_SUBCLUSTERS_ZERO;
}

/* Specification, "Subcluster Allocation Bitmap". */
static int walk_subclusters(struct walk *walk, uint64_t guest, uint64_t host, uint64_t bitmap)
{
    uint32_t allocated = (uint32_t)bitmap, zero = (uint32_t)(bitmap >> 32);
    unsigned subcluster_bits = walk->map->cluster_bits - 5;
    for (unsigned index = 0, count; index < QCOW2_SUBCLUSTERS; index += count) {
        enum extent_kind kind;
        uint64_t same; /* a bit for each subcluster of this kind */
        if (zero >> index & 1) {
            kind = EXTENT_ZERO;
            same = zero;
        } else if (allocated >> index & 1) {
            kind = EXTENT_DATA;
            same = allocated;
        } else {
            kind = EXTENT_UNALLOCATED;
            same = (uint32_t) ~(zero | allocated);
        }
        count = (unsigned)__builtin_ctzll(~(same >> index));
        uint64_t inside = (uint64_t)index << subcluster_bits;
        uint64_t length = (uint64_t)count << subcluster_bits;
        int ret = kind == EXTENT_DATA ? emit_data(walk, guest + inside, host + inside, length)
                                      : emit_plain(walk, kind, guest + inside, length);
        if (ret)
            return ret;
    }
    return 0;
}

/*
 * A run of `count` clusters at `guest` (see run_length): `entry` and `bitmap` are those of the first one.
 * `bitmap` only counts with extended entries.
 */
static int walk_clusters(struct walk *walk, uint64_t guest, size_t count, uint64_t entry, uint64_t bitmap)
{
    const struct qcow2_map *map = walk->map;
    uint64_t cluster_size = UINT64_C(1) << map->cluster_bits;
    uint64_t length = (uint64_t)count << map->cluster_bits;
    if (entry & QCOW2_ENTRY_COMPRESSED)
        return walk_compressed(walk, guest, entry);

    uint64_t host = entry & QCOW2_ENTRY_OFFSET_MASK;
    bool zero = entry & QCOW2_ENTRY_ZERO && !map->extended_l2;
    /* In an external data file 0 is a place like any other, and the copied flag tells that it is meant. */
    bool has_place = host != 0 || (map->external_data && entry & QCOW2_ENTRY_COPIED && !zero);
    bool damaged = has_place && (host % cluster_size || (map->external_data && host != guest));
    damaged |= zero && map->version < 3;
    if (map->extended_l2)
        damaged |= has_place ? (bitmap & bitmap >> 32) != 0 : (uint32_t)bitmap != 0;
    if (damaged)
        return emit_plain(walk, EXTENT_DAMAGED, guest, length);

    if (map->extended_l2) {
        if (!is_uniform(bitmap))
            return walk_subclusters(walk, guest, host, bitmap);
        zero = bitmap == QCOW2_SUBCLUSTERS_ZERO;
        has_place = bitmap == QCOW2_SUBCLUSTERS_ALLOCATED;
    }
    if (zero)
        return emit_plain(walk, EXTENT_ZERO, guest, length);
    if (!has_place)
        return emit_plain(walk, EXTENT_UNALLOCATED, guest, length);
    return emit_data(walk, guest, host, length);
}

/*
 * How many of the L2 entries at `entries` (`words` numbers each) go on as the first one does: clusters side
 * by side, or the same entry without a place again and again. They can be mapped in one step.
 */
static size_t run_length(const struct qcow2_map *map, const uint64_t *entries, unsigned words, size_t count)
{
    uint64_t first = be64toh(entries[0]), host = first & QCOW2_ENTRY_OFFSET_MASK;
    if (first & QCOW2_ENTRY_COMPRESSED || (words == 2 && !is_uniform(be64toh(entries[1]))))
        return 1;
    /* Place 0 of an external data file: the next one is not there again. */
    if (host == 0 && map->external_data && first & QCOW2_ENTRY_COPIED)
        return 1;
    uint64_t step = host ? UINT64_C(1) << map->cluster_bits : 0;
    if (step)
        count = (size_t)min_u64(count, (QCOW2_ENTRY_OFFSET_MASK - host) / step + 1);
    size_t run = 1;
    while (run < count && be64toh(entries[run * words]) == first + run * step &&
           (words == 1 || entries[run * words + 1] == entries[1]))
        run++;
    return run;
}

/* The clusters [guest, end) of the L2 table at `table`, which maps the disk from `guest` aligned down. */
static int walk_l2_table(struct walk *walk, uint64_t table, uint64_t guest, uint64_t end)
{
    const struct qcow2_map *map = walk->map;
    uint64_t piece[L2_PIECE_BYTES / sizeof(uint64_t)];
    unsigned words = map->extended_l2 ? 2 : 1;
    size_t entry_bytes = words * sizeof(uint64_t);
    uint64_t entries = UINT64_C(1) << qcow2_l2_bits(map->cluster_bits, map->extended_l2);
    uint64_t cluster = guest >> map->cluster_bits;
    uint64_t cluster_end = ((end - 1) >> map->cluster_bits) + 1;
    while (cluster < cluster_end) {
        size_t count = (size_t)min_u64(cluster_end - cluster, L2_PIECE_BYTES / entry_bytes), present;
        int ret = read_entries(walk, table + (cluster & (entries - 1)) * entry_bytes, count, entry_bytes,
                               piece, &present);
        for (size_t i = 0, run; ret == 0 && i < present; i += run) {
            run = run_length(map, piece + i * words, words, present - i);
            ret = walk_clusters(walk, (cluster + i) << map->cluster_bits, run, be64toh(piece[i * words]),
                                map->extended_l2 ? be64toh(piece[i * words + 1]) : 0);
        }
        if (ret == 0 && present < count)
            ret = emit_plain(walk, EXTENT_DAMAGED, (cluster + present) << map->cluster_bits,
                             (uint64_t)(count - present) << map->cluster_bits);
        if (ret)
            return ret;
        cluster += count;
    }
    return 0;
}

/* How many of the L1 entries at `entries` name no table. */
static size_t empty_run(const uint64_t *entries, size_t count)
{
    size_t run = 0;
    while (run < count && (be64toh(entries[run]) & QCOW2_ENTRY_OFFSET_MASK) == 0)
        run++;
    return run;
}

/* One L1 entry that names a table; `shift`: it maps 2^shift bytes, from `guest` on. */
static int walk_l1_entry(struct walk *walk, uint64_t guest, unsigned shift, uint64_t entry)
{
    uint64_t table = entry & QCOW2_ENTRY_OFFSET_MASK;
    uint64_t length = UINT64_C(1) << shift;
    if (table % (UINT64_C(1) << walk->map->cluster_bits))
        return emit_plain(walk, EXTENT_DAMAGED, guest, length);
    /* Each table is a cluster of its own: more of them than the file has clusters only happens where many
     * entries name the same one, which could be walked for hours. */
    uint64_t clusters = walk->file_size >> walk->map->cluster_bits;
    if (++walk->tables_seen > clusters && walk->tables_seen > file_size_now(walk) >> walk->map->cluster_bits)
        return emit_plain(walk, EXTENT_DAMAGED, guest, length);
    return walk_l2_table(walk, table, max_u64(guest, walk->begin), min_u64(guest + length, walk->end));
}

int qcow2_map_walk(const struct qcow2_map *map, uint64_t offset, uint64_t length, extent_visitor visitor,
                   void *opaque)
{
    uint64_t end;
    if (__builtin_add_overflow(offset, length, &end))
        return -EINVAL;
    if (length == 0)
        return 0;
    struct walk walk = {
        .map = map,
        .visitor = visitor,
        .opaque = opaque,
        .begin = offset,
        .end = end,
        .file_size = map->file_size,
    };
    uint64_t piece[L1_PIECE_BYTES / sizeof(uint64_t)];
    unsigned shift = map->cluster_bits + qcow2_l2_bits(map->cluster_bits, map->extended_l2);
    uint64_t index = offset >> shift;
    uint64_t index_end = min_u64(((end - 1) >> shift) + 1, map->l1_size);
    while (index < index_end) {
        size_t count = (size_t)min_u64(index_end - index, L1_PIECE_BYTES / sizeof(uint64_t)), present;
        int ret = read_entries(&walk, map->l1_table_offset + index * sizeof(uint64_t), count,
                               sizeof(uint64_t), piece, &present);
        for (size_t i = 0, run; ret == 0 && i < present; i += run) {
            run = empty_run(piece + i, present - i);
            ret = emit_plain(&walk, EXTENT_UNALLOCATED, (index + i) << shift, (uint64_t)run << shift);
            if (run == 0) {
                ret = walk_l1_entry(&walk, (index + i) << shift, shift, be64toh(piece[i]));
                run = 1;
            }
        }
        if (ret == 0 && present < count)
            ret = emit_plain(&walk, EXTENT_DAMAGED, (index + present) << shift,
                             (uint64_t)(count - present) << shift);
        if (ret)
            return ret;
        index += count;
    }
    uint64_t mapped = max_u64((uint64_t)map->l1_size << shift, offset);
    int ret = mapped < end ? emit_plain(&walk, EXTENT_UNALLOCATED, mapped, end - mapped) : 0;
    return ret ? ret : flush(&walk);
}
