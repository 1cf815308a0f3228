// SPDX-License-Identifier: LGPL-2.1-or-later
/* See free_space.h. */
#include "hypervisor/free_space.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/bytes.h"

#define BLOCK_BYTES  512        /* what st_blocks counts */
#define PAGE_BYTES   4096       /* the pieces in which a raw file has holes */
#define PIECE_BYTES  (64 * KIB) /* QEMU's jobs copy such pieces as a whole, where any of it is allocated */
#define TABLES_SHARE 32         /* with clusters of 512 bytes: 1/64 for mapping and 1/256 for counting them */
#define TABLES_BYTES (2 * MIB)  /* the first tables, in clusters of up to that size */

int free_space_available(int fd, uint64_t *bytes)
{
    struct statvfs file_system;
    if (fstatvfs(fd, &file_system) < 0)
        return -errno;
    if (__builtin_mul_overflow(file_system.f_bavail, file_system.f_frsize, bytes))
        *bytes = UINT64_MAX;
    return 0;
}

/* Up to `most`. */
static uint64_t add_up_to(uint64_t a, uint64_t b, uint64_t most)
{
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? most : min_u64(sum, most);
}

int free_space_needed(const struct free_space_layer *layers, size_t count, uint64_t virtual_size,
                      uint64_t cluster_bytes, uint64_t *bytes, struct error *err)
{
    uint64_t piece = max_u64(cluster_bytes, PIECE_BYTES), needed = 0;
    for (size_t i = 0; i < count; i++) {
        struct stat file;
        if (fstat(layers[i].fd, &file) < 0)
            return error_set(err, errno, "how much a layer takes can't be told: %m");
        uint64_t own = layers[i].cluster_bytes ? layers[i].cluster_bytes : PAGE_BYTES, data;
        uint64_t taken = (uint64_t)file.st_blocks * BLOCK_BYTES;
        /* A block device has no blocks of its own: all of it may be data. */
        if (layers[i].is_compressed || S_ISBLK(file.st_mode) ||
            __builtin_mul_overflow(taken, own < piece ? piece / own : 1, &data))
            data = virtual_size;
        needed = add_up_to(needed, data, virtual_size);
    }
    if (cluster_bytes)
        needed =
            add_up_to(needed, needed / TABLES_SHARE + max_u64(TABLES_BYTES, 4 * cluster_bytes), UINT64_MAX);
    *bytes = needed;
    return 0;
}

void free_space_print(uint64_t bytes, char *text, size_t size)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < KIB) {
        snprintf(text, size, "%u bytes", (unsigned)bytes);
        return;
    }
    size_t unit = 0;
    double value = (double)bytes / KIB;
    for (; value >= 1000 && unit + 1 < sizeof units / sizeof *units; unit++)
        value /= KIB;
    snprintf(text, size, "%.*f %s", value < 9.95 ? 1 : 0, value, units[unit]);
}

int free_space_check(int fd, const char *place, const char *what, uint64_t bytes, struct error *err)
{
    uint64_t available;
    int rc = free_space_available(fd, &available);
    if (rc < 0)
        return error_set(err, -rc, "how much room %s has can't be told", place);
    if (bytes <= available)
        return 0;
    char needed[16], left[16];
    free_space_print(bytes, needed, sizeof needed);
    free_space_print(available, left, sizeof left);
    return error_set(err, ENOSPC, "%s needs about %s, and %s has %s left", what, needed, place, left);
}
