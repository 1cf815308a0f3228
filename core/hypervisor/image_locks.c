// SPDX-License-Identifier: LGPL-2.1-or-later
/* Which images are open for writing; see image_locks.h. */
#include "hypervisor/image_locks.h"

#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "base/cleanup.h"

#define QEMU_WRITE_LOCK_BYTE 101

struct written_image {
    uint64_t device, inode;
};

static struct {
    pthread_mutex_t lock; /* protects everything below */
    struct timespec read_at;
    struct written_image *images;
    size_t count;
} known = {.lock = PTHREAD_MUTEX_INITIALIZER};

/*
 * One line of /proc/locks (proc(5)): "1: OFDLCK  ADVISORY  READ  -1 08:01:1234 100 101"; a waiting one has
 * "->" after its number and is no holder. The device is in hexadecimal.
 */
static bool parse_line(const char *line, struct written_image *image)
{
    unsigned major_number, minor_number;
    unsigned long long inode, start, end;
    char end_text[32];
    if (sscanf(line, "%*d: OFDLCK %*s %*s %*d %x:%x:%llu %llu %31s", &major_number, &minor_number, &inode,
               &start, end_text) != 5)
        return false;
    end = end_text[0] == 'E' ? UINT64_MAX : strtoull(end_text, NULL, 10);
    if (start > QEMU_WRITE_LOCK_BYTE || end < QEMU_WRITE_LOCK_BYTE)
        return false;
    *image = (struct written_image){makedev(major_number, minor_number), inode};
    return true;
}

static void read_locked(void)
{
    known.count = 0;
    cleanup_fclose FILE *file = fopen("/proc/locks", "re");
    char line[256];
    size_t capacity = 0;
    while (file && fgets(line, sizeof line, file)) {
        struct written_image image;
        if (!parse_line(line, &image))
            continue;
        if (known.count == capacity) {
            capacity = capacity ? capacity * 2 : 64;
            struct written_image *images = realloc(known.images, capacity * sizeof *images);
            if (!images)
                return;
            known.images = images;
        }
        known.images[known.count++] = image;
    }
}

bool image_locks_written(uint64_t device, uint64_t inode)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    bool written = false;
    pthread_mutex_lock(&known.lock);
    if (known.read_at.tv_sec == 0 || now.tv_sec != known.read_at.tv_sec) {
        known.read_at = now;
        read_locked();
    }
    for (size_t i = 0; i < known.count && !written; i++)
        written = known.images[i].device == device && known.images[i].inode == inode;
    pthread_mutex_unlock(&known.lock);
    return written;
}

void image_locks_forget(void)
{
    pthread_mutex_lock(&known.lock);
    known.read_at = (struct timespec){0};
    pthread_mutex_unlock(&known.lock);
}
