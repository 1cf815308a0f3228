// SPDX-License-Identifier: LGPL-2.1-or-later
/* The directory to mount on; see mountpoint.h. */
#include "mountpoint.h"

#include <errno.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

#define READAHEAD_KIB 2048

extern char **environ;

/* As an ordinary user only fusermount3 can do it. */
static void detach_by_fusermount(const char *path)
{
    char *const arguments[] = {(char[]){"fusermount3"}, (char[]){"-u"},          (char[]){"-z"},
                               (char[]){"--"},          (char *)(uintptr_t)path, NULL};
    pid_t pid;
    if (posix_spawnp(&pid, arguments[0], NULL, NULL, arguments, environ) == 0)
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            continue;
}

int mountpoint_prepare(const char *path, char **resolved, struct error *err)
{
    struct stat status;
    /* Stale mounts may lie on top of each other. */
    for (int tries = 0; stat(path, &status) != 0 && errno == ENOTCONN && tries < 16; tries++) {
        log_info("%s: the daemon of this mount died; it is cleaned away", path);
        if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) != 0)
            detach_by_fusermount(path);
    }
    if (stat(path, &status) != 0)
        return error_set(err, errno, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(status.st_mode))
        return error_set(err, ENOTDIR, "%s is no directory to mount on", path);
    char *real = realpath(path, NULL);
    if (!real)
        return error_set(err, errno, "%s: %s", path, strerror(errno));
    *resolved = real;
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
