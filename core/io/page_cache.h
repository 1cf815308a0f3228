// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Reading a file once without pushing the host's own working set out of the page cache.
 *
 * The file is seen as windows. Before the first read of a window, and one window ahead of it because the
 * kernel reads ahead, what is in the page cache already is recorded; when the window was read, or the reader
 * has moved on, what was not there before is given back (POSIX_FADV_DONTNEED). Pages that were there stay.
 * Of reads that are scattered over more windows than are recorded at a time, each one gives back what it
 * brought, by itself.
 *
 * RWF_DONTCACHE is not used: it drops whole folios, however little of them was asked for. On Linux 6.18 cold
 * sequential reads of 128 KiB then fetched 1.5 times the file from the disk, and those of 20,000 bytes, which
 * compressed clusters are like, took 7 times as long.
 *
 * Where the kernel does not tell what is resident (a file that the process may not write to), all of it
 * counts as resident and nothing is given back. Any thread may call; nothing here fails.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define PAGE_CACHE_WINDOW_BYTES (UINT64_C(16) << 20) /* more than the kernel reads ahead */
#define PAGE_CACHE_WINDOWS_MAX  16                   /* of one file, recorded at a time */

struct page_cache_window;

/* One file that is read once; the same descriptor is given with each call. */
struct page_cache_once {
    pthread_mutex_t lock;                                      /* protects everything below */
    struct page_cache_window *windows[PAGE_CACHE_WINDOWS_MAX]; /* NULL where there is none */
    uint64_t calls;
};

void page_cache_once_init(struct page_cache_once *once);

/* Around each read of [offset, offset + length), length > 0. What the first returns is given to the second.
 */
bool page_cache_once_before(struct page_cache_once *once, int fd, uint64_t offset, uint64_t length);
void page_cache_once_after(struct page_cache_once *once, int fd, uint64_t offset, uint64_t length,
                           bool drop_itself);

/* Gives back what is left. `fd` may be -1 if nothing was ever read. */
void page_cache_once_done(struct page_cache_once *once, int fd);
