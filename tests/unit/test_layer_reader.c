// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * layer_reader.h: files opened as layers by their format, what they stand on, and what is found out when they
 * change. The opener for other formats is a stand-in here.
 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/layer_reader.h"
#include "image/qcow2_snapshot.h"
#include "qcow2_image.h"

#define CLUSTER_BITS 12
#define CLUSTER      UINT64_C(4096)
#define SIZE         (UINT64_C(1) << 20)

static unsigned foreign_opened;

int foreign_reader_open(const struct layer_request *request, int fd, struct layer_reader **reader,
                        struct error *err)
{
    foreign_opened++;
    assert_true(fd >= 0);
    return error_set(err, EOPNOTSUPP, "stand-in");
}

/* A source of files, and what may be opened. */
struct fixture {
    char directory[64];
    char outside[64];
    struct locate *locate;
};

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    strcpy(fixture->directory, "/tmp/vmsnapfs-layer-XXXXXX");
    strcpy(fixture->outside, "/tmp/vmsnapfs-layer-XXXXXX");
    assert_non_null(mkdtemp(fixture->directory));
    assert_non_null(mkdtemp(fixture->outside));
    assert_int_equal(locate_new(fixture->directory, NULL, 0, IMAGE_FORMAT_UNKNOWN, &fixture->locate, NULL),
                     0);
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    char command[200];
    locate_free(fixture->locate);
    snprintf(command, sizeof command, "rm -r -- '%s' '%s'", fixture->directory, fixture->outside);
    int ret = system(command);
    free(fixture);
    return ret;
}

static const char *path_of(const struct fixture *fixture, const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", fixture->directory, name);
    return path;
}

static void write_file(const char *path, const void *bytes, size_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, size, 0), size);
    close(fd);
}

static void write_image(const struct fixture *fixture, const char *name, const struct qcow2_image *image)
{
    write_file(path_of(fixture, name), image->bytes, image->size);
}

/* Makes the file at `path` older than it could be: somebody wrote to it. */
static void touch(const char *path)
{
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1600000000}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static struct file_identity identity_of(const char *path)
{
    struct stat stat_now;
    assert_int_equal(stat(path, &stat_now), 0);
    return file_identity_of(&stat_now);
}

