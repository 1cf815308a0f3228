// SPDX-License-Identifier: LGPL-2.1-or-later
/* qcow2_map.h: which extents come of which entries, joined and cut as they should be, and what damage costs.
 */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/qcow2_map.h"
#include "qcow2_image.h"

/* What a walk visited. */
struct visited {
    struct extent extents[64];
    size_t count;
    uint64_t next;  /* where the next one must begin */
    size_t stop_at; /* return 77 at this extent; 0: never */
};

static int visit(void *opaque, const struct extent *extent)
{
    struct visited *visited = opaque;
    assert_int_equal(extent->guest, visited->next);
    assert_true(extent->length > 0);
    visited->next += extent->length;
    if (visited->count < 64)
        visited->extents[visited->count] = *extent;
    visited->count++;
    return visited->count == visited->stop_at ? 77 : 0;
}

static void init_map(struct qcow2_map *map, const struct qcow2_image *image, uint64_t data_file_size)
{
    struct byte_source source = image_source(image);
    struct qcow2_header header;
    assert_int_equal(qcow2_header_read(&source, &header, NULL), 0);
    assert_int_equal(
        qcow2_map_init(map, &source, &header, header.l1_table_offset, header.l1_size, data_file_size, NULL),
        0);
    qcow2_header_done(&header);
}

static void walk_map(const struct qcow2_map *map, uint64_t offset, uint64_t length, struct visited *visited)
{
    *visited = (struct visited){.next = offset};
    assert_int_equal(qcow2_map_walk(map, offset, length, visit, visited), 0);
    assert_int_equal(visited->next, offset + length);
}

static void walk_image(const struct qcow2_image *image, uint64_t offset, uint64_t length,
                       struct visited *visited)
{
    struct qcow2_map map;
    init_map(&map, image, 0);
    walk_map(&map, offset, length, visited);
}

#define assert_extent(visited, index, kind_, guest_, length_, offset_)                                       \
    do {                                                                                                     \
        const struct extent *extent_ = &(visited)->extents[index];                                           \
        assert_true((index) < (visited)->count);                                                             \
        assert_int_equal(extent_->kind, kind_);                                                              \
        assert_int_equal(extent_->guest, guest_);                                                            \
        assert_int_equal(extent_->length, length_);                                                          \
        assert_int_equal(extent_->offset, offset_);                                                          \
    } while (0)

/* A disk with one L2 table, and `clusters` clusters for data behind it. */
struct small {
    struct qcow2_image image;
    uint64_t cluster; /* bytes */
    uint64_t l1;      /* where tables and data are in the file */
    uint64_t l2;
    uint64_t data;
    uint64_t disk; /* bytes: what the L2 table maps */
};

static void small_start(struct small *small, uint32_t version, unsigned cluster_bits, uint64_t features,
                        unsigned clusters)
{
    small->cluster = UINT64_C(1) << cluster_bits;
    small->disk = UINT64_C(1) << (2 * cluster_bits - (features & FEATURE_EXTENDED_L2 ? 4 : 3));
    small->l1 = image_start(&small->image, version, cluster_bits, small->disk, features);
    small->l2 = image_add_clusters(&small->image, 1);
    small->data = image_add_clusters(&small->image, clusters);
    put64(&small->image, small->l1, small->l2 | COPIED);
}

static void an_empty_table_is_unallocated(void **state)
{
    struct qcow2_image image;
    struct visited visited;
    image_start(&image, 3, 9, 1 << 20, 0);
    walk_image(&image, 0, 1 << 20, &visited);
    assert_int_equal(visited.count, 1);
    assert_extent(&visited, 0, EXTENT_UNALLOCATED, 0, 1 << 20, 0);
    walk_image(&image, 12345, 6789, &visited);
    assert_extent(&visited, 0, EXTENT_UNALLOCATED, 12345, 6789, 0);
    /* Beyond what the L1 table maps, and nothing at all. */
    walk_image(&image, 100, UINT64_MAX - 100, &visited);
    assert_int_equal(visited.count, 1);
    walk_image(&image, UINT64_C(1) << 50, 77, &visited);
    assert_extent(&visited, 0, EXTENT_UNALLOCATED, UINT64_C(1) << 50, 77, 0);
    walk_image(&image, 100, 0, &visited);
    assert_int_equal(visited.count, 0);
    struct qcow2_map map;
    init_map(&map, &image, 0);
    assert_int_equal(qcow2_map_walk(&map, 2, UINT64_MAX, visit, &visited), -EINVAL);
    image_done(&image);
}

