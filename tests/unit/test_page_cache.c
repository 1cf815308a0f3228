// SPDX-License-Identifier: LGPL-2.1-or-later
/* page_cache.h: what a long read brought into the page cache goes, what was there stays. */
#include "io/page_cache.h"

#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/stats.h"

#define FILE_BYTES (56 * MIB + 12345) /* no multiple of a window */
#define BUFFER     (256 * KIB)

static int file = -1;
static char *buffer;

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static size_t page_count(void)
{
    return (FILE_BYTES + page_bytes() - 1) / page_bytes();
}

/* One byte for each page, bit 0: resident. The caller frees. */
static unsigned char *residency(uint64_t size)
{
    unsigned char *pages = calloc(1, size / page_bytes() + 1);
    void *mapped = mmap(NULL, size, PROT_READ, MAP_SHARED, file, 0);
    assert_non_null(pages);
    assert_ptr_not_equal(mapped, MAP_FAILED);
    assert_int_equal(mincore(mapped, size, pages), 0);
    munmap(mapped, size);
    return pages;
}

static size_t resident_count(void)
{
    unsigned char *pages = residency(FILE_BYTES);
    size_t count = 0;
    for (size_t i = 0; i < page_count(); i++)
        count += pages[i] & 1;
    free(pages);
    return count;
}

static void read_plainly(uint64_t offset, uint64_t length)
{
    for (uint64_t end = offset + length; offset < end; offset += BUFFER)
        assert_true(pread(file, buffer, min_u64(BUFFER, end - offset), (off_t)offset) > 0);
}

static void read_once(struct page_cache_once *once, uint64_t offset, uint64_t length, size_t piece)
{
    for (uint64_t end = min_u64(offset + length, FILE_BYTES); offset < end; offset += piece) {
        size_t here = min_u64(piece, end - offset);
        bool drop = page_cache_once_before(once, file, offset, here);
        assert_int_equal(pread(file, buffer, here, (off_t)offset), here);
        page_cache_once_after(once, file, offset, here, drop);
    }
}

static void empty(void)
{
    posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    if (resident_count() > 0)
        skip(); /* a file system in memory, or somebody else reads it */
}

static int set_up(void **state)
{
    char name[] = "page_cache_test_XXXXXX";
    buffer = malloc(BUFFER);
    file = mkstemp(name);
    if (file < 0 || !buffer)
        return -1;
    unlink(name);
    memset(buffer, 'x', BUFFER);
    for (uint64_t done = 0; done < FILE_BYTES; done += BUFFER)
        if (pwrite(file, buffer, min_u64(BUFFER, FILE_BYTES - done), (off_t)done) <= 0)
            return -1;
    return fdatasync(file);
}

static int tear_down(void **state)
{
    close(file);
    free(buffer);
    return 0;
}

static void nothing_is_left_of_a_file_that_nobody_had_read(void **state)
{
    static const size_t pieces[] = {BUFFER, 20000};
    for (size_t i = 0; i < 2; i++) {
        struct page_cache_once once;
        empty();
        uint64_t before = stats_get(STAT_DROPPED_BEHIND_BYTES);
        page_cache_once_init(&once);
        read_once(&once, 0, FILE_BYTES, pieces[i]);
        /* Already before the end no more than a few windows are there. */
        assert_true(resident_count() * page_bytes() <= 2 * PAGE_CACHE_WINDOW_BYTES);
        page_cache_once_done(&once, file);
        assert_int_equal(resident_count(), 0);
        assert_int_equal(stats_get(STAT_DROPPED_BEHIND_BYTES) - before, FILE_BYTES);
    }
}

static void what_was_there_stays(void **state)
{
    struct page_cache_once once;
    empty();
    posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM);
    read_plainly(3 * MIB, MIB);
    read_plainly(15 * MIB, 3 * MIB); /* across two windows */
    read_plainly(FILE_BYTES - 5000, 5000);
    posix_fadvise(file, 0, 0, POSIX_FADV_NORMAL);
    unsigned char *before = residency(FILE_BYTES);
    page_cache_once_init(&once);
    read_once(&once, 0, FILE_BYTES, BUFFER);
    page_cache_once_done(&once, file);
    unsigned char *after = residency(FILE_BYTES);
    for (size_t i = 0; i < page_count(); i++)
        assert_int_equal(after[i] & 1, before[i] & 1);
    free(before);
    free(after);
}

static void a_file_that_is_there_stays_whole(void **state)
{
    struct page_cache_once once;
    read_plainly(0, FILE_BYTES);
    size_t before = resident_count();
    uint64_t dropped = stats_get(STAT_DROPPED_BEHIND_BYTES);
    page_cache_once_init(&once);
    read_once(&once, 0, FILE_BYTES, BUFFER);
    page_cache_once_done(&once, file);
    assert_int_equal(resident_count(), before);
    if (before == page_count())
        assert_int_equal(stats_get(STAT_DROPPED_BEHIND_BYTES), dropped);
}

/* Scattered over more windows than are recorded at a time; what was made larger is a hole. */
static void scattered_reads_are_given_back_too(void **state)
{
    uint64_t windows = 3 * PAGE_CACHE_WINDOWS_MAX, size = windows * PAGE_CACHE_WINDOW_BYTES;
    struct page_cache_once once;
    empty();
    assert_int_equal(ftruncate(file, (off_t)size), 0);
    posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM);
    for (uint64_t window = 0; window < windows; window++)
        read_plainly(window * PAGE_CACHE_WINDOW_BYTES + 5 * page_bytes(), page_bytes());
    page_cache_once_init(&once);
    for (uint64_t i = 0; i < 2000; i++) {
        uint64_t offset = i * 7919 * page_bytes() % size;
        if (i % 10 == 0) /* one that was there */
            offset = i / 10 % windows * PAGE_CACHE_WINDOW_BYTES + 5 * page_bytes();
        bool drop = page_cache_once_before(&once, file, offset, page_bytes());
        assert_int_equal(pread(file, buffer, page_bytes(), (off_t)offset), page_bytes());
        page_cache_once_after(&once, file, offset, page_bytes(), drop);
    }
    page_cache_once_done(&once, file);
    unsigned char *pages = residency(size);
    for (size_t i = 0; i < size / page_bytes(); i++)
        assert_int_equal(pages[i] & 1, i % (PAGE_CACHE_WINDOW_BYTES / page_bytes()) == 5);
    free(pages);
    posix_fadvise(file, 0, 0, POSIX_FADV_NORMAL);
    assert_int_equal(ftruncate(file, FILE_BYTES), 0);
}

static void what_was_never_read_needs_no_file(void **state)
{
    struct page_cache_once once;
    page_cache_once_init(&once);
    page_cache_once_done(&once, -1);
}

/* Before Linux 6.5. */
static void without_cachestat_it_is_the_same(void **state)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 451, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
    assert_int_equal(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    assert_int_equal(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
    nothing_is_left_of_a_file_that_nobody_had_read(state);
    what_was_there_stays(state);
    a_file_that_is_there_stays_whole(state);
    scattered_reads_are_given_back_too(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_left_of_a_file_that_nobody_had_read),
        cmocka_unit_test(what_was_there_stays),
        cmocka_unit_test(a_file_that_is_there_stays_whole),
        cmocka_unit_test(scattered_reads_are_given_back_too),
        cmocka_unit_test(what_was_never_read_needs_no_file),
        cmocka_unit_test(without_cachestat_it_is_the_same),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