static unsigned open_descriptors(void)
{
    unsigned count = 0;
    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static struct layer_reader *open_layer(const struct layer_request *request, struct image_reference *backing)
{
    struct layer_reader *reader = NULL;
    struct error err = {0};
    int ret = layer_reader_open(request, &reader, backing, &err);
    if (ret < 0)
        fail_msg("%s", err.text);
    return reader;
}

static void assert_refused(const struct layer_request *request, int code, const char *word)
{
    struct layer_reader *reader = (void *)0x5a;
    struct image_reference backing = {.path = (char *)0x5a};
    struct error err = {0};
    unsigned before = open_descriptors();
    assert_int_equal(layer_reader_open(request, &reader, &backing, &err), -code);
    assert_int_equal(err.code, code);
    if (!strstr(err.text, word) || !strstr(err.text, strrchr(request->path, '/')))
        fail_msg("\"%s\" does not say \"%s\", or not of which file", err.text, word);
    assert_ptr_equal(reader, (void *)0x5a);
    assert_ptr_equal(backing.path, (void *)0x5a);
    assert_int_equal(open_descriptors(), before);
}

struct visited {
    struct extent extents[16];
    size_t count;
};

static int visit(void *opaque, const struct extent *extent)
{
    struct visited *visited = opaque;
    assert_true(visited->count < 16);
    visited->extents[visited->count++] = *extent;
    return 0;
}

static void walk(struct layer_reader *reader, uint64_t offset, uint64_t length, struct visited *visited)
{
    *visited = (struct visited){0};
    assert_int_equal(reader->ops->walk(reader, offset, length, visit, visited), 0);
}

/* A disk of SIZE with one L2 table of 512 entries at *l2, and `count` clusters of data behind it. */
static uint64_t start_image(struct qcow2_image *image, uint64_t features, unsigned count, uint64_t *l2)
{
    uint64_t l1 = image_start(image, 3, CLUSTER_BITS, SIZE, features);
    *l2 = image_add_clusters(image, 1);
    put64(image, l1, *l2);
    return image_add_clusters(image, count);
}

static void formats_are_dispatched(void **state)
{
    struct fixture *fixture = *state;
    struct image_reference backing;
    write_file(path_of(fixture, "a.img"), "data", 4);
    struct layer_request request = {
        .locate = fixture->locate, .path = path_of(fixture, "a.img"), .format = IMAGE_FORMAT_RAW};
    struct layer_reader *reader = open_layer(&request, &backing);
    assert_string_equal(reader->ops->name, "raw");
    assert_null(backing.path);
    layer_reader_free(reader);
    layer_reader_free(NULL);

    request.format = IMAGE_FORMAT_VMDK;
    foreign_opened = 0;
    struct error err;
    assert_int_equal(layer_reader_open(&request, &reader, &backing, &err), -EOPNOTSUPP);
    assert_int_equal(foreign_opened, 1);
    request.format = IMAGE_FORMAT_LUKS;
    assert_refused(&request, EOPNOTSUPP, "encrypted");
    request.format = IMAGE_FORMAT_UNKNOWN;
    assert_refused(&request, EINVAL, "format");
    request.format = IMAGE_FORMAT_QCOW2;
    assert_refused(&request, EINVAL, "qcow2");
    struct internal_snapshot internal = {.id = (char *)"1", .name = (char *)"a"};
    request.internal = &internal;
    request.format = IMAGE_FORMAT_RAW;
    assert_refused(&request, EINVAL, "internal");
    request.path = path_of(fixture, "none.img");
    request.internal = NULL;
    assert_refused(&request, ENOENT, "none.img");
}

static void what_was_frozen_must_be_what_it_was(void **state)
{
    struct fixture *fixture = *state;
    struct image_reference backing;
    struct qcow2_image image;
    uint64_t l2;
    start_image(&image, 0, 1, &l2);
    write_image(fixture, "a.qcow2", &image);
    image_done(&image);
    const char *path = path_of(fixture, "a.qcow2");
    for (unsigned i = 0; i < 2; i++) {
        struct file_identity expected = identity_of(path);
        struct layer_request request = {.locate = fixture->locate,
                                        .path = path,
                                        .format = i ? IMAGE_FORMAT_QCOW2 : IMAGE_FORMAT_RAW,
                                        .expected = &expected};
        expected.device++;
        expected.inode++;
        struct layer_reader *reader = open_layer(&request, &backing);
        assert_int_equal(reader->ops->check(reader), 0);
        struct file_identity before = expected;
        expected.size++;
        assert_refused(&request, EIO, "changed by someone else");
        expected = before;
        touch(path);
        assert_int_equal(reader->ops->check(reader), -EIO);
        layer_reader_free(reader);
        assert_refused(&request, EIO, "changed by someone else");
        struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_NOW}};
        assert_int_equal(utimensat(AT_FDCWD, path_of(fixture, "a.qcow2"), times, 0), 0);
    }
}

