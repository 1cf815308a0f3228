// SPDX-License-Identifier: LGPL-2.1-or-later
/* chain_map.h and data_seek.h: many layers seen as one, against a model that goes sector by sector. */
#include "image/chain_map.h"

#include "fake_layer.h"
#include "image/data_seek.h"

#define SECTOR 512

/* What one sector of a disk is, found the slow way. */
static struct chain_extent sector_of(const struct chain *chain, uint64_t guest)
{
    for (size_t i = 0; i < chain->count; i++) {
        const struct fake_layer *layer = fake_layer_of(chain->layers[i]);
        if (guest >= layer->base.size)
            break;
        for (size_t k = 0; k < layer->count; k++) {
            const struct extent *extent = &layer->extents[k];
            if (guest < extent->guest || guest - extent->guest >= extent->length)
                continue;
            if (extent->kind == EXTENT_UNALLOCATED)
                break;
            bool moves = extent->kind == EXTENT_DATA || extent->kind == EXTENT_FOREIGN;
            return (struct chain_extent){
                .guest = guest,
                .length = SECTOR,
                .offset = extent->offset + (moves ? guest - extent->guest : 0),
                .compressed_length = extent->compressed_length,
                .layer = (uint16_t)i,
                .kind = (uint8_t)extent->kind,
            };
        }
    }
    return (struct chain_extent){
        .guest = guest, .length = SECTOR, .layer = CHAIN_MAP_NO_LAYER, .kind = EXTENT_ZERO};
}

/* True if `extent`, which contains the sector, says the same of it. */
static bool says(const struct chain_extent *extent, const struct chain_extent *sector)
{
    bool moves = extent->kind == EXTENT_DATA || extent->kind == EXTENT_FOREIGN;
    bool placed = moves || extent->kind == EXTENT_COMPRESSED;
    return extent->kind == sector->kind && extent->layer == sector->layer &&
           (!placed || extent->offset + (moves ? sector->guest - extent->guest : 0) == sector->offset) &&
           extent->compressed_length == sector->compressed_length;
}

/* Extents without gaps from `start` on, each sector of them right, no two that could be one. Returns their
 * end. */
static uint64_t extents_are_right(const struct chain *chain, const struct chain_extents *extents,
                                  uint64_t start)
{
    uint64_t at = start;
    assert_true(extents->count > 0);
    for (size_t i = 0; i < extents->count; i++) {
        const struct chain_extent *extent = &extents->items[i];
        assert_int_equal(extent->guest, at);
        assert_true(extent->length > 0);
        for (uint64_t guest = at; guest < at + extent->length; guest += SECTOR) {
            struct chain_extent sector = sector_of(chain, guest);
            assert_true(says(extent, &sector));
        }
        if (extent->kind == EXTENT_COMPRESSED) {
            uint64_t cluster = chain->layers[extent->layer]->cluster_size;
            assert_int_equal(at / cluster, (at + extent->length - 1) / cluster);
        }
        at += extent->length;
        if (i + 1 < extents->count) {
            struct chain_extent next = sector_of(chain, at);
            bool next_cluster =
                next.kind == EXTENT_COMPRESSED && at % chain->layers[next.layer]->cluster_size == 0;
            assert_false(says(extent, &next) && !next_cluster);
        }
    }
    return at;
}

static void fill_at_random(struct fake_layer *layer, unsigned *seed, unsigned density)
{
    static const enum extent_kind kinds[] = {EXTENT_DATA,       EXTENT_DATA,    EXTENT_ZERO,
                                             EXTENT_COMPRESSED, EXTENT_FOREIGN, EXTENT_UNALLOCATED,
                                             EXTENT_DAMAGED};
    uint64_t unit = layer->base.cluster_size;
    for (uint64_t at = 0; at < layer->base.size;) {
        struct extent extent = {.guest = at, .kind = kinds[(unsigned)rand_r(seed) % 7]};
        uint64_t units = extent.kind == EXTENT_COMPRESSED ? 1 : 1 + (unsigned)rand_r(seed) % 9;
        extent.length = min_u64(units * unit, layer->base.size - at);
        if (extent.kind == EXTENT_DATA)
            extent.offset = ((uint64_t)rand_r(seed) % 100) * 65536 + (rand_r(seed) % 2 ? at : 0);
        if (extent.kind == EXTENT_FOREIGN)
            extent.offset = at;
        if (extent.kind == EXTENT_COMPRESSED) {
            extent.offset = 7 + (unsigned)rand_r(seed) % 2;
            extent.compressed_length = 100;
        }
        if ((unsigned)rand_r(seed) % 100 < density)
            fake_layer_add(layer, extent);
        at += extent.length;
    }
}

#define DEPTH_MAX 12