static void every_kind_of_cluster_at_every_cluster_size(void **state)
{
    for (unsigned bits = 9; bits <= 21; bits++) {
        struct small s;
        struct visited visited;
        small_start(&s, 3, bits, 0, 4);
        put64(&s.image, s.l2, (s.data + 2 * s.cluster) | COPIED);
        put64(&s.image, s.l2 + 8, s.data); /* shared with a snapshot */
        put64(&s.image, s.l2 + 16, (s.data + s.cluster) | COPIED);
        put64(&s.image, s.l2 + 24, ZERO);
        put64(&s.image, s.l2 + 32, (s.data + 3 * s.cluster) | COPIED | ZERO);
        /* Reserved bits mean nothing. */
        put64(&s.image, s.l2 + 48, s.data | UINT64_C(0x3f000000000001fe));
        walk_image(&s.image, 0, s.disk, &visited);
        assert_int_equal(visited.count, 6);
        assert_extent(&visited, 0, EXTENT_DATA, 0, s.cluster, s.data + 2 * s.cluster);
        assert_extent(&visited, 1, EXTENT_DATA, s.cluster, 2 * s.cluster, s.data);
        assert_extent(&visited, 2, EXTENT_ZERO, 3 * s.cluster, 2 * s.cluster, 0);
        assert_extent(&visited, 3, EXTENT_UNALLOCATED, 5 * s.cluster, s.cluster, 0);
        assert_extent(&visited, 4, EXTENT_DATA, 6 * s.cluster, s.cluster, s.data);
        assert_extent(&visited, 5, EXTENT_UNALLOCATED, 7 * s.cluster, s.disk - 7 * s.cluster, 0);

        /* In the middle of two clusters, and one byte. */
        walk_image(&s.image, s.cluster / 2, s.cluster, &visited);
        assert_int_equal(visited.count, 2);
        assert_extent(&visited, 0, EXTENT_DATA, s.cluster / 2, s.cluster / 2, s.data + s.cluster * 5 / 2);
        assert_extent(&visited, 1, EXTENT_DATA, s.cluster, s.cluster / 2, s.data);
        walk_image(&s.image, 2 * s.cluster - 1, 1, &visited);
        assert_int_equal(visited.count, 1);
        assert_extent(&visited, 0, EXTENT_DATA, 2 * s.cluster - 1, 1, s.data + s.cluster - 1);
        image_done(&s.image);
    }
}

/* Specification: x = 62 - (cluster_bits - 8); below it the place, above it how many more sectors. */
static void compressed_clusters_at_every_cluster_size(void **state)
{
    for (unsigned bits = 9; bits <= 21; bits++) {
        struct small s;
        struct visited visited;
        unsigned x = 62 - (bits - 8);
        uint64_t most = (UINT64_C(1) << (bits - 8)) - 1;
        small_start(&s, 3, bits, 0, 2 * (unsigned)((most + 2) * 512 >> bits) + 4);
        uint64_t at = s.data + 100;
        put64(&s.image, s.l2, COMPRESSED | at);
        put64(&s.image, s.l2 + 8, COMPRESSED | most << x | at);
        put64(&s.image, s.l2 + 16, COMPRESSED | UINT64_C(1) << x | s.data);
        walk_image(&s.image, 0, 3 * s.cluster, &visited);
        assert_int_equal(visited.count, 3);
        assert_extent(&visited, 0, EXTENT_COMPRESSED, 0, s.cluster, at);
        assert_int_equal(visited.extents[0].compressed_length, 512 - at % 512);
        assert_extent(&visited, 1, EXTENT_COMPRESSED, s.cluster, s.cluster, at);
        assert_int_equal(visited.extents[1].compressed_length, (most + 1) * 512 - at % 512);
        assert_extent(&visited, 2, EXTENT_COMPRESSED, 2 * s.cluster, s.cluster, s.data);
        assert_int_equal(visited.extents[2].compressed_length, 1024);
        /* A part of one is the same data. */
        walk_image(&s.image, s.cluster + 10, s.cluster, &visited);
        assert_int_equal(visited.count, 2);
        assert_extent(&visited, 0, EXTENT_COMPRESSED, s.cluster + 10, s.cluster - 10, at);
        assert_extent(&visited, 1, EXTENT_COMPRESSED, 2 * s.cluster, 10, s.data);
        image_done(&s.image);
    }
}

