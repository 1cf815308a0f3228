// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Any bytes as a qcow2 file: the extents of its disk and of its internal snapshots are without gaps, joined,
 * and within the file; and a part of the disk is mapped as the whole is.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "image/qcow2_map.h"
#include "image/qcow2_snapshot.h"

#define EXTENTS_KEPT  4096
#define SNAPSHOTS_MAX 4

struct walk {
    const struct qcow2_map *map;
    uint64_t next;       /* where the next extent must begin */
    struct extent last;  /* length 0: none yet */
    struct extent *kept; /* the first of them */
    size_t count;
};

static bool joins(const struct extent *a, const struct extent *b)
{
    return a->kind == b->kind && a->kind != EXTENT_COMPRESSED &&
           (a->kind != EXTENT_DATA || a->offset + a->length == b->offset);
}

static int visit(void *opaque, const struct extent *extent)
{
    struct walk *walk = opaque;
    const struct qcow2_map *map = walk->map;
    fuzz_check(extent->guest == walk->next && extent->length > 0);
    fuzz_check(walk->last.length == 0 || !joins(&walk->last, extent));
    switch (extent->kind) {
    case EXTENT_UNALLOCATED:
    case EXTENT_ZERO:
    case EXTENT_DAMAGED:
        break;
    case EXTENT_DATA:
        fuzz_check(extent->offset < (map->external_data ? map->data_file_size : map->file_size));
        fuzz_check(!map->external_data || extent->offset == extent->guest);
        fuzz_check(map->external_data || extent->length <= map->file_size - extent->offset);
        break;
    case EXTENT_COMPRESSED:
        fuzz_check(!map->external_data && extent->length <= UINT64_C(1) << map->cluster_bits);
        fuzz_check(extent->guest >> map->cluster_bits ==
                   (extent->guest + extent->length - 1) >> map->cluster_bits);
        fuzz_check(extent->offset < map->file_size && extent->compressed_length > 0);
        fuzz_check(extent->compressed_length <= map->file_size - extent->offset);
        fuzz_check(extent->compressed_length <= UINT64_C(2) << map->cluster_bits);
        break;
    default:
        fuzz_check(false);
    }
    walk->next += extent->length;
    walk->last = *extent;
    if (walk->count < EXTENTS_KEPT)
        walk->kept[walk->count] = *extent;
    walk->count++;
    return 0;
}

/* Is this what a walk over [begin, end) should have visited, if `whole` was visited by one over all? */
static void check_part(const struct walk *whole, const struct walk *part, uint64_t begin, uint64_t end)
{
    size_t next = 0;
    for (size_t i = 0; i < whole->count; i++) {
        struct extent expected = whole->kept[i];
        uint64_t from = expected.guest > begin ? expected.guest : begin;
        uint64_t to = expected.guest + expected.length < end ? expected.guest + expected.length : end;
        if (from >= to)
            continue;
        if (expected.kind == EXTENT_DATA)
            expected.offset += from - expected.guest;
        fuzz_check(next < part->count);
        const struct extent *got = &part->kept[next++];
        fuzz_check(got->guest == from && got->length == to - from && got->kind == expected.kind);
        fuzz_check(got->offset == expected.offset && got->compressed_length == expected.compressed_length);
    }
    fuzz_check(next == part->count);
}

static void walk_all(const struct qcow2_map *map, uint64_t size, uint64_t seed)
{
    struct walk whole = {.map = map}, part = {.map = map};
    whole.kept = malloc(2 * EXTENTS_KEPT * sizeof *whole.kept);
    part.kept = whole.kept ? whole.kept + EXTENTS_KEPT : NULL;
    if (whole.kept && size) {
        fuzz_check(qcow2_map_walk(map, 0, size, visit, &whole) == 0 && whole.next == size);
        uint64_t begin = seed % size, length = 1 + (seed >> 7) % (size - begin);
        part.next = begin;
        fuzz_check(qcow2_map_walk(map, begin, length, visit, &part) == 0 && part.next == begin + length);
        /* Where one walk may come by more tables than a file can hold, where it began decides what is damage.
         */
        bool tables_fit = map->l1_size <= map->file_size >> map->cluster_bits;
        if (whole.count <= EXTENTS_KEPT && tables_fit)
            check_part(&whole, &part, begin, begin + length);
    }
    free(whole.kept);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct byte_source source = byte_source_memory(data, size);
    struct qcow2_header header;
    struct qcow2_snapshots snapshots;
    struct qcow2_map map;
    int damage;
    if (qcow2_header_read(&source, &header, NULL) < 0)
        return 0;
    uint64_t seed = 0;
    for (size_t i = 0; i < size; i++)
        seed = seed * 31 + data[i];
    if (qcow2_map_init(&map, &source, &header, header.l1_table_offset, header.l1_size, size, NULL) == 0)
        walk_all(&map, header.size, seed);
    if (qcow2_snapshots_read(&source, &header, &snapshots, &damage, NULL) == 0) {
        for (size_t i = 0; i < snapshots.count && i < SNAPSHOTS_MAX; i++) {
            const struct internal_snapshot *snapshot = snapshots.entries[i];
            if (qcow2_map_init(&map, &source, &header, snapshot->l1_table_offset, snapshot->l1_size, size,
                               NULL) == 0)
                walk_all(&map, snapshot->disk_size, seed);
        }
        qcow2_snapshots_done(&snapshots);
    }
    qcow2_header_done(&header);
    return 0;
}
