// SPDX-License-Identifier: LGPL-2.1-or-later
/* frozen_disk.h: the bytes of a chain, whatever they are made of; and who gets an error instead. */
#include "image/frozen_disk.h"

#include <pthread.h>
#include <semaphore.h>

#include "base/stats.h"
#include "fake_layer.h"
#include "image/frozen_disk_chain.h"

/* A disk over fake layers, and what it should read as. */
struct model {
    struct fake_layer *layers[8];
    size_t depth;
    uint64_t size;
    unsigned char *content;
    struct frozen_disk_env env;
    struct frozen_disk *disk;
};

static void model_open(struct model *model, size_t cache_bytes, unsigned threads)
{
    struct chain chain = fake_chain_new(model->layers, model->depth);
    model->size = model->layers[0]->base.size;
    model->env = (struct frozen_disk_env){.cache = cache_new(cache_bytes)};
    model->env.workers = threads ? workers_new(threads) : NULL;
    assert_int_equal(frozen_disk_new(&model->env, &chain, &model->disk), 0);
    assert_null(chain.layers);
    assert_int_equal(frozen_disk_size(model->disk), model->size);
}

static void model_close(struct model *model)
{
    frozen_disk_free(model->disk);
    workers_free(model->env.workers);
    cache_free(model->env.cache);
    free(model->content);
}

static ssize_t read_at(struct model *model, uint64_t offset, void *buffer, size_t length)
{
    return frozen_disk_read(model->disk, offset, buffer, length, READ_KEEP);
}

/* Makes one cluster of random content and kind. */
static void add_cluster(struct fake_layer *layer, uint64_t guest, unsigned char *bytes, unsigned *seed)
{
    size_t length = min_u64(layer->base.cluster_size, layer->base.size - guest);
    unsigned char fill = (unsigned char)rand_r(seed);
    for (size_t i = 0; i < layer->base.cluster_size; i++)
        bytes[i] = i % 7 ? (unsigned char)(fill + i / 256) : (unsigned char)rand_r(seed);
    switch (rand_r(seed) % 6) {
    case 0:
        memset(bytes, 0, length);
        fake_layer_add(layer, (struct extent){.guest = guest, .length = length, .kind = EXTENT_ZERO});
        break;
    case 1:
        for (size_t i = 0; i < length; i++)
            bytes[i] = fake_foreign_byte(guest + i);
        fake_layer_add(layer, (struct extent){
                                  .guest = guest, .length = length, .kind = EXTENT_FOREIGN, .offset = guest});
        break;
    case 2:
    case 3:
        fake_layer_add_compressed(layer, guest, bytes);
        layer->extents[layer->count - 1].length = length;
        break;
    default:
        if (rand_r(seed) % 2) /* so that not all data is one run */
            fake_layer_append(layer, "gap", 3);
        fake_layer_add_data(layer, guest, bytes, length);
    }
}

static void make_random_model(struct model *model, unsigned *seed)
{
    *model = (struct model){.depth = 1 + (unsigned)rand_r(seed) % 8};
    uint64_t size = 0;
    for (size_t i = 0; i < model->depth; i++) {
        size = (1 + (unsigned)rand_r(seed) % 5000) * UINT64_C(512);
        model->layers[i] = fake_layer_new(size, 512u << (unsigned)rand_r(seed) % 9);
    }
    uint64_t top = model->layers[0]->base.size;
    model->content = calloc(1, top);
    unsigned char *cluster = malloc(512 << 8);
    assert_non_null(model->content);
    assert_non_null(cluster);
    /* From the bottom up: what a layer does not have stays; beyond its end there is nothing. */
    for (size_t i = model->depth; i-- > 0;) {
        struct fake_layer *layer = model->layers[i];
        if (layer->base.size < top)
            memset(model->content + layer->base.size, 0, top - layer->base.size);
        unsigned density = (unsigned)rand_r(seed) % 101;
        for (uint64_t guest = 0; guest < layer->base.size; guest += layer->base.cluster_size) {
            if ((unsigned)rand_r(seed) % 100 >= density)
                continue;
            add_cluster(layer, guest, cluster, seed);
            if (guest < top)
                memcpy(model->content + guest, cluster,
                       min_u64(min_u64(layer->base.cluster_size, layer->base.size - guest), top - guest));
        }
    }
    free(cluster);
}