static void a_backing_file_is_told(void **state)
{
    struct fixture *fixture = *state;
    struct qcow2_image image;
    uint64_t l2;
    uint64_t data = start_image(&image, 0, 1, &l2);
    put64(&image, l2 + 8, data);
    image_put_extension(&image, 112, 0xe2792aca, "raw", 3);
    image_put(&image, 1000, "base", 4);
    put64(&image, 8, 1000);
    put32(&image, 16, 4);
    write_image(fixture, "a.qcow2", &image);

    struct image_reference backing;
    struct layer_request request = {
        .locate = fixture->locate, .path = path_of(fixture, "a.qcow2"), .format = IMAGE_FORMAT_QCOW2};
    struct layer_reader *reader = open_layer(&request, &backing);
    assert_string_equal(reader->ops->name, "qcow2");
    assert_string_equal(reader->path, request.path);
    assert_int_equal(reader->size, SIZE);
    assert_int_equal(reader->smallest_unit, CLUSTER);
    assert_int_equal(reader->cluster_size, CLUSTER);
    assert_int_equal(reader->compressed_guest_mask, CLUSTER - 1);
    assert_int_equal(reader->compression, COMPRESSION_DEFLATE);
    assert_int_equal(backing.format, IMAGE_FORMAT_RAW);
    assert_string_equal(backing.path, path_of(fixture, "base"));
    struct visited visited;
    walk(reader, 0, SIZE, &visited);
    assert_int_equal(visited.count, 3);
    assert_int_equal(visited.extents[1].offset, data);
    /* Not beyond the disk. */
    walk(reader, SIZE - 10, UINT64_MAX - SIZE, &visited);
    assert_int_equal(visited.count, 1);
    assert_int_equal(visited.extents[0].length, 10);
    walk(reader, SIZE, 1, &visited);
    assert_int_equal(visited.count, 0);
    layer_reader_free(reader);
    image_reference_done(&backing);

    /* Nothing says what format it has. */
    image_put_extension(&image, 112, 0, NULL, 0);
    write_image(fixture, "a.qcow2", &image);
    request.path = path_of(fixture, "a.qcow2");
    assert_refused(&request, EINVAL, "format");
    image_done(&image);
}

static void encrypted_images_are_refused(void **state)
{
    struct fixture *fixture = *state;
    struct qcow2_image image;
    uint64_t l2;
    start_image(&image, 0, 1, &l2);
    put32(&image, 32, 2);
    write_image(fixture, "a.qcow2", &image);
    image_done(&image);
    struct layer_request request = {
        .locate = fixture->locate, .path = path_of(fixture, "a.qcow2"), .format = IMAGE_FORMAT_QCOW2};
    assert_refused(&request, EOPNOTSUPP, "encrypted");
}

/* An image with the internal snapshot `s`, which has a disk and an L1 table of its own. */
static const struct image_snapshot snapshot = {
    .id = "1", .name = "s", .l1_size = 1, .date_sec = 1, .disk_size = SIZE / 2, .extra_bytes = 16};

static uint64_t start_snapshot_image(struct qcow2_image *image, struct internal_snapshot *internal)
{
    uint64_t l2;
    struct image_snapshot placed = snapshot;
    uint64_t data = start_image(image, 0, 3, &l2);
    put64(image, l2, data);
    uint64_t l1 = image_add_clusters(image, 1), other_l2 = image_add_clusters(image, 1);
    put64(image, l1, other_l2);
    put64(image, other_l2, data + CLUSTER);
    put64(image, other_l2 + 8, data + 2 * CLUSTER);
    placed.l1_table_offset = l1;
    uint64_t table = image_add_clusters(image, 1);
    image_put_snapshot(image, table, &placed);
    image_set_snapshots(image, table, 1);
    *internal = (struct internal_snapshot){.id = (char *)"1",
                                           .name = (char *)"s",
                                           .l1_table_offset = l1,
                                           .l1_size = 1,
                                           .date_sec = 1,
                                           .disk_size = SIZE / 2};
    return data;
}

static void an_internal_snapshot_is_read_until_it_is_gone(void **state)
{
    struct fixture *fixture = *state;
    struct qcow2_image image;
    struct internal_snapshot internal;
    struct image_reference backing;
    struct visited visited;
    uint64_t data = start_snapshot_image(&image, &internal);
    write_image(fixture, "a.qcow2", &image);
    struct layer_request request = {.locate = fixture->locate,
                                    .path = path_of(fixture, "a.qcow2"),
                                    .format = IMAGE_FORMAT_QCOW2,
                                    .internal = &internal};
    struct layer_reader *reader = open_layer(&request, &backing);
    assert_int_equal(reader->size, SIZE / 2);
    walk(reader, 0, 2 * CLUSTER, &visited);
    assert_int_equal(visited.count, 1);
    assert_int_equal(visited.extents[0].offset, data + CLUSTER);
    assert_int_equal(reader->ops->check(reader), 0);

    /* The guest goes on writing. */
    image_add_clusters(&image, 10);
    write_image(fixture, "a.qcow2", &image);
    touch(path_of(fixture, "a.qcow2"));
    assert_int_equal(reader->ops->check(reader), 0);

    image_set_snapshots(&image, 0, 0);
    write_image(fixture, "a.qcow2", &image);
    assert_int_equal(reader->ops->check(reader), -ESTALE);
    request.path = path_of(fixture, "a.qcow2");
    assert_refused(&request, ESTALE, "\"s\"");
    image.bytes[20] = 0x7f;
    write_image(fixture, "a.qcow2", &image);
    assert_true(reader->ops->check(reader) < 0);
    layer_reader_free(reader);
    image_done(&image);
}