static void a_compressed_cluster_may_end_with_the_file(void **state)
{
    struct small s;
    struct visited visited;
    small_start(&s, 3, 16, 0, 1);
    uint64_t at = s.image.size - 100;
    put64(&s.image, s.l2, COMPRESSED | UINT64_C(5) << 54 | at);
    put64(&s.image, s.l2 + 8, COMPRESSED | s.image.size);
    put64(&s.image, s.l2 + 16, COMPRESSED | ((UINT64_C(1) << 54) - 1));
    walk_image(&s.image, 0, 3 * s.cluster, &visited);
    assert_int_equal(visited.count, 2);
    assert_extent(&visited, 0, EXTENT_COMPRESSED, 0, s.cluster, at);
    assert_int_equal(visited.extents[0].compressed_length, 100);
    assert_extent(&visited, 1, EXTENT_DAMAGED, s.cluster, 2 * s.cluster, 0);
    image_done(&s.image);
}

static void subclusters_in_runs(void **state)
{
    for (unsigned bits = 14; bits <= 21; bits++) {
        struct small s;
        struct visited visited;
        uint64_t sub = UINT64_C(1) << (bits - 5);
        small_start(&s, 3, bits, FEATURE_EXTENDED_L2, 3);
        /* 0-3 data, 4-7 zeros, 8-30 nothing, 31 data; next to it all data; all zeros, with and without a
         * place; none; compressed, its bitmap meaningless. */
        put64(&s.image, s.l2, s.data | COPIED);
        put64(&s.image, s.l2 + 8, 0x000000f08000000f);
        put64(&s.image, s.l2 + 16, (s.data + s.cluster) | COPIED);
        put64(&s.image, s.l2 + 24, 0x00000000ffffffff);
        put64(&s.image, s.l2 + 32, (s.data + 2 * s.cluster) | COPIED);
        put64(&s.image, s.l2 + 40, 0xffffffff00000000);
        put64(&s.image, s.l2 + 48, 0);
        put64(&s.image, s.l2 + 56, 0xffffffff00000000);
        put64(&s.image, s.l2 + 64, (s.data + 2 * s.cluster) | COPIED);
        put64(&s.image, s.l2 + 72, 0);
        put64(&s.image, s.l2 + 80, COMPRESSED | s.data);
        put64(&s.image, s.l2 + 88, UINT64_MAX);
        /* Bit 0 is no zero flag here. */
        put64(&s.image, s.l2 + 96, s.data | COPIED | ZERO);
        put64(&s.image, s.l2 + 104, 0x1);
        walk_image(&s.image, 0, 7 * s.cluster, &visited);
        assert_int_equal(visited.count, 9);
        assert_extent(&visited, 0, EXTENT_DATA, 0, 4 * sub, s.data);
        assert_extent(&visited, 1, EXTENT_ZERO, 4 * sub, 4 * sub, 0);
        assert_extent(&visited, 2, EXTENT_UNALLOCATED, 8 * sub, 23 * sub, 0);
        assert_extent(&visited, 3, EXTENT_DATA, 31 * sub, 33 * sub, s.data + 31 * sub);
        assert_extent(&visited, 4, EXTENT_ZERO, 2 * s.cluster, 2 * s.cluster, 0);
        assert_extent(&visited, 5, EXTENT_UNALLOCATED, 4 * s.cluster, s.cluster, 0);
        assert_extent(&visited, 6, EXTENT_COMPRESSED, 5 * s.cluster, s.cluster, s.data);
        assert_extent(&visited, 7, EXTENT_DATA, 6 * s.cluster, sub, s.data);
        assert_extent(&visited, 8, EXTENT_UNALLOCATED, 6 * s.cluster + sub, 31 * sub, 0);

        walk_image(&s.image, 2 * sub + 10, 8 * sub, &visited);
        assert_int_equal(visited.count, 3);
        assert_extent(&visited, 0, EXTENT_DATA, 2 * sub + 10, 2 * sub - 10, s.data + 2 * sub + 10);
        assert_extent(&visited, 1, EXTENT_ZERO, 4 * sub, 4 * sub, 0);
        assert_extent(&visited, 2, EXTENT_UNALLOCATED, 8 * sub, 2 * sub + 10, 0);
        image_done(&s.image);
    }
}

