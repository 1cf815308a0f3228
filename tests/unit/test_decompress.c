// SPDX-License-Identifier: LGPL-2.1-or-later
/* decompress.h: every cluster size, streams that QEMU takes, and streams that lie. */
#include "unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "io/decompress.h"

#define CLUSTER_MAX (2 * MIB)
#define ROOM        (CLUSTER_MAX + CLUSTER_MAX / 2)

static unsigned char *plain;  /* CLUSTER_MAX + 1 bytes */
static unsigned char *packed; /* ROOM */
static unsigned char *output; /* ROOM */

static int set_up(void **state)
{
    plain = malloc(CLUSTER_MAX + 1);
    packed = malloc(ROOM);
    output = malloc(ROOM);
    unsigned seed = 1;
    for (size_t i = 0; i <= CLUSTER_MAX; i++) /* some of it can be compressed */
        plain[i] = (unsigned char)(i % 97 < 60 ? i / 64 : (unsigned)rand_r(&seed));
    return plain && packed && output ? 0 : -1;
}

static int tear_down(void **state)
{
    free(plain);
    free(packed);
    free(output);
    return 0;
}

/* As QEMU does it, window included; ended by `flush`. */
static size_t deflate_bytes(const void *input, size_t size, int flush)
{
    z_stream stream = {0};
    assert_int_equal(deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY),
                     Z_OK);
    stream.next_in = (unsigned char *)(uintptr_t)input;
    stream.avail_in = (uInt)size;
    stream.next_out = packed;
    stream.avail_out = (uInt)ROOM;
    assert_int_equal(deflate(&stream, flush), flush == Z_FINISH ? Z_STREAM_END : Z_OK);
    size_t length = ROOM - stream.avail_out;
    deflateEnd(&stream);
    return length;
}

static size_t zstd_bytes(const void *input, size_t size, size_t at)
{
    size_t length = ZSTD_compress(packed + at, ROOM - at, input, size, 3);
    assert_false(ZSTD_isError(length));
    return length;
}

static size_t pack(enum compression type, size_t size)
{
    return type == COMPRESSION_ZSTD ? zstd_bytes(plain, size, 0) : deflate_bytes(plain, size, Z_FINISH);
}

/* Decompresses, and checks that nothing was written beyond the output. */
static int unpack(enum compression type, size_t packed_size, size_t size)
{
    /* A copy of exactly that length, so that reading beyond it is found. */
    cleanup_free void *input = malloc(packed_size ? packed_size : 1);
    assert_non_null(input);
    memcpy(input, packed, packed_size);
    memset(output, 0xee, ROOM);
    int rc = decompress_cluster(type, input, packed_size, output, size);
    for (size_t i = size; i < size + 4096; i++)
        assert_int_equal(output[i], 0xee);
    return rc;
}

static const enum compression types[] = {COMPRESSION_DEFLATE, COMPRESSION_ZSTD};

static void every_cluster_size_comes_back(void **state)
{
    for (size_t t = 0; t < 2; t++)
        for (size_t size = 512; size <= CLUSTER_MAX; size *= 2) {
            size_t length = pack(types[t], size);
            assert_int_equal(unpack(types[t], length, size), 0);
            assert_memory_equal(output, plain, size);
        }
}

static void bytes_after_the_stream_do_not_matter(void **state)
{
    for (size_t t = 0; t < 2; t++)
        for (int filler = 0; filler < 256; filler += 51) {
            size_t length = pack(types[t], 65536);
            memset(packed + length, filler, 700);
            assert_int_equal(unpack(types[t], length + 700, 65536), 0);
            assert_memory_equal(output, plain, 65536);
        }
}

static void too_much_is_refused(void **state)
{
    for (size_t t = 0; t < 2; t++) {
        size_t length = pack(types[t], 65537);
        assert_int_equal(unpack(types[t], length, 65536), -EIO);
        length = pack(types[t], CLUSTER_MAX);
        assert_int_equal(unpack(types[t], length, 512), -EIO);
    }
}

static void too_little_is_refused(void **state)
{
    for (size_t t = 0; t < 2; t++) {
        size_t length = pack(types[t], 65535);
        assert_int_equal(unpack(types[t], length, 65536), -EIO);
        length = pack(types[t], 0);
        assert_int_equal(unpack(types[t], length, 65536), -EIO);
    }
}

