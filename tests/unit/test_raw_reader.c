// SPDX-License-Identifier: LGPL-2.1-or-later
/* Raw images as layers: sizes, holes, and files that change under their reader. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/layer_reader.h"

#define PAGE UINT64_C(4096)

struct visited {
    struct extent extents[16];
    size_t count;
    uint64_t next;
};

static int visit(void *opaque, const struct extent *extent)
{
    struct visited *visited = opaque;
    assert_int_equal(extent->guest, visited->next);
    assert_true(extent->length > 0);
    assert_true(visited->count < 16);
    if (extent->kind == EXTENT_DATA)
        assert_int_equal(extent->offset, extent->guest);
    visited->next += extent->length;
    visited->extents[visited->count++] = *extent;
    return 0;
}

static void walk(struct layer_reader *reader, uint64_t offset, uint64_t length, struct visited *visited)
{
    *visited = (struct visited){.next = offset};
    assert_int_equal(reader->ops->walk(reader, offset, length, visit, visited), 0);
}

#define assert_extent(visited, index, kind_, guest_, length_)                                                \
    do {                                                                                                     \
        assert_true((index) < (visited)->count);                                                             \
        assert_int_equal((visited)->extents[index].kind, kind_);                                             \
        assert_int_equal((visited)->extents[index].guest, guest_);                                           \
        assert_int_equal((visited)->extents[index].length, length_);                                         \
    } while (0)

/* A file of this size with data at `data` (a page each, up to UINT64_MAX), open as a layer. */
static struct layer_reader *open_file(uint64_t size, const uint64_t *data)
{
    int fd = memfd_create("raw", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    for (; *data != UINT64_MAX; data++)
        assert_int_equal(pwrite(fd, "data", 4, (off_t)*data), 4);
    struct layer_request request = {.path = "/raw", .format = IMAGE_FORMAT_RAW};
    struct layer_reader *reader;
    assert_int_equal(raw_reader_open(&request, fd, &reader, NULL), 0);
    assert_int_equal(reader->data_fd, fd);
    assert_string_equal(reader->path, "/raw");
    return reader;
}

#define DATA(...) ((const uint64_t[]){__VA_ARGS__, UINT64_MAX})

static void a_disk_is_whole_sectors(void **state)
{
    struct visited visited;
    struct layer_reader *reader = open_file(1000, DATA(0));
    assert_int_equal(reader->size, 1024);
    walk(reader, 0, 1024, &visited);
    assert_int_equal(visited.count, 2);
    assert_extent(&visited, 0, EXTENT_DATA, 0, 1000);
    assert_extent(&visited, 1, EXTENT_ZERO, 1000, 24);
    walk(reader, 999, 2, &visited);
    assert_int_equal(visited.count, 2);
    walk(reader, 1010, 14, &visited);
    assert_int_equal(visited.count, 1);
    assert_extent(&visited, 0, EXTENT_ZERO, 1010, 14);
    assert_int_equal(reader->ops->check(reader), 0);
    reader->ops->free(reader);
}

static void an_empty_file_is_an_empty_disk(void **state)
{
    struct visited visited;
    struct layer_reader *reader = open_file(0, DATA(UINT64_MAX));
    assert_int_equal(reader->size, 0);
    walk(reader, 0, 4096, &visited);
    assert_int_equal(visited.count, 0);
    reader->ops->free(reader);
}

static void holes_are_zeros(void **state)
{
    struct visited visited;
    uint64_t size = UINT64_C(1) << 40;
    struct layer_reader *reader = open_file(size, DATA(8 * PAGE, 9 * PAGE, size / 2));
    walk(reader, 0, size, &visited);
    assert_int_equal(visited.count, 5);
    assert_extent(&visited, 0, EXTENT_ZERO, 0, 8 * PAGE);
    assert_extent(&visited, 1, EXTENT_DATA, 8 * PAGE, 2 * PAGE);
    assert_extent(&visited, 2, EXTENT_ZERO, 10 * PAGE, size / 2 - 10 * PAGE);
    assert_extent(&visited, 3, EXTENT_DATA, size / 2, PAGE);
    assert_extent(&visited, 4, EXTENT_ZERO, size / 2 + PAGE, size / 2 - PAGE);

    walk(reader, 8 * PAGE + 10, PAGE, &visited);
    assert_int_equal(visited.count, 1);
    assert_extent(&visited, 0, EXTENT_DATA, 8 * PAGE + 10, PAGE);
    walk(reader, 7 * PAGE + 10, PAGE, &visited);
    assert_int_equal(visited.count, 2);
    assert_extent(&visited, 0, EXTENT_ZERO, 7 * PAGE + 10, PAGE - 10);
    assert_extent(&visited, 1, EXTENT_DATA, 8 * PAGE, 10);
    walk(reader, 100 * PAGE, 1, &visited);
    assert_extent(&visited, 0, EXTENT_ZERO, 100 * PAGE, 1);
    /* What is asked for beyond the disk is not there. */
    walk(reader, size - 1, UINT64_MAX - size, &visited);
    assert_int_equal(visited.next, size);
    walk(reader, size, 1, &visited);
    assert_int_equal(visited.count, 0);
    reader->ops->free(reader);
}

static void a_file_that_was_cut_off_is_no_zeros(void **state)
{
    struct visited visited;
    struct layer_reader *reader = open_file(10 * PAGE + 100, DATA(0, PAGE, 9 * PAGE, 10 * PAGE));
    assert_int_equal(ftruncate(reader->data_fd, PAGE + 50), 0);
    walk(reader, 0, reader->size, &visited);
    assert_int_equal(visited.count, 3);
    assert_extent(&visited, 0, EXTENT_DATA, 0, PAGE + 50);
    assert_extent(&visited, 1, EXTENT_DAMAGED, PAGE + 50, 9 * PAGE + 50);
    assert_extent(&visited, 2, EXTENT_ZERO, 10 * PAGE + 100, 512 - 100);
    walk(reader, 5 * PAGE, PAGE, &visited);
    assert_int_equal(visited.count, 1);
    assert_extent(&visited, 0, EXTENT_DAMAGED, 5 * PAGE, PAGE);
    assert_int_equal(reader->ops->check(reader), -EIO);
    assert_int_equal(ftruncate(reader->data_fd, 0), 0);
    walk(reader, 0, PAGE, &visited);
    assert_extent(&visited, 0, EXTENT_DAMAGED, 0, PAGE);
    assert_int_equal(reader->ops->check(reader), -EIO);
    reader->ops->free(reader);
}

static void a_file_that_was_written_to_is_found_out(void **state)
{
    struct layer_reader *reader = open_file(4096, DATA(0));
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1700000000, .tv_nsec = 1}};
    assert_int_equal(reader->ops->check(reader), 0);
    assert_int_equal(futimens(reader->data_fd, times), 0);
    assert_int_equal(reader->ops->check(reader), -EIO);
    reader->ops->free(reader);

    reader = open_file(4096, DATA(0));
    assert_int_equal(ftruncate(reader->data_fd, 8192), 0);
    assert_int_equal(reader->ops->check(reader), -EIO);
    assert_int_equal(reader->size, 4096);
    reader->ops->free(reader);
}

/* A store that was copied, or a device that has another number since a boot, has the same content. */
static void another_inode_is_no_change(void **state)
{
    int fd = memfd_create("raw", MFD_CLOEXEC);
    struct stat stat;
    assert_true(fd >= 0 && fstat(fd, &stat) == 0);
    struct file_identity expected = file_identity_of(&stat);
    expected.device++;
    expected.inode++;
    struct layer_request request = {.path = "/raw", .format = IMAGE_FORMAT_RAW, .expected = &expected};
    struct layer_reader *reader;
    assert_int_equal(raw_reader_open(&request, fd, &reader, NULL), 0);
    assert_int_equal(reader->ops->check(reader), 0);
    reader->ops->free(reader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_disk_is_whole_sectors),
        cmocka_unit_test(an_empty_file_is_an_empty_disk),
        cmocka_unit_test(holes_are_zeros),
        cmocka_unit_test(a_file_that_was_cut_off_is_no_zeros),
        cmocka_unit_test(a_file_that_was_written_to_is_found_out),
        cmocka_unit_test(another_inode_is_no_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