static void a_damaged_subcluster_bitmap_is_one_cluster(void **state)
{
    struct small s;
    struct visited visited;
    small_start(&s, 3, 14, FEATURE_EXTENDED_L2, 1);
    put64(&s.image, s.l2, s.data);
    put64(&s.image, s.l2 + 8, 0x0000000100000003); /* data and zeros at once */
    put64(&s.image, s.l2 + 16, 0);
    put64(&s.image, s.l2 + 24, 0x4); /* data without a place */
    put64(&s.image, s.l2 + 32, s.data);
    put64(&s.image, s.l2 + 40, 0xffffffff);
    walk_image(&s.image, 0, 3 * s.cluster, &visited);
    assert_int_equal(visited.count, 2);
    assert_extent(&visited, 0, EXTENT_DAMAGED, 0, 2 * s.cluster, 0);
    assert_extent(&visited, 1, EXTENT_DATA, 2 * s.cluster, s.cluster, s.data);
    image_done(&s.image);
}

/* Host and guest offsets are the same there, 0 is one like any other, and the copied flag tells it from none.
 */
static void an_external_data_file(void **state)
{
    struct small s;
    struct visited visited;
    struct qcow2_map map;
    small_start(&s, 3, 16, FEATURE_EXTERNAL_DATA, 0);
    put64(&s.image, s.l2, COPIED);
    put64(&s.image, s.l2 + 8, s.cluster | COPIED);
    put64(&s.image, s.l2 + 24, (3 * s.cluster) | COPIED | ZERO);
    put64(&s.image, s.l2 + 32, 2 * s.cluster | COPIED);     /* elsewhere */
    put64(&s.image, s.l2 + 40, COMPRESSED | 5 * s.cluster); /* can't be */
    put64(&s.image, s.l2 + 48, 6 * s.cluster | COPIED);
    put64(&s.image, s.l2 + 56, 7 * s.cluster | COPIED);
    init_map(&map, &s.image, 6 * s.cluster + 1);
    walk_map(&map, 0, 8 * s.cluster, &visited);
    assert_int_equal(visited.count, 7);
    assert_extent(&visited, 0, EXTENT_DATA, 0, 2 * s.cluster, 0);
    assert_extent(&visited, 1, EXTENT_UNALLOCATED, 2 * s.cluster, s.cluster, 0);
    assert_extent(&visited, 2, EXTENT_ZERO, 3 * s.cluster, s.cluster, 0);
    assert_extent(&visited, 3, EXTENT_DAMAGED, 4 * s.cluster, 2 * s.cluster, 0);
    assert_extent(&visited, 4, EXTENT_DATA, 6 * s.cluster, 1, 6 * s.cluster);
    assert_extent(&visited, 5, EXTENT_ZERO, 6 * s.cluster + 1, s.cluster - 1, 0);
    assert_extent(&visited, 6, EXTENT_DAMAGED, 7 * s.cluster, s.cluster, 0);

    /* Without the flag 0 is none, and with a zero flag zeros. */
    put64(&s.image, s.l2, 0);
    walk_map(&map, 0, s.cluster, &visited);
    assert_extent(&visited, 0, EXTENT_UNALLOCATED, 0, s.cluster, 0);
    put64(&s.image, s.l2, COPIED | ZERO);
    put64(&s.image, s.l2 + 8, COPIED | ZERO);
    walk_map(&map, 0, 2 * s.cluster, &visited);
    assert_extent(&visited, 0, EXTENT_ZERO, 0, 2 * s.cluster, 0);
    image_done(&s.image);
}

static void the_copied_flag_alone_is_nothing_inside_the_image(void **state)
{
    struct small s;
    struct visited visited;
    small_start(&s, 3, 16, 0, 1);
    put64(&s.image, s.l2, COPIED);
    walk_image(&s.image, 0, s.cluster, &visited);
    assert_extent(&visited, 0, EXTENT_UNALLOCATED, 0, s.cluster, 0);
    image_done(&s.image);
}

