// SPDX-License-Identifier: LGPL-2.1-or-later
/* qcow2_header.h: what is read, what is refused and how, and that no byte of a header does harm. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "image/qcow2_header.h"
#include "qcow2_image.h"

#define CLUSTER_BITS 16
#define SIZE         (UINT64_C(1) << 30)

/* Reads, and checks what holds for every header that is accepted or refused. */
static int read_header(const struct qcow2_image *image, struct qcow2_header *header, struct error *err)
{
    struct byte_source source = image_source(image);
    struct qcow2_header untouched;
    memset(header, 0x5a, sizeof *header);
    memcpy(&untouched, header, sizeof untouched);
    *err = (struct error){0};
    int ret = qcow2_header_read(&source, header, err);
    if (ret < 0) {
        assert_true(ret == -EINVAL || ret == -EOPNOTSUPP);
        assert_int_equal(err->code, -ret);
        assert_true(strlen(err->text) > 0);
        assert_memory_equal(header, &untouched, sizeof untouched);
    } else {
        assert_int_equal(ret, 0);
        assert_in_range(header->cluster_bits, QCOW2_CLUSTER_BITS_MIN, QCOW2_CLUSTER_BITS_MAX);
        assert_true(header->version == 2 || header->version == 3);
        assert_true(header->l1_size <= QCOW2_L1_BYTES_MAX / 8);
        assert_true(header->size <= UINT64_C(1) << 61);
        assert_int_equal(header->size % 512, 0);
        assert_true(!header->backing_name || (*header->backing_name && strlen(header->backing_name) <= 1023));
        assert_true(!header->backing_format || strlen(header->backing_format) <= 15);
    }
    return ret;
}

static void assert_refused(const struct qcow2_image *image, int code, const char *word)
{
    struct qcow2_header header;
    struct error err;
    assert_int_equal(read_header(image, &header, &err), -code);
    if (!strstr(err.text, word))
        fail_msg("\"%s\" does not say \"%s\"", err.text, word);
}

static void version_2_is_72_bytes(void **state)
{
    struct qcow2_image image;
    struct qcow2_header header;
    struct error err;
    uint64_t l1 = image_start(&image, 2, CLUSTER_BITS, SIZE, 0);
    /* What version 3 has here means nothing in version 2. */
    put64(&image, 72, 0);
    image_set_snapshots(&image, 0x50000, 7);
    assert_int_equal(read_header(&image, &header, &err), 0);
    assert_int_equal(header.version, 2);
    assert_int_equal(header.cluster_bits, CLUSTER_BITS);
    assert_int_equal(header.size, SIZE);
    assert_int_equal(header.l1_size, 2);
    assert_int_equal(header.l1_table_offset, l1);
    assert_int_equal(header.refcount_table_offset, 1 << CLUSTER_BITS);
    assert_int_equal(header.refcount_table_clusters, 1);
    assert_int_equal(header.refcount_order, 4);
    assert_int_equal(header.snapshot_count, 7);
    assert_int_equal(header.snapshots_offset, 0x50000);
    assert_int_equal(header.compression, COMPRESSION_DEFLATE);
    assert_false(header.extended_l2 || header.dirty || header.corrupt || header.encrypted);
    assert_false(header.external_data || header.external_data_raw);
    assert_null(header.backing_name);
    assert_null(header.backing_format);
    assert_null(header.data_name);
    qcow2_header_done(&header);
    image_done(&image);
}

