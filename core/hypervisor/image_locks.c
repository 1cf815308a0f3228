// SPDX-License-Identifier: LGPL-2.1-or-later
/* Which images are open for writing; see image_locks.h. */
#include "hypervisor/image_locks.h"

#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"

#define QEMU_WRITE_LOCK_BYTE 101
#define READ_BYTES           (64 * 1024)
#define TRIES_MAX            5

struct written_image {
    uint64_t device, inode;
    bool is_others; /* of an own one: as far as it was known before, and our helper has not opened it yet */
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
    *image = (struct written_image){.device = makedev(major_number, minor_number), .inode = inode};
    return true;
}

/* Each read gives some whole lines, of one instant. The text, ended by a zero, which the caller frees; NULL:
 * it can't be read. `*in_pieces`: it took several reads, so that what was between two of them may be missing.
 */
static char *read_text(bool *in_pieces)
{
    cleanup_close int fd = open("/proc/locks", O_RDONLY | O_CLOEXEC);
    cleanup_free char *text = NULL;
    size_t length = 0;
    unsigned reads = 0;
    for (ssize_t got = 1; fd >= 0 && got > 0; length += got > 0 ? (size_t)got : 0) {
        char *grown = realloc(text, length + READ_BYTES + 1);
        if (!grown)
            return NULL;
        text = grown;
        got = read(fd, text + length, READ_BYTES);
        reads += got > 0;
        text[length + (got > 0 ? (size_t)got : 0)] = '\0';
    }
    *in_pieces = reads > 1;
    return steal_pointer(text);
}

/* The kernel finds its place again by counting: a lock is passed over where one before it was given back
 * meanwhile. So a list of several pieces is read until it is twice the same, and what was seen once counts.
 */
static void read_locked(void)
{
    cleanup_free char *before = NULL;
    known.all.count = 0;
    for (unsigned tries = 0; tries < TRIES_MAX; tries++) {
        bool in_pieces;
        cleanup_free char *text = read_text(&in_pieces);
        if (!text || (before && strcmp(before, text) == 0))
            return;
        free(before);
        before = in_pieces ? strdup(text) : NULL;
        struct written_image image;
        char *rest = text;
        for (char *line; (line = strsep(&rest, "\n"));)
            if (parse_line(line, &image) && !append(&known.all, image))
                return;
        if (!before)
            return;
    }
}

static bool is_fresh(const struct timespec *now)
{
    return known.read_at.tv_sec != 0 && now->tv_sec == known.read_at.tv_sec;
}

static bool is_written_locked(uint64_t device, uint64_t inode)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (!is_fresh(&now)) {
        known.read_at = now;
        read_locked();
    }
    return find(&known.all, device, inode) < known.all.count;
}

static bool is_others_locked(uint64_t device, uint64_t inode)
{
    size_t i = find(&known.own, device, inode);
    return i < known.own.count ? known.own.images[i].is_others : is_written_locked(device, inode);
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
    bool written = is_others_locked(device, inode);
    pthread_mutex_unlock(&known.lock);
    return written;
}

bool image_locks_begin_own(uint64_t device, uint64_t inode)
{
    struct written_image image = {.device = device, .inode = inode};
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    pthread_mutex_lock(&known.lock);
    size_t i = find(&known.own, device, inode);
    image.is_others = i < known.own.count
                          ? known.own.images[i].is_others
                          : is_fresh(&now) && find(&known.all, device, inode) < known.all.count;
    bool is_noted = append(&known.own, image);
    pthread_mutex_unlock(&known.lock);
    return is_noted;
}

void image_locks_own(uint64_t device, uint64_t inode)
{
    pthread_mutex_lock(&known.lock);
    for (size_t i = 0; i < known.own.count; i++)
        if (known.own.images[i].device == device && known.own.images[i].inode == inode)
            known.own.images[i].is_others = false;
    pthread_mutex_unlock(&known.lock);
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