static void version_2_has_no_zero_clusters(void **state)
{
    struct small s;
    struct visited visited;
    small_start(&s, 2, 16, 0, 1);
    put64(&s.image, s.l2, s.data | COPIED);
    put64(&s.image, s.l2 + 8, ZERO);
    put64(&s.image, s.l2 + 16, s.data | ZERO);
    walk_image(&s.image, 0, 4 * s.cluster, &visited);
    assert_int_equal(visited.count, 3);
    assert_extent(&visited, 0, EXTENT_DATA, 0, s.cluster, s.data);
    assert_extent(&visited, 1, EXTENT_DAMAGED, s.cluster, 2 * s.cluster, 0);
    assert_extent(&visited, 2, EXTENT_UNALLOCATED, 3 * s.cluster, s.cluster, 0);
    image_done(&s.image);
}

static void a_damaged_entry_costs_what_it_maps(void **state)
{
    struct small s;
    struct visited visited;
    small_start(&s, 3, 12, 0, 2);
    put64(&s.image, s.l2, s.data);
    put64(&s.image, s.l2 + 8, s.data + 512);  /* not at a cluster */
    put64(&s.image, s.l2 + 16, s.image.size); /* behind the last byte */
    put64(&s.image, s.l2 + 24, UINT64_C(1) << 55);
    put64(&s.image, s.l2 + 32, UINT64_C(0x00fffffffffff000));
    put64(&s.image, s.l2 + 40, (s.data + 512) | ZERO); /* QEMU looks at the place of zeros, too */
    put64(&s.image, s.l2 + 48, UINT64_C(1) << 55 | ZERO);
    put64(&s.image, s.l2 + 56, s.data);
    walk_image(&s.image, 0, 8 * s.cluster, &visited);
    assert_int_equal(visited.count, 4);
    assert_extent(&visited, 0, EXTENT_DATA, 0, s.cluster, s.data);
    assert_extent(&visited, 1, EXTENT_DAMAGED, s.cluster, 5 * s.cluster, 0);
    assert_extent(&visited, 2, EXTENT_ZERO, 6 * s.cluster, s.cluster, 0);
    assert_extent(&visited, 3, EXTENT_DATA, 7 * s.cluster, s.cluster, s.data);
    image_done(&s.image);
}

/* A file may end inside its last cluster; what is not there of it was never written. */
static void data_that_goes_beyond_the_end_ends_in_zeros(void **state)
{
    struct small s;
    struct visited visited;
    small_start(&s, 3, 16, 0, 1);
    put64(&s.image, s.l2, s.data);
    s.image.size = s.data + 1;
    walk_image(&s.image, 0, s.cluster, &visited);
    assert_int_equal(visited.count, 2);
    assert_extent(&visited, 0, EXTENT_DATA, 0, 1, s.data);
    assert_extent(&visited, 1, EXTENT_ZERO, 1, s.cluster - 1, 0);
    s.image.size = s.data;
    walk_image(&s.image, 0, s.cluster, &visited);
    assert_extent(&visited, 0, EXTENT_DAMAGED, 0, s.cluster, 0);
    image_done(&s.image);
}

static void damaged_l1_entries_and_tables_that_are_cut_off(void **state)
{
    struct qcow2_image image;
    struct visited visited;
    uint64_t table = 512 / 8 * 512; /* what an L2 table maps */
    uint64_t l1 = image_start(&image, 3, 9, 8 * table, 0);
    uint64_t data = image_add_clusters(&image, 1);
    uint64_t l2 = image_add_clusters(&image, 1);
    for (unsigned i = 0; i < 64; i++)
        put64(&image, l2 + 8 * i, data);
    put64(&image, l1, (l2 + 8) | COPIED); /* bits 3 to 8 are reserved: the table is at l2 */
    put64(&image, l1 + 8, image.size);    /* just behind the end */
    put64(&image, l1 + 16, UINT64_C(1) << 55);
    put64(&image, l1 + 32, l2);
    walk_image(&image, 0, 8 * table, &visited);
    /* 64 clusters at the same place are 64 extents; twice, with damage and nothing between and after them. */
    assert_int_equal(visited.count, 64 + 1 + 1 + 64 + 1);
    walk_image(&image, table - 512, 4 * table, &visited);
    assert_extent(&visited, 0, EXTENT_DATA, table - 512, 512, data);
    assert_extent(&visited, 1, EXTENT_DAMAGED, table, 2 * table, 0);
    assert_extent(&visited, 2, EXTENT_UNALLOCATED, 3 * table, table, 0);
    assert_extent(&visited, 3, EXTENT_DATA, 4 * table, 512, data);

    /* The file ends within the L2 table, within an entry even. */
    image.size = l2 + 8 * 10 + 3;
    walk_image(&image, table - 512, 4 * table, &visited);
    assert_extent(&visited, 0, EXTENT_DAMAGED, table - 512, 512 + 2 * table, 0);
    walk_image(&image, 4 * table, table, &visited);
    assert_int_equal(visited.count, 11);
    assert_extent(&visited, 9, EXTENT_DATA, 4 * table + 9 * 512, 512, data);
    assert_extent(&visited, 10, EXTENT_DAMAGED, 4 * table + 10 * 512, table - 10 * 512, 0);

    /* Within the L1 table. */
    put64(&image, l1, 0);
    image.size = l1 + 8;
    walk_image(&image, 0, 8 * table, &visited);
    assert_int_equal(visited.count, 2);
    assert_extent(&visited, 0, EXTENT_UNALLOCATED, 0, table, 0);
    assert_extent(&visited, 1, EXTENT_DAMAGED, table, 7 * table, 0);
    image_done(&image);
}