static struct chain random_chain(unsigned *seed)
{
    struct fake_layer *layers[DEPTH_MAX];
    size_t depth = 1 + (unsigned)rand_r(seed) % DEPTH_MAX;
    for (size_t i = 0; i < depth; i++) {
        uint64_t sectors = 1 + (unsigned)rand_r(seed) % 6000;
        layers[i] = fake_layer_new(sectors * SECTOR, SECTOR << (unsigned)rand_r(seed) % 6);
        fill_at_random(layers[i], seed, (unsigned)rand_r(seed) % 101);
    }
    return fake_chain_new(layers, depth);
}

static void a_chain_is_resolved_as_its_layers_say(void **state)
{
    unsigned seed = *(unsigned *)*state;
    for (int round = 0; round < 60; round++) {
        struct chain chain = random_chain(&seed);
        uint64_t size = chain.layers[0]->size;
        struct chain_extents extents = {0};
        size_t failed;
        for (int i = 0; i < 4; i++) {
            uint64_t start = (uint64_t)rand_r(&seed) % (size / SECTOR) * SECTOR;
            uint64_t end = start + (1 + (uint64_t)rand_r(&seed) % ((size - start) / SECTOR)) * SECTOR;
            assert_int_equal(chain_map_resolve(&chain, start, end, SIZE_MAX, &extents, &failed), 0);
            assert_int_equal(extents_are_right(&chain, &extents, start), end);
        }
        for (uint64_t start = 0, steps = 0; start < size && steps < 100; steps++) {
            size_t limit = 1 + (unsigned)rand_r(&seed) % 40;
            assert_int_equal(chain_map_resolve(&chain, start, size, limit, &extents, &failed), 0);
            assert_true(extents.count <= limit * 2);
            start = extents_are_right(&chain, &extents, start);
            assert_true(start <= size);
        }
        chain_extents_done(&extents);
        chain_done(&chain);
    }
}

static void a_region_finds_every_sector(void **state)
{
    unsigned seed = *(unsigned *)*state + 1;
    for (int round = 0; round < 40; round++) {
        struct chain chain = random_chain(&seed);
        uint64_t size = chain.layers[0]->size, region_size = CHAIN_MAP_REGION_MIN;
        for (uint64_t start = 0; start < size; start += region_size) {
            struct map_region *region;
            size_t bytes, failed;
            uint64_t length = min_u64(region_size, size - start);
            assert_int_equal(chain_map_make_region(&chain, start, length, &region, &bytes, &failed), 0);
            assert_int_equal(bytes, sizeof *region + region->count * sizeof region->entries[0]);
            assert_int_equal(region->length, length);
            for (uint64_t offset = 0; offset < length; offset += SECTOR) {
                uint32_t index = map_region_find(region, (uint32_t)offset);
                struct chain_extent found = map_region_extent(region, start, index, (uint32_t)offset);
                struct chain_extent sector = sector_of(&chain, start + offset);
                assert_int_equal(found.guest, start + offset);
                assert_true(says(&found, &sector));
                struct chain_extent last = sector_of(&chain, found.guest + found.length - SECTOR);
                assert_true(says(&found, &last));
            }
            free(region);
        }
        chain_done(&chain);
    }
}

static void regions_fit_the_smallest_unit(void **state)
{
    static const struct {
        uint32_t units[3];
        uint64_t region;
    } cases[] = {
        {{512, 65536, 0}, 1 * MIB},    {{2048, 0, 0}, 1 * MIB},           {{4096, 65536, 0}, 2 * MIB},
        {{65536, 0, 65536}, 32 * MIB}, {{2 * MIB, 2 * MIB, 0}, 32 * MIB}, {{0, 0, 0}, 32 * MIB},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fake_layer *layers[3];
        for (size_t k = 0; k < 3; k++)
            layers[k] = fake_layer_new(MIB, cases[i].units[k]);
        struct chain chain = fake_chain_new(layers, 3);
        assert_int_equal(chain_map_region_size(&chain), cases[i].region);
        chain_done(&chain);
    }
}

/* Beyond the end of a layer there are zeros, though a layer below it goes on (as in QEMU). */
static void a_short_layer_hides_what_is_below_its_end(void **state)
{
    struct fake_layer *layers[] = {fake_layer_new(4 * MIB, 65536), fake_layer_new(1 * MIB, 65536),
                                   fake_layer_new(4 * MIB, 65536)};
    fake_layer_add(layers[2], (struct extent){.length = 4 * MIB, .kind = EXTENT_DATA});
    struct chain chain = fake_chain_new(layers, 3);
    struct chain_extents extents = {0};
    size_t failed;
    assert_int_equal(chain_map_resolve(&chain, 0, 4 * MIB, SIZE_MAX, &extents, &failed), 0);
    assert_int_equal(extents.count, 2);
    assert_int_equal(extents.items[0].kind, EXTENT_DATA);
    assert_int_equal(extents.items[0].length, 1 * MIB);
    assert_int_equal(extents.items[1].kind, EXTENT_ZERO);
    assert_int_equal(extents.items[1].length, 3 * MIB);
    chain_extents_done(&extents);
    chain_done(&chain);
}