static void names_and_features_of_version_3(void **state)
{
    struct qcow2_image image;
    struct qcow2_header header;
    struct error err;
    image_start(&image, 3, CLUSTER_BITS, SIZE,
                FEATURE_DIRTY | FEATURE_CORRUPT | FEATURE_EXTERNAL_DATA | FEATURE_COMPRESSION |
                    FEATURE_EXTENDED_L2);
    image.bytes[104] = 1;
    put64(&image, 80, 1); /* lazy refcounts */
    put64(&image, 88, 3); /* bitmaps, raw external data */
    uint64_t at = image_put_extension(&image, 112, 0x23852875, "bitmaps, which mean nothing", 24);
    at = image_put_extension(&image, at, 0xe2792aca, "qcow2", 5);
    at = image_put_extension(&image, at, 0x12345678, "unknown", 7);
    at = image_put_extension(&image, at, 0x44415441, "data.raw", 8);
    at = image_put_extension(&image, at, 0, NULL, 0);
    /* Behind the end of the area: not read. */
    image_put_extension(&image, at, 0x44415441, "other.raw", 9);
    image_put(&image, 1000, "dir/base.qcow2 and more", 23);
    put64(&image, 8, 1000);
    put32(&image, 16, 14);
    assert_int_equal(read_header(&image, &header, &err), 0);
    assert_true(header.dirty && header.corrupt && header.external_data && header.external_data_raw);
    assert_true(header.extended_l2);
    assert_false(header.encrypted);
    assert_int_equal(header.compression, COMPRESSION_ZSTD);
    assert_int_equal(header.incompatible_features, 0x1f);
    assert_string_equal(header.backing_name, "dir/base.qcow2");
    assert_string_equal(header.backing_format, "qcow2");
    assert_string_equal(header.data_name, "data.raw");
    qcow2_header_done(&header);
    image_done(&image);
}

static void a_backing_name_without_length_is_none(void **state)
{
    struct qcow2_image image;
    struct qcow2_header header;
    struct error err;
    image_start(&image, 3, CLUSTER_BITS, SIZE, 0);
    put64(&image, 8, 1000);
    assert_int_equal(read_header(&image, &header, &err), 0);
    assert_null(header.backing_name);
    qcow2_header_done(&header);
    image_done(&image);
}

/* The specification lets a header end anywhere after byte 104; QEMU wrote headers of 104 bytes for years. */
static void a_short_header_has_no_compression_type(void **state)
{
    struct qcow2_image image;
    struct qcow2_header header;
    struct error err;
    image_start(&image, 3, CLUSTER_BITS, SIZE, 0);
    put32(&image, 100, 104);
    image_put_extension(&image, 104, 0xe2792aca, "raw", 3);
    assert_int_equal(read_header(&image, &header, &err), 0);
    assert_string_equal(header.backing_format, "raw");
    assert_int_equal(header.compression, COMPRESSION_DEFLATE);
    qcow2_header_done(&header);
    image_done(&image);
}

static void any_encryption_is_told_not_refused(void **state)
{
    for (uint32_t method = 0; method < 4; method++) {
        struct qcow2_image image;
        struct qcow2_header header;
        struct error err;
        image_start(&image, 3, CLUSTER_BITS, SIZE, 0);
        put32(&image, 32, method);
        assert_int_equal(read_header(&image, &header, &err), 0);
        assert_int_equal(header.encrypted, method != 0);
        qcow2_header_done(&header);
        image_done(&image);
    }
}

static void unknown_features_are_named(void **state)
{
    struct qcow2_image image;
    uint8_t names[4 * 48] = {0};
    /* A compatible feature of the same bit, the right one, one with an impossible bit, one not set. */
    names[0] = 1, names[1] = 40;
    strcpy((char *)names + 2, "wrong type");
    names[48 + 1] = 40;
    memset(names + 48 + 2, 'N', 46); /* as long as it can be: no zero byte */
    names[48 + 3] = '\n';
    names[96 + 1] = 200;
    strcpy((char *)names + 96 + 2, "impossible bit");
    names[144 + 1] = 41;
    strcpy((char *)names + 144 + 2, "not set");
    image_start(&image, 3, CLUSTER_BITS, SIZE, UINT64_C(1) << 40 | UINT64_C(1) << 63);
    image_put_extension(&image, 112, 0x6803f857, names, sizeof names);
    struct qcow2_header header;
    struct error err;
    assert_int_equal(read_header(&image, &header, &err), -EOPNOTSUPP);
    assert_non_null(strstr(err.text, "\"N?NNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNN\""));
    assert_non_null(strstr(err.text, "bit 63"));
    assert_null(strstr(err.text, "wrong"));
    assert_null(strstr(err.text, "impossible"));
    assert_null(strstr(err.text, "not set"));
    image_done(&image);

    /* Without a table, or with one that lies about its length, they have their numbers. */
    image_start(&image, 3, CLUSTER_BITS, SIZE, UINT64_C(1) << 5);
    assert_refused(&image, EOPNOTSUPP, "bit 5");
    put32(&image, 112, 0x6803f857);
    put32(&image, 116, 0xfffffff0);
    assert_refused(&image, EOPNOTSUPP, "bit 5");
    image_done(&image);
}

