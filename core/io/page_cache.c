// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Reading a file once; see page_cache.h.
 *
 * No lock is held in a system call. So two threads may record the same window, and the later one may take
 * what the other has just read for what was there before: then a little too much stays, which harms nobody.
 */
#include "io/page_cache.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/stats.h"

#ifndef __NR_cachestat
#define __NR_cachestat 451 /* Linux 6.5; the headers of Debian 12 are older */
#endif

/* A window of which little was read keeps its place for so many calls: recording one costs more than what a
 * scattered read brings. */
#define CALLS_KEPT 1024

struct page_cache_window {
    uint64_t index;
    uint64_t used;            /* when, in calls */
    uint64_t read_bytes;      /* by us */
    size_t pages;             /* of the file, in it */
    bool was_empty;           /* nothing of it was resident */
    bool was_full;            /* all of it was */
    unsigned char resident[]; /* one byte for each page, if neither; bit 0 as mincore has it */
};

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* Pages of the window that the file has; of a block device, all that there could be. */
static size_t count_pages(int fd, uint64_t index)
{
    struct stat stat;
    uint64_t start = index * PAGE_CACHE_WINDOW_BYTES, length = PAGE_CACHE_WINDOW_BYTES;
    if (fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode))
        length = (uint64_t)stat.st_size > start ? min_u64(length, (uint64_t)stat.st_size - start) : 0;
    return (length + page_bytes() - 1) / page_bytes();
}

/* How many pages of the range are in the page cache, by one cheap call; false where the kernel has none. */
static bool count_resident(int fd, uint64_t offset, uint64_t length, uint64_t *pages)
{
    struct {
        uint64_t offset, length;
    } range = {offset, length};
    struct {
        uint64_t cached, dirty, writeback, evicted, recently_evicted;
    } counts;
    if (syscall(__NR_cachestat, fd, &range, &counts, 0) != 0)
        return false;
    *pages = counts.cached;
    return true;
}

/* Which pages from `offset` (a multiple of a page) on are; false where the kernel does not tell. */
static bool ask_pages(int fd, uint64_t offset, size_t pages, unsigned char *resident)
{
    size_t length = pages * page_bytes();
    void *mapped = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, (off_t)offset);
    if (mapped == MAP_FAILED)
        return false;
    bool told = mincore(mapped, length, resident) == 0;
    munmap(mapped, length);
    return told;
}

/* NULL where memory ran out or the file can't be asked. */
static struct page_cache_window *record(int fd, uint64_t index)
{
    uint64_t start = index * PAGE_CACHE_WINDOW_BYTES, resident = 0;
    size_t pages = count_pages(fd, index);
    bool simple =
        count_resident(fd, start, PAGE_CACHE_WINDOW_BYTES, &resident) && (resident == 0 || resident >= pages);
    struct page_cache_window *window = calloc(1, sizeof *window + (simple ? 0 : pages));
    if (!window)
        return NULL;
    window->index = index;
    window->pages = pages;
    window->was_empty = simple && resident == 0;
    window->was_full = simple && resident > 0;
    if (simple || ask_pages(fd, start, pages, window->resident))
        return window;
    free(window);
    return NULL;
}

/* True if nothing of the range is resident. */
static bool is_absent(int fd, uint64_t offset, uint64_t length)
{
    uint64_t resident;
    if (count_resident(fd, offset, length, &resident))
        return resident == 0;
    uint64_t start = align_down(offset, page_bytes());
    size_t pages = (offset + length - start + page_bytes() - 1) / page_bytes();
    cleanup_free unsigned char *each = malloc(pages);
    if (!each || !ask_pages(fd, start, pages, each))
        return false;
    for (size_t i = 0; i < pages; i++)
        if (each[i] & 1)
            return false;
    return true;
}

static void drop(int fd, uint64_t offset, uint64_t length)
{
    posix_fadvise(fd, (off_t)offset, (off_t)length, POSIX_FADV_DONTNEED);
}