static bool reads_right(struct model *model, uint64_t offset, size_t length, enum read_hint hint,
                        unsigned char *buffer)
{
    memset(buffer, 0xa5, length + 1);
    ssize_t count = frozen_disk_read(model->disk, offset, buffer, length, hint);
    uint64_t wanted = offset < model->size ? min_u64(length, model->size - offset) : 0;
    return count == (ssize_t)wanted &&
           (wanted == 0 || memcmp(buffer, model->content + offset, wanted) == 0) && buffer[wanted] == 0xa5;
}

struct reader {
    struct model *model;
    unsigned seed;
    bool right;
};

static void *read_at_random(void *opaque)
{
    struct reader *reader = opaque;
    uint64_t size = reader->model->size;
    unsigned char *buffer = malloc(size + 2);
    for (int i = 0; buffer && i < 60; i++) {
        uint64_t offset = (uint64_t)rand_r(&reader->seed) % (size + 2);
        size_t length = (unsigned)rand_r(&reader->seed) % (i % 10 ? 200000 : size);
        enum read_hint hint = i % 3 ? READ_KEEP : READ_ONCE;
        reader->right &= reads_right(reader->model, offset, min_u64(length, size), hint, buffer);
    }
    size_t step = 1 + (unsigned)rand_r(&reader->seed) % 100000;
    for (uint64_t offset = 0; buffer && offset < size; offset += step) /* a stream */
        reader->right &= reads_right(reader->model, offset, step < size ? step : size, READ_KEEP, buffer);
    reader->right &= buffer != NULL;
    free(buffer);
    return NULL;
}

static void every_read_gives_what_the_layers_hold(void **state)
{
    unsigned seed = *(unsigned *)*state;
    for (int round = 0; round < 25; round++) {
        struct model model;
        make_random_model(&model, &seed);
        model_open(&model, round % 2 ? MIB : 64 * MIB, (unsigned)round % 4);
        pthread_t threads[3];
        struct reader readers[3];
        for (unsigned i = 0; i < 3; i++) {
            readers[i] = (struct reader){.model = &model, .seed = seed + i, .right = true};
            assert_int_equal(pthread_create(&threads[i], NULL, read_at_random, &readers[i]), 0);
        }
        for (unsigned i = 0; i < 3; i++) {
            pthread_join(threads[i], NULL);
            assert_true(readers[i].right);
        }
        model_close(&model);
    }
}

static void the_cache_keeps_its_bound(void **state)
{
    struct model model = {.depth = 1};
    model.layers[0] = fake_layer_new(64 * MIB, 65536);
    unsigned char *cluster = calloc(1, 65536), *buffer = malloc(MIB);
    for (uint64_t guest = 0; guest < 64 * MIB; guest += 65536) {
        memset(cluster, (int)(guest >> 16), 100);
        fake_layer_add_compressed(model.layers[0], guest, cluster);
    }
    model_open(&model, 4 * MIB, 2);
    for (uint64_t offset = 0; offset < 64 * MIB; offset += MIB) {
        assert_int_equal(read_at(&model, offset, buffer, MIB), MIB);
        for (uint64_t i = 0; i < MIB; i += 65536)
            assert_int_equal(buffer[i], (unsigned char)((offset + i) >> 16));
        /* The workers may hold a cluster each. */
        assert_true(cache_bytes(model.env.cache) <= 4 * MIB + 4 * 65536);
    }
    free(cluster);
    free(buffer);
    model_close(&model);
}

static void model_of_compressed_clusters(struct model *model, uint64_t size)
{
    *model = (struct model){.depth = 1};
    model->layers[0] = fake_layer_new(size, 65536);
    unsigned char *cluster = calloc(1, 65536);
    assert_non_null(cluster);
    for (uint64_t guest = 0; guest < size; guest += 65536)
        fake_layer_add_compressed(model->layers[0], guest, cluster);
    free(cluster);
}

/* What is decompressed ahead of a stream is still there when the stream comes, also in a small cache. */
static void a_stream_decompresses_each_cluster_once(void **state)
{
    for (size_t cache = MIB; cache <= 64 * MIB; cache *= 64) {
        struct model model;
        unsigned char buffer[8192];
        model_of_compressed_clusters(&model, 16 * MIB);
        model_open(&model, cache, 2);
        uint64_t before = stats_get(STAT_CLUSTER_MISSES);
        for (uint64_t offset = 0; offset < 16 * MIB; offset += 8192)
            assert_int_equal(read_at(&model, offset, buffer, 8192), 8192);
        /* A worker that lags behind may do one again that is out of the small cache already. */
        assert_in_range(stats_get(STAT_CLUSTER_MISSES) - before, 256, cache == MIB ? 300 : 256);
        model_close(&model);
    }
}