/* What one number makes wrong: where it lies, how many bytes, its value, and what is said. */
static void a_wrong_field_is_refused(void **state)
{
    static const struct {
        unsigned offset, bytes;
        uint64_t value;
        int code;
        const char *word;
    } fields[] = {
        {0, 4, 0x514649fa, EINVAL, "no qcow2"},
        {4, 4, 0, EOPNOTSUPP, "version 0"},
        {4, 4, 1, EOPNOTSUPP, "version 1"},
        {4, 4, 4, EOPNOTSUPP, "version 4"},
        {8, 8, (1 << CLUSTER_BITS) + 1, EINVAL, "backing"},
        {8, 8, UINT64_MAX, EINVAL, "backing"},
        {20, 4, 8, EINVAL, "2^8"},
        {20, 4, 22, EINVAL, "2^22"},
        {20, 4, UINT32_MAX, EINVAL, "clusters"},
        {24, 8, SIZE + 1, EINVAL, "L1 table"},
        {24, 8, UINT64_MAX, EINVAL, "L1 table"},
        {36, 4, 1, EINVAL, "L1 table"},
        {36, 4, (32 << 20) / 8 + 1, EINVAL, "L1 table"},
        {36, 4, UINT32_MAX, EINVAL, "L1 table"},
        {72, 8, FEATURE_COMPRESSION, EINVAL, "compression"},
        {96, 4, 7, EINVAL, "refcounts"},
        {100, 4, 103, EINVAL, "103 bytes"},
        {100, 4, (1 << CLUSTER_BITS) + 1, EINVAL, "header of"},
        {104, 1, 1, EINVAL, "compression"},
        {104, 1, 2, EOPNOTSUPP, "method 2"},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        struct qcow2_image image;
        image_start(&image, 3, CLUSTER_BITS, SIZE, 0);
        image_put_number(&image, fields[i].offset, fields[i].value, fields[i].bytes);
        assert_refused(&image, fields[i].code, fields[i].word);
        image_done(&image);
    }
}

static void names_that_are_too_long_are_refused(void **state)
{
    char name[5000];
    memset(name, 'x', sizeof name);
    struct qcow2_image image;
    image_start(&image, 3, CLUSTER_BITS, SIZE, 0);
    put64(&image, 8, 1000);
    put32(&image, 16, 1024);
    assert_refused(&image, EINVAL, "1024");
    /* Not beyond the first cluster, which is all that a backing name may be in. */
    put64(&image, 8, (1 << CLUSTER_BITS) - 10);
    put32(&image, 16, 11);
    assert_refused(&image, EINVAL, "11 bytes");
    image_done(&image);

    image_start(&image, 3, CLUSTER_BITS, SIZE, 0);
    image_put_extension(&image, 112, 0xe2792aca, name, 16);
    assert_refused(&image, EINVAL, "16 bytes");
    image_put_extension(&image, 112, 0x44415441, name, 4096);
    assert_refused(&image, EINVAL, "4096 bytes");
    image_put_extension(&image, 112, 0x44415441, name, 4095);
    struct qcow2_header header;
    struct error err;
    assert_int_equal(read_header(&image, &header, &err), 0);
    assert_int_equal(strlen(header.data_name), 4095);
    qcow2_header_done(&header);
    image_done(&image);
}

static void an_extension_stays_in_its_area(void **state)
{
    struct qcow2_image image;
    image_start(&image, 3, CLUSTER_BITS, SIZE, 0);
    put32(&image, 112, 0x12345678);
    put32(&image, 116, (1 << CLUSTER_BITS) - 120 + 1);
    assert_refused(&image, EINVAL, "0x12345678");
    /* The name of the backing file ends the area. */
    put32(&image, 116, 900);
    put64(&image, 8, 1000);
    assert_refused(&image, EINVAL, "0x12345678");
    image_done(&image);
}