static void an_internal_snapshot_of_a_frozen_image(void **state)
{
    struct fixture *fixture = *state;
    struct qcow2_image image;
    struct internal_snapshot internal;
    struct image_reference backing;
    start_snapshot_image(&image, &internal);
    write_image(fixture, "a.qcow2", &image);
    struct file_identity expected = identity_of(path_of(fixture, "a.qcow2"));
    struct layer_request request = {.locate = fixture->locate,
                                    .path = path_of(fixture, "a.qcow2"),
                                    .format = IMAGE_FORMAT_QCOW2,
                                    .internal = &internal,
                                    .expected = &expected};
    struct layer_reader *reader = open_layer(&request, &backing);
    assert_int_equal(reader->size, SIZE / 2);
    assert_int_equal(reader->ops->check(reader), 0);
    touch(path_of(fixture, "a.qcow2"));
    assert_int_equal(reader->ops->check(reader), -EIO);
    layer_reader_free(reader);
    image_done(&image);
}

/* What is cut off reads as zeros, which nobody wrote. What the snapshot does not need may go. */
static void an_image_that_was_cut_off_is_found_out(void **state)
{
    struct fixture *fixture = *state;
    struct qcow2_image image;
    struct internal_snapshot internal;
    struct image_reference backing;
    struct visited visited;
    uint64_t l2;
    struct image_snapshot placed = snapshot;
    start_image(&image, 0, 1, &l2);
    placed.l1_table_offset = image_add_clusters(&image, 1);
    uint64_t snapshot_l2 = image_add_clusters(&image, 1), table = image_add_clusters(&image, 1);
    put64(&image, placed.l1_table_offset, snapshot_l2);
    image_put_snapshot(&image, table, &placed);
    image_set_snapshots(&image, table, 1);
    uint64_t data = image_add_clusters(&image, 4);
    put64(&image, snapshot_l2, data);
    put64(&image, snapshot_l2 + 8, data + CLUSTER);
    put64(&image, snapshot_l2 + 16, data + 2 * CLUSTER);
    write_image(fixture, "a.qcow2", &image);
    internal = (struct internal_snapshot){.id = (char *)"1",
                                          .name = (char *)"s",
                                          .l1_table_offset = placed.l1_table_offset,
                                          .l1_size = 1,
                                          .date_sec = 1,
                                          .disk_size = SIZE / 2};
    struct layer_request request = {.locate = fixture->locate,
                                    .path = path_of(fixture, "a.qcow2"),
                                    .format = IMAGE_FORMAT_QCOW2,
                                    .internal = &internal};
    struct layer_reader *reader = open_layer(&request, &backing);
    walk(reader, 0, 2 * CLUSTER, &visited);
    assert_int_equal(truncate(request.path, (off_t)(data + 3 * CLUSTER)), 0);
    assert_int_equal(reader->ops->check(reader), 0);
    assert_int_equal(truncate(request.path, (off_t)(data + CLUSTER + 1)), 0);
    assert_int_equal(reader->ops->check(reader), 0);
    assert_int_equal(truncate(request.path, (off_t)(data + CLUSTER)), 0);
    assert_int_equal(reader->ops->check(reader), -EIO);
    assert_int_equal(truncate(request.path, (off_t)table), 0);
    assert_int_equal(reader->ops->check(reader), -EIO);
    assert_int_equal(truncate(request.path, 0), 0);
    assert_int_equal(reader->ops->check(reader), -EIO);
    layer_reader_free(reader);
    image_done(&image);
}

