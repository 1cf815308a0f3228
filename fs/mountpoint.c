// SPDX-License-Identifier: LGPL-2.1-or-later
/* The directory to mount on; see mountpoint.h. */
#include "mountpoint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/cleanup.h"
#include "dead_mounts.h"

#define READAHEAD_KIB 2048

/* Without slashes at its end, which would have realpath() ask the daemon of a mount. */
static char *resolve(const char *path)
{
    cleanup_free char *plain = strdup(path);
    if (!plain)
        return NULL;
    for (size_t length = strlen(plain); length > 1 && plain[length - 1] == '/'; length--)
        plain[length - 1] = '\0';
    return realpath(plain, NULL);
}

int mountpoint_prepare(const char *path, char **resolved, struct error *err)
{
    struct stat status;
    cleanup_free char *real = resolve(path);
    if (!real)
        return error_set(err, errno, "%s: %s", path, strerror(errno));
    int result = dead_mounts_clear(real, err);
    if (result != 0)
        return result;
    if (stat(real, &status) != 0)
        return error_set(err, errno, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(status.st_mode))
        return error_set(err, ENOTDIR, "%s is no directory to mount on", path);
    *resolved = steal_pointer(real);
    return 0;
}

void mountpoint_set_readahead(const char *path)
{
    struct stat status;
    char file_name[64];
    if (stat(path, &status) != 0)
        return;
    snprintf(file_name, sizeof file_name, "/sys/class/bdi/%u:%u/read_ahead_kb", major(status.st_dev),
             minor(status.st_dev));
    cleanup_fclose FILE *file = fopen(file_name, "we");
    if (file)
        fprintf(file, "%d\n", READAHEAD_KIB);
}