static void every_cluster_size_and_its_largest_disk(void **state)
{
    for (unsigned bits = 9; bits <= 21; bits++)
        for (unsigned extended = 0; extended < 2; extended++) {
            struct qcow2_image image;
            struct qcow2_header header;
            struct error err;
            uint64_t features = extended ? FEATURE_EXTENDED_L2 : 0;
            image_start(&image, 3, bits, 1 << 20, features);
            if (extended && bits < 14) {
                assert_refused(&image, EINVAL, "extended");
                image_done(&image);
                continue;
            }
            uint64_t largest = (UINT64_C(32) << 20) / 8 << (2 * bits - 3 - extended);
            put64(&image, 24, largest);
            put32(&image, 36, (32 << 20) / 8);
            assert_int_equal(read_header(&image, &header, &err), 0);
            assert_int_equal(header.size, largest);
            qcow2_header_done(&header);
            put64(&image, 24, largest + 1);
            assert_refused(&image, EINVAL, "L1 table");
            image_done(&image);
        }
}

/* QEMU counts disks in sectors and drops what is left over. */
static void a_size_is_whole_sectors(void **state)
{
    struct qcow2_image image;
    struct qcow2_header header;
    struct error err;
    image_start(&image, 3, CLUSTER_BITS, 1000, 0);
    assert_int_equal(read_header(&image, &header, &err), 0);
    assert_int_equal(header.size, 512);
    qcow2_header_done(&header);
    image_done(&image);
}

static void full_image(struct qcow2_image *image)
{
    uint8_t names[48] = {0, 0, 'd', 'i', 'r', 't', 'y'};
    image_start(image, 3, 9, 100 * 512, FEATURE_COMPRESSION);
    image->bytes[104] = 1;
    uint64_t at = image_put_extension(image, 112, 0xe2792aca, "qcow2", 5);
    at = image_put_extension(image, at, 0x6803f857, names, sizeof names);
    at = image_put_extension(image, at, 0x44415441, "data.raw", 8);
    at = image_put_extension(image, at, 0, NULL, 0);
    image_put(image, at, "base.qcow2", 10);
    put64(image, 8, at);
    put32(image, 16, 10);
}

static void no_byte_of_the_header_does_harm(void **state)
{
    struct qcow2_image image;
    full_image(&image);
    unsigned accepted = 0, refused = 0;
    for (size_t at = 0; at < 300; at++) {
        uint8_t good = image.bytes[at];
        for (unsigned value = 0; value < 256; value++) {
            struct qcow2_header header;
            struct error err;
            image.bytes[at] = (uint8_t)value;
            if (read_header(&image, &header, &err) == 0) {
                accepted++;
                qcow2_header_done(&header);
            } else {
                refused++;
            }
        }
        image.bytes[at] = good;
    }
    assert_true(accepted > 1000 && refused > 1000);
    image_done(&image);
}

static void no_length_of_the_file_does_harm(void **state)
{
    struct qcow2_image image;
    full_image(&image);
    size_t whole = image.size;
    for (size_t size = 0; size <= whole; size++) {
        struct qcow2_header header;
        struct error err;
        /* A copy of just this size, so that reading beyond it is found out. */
        struct qcow2_image cut = {.cluster_bits = image.cluster_bits};
        if (size)
            image_put(&cut, 0, image.bytes, size);
        int ret = read_header(&cut, &header, &err);
        if (size < 104)
            assert_int_equal(ret, -EINVAL);
        if (size == whole)
            assert_int_equal(ret, 0);
        if (ret == 0)
            qcow2_header_done(&header);
        image_done(&cut);
    }
    image_done(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(version_2_is_72_bytes),
        cmocka_unit_test(names_and_features_of_version_3),
        cmocka_unit_test(a_backing_name_without_length_is_none),
        cmocka_unit_test(a_short_header_has_no_compression_type),
        cmocka_unit_test(any_encryption_is_told_not_refused),
        cmocka_unit_test(unknown_features_are_named),
        cmocka_unit_test(a_wrong_field_is_refused),
        cmocka_unit_test(names_that_are_too_long_are_refused),
        cmocka_unit_test(an_extension_stays_in_its_area),
        cmocka_unit_test(every_cluster_size_and_its_largest_disk),
        cmocka_unit_test(a_size_is_whole_sectors),
        cmocka_unit_test(no_byte_of_the_header_does_harm),
        cmocka_unit_test(no_length_of_the_file_does_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