static void data_in_another_file(void **state)
{
    struct fixture *fixture = *state;
    struct qcow2_image image;
    struct image_reference backing;
    struct visited visited;
    uint64_t l2;
    char data[4 * CLUSTER] = "data";
    start_image(&image, FEATURE_EXTERNAL_DATA, 0, &l2);
    put64(&image, l2, COPIED);
    put64(&image, l2 + 16, (2 * CLUSTER) | COPIED);
    write_image(fixture, "a.qcow2", &image);
    struct layer_request request = {
        .locate = fixture->locate, .path = path_of(fixture, "a.qcow2"), .format = IMAGE_FORMAT_QCOW2};
    assert_refused(&request, EINVAL, "does not say");

    uint64_t at = image_put_extension(&image, 112, 0x44415441, "a.data", 6);
    write_image(fixture, "a.qcow2", &image);
    request.path = path_of(fixture, "a.qcow2");
    assert_refused(&request, ENOENT, "a.data");

    write_file(path_of(fixture, "a.data"), data, sizeof data);
    request.path = path_of(fixture, "a.qcow2");
    unsigned before = open_descriptors();
    struct layer_reader *reader = open_layer(&request, &backing);
    assert_int_equal(open_descriptors(), before + 2);
    walk(reader, 0, SIZE, &visited);
    assert_int_equal(visited.count, 4);
    assert_int_equal(visited.extents[0].kind, EXTENT_DATA);
    assert_int_equal(visited.extents[0].offset, 0);
    assert_int_equal(visited.extents[2].offset, 2 * CLUSTER);
    char read[4];
    assert_int_equal(pread(reader->data_fd, read, 4, 0), 4);
    assert_memory_equal(read, "data", 4);
    assert_int_equal(reader->ops->check(reader), 0);
    touch(path_of(fixture, "a.data"));
    assert_int_equal(reader->ops->check(reader), -EIO);
    layer_reader_free(reader);
    assert_int_equal(open_descriptors(), before);

    struct internal_snapshot internal = {.id = (char *)"1", .name = (char *)"s", .l1_size = 1};
    uint64_t table = image_add_clusters(&image, 1);
    image_put_snapshot(&image, table,
                       &(struct image_snapshot){.id = "1", .name = "s", .l1_size = 1, .extra_bytes = 16});
    image_set_snapshots(&image, table, 1);
    write_image(fixture, "a.qcow2", &image);
    request.path = path_of(fixture, "a.qcow2");
    request.internal = &internal;
    assert_refused(&request, EOPNOTSUPP, "internal snapshots");
    request.internal = NULL;

    /* Not one byte of a file outside. */
    char outside[100];
    snprintf(outside, sizeof outside, "%s/secret", fixture->outside);
    write_file(outside, "secret", 6);
    image_put_extension(&image, 112, 0x44415441, outside, (uint32_t)strlen(outside));
    assert_true(at > 0);
    write_image(fixture, "a.qcow2", &image);
    request.path = path_of(fixture, "a.qcow2");
    assert_refused(&request, EPERM, "secret");
    image_done(&image);
}

static void damage_is_told_with_the_file(void **state)
{
    struct fixture *fixture = *state;
    struct qcow2_image image;
    uint64_t l2;
    struct layer_request request = {.locate = fixture->locate, .format = IMAGE_FORMAT_QCOW2};
    start_image(&image, 0, 1, &l2);
    put64(&image, 40, 0x123);
    write_image(fixture, "a.qcow2", &image);
    request.path = path_of(fixture, "a.qcow2");
    assert_refused(&request, EINVAL, "L1 table at 0x123");
    put64(&image, 72, UINT64_C(1) << 9);
    write_image(fixture, "a.qcow2", &image);
    request.path = path_of(fixture, "a.qcow2");
    assert_refused(&request, EOPNOTSUPP, "bit 9");
    image_done(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(formats_are_dispatched, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_was_frozen_must_be_what_it_was, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_backing_file_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(encrypted_images_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_internal_snapshot_is_read_until_it_is_gone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_internal_snapshot_of_a_frozen_image, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_image_that_was_cut_off_is_found_out, set_up, tear_down),
        cmocka_unit_test_setup_teardown(data_in_another_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damage_is_told_with_the_file, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