static void post(void *opaque, uint64_t argument)
{
    sem_post(opaque);
}

static void the_next_clusters_are_decompressed_ahead(void **state)
{
    struct model model;
    unsigned char buffer[8192];
    sem_t done;
    sem_init(&done, 0, 0);
    model_of_compressed_clusters(&model, 16 * MIB);
    model_open(&model, 64 * MIB, 1);
    uint64_t before = stats_get(STAT_CLUSTER_MISSES);
    for (uint64_t offset = 0; offset < 8 * 8192; offset += 8192)
        assert_int_equal(read_at(&model, offset, buffer, 8192), 8192);
    /* The one worker does what was queued in order. */
    assert_true(workers_submit(model.env.workers, post, &done, 0));
    sem_wait(&done);
    assert_in_range(stats_get(STAT_CLUSTER_MISSES) - before, 10, 65);
    sem_destroy(&done);
    model_close(&model);
}

static void a_disk_may_be_freed_while_workers_run_ahead(void **state)
{
    struct model model = {0};
    unsigned char buffer[65536];
    struct frozen_disk_env env = {.cache = cache_new(64 * MIB), .workers = workers_new(2)};
    for (int round = 0; round < 20; round++) {
        model_of_compressed_clusters(&model, 4 * MIB);
        struct chain chain = fake_chain_new(model.layers, 1);
        assert_int_equal(frozen_disk_new(&env, &chain, &model.disk), 0);
        for (uint64_t offset = 0; offset < 4 * 65536; offset += 65536)
            assert_int_equal(read_at(&model, offset, buffer, 65536), 65536);
        frozen_disk_free(model.disk);
    }
    workers_free(env.workers);
    cache_free(env.cache);
}

/* In two files, one run ends where the other begins. */
static void runs_of_different_files_stay_apart(void **state)
{
    struct model model = {.depth = 2};
    unsigned char *bytes = malloc(131072), *buffer = malloc(131072);
    for (size_t i = 0; i < 2; i++) {
        model.layers[i] = fake_layer_new(131072, 65536);
        memset(bytes, (int)('a' + i), 131072);
        fake_layer_append(model.layers[i], bytes, 131072);
        fake_layer_add(
            model.layers[i],
            (struct extent){.guest = i * 65536, .length = 65536, .kind = EXTENT_DATA, .offset = i * 65536});
    }
    model_open(&model, MIB, 0);
    assert_int_equal(read_at(&model, 0, buffer, 131072), 131072);
    for (size_t i = 0; i < 131072; i++)
        assert_int_equal(buffer[i], i < 65536 ? 'a' : 'b');
    free(bytes);
    free(buffer);
    model_close(&model);
}

static void a_region_is_resolved_once_whatever_the_depth(void **state)
{
    struct model model = {.depth = 8};
    for (size_t i = 0; i < 8; i++)
        model.layers[i] = fake_layer_new(40 * MIB, 65536);
    unsigned char bytes[100] = "here", buffer[4];
    fake_layer_add_data(model.layers[7], 33 * MIB, bytes, sizeof bytes);
    model_open(&model, 64 * MIB, 0);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(read_at(&model, 33 * MIB, buffer, 4), 4);
        assert_memory_equal(buffer, "here", 4);
    }
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(model.layers[i]->walks, 1);
    model_close(&model);
}