/* Gives back what was not resident, and frees the window. */
static void give_back(struct page_cache_window *window, int fd)
{
    uint64_t start = window->index * PAGE_CACHE_WINDOW_BYTES;
    uint64_t not_resident = 0;
    if (window->was_empty) {
        not_resident = PAGE_CACHE_WINDOW_BYTES;
        drop(fd, start, PAGE_CACHE_WINDOW_BYTES);
    } else if (!window->was_full) {
        for (size_t from = 0, to; from < window->pages; from = to + 1) {
            for (to = from; to < window->pages && !(window->resident[to] & 1); to++)
                ;
            if (to > from)
                drop(fd, start + from * page_bytes(), (to - from) * page_bytes());
            not_resident += (to - from) * page_bytes();
        }
    }
    stats_add(STAT_DROPPED_BEHIND_BYTES, (int64_t)min_u64(window->read_bytes, not_resident));
    free(window);
}

static struct page_cache_window **find_locked(struct page_cache_once *once, uint64_t index)
{
    for (size_t i = 0; i < PAGE_CACHE_WINDOWS_MAX; i++)
        if (once->windows[i] && once->windows[i]->index == index)
            return &once->windows[i];
    return NULL;
}

/* An empty place, or that of the window not read for longest, if it was read through or is of long ago; else
 * NULL. */
static struct page_cache_window **choose_locked(struct page_cache_once *once)
{
    struct page_cache_window **oldest = &once->windows[0];
    for (size_t i = 0; i < PAGE_CACHE_WINDOWS_MAX; i++) {
        if (!once->windows[i])
            return &once->windows[i];
        if (once->windows[i]->used < (*oldest)->used)
            oldest = &once->windows[i];
    }
    bool read_through = (*oldest)->read_bytes >= PAGE_CACHE_WINDOW_BYTES / 2;
    return read_through || once->calls - (*oldest)->used > CALLS_KEPT ? oldest : NULL;
}

/* False where the window is not recorded, and there is no place for it. */
static bool record_once(struct page_cache_once *once, int fd, uint64_t index)
{
    pthread_mutex_lock(&once->lock);
    struct page_cache_window **place = find_locked(once, index);
    once->calls++;
    if (place)
        (*place)->used = once->calls;
    bool known = place != NULL, room = known || choose_locked(once);
    pthread_mutex_unlock(&once->lock);
    if (known || !room)
        return known;

    struct page_cache_window *window = record(fd, index), *passed = NULL;
    if (!window)
        return false;
    pthread_mutex_lock(&once->lock);
    known = find_locked(once, index) != NULL;
    place = known ? NULL : choose_locked(once);
    if (place) {
        passed = *place;
        *place = steal_pointer(window);
        (*place)->used = once->calls;
    }
    pthread_mutex_unlock(&once->lock);
    free(window);
    if (passed)
        give_back(passed, fd);
    return known || place;
}

void page_cache_once_init(struct page_cache_once *once)
{
    *once = (struct page_cache_once){0};
    pthread_mutex_init(&once->lock, NULL);
}

bool page_cache_once_before(struct page_cache_once *once, int fd, uint64_t offset, uint64_t length)
{
    uint64_t last = (offset + length - 1) / PAGE_CACHE_WINDOW_BYTES;
    bool recorded = true;
    for (uint64_t index = offset / PAGE_CACHE_WINDOW_BYTES; index <= last; index++)
        recorded &= record_once(once, fd, index);
    if (recorded) {
        record_once(once, fd, last + 1);
        return false;
    }
    return is_absent(fd, offset, length);
}

void page_cache_once_after(struct page_cache_once *once, int fd, uint64_t offset, uint64_t length,
                           bool drop_itself)
{
    if (drop_itself) {
        drop(fd, offset, length);
        stats_add(STAT_DROPPED_BEHIND_BYTES, (int64_t)length);
        return;
    }
    for (uint64_t end = offset + length; offset < end;) {
        uint64_t index = offset / PAGE_CACHE_WINDOW_BYTES;
        uint64_t here = min_u64(end, (index + 1) * PAGE_CACHE_WINDOW_BYTES) - offset;
        struct page_cache_window *complete = NULL;
        pthread_mutex_lock(&once->lock);
        struct page_cache_window **place = find_locked(once, index);
        if (place && ((*place)->read_bytes += here) >= PAGE_CACHE_WINDOW_BYTES)
            complete = steal_pointer(*place);
        pthread_mutex_unlock(&once->lock);
        if (complete)
            give_back(complete, fd);
        offset += here;
    }
}

void page_cache_once_done(struct page_cache_once *once, int fd)
{
    for (size_t i = 0; i < PAGE_CACHE_WINDOWS_MAX; i++)
        if (once->windows[i])
            give_back(once->windows[i], fd);
    pthread_mutex_destroy(&once->lock);
}