static void an_unaligned_l2_table_is_damage(void **state)
{
    struct small s;
    struct visited visited;
    small_start(&s, 3, 12, 0, 1);
    put64(&s.image, s.l1, s.l2 + 512);
    walk_image(&s.image, 0, s.disk, &visited);
    assert_int_equal(visited.count, 1);
    assert_extent(&visited, 0, EXTENT_DAMAGED, 0, s.disk, 0);
    image_done(&s.image);
}

static void extents_go_on_from_table_to_table(void **state)
{
    struct qcow2_image image;
    struct visited visited;
    uint64_t table = 512 / 8 * 512;
    uint64_t l1 = image_start(&image, 3, 9, 4 * table, 0);
    uint64_t l2 = image_add_clusters(&image, 3), data = image_add_clusters(&image, 192);
    for (unsigned i = 0; i < 192; i++)
        put64(&image, l2 + 8 * i, i < 128 ? data + 512 * i : ZERO);
    for (unsigned i = 0; i < 3; i++)
        put64(&image, l1 + 8 * i, l2 + 512 * i);
    walk_image(&image, 0, 4 * table, &visited);
    assert_int_equal(visited.count, 3);
    assert_extent(&visited, 0, EXTENT_DATA, 0, 2 * table, data);
    assert_extent(&visited, 1, EXTENT_ZERO, 2 * table, table, 0);
    assert_extent(&visited, 2, EXTENT_UNALLOCATED, 3 * table, table, 0);
    image_done(&image);
}

/* Tables are read in pieces: an L2 table of 2 MiB and an L1 table of more than one piece, full. */
static void long_tables_are_one_extent(void **state)
{
    struct small s;
    struct visited visited;
    for (unsigned extended = 0; extended < 2; extended++) {
        small_start(&s, 3, 21, extended ? FEATURE_EXTENDED_L2 : 0, 0);
        uint64_t entries = s.cluster / (extended ? 16 : 8);
        for (uint64_t i = 0; i < entries; i++) {
            put64(&s.image, s.l2 + (extended ? 16 : 8) * i, extended ? 0 : ZERO);
            if (extended)
                put64(&s.image, s.l2 + 16 * i + 8, 0xffffffff00000000);
        }
        walk_image(&s.image, 0, s.disk, &visited);
        assert_int_equal(visited.count, 1);
        assert_extent(&visited, 0, EXTENT_ZERO, 0, s.disk, 0);
        walk_image(&s.image, s.disk / 2 + 1, s.disk / 4, &visited);
        assert_int_equal(visited.count, 1);
        image_done(&s.image);
    }

    struct qcow2_image image;
    uint64_t table = 512 / 8 * 512, count = 3000;
    uint64_t l1 = image_start(&image, 3, 9, count * table, 0);
    uint64_t l2 = image_add_clusters(&image, 2500);
    for (unsigned i = 0; i < 2500 * 64; i++)
        put64(&image, l2 + 8 * i, ZERO);
    for (uint64_t i = 0; i < count; i++)
        put64(&image, l1 + 8 * i, i < 2500 ? l2 + i * 512 : 0);
    walk_image(&image, 0, count * table, &visited);
    assert_int_equal(visited.count, 2);
    assert_extent(&visited, 0, EXTENT_ZERO, 0, 2500 * table, 0);
    assert_extent(&visited, 1, EXTENT_UNALLOCATED, 2500 * table, 500 * table, 0);
    walk_image(&image, 2400 * table + 7, 200 * table, &visited);
    assert_int_equal(visited.count, 2);
    image_done(&image);
}

