// SPDX-License-Identifier: LGPL-2.1-or-later
/* See free_space.h. */
#include "hypervisor/free_space.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/bytes.h"

#define BLOCK_BYTES 512 /* what st_blocks counts */

int free_space_available(int fd, uint64_t *bytes)
{
    struct statvfs file_system;
    if (fstatvfs(fd, &file_system) < 0)
        return -errno;
    if (__builtin_mul_overflow(file_system.f_bavail, file_system.f_frsize, bytes))
        *bytes = UINT64_MAX;
    return 0;
}

uint64_t free_space_taken(int fd)
{
    struct stat file;
    return fstat(fd, &file) == 0 ? (uint64_t)file.st_blocks * BLOCK_BYTES : 0;
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
