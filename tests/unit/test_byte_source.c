// SPDX-License-Identifier: LGPL-2.1-or-later
/* Bytes from a descriptor and from memory: the same answers from both. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "io/byte_source.h"

static const char content[] = "0123456789";

/* Each check runs on a memory source and on a file of the same content. */
static void on_both(void (*check)(const struct byte_source *source))
{
    struct byte_source memory = byte_source_memory(content, 10);
    check(&memory);
    cleanup_close int fd = memfd_create("source", MFD_CLOEXEC);
    assert_int_equal(write(fd, content, 10), 10);
    struct byte_source file = byte_source_fd(fd);
    check(&file);
}

static void check_reads(const struct byte_source *source)
{
    char buffer[16] = "................";
    uint64_t size = 77;
    assert_int_equal(byte_source_size(source, &size), 0);
    assert_int_equal(size, 10);
    assert_int_equal(byte_source_read(source, 0, buffer, 10), 0);
    assert_memory_equal(buffer, "0123456789......", 16);
    assert_int_equal(byte_source_read(source, 9, buffer, 1), 0);
    assert_memory_equal(buffer, "9123456789......", 16);
    assert_int_equal(byte_source_read(source, 10, buffer, 0), 0);
}

static void check_ends(const struct byte_source *source)
{
    char buffer[16];
    assert_int_equal(byte_source_read(source, 0, buffer, 11), -ENODATA);
    assert_int_equal(byte_source_read(source, 9, buffer, 2), -ENODATA);
    assert_int_equal(byte_source_read(source, 10, buffer, 1), -ENODATA);
    assert_int_equal(byte_source_read(source, 1000, buffer, 1), -ENODATA);
    /* Offsets that no file has, and sums that overflow. */
    assert_int_equal(byte_source_read(source, INT64_MAX, buffer, 1), -ENODATA);
    assert_int_equal(byte_source_read(source, UINT64_C(1) << 63, buffer, 1), -ENODATA);
    assert_int_equal(byte_source_read(source, UINT64_MAX, buffer, 1), -ENODATA);
    assert_int_equal(byte_source_read(source, UINT64_MAX - 1, buffer, 16), -ENODATA);
    assert_int_equal(byte_source_read(source, 1, buffer, SIZE_MAX), -ENODATA);
    assert_int_equal(byte_source_read(source, UINT64_MAX, buffer, 0), -ENODATA);
}

static void just_the_bytes_that_are_asked_for_are_read(void **state)
{
    on_both(check_reads);
}

static void what_is_not_there_is_no_data(void **state)
{
    on_both(check_ends);
}

static void an_empty_source_has_no_bytes(void **state)
{
    struct byte_source source = byte_source_memory(NULL, 0);
    char byte;
    uint64_t size = 77;
    assert_int_equal(byte_source_size(&source, &size), 0);
    assert_int_equal(size, 0);
    assert_int_equal(byte_source_read(&source, 0, &byte, 0), 0);
    assert_int_equal(byte_source_read(&source, 0, &byte, 1), -ENODATA);
}

static void errors_of_the_file_come_through(void **state)
{
    cleanup_close int directory = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct byte_source source = byte_source_fd(directory);
    char byte;
    assert_int_equal(byte_source_read(&source, 0, &byte, 1), -EISDIR);
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    source = byte_source_fd(ends[0]);
    uint64_t size = 77;
    assert_int_equal(byte_source_size(&source, &size), -ESPIPE);
    assert_int_equal(byte_source_read(&source, 0, &byte, 1), -ESPIPE);
    assert_int_equal(size, 77);
    close(ends[0]);
    close(ends[1]);
}

static void a_file_that_was_cut_is_seen_at_once(void **state)
{
    cleanup_close int fd = memfd_create("source", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    struct byte_source source = byte_source_fd(fd);
    char *buffer = malloc(1 << 20);
    assert_int_equal(byte_source_read(&source, 0, buffer, 1 << 20), 0);
    assert_int_equal(ftruncate(fd, (1 << 20) - 1), 0);
    assert_int_equal(byte_source_read(&source, 0, buffer, 1 << 20), -ENODATA);
    uint64_t size;
    assert_int_equal(byte_source_size(&source, &size), 0);
    assert_int_equal(size, (1 << 20) - 1);
    free(buffer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(just_the_bytes_that_are_asked_for_are_read),
        cmocka_unit_test(what_is_not_there_is_no_data),
        cmocka_unit_test(an_empty_source_has_no_bytes),
        cmocka_unit_test(errors_of_the_file_come_through),
        cmocka_unit_test(a_file_that_was_cut_is_seen_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