static void only_the_top_and_the_layers_used_are_asked(void **state)
{
    struct model model = {.depth = 3};
    for (size_t i = 0; i < 3; i++)
        model.layers[i] = fake_layer_new(MIB, 65536);
    unsigned char bytes[65536] = {1}, buffer[100];
    fake_layer_add_data(model.layers[0], 0, bytes, 65536);
    fake_layer_add_data(model.layers[1], 65536, bytes, 65536);
    fake_layer_add(model.layers[2], (struct extent){.guest = 131072, .length = 65536, .kind = EXTENT_ZERO});
    model_open(&model, MIB, 0);
    static const struct {
        uint64_t offset;
        unsigned checks[3];
    } cases[] = {
        {0, {1, 0, 0}}, {65536, {2, 1, 0}}, {131072, {3, 1, 1}}, {300000, {4, 1, 1}}, {131000, {5, 2, 2}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(read_at(&model, cases[i].offset, buffer, sizeof buffer), sizeof buffer);
        for (size_t k = 0; k < 3; k++)
            assert_int_equal(model.layers[k]->checks, cases[i].checks[k]);
    }
    /* What a check says is what the reader gets. */
    model.layers[1]->check_result = -EIO;
    assert_int_equal(read_at(&model, 0, buffer, sizeof buffer), sizeof buffer);
    assert_int_equal(read_at(&model, 65536, buffer, sizeof buffer), -EIO);
    model.layers[0]->check_result = -ESTALE;
    assert_int_equal(read_at(&model, 0, buffer, sizeof buffer), -ESTALE);
    assert_int_equal(read_at(&model, 131072, buffer, sizeof buffer), -ESTALE);
    assert_int_equal(frozen_disk_seek(model.disk, 0, SEEK_DATA), -ESTALE);
    uint64_t bytes_counted = 7;
    assert_int_equal(frozen_disk_count_allocated(model.disk, NULL, &bytes_counted), -ESTALE);
    assert_int_equal(bytes_counted, 7);
    model_close(&model);
}

/* A short count would tell the kernel that the file ends there, and a copy would end with it. */
static void a_read_that_touches_damage_fails_and_its_neighbours_do_not(void **state)
{
    struct model model = {.depth = 2};
    model.layers[0] = fake_layer_new(MIB, 65536);
    model.layers[1] = fake_layer_new(MIB, 65536);
    unsigned char *bytes = malloc(MIB), *buffer = malloc(MIB);
    memset(bytes, 'b', MIB);
    fake_layer_add(model.layers[0],
                   (struct extent){.guest = 131072, .length = 65536, .kind = EXTENT_DAMAGED});
    fake_layer_add_data(model.layers[1], 0, bytes, MIB);
    model_open(&model, MIB, 0);
    assert_int_equal(read_at(&model, 0, buffer, MIB), -EIO);
    assert_int_equal(read_at(&model, 131071, buffer, 2), -EIO);
    assert_int_equal(read_at(&model, 131072 + 65535, buffer, 1), -EIO);
    assert_int_equal(read_at(&model, 0, buffer, 131072), 131072);
    assert_memory_equal(buffer, bytes, 131072);
    assert_int_equal(read_at(&model, 196608, buffer, MIB), MIB - 196608);
    assert_memory_equal(buffer, bytes, MIB - 196608);
    /* To SEEK it is data: nobody may take it for zeros. */
    assert_int_equal(frozen_disk_seek(model.disk, 131072, SEEK_DATA), 131072);
    free(bytes);
    free(buffer);
    model_close(&model);
}

static void a_compressed_cluster_that_is_damaged_fails_alone(void **state)
{
    struct model model = {.depth = 1};
    model.layers[0] = fake_layer_new(MIB, 65536);
    unsigned char *cluster = malloc(65536), *buffer = malloc(MIB);
    memset(cluster, 'c', 65536);
    for (uint64_t guest = 0; guest < MIB; guest += 65536)
        fake_layer_add_compressed(model.layers[0], guest, cluster);
    assert_int_equal(
        pwrite(model.layers[0]->base.data_fd, "\xff\xff\xff", 3, (off_t)model.layers[0]->extents[5].offset),
        3);
    model.layers[0]->extents[7].compressed_length = 0;
    model.layers[0]->extents[8].compressed_length = 131073;
    model.layers[0]->extents[9].offset = 10 * MIB;
    /* Counted in sectors, the last one may end beyond the file: no damage. */
    model.layers[0]->extents[15].compressed_length += 300;
    model_open(&model, 8 * MIB, 2);
    assert_int_equal(read_at(&model, 0, buffer, MIB), -EIO);
    for (uint64_t i = 0; i < 16; i++) {
        bool bad = i == 5 || (i >= 7 && i <= 9);
        assert_int_equal(read_at(&model, i * 65536 + 3, buffer, 100), bad ? -EIO : 100);
        if (!bad)
            assert_memory_equal(buffer, cluster, 100);
    }
    free(cluster);
    free(buffer);
    model_close(&model);
}

static void a_file_that_became_shorter_fails_where_it_ends(void **state)
{
    struct model model = {.depth = 1};
    model.layers[0] = fake_layer_new(MIB, 65536);
    unsigned char *bytes = malloc(MIB), *buffer = malloc(MIB);
    memset(bytes, 'b', MIB);
    fake_layer_add_data(model.layers[0], 0, bytes, MIB);
    model_open(&model, MIB, 0);
    assert_int_equal(ftruncate(model.layers[0]->base.data_fd, 500000), 0);
    assert_int_equal(read_at(&model, 0, buffer, MIB), -EIO);
    assert_int_equal(read_at(&model, 499999, buffer, 2), -EIO);
    assert_int_equal(read_at(&model, 499999, buffer, 1), 1);
    /* When the snapshot was deleted, that is what happened. */
    model.layers[0]->check_result = -ESTALE;
    assert_int_equal(read_at(&model, 499999, buffer, 2), -ESTALE);
    free(bytes);
    free(buffer);
    model_close(&model);
}

static void tables_that_can_not_be_read_are_tried_again(void **state)
{
    struct model model = {.depth = 2};
    model.layers[0] = fake_layer_new(MIB, 65536);
    model.layers[1] = fake_layer_new(MIB, 65536);
    unsigned char buffer[10];
    model_open(&model, MIB, 0);
    model.layers[1]->walk_result = -EIO;
    assert_int_equal(read_at(&model, 0, buffer, 10), -EIO);
    assert_int_equal(frozen_disk_seek(model.disk, 0, SEEK_DATA), -EIO);
    model.layers[1]->walk_result = -ENOMEM;
    assert_int_equal(read_at(&model, 0, buffer, 10), -ENOMEM);
    model.layers[1]->walk_result = 0;
    assert_int_equal(read_at(&model, 0, buffer, 10), 10);
    model_close(&model);
}

static void beyond_the_end_there_is_nothing(void **state)
{
    struct model model = {.depth = 1};
    model.layers[0] = fake_layer_new(MIB + 512, 65536);
    unsigned char buffer[1024];
    model_open(&model, MIB, 0);
    assert_int_equal(read_at(&model, MIB, buffer, 1024), 512);
    assert_int_equal(read_at(&model, MIB + 511, buffer, 1024), 1);
    assert_int_equal(read_at(&model, MIB + 512, buffer, 1024), 0);
    assert_int_equal(read_at(&model, UINT64_MAX, buffer, 1024), 0);
    assert_int_equal(read_at(&model, UINT64_MAX - 100, buffer, 1024), 0);
    assert_int_equal(read_at(&model, 0, buffer, 0), 0);
    assert_int_equal(frozen_disk_seek(model.disk, 0, SEEK_HOLE), 0);
    assert_int_equal(frozen_disk_seek(model.disk, 0, SEEK_DATA), -ENXIO);
    assert_int_equal(frozen_disk_seek(model.disk, 0, SEEK_CUR), -EINVAL);
    assert_int_equal(frozen_disk_seek(model.disk, UINT64_MAX, SEEK_HOLE), -ENXIO);
    assert_int_equal(frozen_disk_passthrough_fd(model.disk), -1);
    assert_false(frozen_disk_is_slow(model.disk));
    model_close(&model);
}

static void an_empty_disk_reads_as_empty(void **state)
{
    struct model model = {.depth = 1};
    model.layers[0] = fake_layer_new(0, 65536);
    unsigned char buffer[10];
    uint64_t bytes = 7;
    model_open(&model, MIB, 0);
    assert_int_equal(read_at(&model, 0, buffer, 10), 0);
    assert_int_equal(frozen_disk_seek(model.disk, 0, SEEK_DATA), -ENXIO);
    assert_int_equal(frozen_disk_count_allocated(model.disk, NULL, &bytes), 0);
    assert_int_equal(bytes, 0);
    model_close(&model);
}

static void passthrough_is_for_one_raw_file_of_the_right_size(void **state)
{
    static const struct layer_reader_ops raw = {
        .name = "raw", .walk = fake_walk, .check = fake_check, .free = fake_free};
    for (int kind = 0; kind < 4; kind++) {
        struct model model = {.depth = kind == 1 ? 2 : 1};
        for (size_t i = 0; i < model.depth; i++) {
            model.layers[i] = fake_layer_new(MIB, 0);
            model.layers[i]->base.ops = &raw;
            assert_int_equal(ftruncate(model.layers[i]->base.data_fd, kind == 2 ? MIB - 1 : MIB), 0);
        }
        model_open(&model, MIB, 0);
        model.layers[0]->check_result = kind == 3 ? -EIO : 0;
        int fd = frozen_disk_passthrough_fd(model.disk);
        assert_int_equal(fd, kind == 0 ? model.layers[0]->base.data_fd : -1);
        model_close(&model);
    }
}

static void what_was_allocated_is_counted(void **state)
{
    struct model model = {.depth = 2};
    model.layers[0] = fake_layer_new(MIB, 65536);
    model.layers[1] = fake_layer_new(MIB, 65536);
    unsigned char bytes[65536] = {1};
    fake_layer_add(model.layers[0], (struct extent){.guest = 65536, .length = 65536, .kind = EXTENT_ZERO});
    for (uint64_t i = 0; i < 5; i++)
        fake_layer_add_data(model.layers[1], i * 65536, bytes, 65536);
    model_open(&model, MIB, 0);
    uint64_t counted = 0;
    assert_int_equal(frozen_disk_count_allocated(model.disk, NULL, &counted), 0);
    assert_int_equal(counted, 4 * 65536);
    atomic_bool stop = true;
    assert_int_equal(frozen_disk_count_allocated(model.disk, &stop, &counted), -ECANCELED);
    assert_int_equal(frozen_disk_seek(model.disk, 0, SEEK_HOLE), 65536);
    assert_int_equal(frozen_disk_seek(model.disk, 65540, SEEK_DATA), 131072);
    assert_int_equal(frozen_disk_seek(model.disk, 131073, SEEK_HOLE), 5 * 65536);
    assert_int_equal(frozen_disk_seek(model.disk, 5 * 65536, SEEK_DATA), -ENXIO);
    model_close(&model);
}

static void a_piece_of_data_is_found_where_it_begins(void **state)
{
    struct model model = {.depth = 2};
    model.layers[0] = fake_layer_new(MIB, 65536);
    model.layers[1] = fake_layer_new(MIB, 65536);
    unsigned char bytes[65536] = {1};
    fake_layer_add_data(model.layers[0], 3 * 65536, bytes, 65536);
    fake_layer_add_data(model.layers[1], 0, bytes, 65536);
    fake_layer_add_data(model.layers[1], 4 * 65536, bytes, 65536);
    fake_layer_add_data(model.layers[1], MIB - 65536, bytes, 65536);
    model_open(&model, MIB, 0);
    assert_int_equal(frozen_disk_piece_end(model.disk, 0, MIB), 65536);
    assert_int_equal(frozen_disk_piece_end(model.disk, 3 * 65536, MIB), 5 * 65536); /* of two layers */
    assert_int_equal(frozen_disk_piece_end(model.disk, 3 * 65536, 2 * 65536), 5 * 65536);
    assert_int_equal(frozen_disk_piece_end(model.disk, 3 * 65536, 2 * 65536 - 1), 0); /* too long */
    assert_int_equal(frozen_disk_piece_end(model.disk, 4 * 65536, MIB), 0);           /* in its middle */
    assert_int_equal(frozen_disk_piece_end(model.disk, 65536, MIB), 0);               /* a hole */
    assert_int_equal(frozen_disk_piece_end(model.disk, MIB - 65536, UINT64_MAX), MIB);
    assert_int_equal(frozen_disk_piece_end(model.disk, MIB, MIB), 0);
    assert_int_equal(frozen_disk_piece_end(model.disk, UINT64_MAX, MIB), 0);
    model_close(&model);
}

int main(void)
{
    static unsigned seed;
    seed = fake_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(every_read_gives_what_the_layers_hold, &seed),
        cmocka_unit_test(the_cache_keeps_its_bound),
        cmocka_unit_test(a_stream_decompresses_each_cluster_once),
        cmocka_unit_test(the_next_clusters_are_decompressed_ahead),
        cmocka_unit_test(a_disk_may_be_freed_while_workers_run_ahead),
        cmocka_unit_test(runs_of_different_files_stay_apart),
        cmocka_unit_test(a_region_is_resolved_once_whatever_the_depth),
        cmocka_unit_test(only_the_top_and_the_layers_used_are_asked),
        cmocka_unit_test(a_read_that_touches_damage_fails_and_its_neighbours_do_not),
        cmocka_unit_test(a_compressed_cluster_that_is_damaged_fails_alone),
        cmocka_unit_test(a_file_that_became_shorter_fails_where_it_ends),
        cmocka_unit_test(tables_that_can_not_be_read_are_tried_again),
        cmocka_unit_test(beyond_the_end_there_is_nothing),
        cmocka_unit_test(an_empty_disk_reads_as_empty),
        cmocka_unit_test(passthrough_is_for_one_raw_file_of_the_right_size),
        cmocka_unit_test(what_was_allocated_is_counted),
        cmocka_unit_test(a_piece_of_data_is_found_where_it_begins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