static void each_layer_is_walked_once_and_only_where_needed(void **state)
{
    struct fake_layer *layers[64];
    for (size_t i = 0; i < 64; i++) {
        layers[i] = fake_layer_new(32 * MIB, 65536);
        if (i < 8) /* the first MiB has everything, every second piece of it, in turns */
            for (uint64_t at = 0; at < MIB; at += 2 * 65536)
                fake_layer_add(layers[i], (struct extent){.guest = at + (i == 1 ? 65536 : 0),
                                                          .length = 65536,
                                                          .kind = EXTENT_DATA});
    }
    struct chain chain = fake_chain_new(layers, 64);
    struct chain_extents extents = {0};
    size_t failed;
    assert_int_equal(chain_map_resolve(&chain, 0, 32 * MIB, SIZE_MAX, &extents, &failed), 0);
    for (size_t i = 0; i < 64; i++)
        assert_int_equal(layers[i]->walks, 1);
    assert_int_equal(chain_map_resolve(&chain, 0, MIB, SIZE_MAX, &extents, &failed), 0);
    for (size_t i = 0; i < 64; i++)
        assert_int_equal(layers[i]->walks, i < 2 ? 2 : 1);
    chain_extents_done(&extents);
    chain_done(&chain);
}

static int walk_with_a_gap(struct layer_reader *reader, uint64_t offset, uint64_t length,
                           extent_visitor visitor, void *opaque)
{
    struct extent extent = {.guest = offset + SECTOR, .length = length - SECTOR, .kind = EXTENT_ZERO};
    return visitor(opaque, &extent);
}

static int walk_too_short(struct layer_reader *reader, uint64_t offset, uint64_t length,
                          extent_visitor visitor, void *opaque)
{
    struct extent extent = {.guest = offset, .length = length - SECTOR, .kind = EXTENT_ZERO};
    return visitor(opaque, &extent);
}

static void a_layer_that_fails_or_leaves_gaps_is_named(void **state)
{
    struct fake_layer *layers[] = {fake_layer_new(MIB, 65536), fake_layer_new(MIB, 65536)};
    struct chain chain = fake_chain_new(layers, 2);
    struct chain_extents extents = {0};
    size_t failed = 9;
    layers[1]->walk_result = -ENOMEM;
    assert_int_equal(chain_map_resolve(&chain, 0, MIB, SIZE_MAX, &extents, &failed), -ENOMEM);
    assert_int_equal(failed, 1);
    static const struct layer_reader_ops gap = {.walk = walk_with_a_gap, .free = fake_free};
    static const struct layer_reader_ops brief = {.walk = walk_too_short, .free = fake_free};
    layers[1]->base.ops = &gap;
    assert_int_equal(chain_map_resolve(&chain, 0, MIB, SIZE_MAX, &extents, &failed), -EIO);
    layers[1]->base.ops = &brief;
    assert_int_equal(chain_map_resolve(&chain, 0, MIB, SIZE_MAX, &extents, &failed), -EIO);
    chain_extents_done(&extents);
    chain_done(&chain);
}

static bool is_data(const struct chain *chain, uint64_t guest)
{
    return sector_of(chain, guest).kind != EXTENT_ZERO;
}

static int64_t seek_slowly(const struct chain *chain, uint64_t offset, int whence)
{
    uint64_t size = chain->layers[0]->size;
    for (uint64_t guest = align_down(offset, SECTOR); guest < size; guest += SECTOR)
        if (is_data(chain, guest) == (whence == SEEK_DATA))
            return (int64_t)max_u64(guest, offset);
    return whence == SEEK_DATA ? -ENXIO : (int64_t)size;
}

static void seeking_finds_what_the_model_finds(void **state)
{
    unsigned seed = *(unsigned *)*state + 2;
    for (int round = 0; round < 60; round++) {
        struct chain chain = random_chain(&seed);
        uint64_t size = chain.layers[0]->size, counted = 0, data = 0;
        struct data_seek seek;
        struct failure failure = {0};
        data_seek_init(&seek, &chain, size);
        for (int i = 0; i < 30; i++) {
            uint64_t offset = (uint64_t)rand_r(&seed) % size;
            int whence = rand_r(&seed) % 2 ? SEEK_DATA : SEEK_HOLE;
            assert_int_equal(data_seek_next(&seek, offset, whence, &failure),
                             seek_slowly(&chain, offset, whence));
        }
        for (uint64_t guest = 0; guest < size; guest += SECTOR)
            data += is_data(&chain, guest) ? SECTOR : 0;
        assert_int_equal(data_seek_count(&seek, NULL, &counted, &failure), 0);
        assert_int_equal(counted, data);
        assert_int_equal(data_seek_next(&seek, size, SEEK_DATA, &failure), -ENXIO);
        assert_int_equal(data_seek_next(&seek, size, SEEK_HOLE, &failure), -ENXIO);
        assert_int_equal(data_seek_next(&seek, 0, SEEK_SET, &failure), -EINVAL);
        assert_int_equal(failure.error, 0);
        data_seek_done(&seek);
        chain_done(&chain);
    }
}