/* Each table is a cluster of its own, so that nobody can make a small file that takes hours to walk. */
static void one_table_under_many_entries_ends_in_damage(void **state)
{
    struct visited visited;
    struct qcow2_image image;
    uint64_t table = 512 / 8 * 512, count = 3000;
    uint64_t l1 = image_start(&image, 3, 9, count * table, 0);
    uint64_t l2 = image_add_clusters(&image, 1);
    for (unsigned i = 0; i < 64; i++)
        put64(&image, l2 + 8 * i, ZERO);
    for (uint64_t i = 0; i < count; i++)
        put64(&image, l1 + 8 * i, l2);
    walk_image(&image, 0, count * table, &visited);
    uint64_t clusters = image.size / 512;
    assert_int_equal(visited.count, 2);
    assert_extent(&visited, 0, EXTENT_ZERO, 0, clusters * table, 0);
    assert_extent(&visited, 1, EXTENT_DAMAGED, clusters * table, (count - clusters) * table, 0);
    image_done(&image);
}

static void the_largest_disk_of_all(void **state)
{
    struct visited visited;
    struct qcow2_map map;
    uint64_t size = UINT64_C(1) << 61;
    cleanup_close int fd = memfd_create("qcow2", MFD_CLOEXEC);
    assert_true(fd >= 0);
    struct qcow2_image image;
    image_start(&image, 3, 21, 1 << 20, 0);
    put64(&image, 24, size);
    put32(&image, 36, (32 << 20) / 8);
    assert_int_equal(pwrite(fd, image.bytes, image.size, 0), image.size);
    assert_int_equal(ftruncate(fd, 100 << 20), 0);
    image_done(&image);
    struct byte_source source = byte_source_fd(fd);
    struct qcow2_header header;
    assert_int_equal(qcow2_header_read(&source, &header, NULL), 0);
    assert_int_equal(qcow2_map_init(&map, &source, &header, header.l1_table_offset, header.l1_size, 0, NULL),
                     0);
    walk_map(&map, 0, size, &visited);
    assert_int_equal(visited.count, 1);
    assert_extent(&visited, 0, EXTENT_UNALLOCATED, 0, size, 0);
    /* The last entry. */
    uint8_t entry[8] = {0, 0, 0, 0, 0x7f, 0xe0, 0, 0};
    assert_int_equal(pwrite(fd, entry, 8, (off_t)header.l1_table_offset + (32 << 20) - 8), 8);
    walk_map(&map, 0, size, &visited);
    assert_int_equal(visited.count, 2);
    assert_extent(&visited, 1, EXTENT_DAMAGED, size - (UINT64_C(1) << 39), UINT64_C(1) << 39, 0);
    qcow2_header_done(&header);
}

/* A running QEMU adds clusters at the end; tables that are read later lead there. */
static void a_growing_file_is_not_damaged(void **state)
{
    struct small s;
    struct visited visited;
    struct qcow2_map map;
    small_start(&s, 3, 12, 0, 1);
    cleanup_close int fd = memfd_create("qcow2", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, s.image.bytes, s.image.size, 0), s.image.size);
    struct byte_source source = byte_source_fd(fd);
    struct qcow2_header header;
    assert_int_equal(qcow2_header_read(&source, &header, NULL), 0);
    assert_int_equal(qcow2_map_init(&map, &source, &header, header.l1_table_offset, header.l1_size, 0, NULL),
                     0);
    uint64_t grown = image_add_clusters(&s.image, 1);
    put64(&s.image, s.l2, grown);
    put64(&s.image, s.l2 + 8, COMPRESSED | UINT64_C(3) << 58 | (grown + 100));
    put64(&s.image, s.l2 + 16, grown + s.cluster);
    assert_int_equal(pwrite(fd, s.image.bytes, s.image.size, 0), s.image.size);
    walk_map(&map, 0, 3 * s.cluster, &visited);
    assert_int_equal(visited.count, 3);
    assert_extent(&visited, 0, EXTENT_DATA, 0, s.cluster, grown);
    assert_extent(&visited, 1, EXTENT_COMPRESSED, s.cluster, s.cluster, grown + 100);
    assert_int_equal(visited.extents[1].compressed_length, 4 * 512 - 100);
    assert_extent(&visited, 2, EXTENT_DAMAGED, 2 * s.cluster, s.cluster, 0);
    qcow2_header_done(&header);
    image_done(&s.image);
}