static void a_stream_that_breaks_off_is_refused(void **state)
{
    for (size_t t = 0; t < 2; t++) {
        size_t length = pack(types[t], 65536);
        for (size_t kept = 0; kept < length - 8; kept += 999)
            assert_int_equal(unpack(types[t], kept, 65536), -EIO);
    }
}

static void garbage_is_refused(void **state)
{
    unsigned seed = 7;
    for (size_t i = 0; i < 70000; i++)
        packed[i] = (unsigned char)rand_r(&seed);
    for (size_t t = 0; t < 2; t++)
        for (size_t length = 1; length < 70000; length = length * 3 + 1)
            assert_int_equal(unpack(types[t], length, 65536), -EIO);
    memset(packed, 0, 512);
    for (size_t t = 0; t < 2; t++)
        assert_int_equal(unpack(types[t], 512, 65536), -EIO);
    assert_int_equal(decompress_cluster((enum compression)9, packed, 512, output, 512), -EIO);
}

/* QEMU takes what came out whole, though the stream never says that it ends (Z_BUF_ERROR, avail_out 0). */
static void a_deflate_stream_without_end_is_taken_if_the_cluster_is_whole(void **state)
{
    size_t length = deflate_bytes(plain, 65536, Z_SYNC_FLUSH);
    assert_int_equal(unpack(COMPRESSION_DEFLATE, length, 65536), 0);
    assert_memory_equal(output, plain, 65536);
    memset(packed + length, 0, 512); /* as it lies in a sector */
    assert_int_equal(unpack(COMPRESSION_DEFLATE, length + 512, 65536), 0);
    assert_memory_equal(output, plain, 65536);
    assert_int_equal(unpack(COMPRESSION_DEFLATE, length, 65535), -EIO);
    assert_int_equal(unpack(COMPRESSION_DEFLATE, length, 65537), -EIO);
}

static void a_cluster_may_be_several_zstd_frames(void **state)
{
    size_t length = zstd_bytes(plain, 1000, 0);
    length += zstd_bytes(plain, 0, length);
    length += zstd_bytes(plain + 1000, 64536, length);
    assert_int_equal(unpack(COMPRESSION_ZSTD, length, 65536), 0);
    assert_memory_equal(output, plain, 65536);
    assert_int_equal(unpack(COMPRESSION_ZSTD, length, 65535), -EIO);
    assert_int_equal(unpack(COMPRESSION_ZSTD, length, 65537), -EIO);
}

/* The header of a frame may ask for a window of 2 GiB and more. */
static void a_zstd_frame_that_claims_a_huge_window_costs_no_memory(void **state)
{
    static const unsigned char frame[] = {0x28, 0xb5, 0x2f, 0xfd, /* magic number */
                                          0x00,                   /* no content size, window follows */
                                          0xa8,                   /* 2^31 bytes */
                                          0x03, 0x10, 0x00, /* last block, one byte repeated 512 times */
                                          'x'};
    memcpy(packed, frame, sizeof frame);
    assert_int_equal(unpack(COMPRESSION_ZSTD, sizeof frame, 512), 0);
    assert_int_equal(output[0], 'x');
    assert_int_equal(output[511], 'x');
}

static void *in_a_thread(void *opaque)
{
    bool *good = opaque;
    unsigned char *own = malloc(65536);
    for (int i = 0; own && i < 50; i++)
        *good &= decompress_cluster(COMPRESSION_ZSTD, packed, *(size_t *)(void *)output, own, 65536) == 0 &&
                 memcmp(own, plain, 65536) == 0;
    free(own);
    return NULL;
}

static void threads_have_decompressors_of_their_own(void **state)
{
    size_t length = zstd_bytes(plain, 65536, 0);
    memcpy(output, &length, sizeof length);
    bool good[4] = {true, true, true, true};
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, in_a_thread, &good[i]), 0);
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_true(good[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_cluster_size_comes_back),
        cmocka_unit_test(bytes_after_the_stream_do_not_matter),
        cmocka_unit_test(too_much_is_refused),
        cmocka_unit_test(too_little_is_refused),
        cmocka_unit_test(a_stream_that_breaks_off_is_refused),
        cmocka_unit_test(garbage_is_refused),
        cmocka_unit_test(a_deflate_stream_without_end_is_taken_if_the_cluster_is_whole),
        cmocka_unit_test(a_cluster_may_be_several_zstd_frames),
        cmocka_unit_test(a_zstd_frame_that_claims_a_huge_window_costs_no_memory),
        cmocka_unit_test(threads_have_decompressors_of_their_own),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