/* 3,000 pieces, a gigabyte apart: more edges than are remembered. */
static void a_huge_disk_is_gone_through_in_few_walks(void **state)
{
    enum { PIECES = 3000 };
    struct fake_layer *layers[] = {fake_layer_new(PIECES * GIB, 65536), fake_layer_new(PIECES * GIB, 65536)};
    for (uint64_t i = 0; i < PIECES; i++)
        fake_layer_add(layers[1],
                       (struct extent){.guest = i * GIB + 7 * MIB, .length = MIB, .kind = EXTENT_DATA});
    struct chain chain = fake_chain_new(layers, 2);
    struct data_seek seek;
    struct failure failure = {0};
    data_seek_init(&seek, &chain, PIECES * GIB);
    uint64_t offset = 0;
    for (uint64_t i = 0; i < PIECES; i++) {
        assert_int_equal(data_seek_next(&seek, offset, SEEK_DATA, &failure), i * GIB + 7 * MIB);
        offset = i * GIB + 7 * MIB;
        assert_int_equal(data_seek_next(&seek, offset, SEEK_HOLE, &failure), offset + MIB);
        offset += MIB;
    }
    assert_int_equal(data_seek_next(&seek, offset, SEEK_DATA, &failure), -ENXIO);
    assert_true(layers[1]->walks < 4 * PIECES);
    unsigned seed = 4;
    for (int i = 0; i < 2000; i++) {
        uint64_t piece = (unsigned)rand_r(&seed) % PIECES, at = piece * GIB + 7 * MIB;
        assert_int_equal(data_seek_next(&seek, piece * GIB, SEEK_DATA, &failure), at);
        assert_int_equal(data_seek_next(&seek, piece * GIB + 1, SEEK_HOLE, &failure), piece * GIB + 1);
        assert_int_equal(data_seek_next(&seek, at + 5, SEEK_HOLE, &failure), at + MIB);
        assert_int_equal(data_seek_next(&seek, at + 5, SEEK_DATA, &failure), at + 5);
    }
    unsigned before = layers[1]->walks;
    uint64_t bytes = 0;
    assert_int_equal(data_seek_count(&seek, NULL, &bytes, &failure), 0);
    assert_int_equal(bytes, PIECES * MIB);
    assert_true(layers[1]->walks - before < 20);
    data_seek_done(&seek);
    chain_done(&chain);
}

static void a_seek_that_can_not_read_the_tables_fails(void **state)
{
    struct fake_layer *layers[] = {fake_layer_new(MIB, 65536)};
    struct chain chain = fake_chain_new(layers, 1);
    struct data_seek seek;
    struct failure failure = {0};
    uint64_t bytes = 77;
    layers[0]->walk_result = -EIO;
    data_seek_init(&seek, &chain, MIB);
    assert_int_equal(data_seek_next(&seek, 0, SEEK_DATA, &failure), -EIO);
    assert_int_equal(failure.error, -EIO);
    assert_int_equal(data_seek_count(&seek, NULL, &bytes, &failure), -EIO);
    assert_int_equal(bytes, 77);
    layers[0]->walk_result = 0;
    failure = (struct failure){0};
    assert_int_equal(data_seek_next(&seek, 0, SEEK_HOLE, &failure), 0);
    data_seek_done(&seek);
    chain_done(&chain);
}

int main(void)
{
    static unsigned seed;
    seed = fake_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(a_chain_is_resolved_as_its_layers_say, &seed),
        cmocka_unit_test_prestate(a_region_finds_every_sector, &seed),
        cmocka_unit_test(regions_fit_the_smallest_unit),
        cmocka_unit_test(a_short_layer_hides_what_is_below_its_end),
        cmocka_unit_test(each_layer_is_walked_once_and_only_where_needed),
        cmocka_unit_test(a_layer_that_fails_or_leaves_gaps_is_named),
        cmocka_unit_test_prestate(seeking_finds_what_the_model_finds, &seed),
        cmocka_unit_test(a_huge_disk_is_gone_through_in_few_walks),
        cmocka_unit_test(a_seek_that_can_not_read_the_tables_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
