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

struct written_list {
    struct written_image *images;
    size_t count, capacity;
};

static struct {
    pthread_mutex_t lock; /* protects everything below */
    struct timespec read_at;
    struct written_list all; /* at that time */
    struct written_list own; /* one for each helper */
} known = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool append(struct written_list *list, struct written_image image)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 64;
        struct written_image *images = realloc(list->images, capacity * sizeof *images);
        if (!images)
            return false;
        list->images = images;
        list->capacity = capacity;
    }
    list->images[list->count++] = image;
    return true;
}

/* Its place in the list; as many as there are: it is not there. */
static size_t find(const struct written_list *list, uint64_t device, uint64_t inode)
{
    size_t i = 0;
    while (i < list->count && !(list->images[i].device == device && list->images[i].inode == inode))
        i++;
    return i;
}

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
    known.all.count = 0;
    cleanup_fclose FILE *file = fopen("/proc/locks", "re");
    char line[256];
    struct written_image image;
    while (file && fgets(line, sizeof line, file))
        if (parse_line(line, &image) && !append(&known.all, image))
            return;
}

static bool is_written_locked(uint64_t device, uint64_t inode)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (known.read_at.tv_sec == 0 || now.tv_sec != known.read_at.tv_sec) {
        known.read_at = now;
        read_locked();
    }
    return find(&known.all, device, inode) < known.all.count;
}

static bool is_ours_locked(uint64_t device, uint64_t inode)
{
    return find(&known.own, device, inode) < known.own.count;
}

bool image_locks_written(uint64_t device, uint64_t inode)
{
    pthread_mutex_lock(&known.lock);
    bool written = is_written_locked(device, inode);
    pthread_mutex_unlock(&known.lock);
    return written;
}

bool image_locks_written_by_others(uint64_t device, uint64_t inode)
{
    pthread_mutex_lock(&known.lock);
    bool written = is_written_locked(device, inode) && !is_ours_locked(device, inode);
    pthread_mutex_unlock(&known.lock);
    return written;
}

bool image_locks_own(uint64_t device, uint64_t inode)
{
    pthread_mutex_lock(&known.lock);
    bool is_ours = (!is_written_locked(device, inode) || is_ours_locked(device, inode)) &&
                   append(&known.own, (struct written_image){device, inode});
    pthread_mutex_unlock(&known.lock);
    return is_ours;
}

void image_locks_disown(uint64_t device, uint64_t inode)
{
    pthread_mutex_lock(&known.lock);
    size_t i = find(&known.own, device, inode);
    if (i < known.own.count)
        known.own.images[i] = known.own.images[--known.own.count];
    known.read_at = (struct timespec){0};
    pthread_mutex_unlock(&known.lock);
}

void image_locks_forget(void)
{
    pthread_mutex_lock(&known.lock);
    known.read_at = (struct timespec){0};
    pthread_mutex_unlock(&known.lock);
}