static void a_visitor_ends_the_walk(void **state)
{
    struct small s;
    struct qcow2_map map;
    small_start(&s, 3, 12, 0, 3);
    for (unsigned i = 0; i < 8; i++)
        put64(&s.image, s.l2 + 16 * i, s.data);
    init_map(&map, &s.image, 0);
    for (size_t stop = 1; stop <= 16; stop++) {
        struct visited visited = {.stop_at = stop};
        assert_int_equal(qcow2_map_walk(&map, 0, 16 * s.cluster, visit, &visited), 77);
        assert_int_equal(visited.count, stop);
    }
    image_done(&s.image);
}

static void reading_errors_end_the_walk(void **state)
{
    struct small s;
    struct qcow2_map map;
    struct visited visited = {0};
    small_start(&s, 3, 12, 0, 1);
    init_map(&map, &s.image, 0);
    cleanup_close int fd = memfd_create("closed", MFD_CLOEXEC);
    map.source = byte_source_fd(fd);
    close(fd);
    assert_int_equal(qcow2_map_walk(&map, 0, s.disk, visit, &visited), -EBADF);
    assert_int_equal(visited.count, 0);
    fd = -1;
    image_done(&s.image);
}

static void an_l1_table_has_its_limits(void **state)
{
    struct qcow2_image image;
    struct qcow2_header header;
    struct qcow2_map map;
    struct error err = {0};
    image_start(&image, 3, 12, 1 << 20, 0);
    struct byte_source source = image_source(&image);
    assert_int_equal(qcow2_header_read(&source, &header, NULL), 0);
    static const struct {
        uint64_t offset;
        uint32_t size;
        int ret;
    } places[] = {
        {0x3000, 1, 0},
        {0x3000, 0, 0},
        {0x3000, (32 << 20) / 8, 0}, /* beyond the end: what it maps is damaged */
        {0x3000, (32 << 20) / 8 + 1, -EINVAL},
        {0x3000, UINT32_MAX, -EINVAL},
        {0x3200, 1, -EINVAL},
        {INT64_MAX - 0xfff, 1, 0},
        {INT64_MAX - 0xfff, 512, -EINVAL},
        {UINT64_C(1) << 63, 1, -EINVAL},
        {UINT64_MAX - 0xfff, 512, -EINVAL},
    };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        err = (struct error){0};
        assert_int_equal(qcow2_map_init(&map, &source, &header, places[i].offset, places[i].size, 0, &err),
                         places[i].ret);
        assert_int_equal(err.code, -places[i].ret);
        if (places[i].ret == 0) {
            struct visited visited;
            walk_map(&map, 0, 1 << 21, &visited);
        }
    }
    qcow2_header_done(&header);
    image_done(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_table_is_unallocated),
        cmocka_unit_test(every_kind_of_cluster_at_every_cluster_size),
        cmocka_unit_test(compressed_clusters_at_every_cluster_size),
        cmocka_unit_test(a_compressed_cluster_may_end_with_the_file),
        cmocka_unit_test(subclusters_in_runs),
        cmocka_unit_test(a_damaged_subcluster_bitmap_is_one_cluster),
        cmocka_unit_test(an_external_data_file),
        cmocka_unit_test(the_copied_flag_alone_is_nothing_inside_the_image),
        cmocka_unit_test(version_2_has_no_zero_clusters),
        cmocka_unit_test(a_damaged_entry_costs_what_it_maps),
        cmocka_unit_test(data_that_goes_beyond_the_end_ends_in_zeros),
        cmocka_unit_test(damaged_l1_entries_and_tables_that_are_cut_off),
        cmocka_unit_test(an_unaligned_l2_table_is_damage),
        cmocka_unit_test(extents_go_on_from_table_to_table),
        cmocka_unit_test(long_tables_are_one_extent),
        cmocka_unit_test(one_table_under_many_entries_ends_in_damage),
        cmocka_unit_test(the_largest_disk_of_all),
        cmocka_unit_test(a_growing_file_is_not_damaged),
        cmocka_unit_test(a_visitor_ends_the_walk),
        cmocka_unit_test(reading_errors_end_the_walk),
        cmocka_unit_test(an_l1_table_has_its_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
