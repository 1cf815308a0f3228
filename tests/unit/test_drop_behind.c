// SPDX-License-Identifier: LGPL-2.1-or-later
/* drop_behind.h: what a long read of somebody else left in the page cache goes, what was there before stays.
 */
#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "io/drop_behind.h"

#define FILE_BYTES (256 * MIB)
#define KEPT_BYTES (8 * MIB) /* at the beginning, cached before the watch begins */
#define TMPFS      0x01021994

static char directory[] = "/var/tmp/test_drop_behind.XXXXXX";
static char path[64];

/* Bytes of the range that are cached, as mincore(2) tells. */
static uint64_t cached(int fd, uint64_t offset, uint64_t length)
{
    static unsigned char pages[FILE_BYTES / 4096];
    uint64_t sum = 0;
    void *map = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, (off_t)offset);
    assert_ptr_not_equal(map, MAP_FAILED);
    assert_int_equal(mincore(map, length, pages), 0);
    for (uint64_t i = 0; i < length / 4096; i++)
        sum += pages[i] & 1 ? 4096 : 0;
    munmap(map, length);
    return sum;
}

static void read_range(int fd, uint64_t offset, uint64_t length)
{
    static char buffer[MIB];
    for (uint64_t at = offset; at < offset + length; at += sizeof buffer)
        assert_int_equal(pread(fd, buffer, sizeof buffer, (off_t)at), sizeof buffer);
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* A file of which only the beginning is cached. */
static int make_file(void)
{
    static char buffer[MIB];
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    memset(buffer, 7, sizeof buffer);
    for (uint64_t at = 0; at < FILE_BYTES; at += sizeof buffer)
        assert_int_equal(write(fd, buffer, sizeof buffer), sizeof buffer);
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM); /* no read-ahead beyond what is asked for */
    read_range(fd, 0, KEPT_BYTES);
    return fd;
}

static int setup(void **state)
{
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/file", directory);
    return 0;
}

static int teardown(void **state)
{
    unlink(path);
    return rmdir(directory);
}

/* False where the page cache of this place can't be dropped or told. */
static bool can_run(void)
{
    struct statfs place;
    return statfs(directory, &place) == 0 && place.f_type != TMPFS;
}

static void what_was_read_through_goes_and_the_rest_stays(void **state)
{
    if (!can_run())
        skip();
    int fd = make_file();
    struct drop_behind *watch = drop_behind_new();
    drop_behind_add(watch, 1, fd, FILE_BYTES);
    sleep_ms(2000); /* the first look is long over */
    read_range(fd, KEPT_BYTES, FILE_BYTES - KEPT_BYTES);
    assert_true(cached(fd, KEPT_BYTES, FILE_BYTES - KEPT_BYTES) > 0);
    /* It goes without the watch ending, but for what the reader may still be at. */
    while (cached(fd, KEPT_BYTES, FILE_BYTES - KEPT_BYTES) > 128 * MIB)
        sleep_ms(50);
    drop_behind_remove(watch, 1);
    while (cached(fd, KEPT_BYTES, FILE_BYTES - KEPT_BYTES) > 0)
        sleep_ms(50);
    assert_true(cached(fd, 0, KEPT_BYTES) >= KEPT_BYTES / 2); /* the host may want some of it for itself */
    drop_behind_free(watch);
    close(fd);
}

static void what_is_read_here_and_there_stays(void **state)
{
    if (!can_run())
        skip();
    int fd = make_file();
    struct drop_behind *watch = drop_behind_new();
    drop_behind_add(watch, 1, fd, FILE_BYTES);
    sleep_ms(1000);
    for (uint64_t at = KEPT_BYTES; at < FILE_BYTES; at += 4 * MIB)
        read_range(fd, at, 2 * MIB);
    uint64_t before = cached(fd, 0, FILE_BYTES);
    sleep_ms(1000);
    drop_behind_remove(watch, 1);
    sleep_ms(500);
    assert_true(cached(fd, 0, FILE_BYTES) >= before / 2);
    drop_behind_free(watch);
    close(fd);
}

static void watches_end_in_any_order(void **state)
{
    int fd = make_file();
    struct drop_behind *watch = drop_behind_new();
    drop_behind_remove(watch, 5);
    for (uint64_t id = 1; id <= 10; id++)
        drop_behind_add(watch, id, fd, FILE_BYTES);
    drop_behind_add(watch, 11, fd, 0);
    drop_behind_add(watch, 12, fd, UINT64_C(1) << 60);
    for (uint64_t id = 10; id >= 4; id--)
        drop_behind_remove(watch, id);
    drop_behind_free(watch);
    drop_behind_free(NULL);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_read_through_goes_and_the_rest_stays),
        cmocka_unit_test(what_is_read_here_and_there_stays),
        cmocka_unit_test(watches_end_in_any_order),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
