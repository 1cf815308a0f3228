// SPDX-License-Identifier: LGPL-2.1-or-later
/* See runtime.h. */
#include "machine/runtime.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/hash.h"

/* Room for the longest name of a file in it. */
#define NAME_ROOM 16

struct runtime {
    char *base; /* NULL: there is no place */
    uint64_t source;
};

static char *base_directory(void)
{
    char *base = NULL;
    const char *given = getenv("XDG_RUNTIME_DIR");
    if (geteuid() == 0)
        return strdup("/run/vmsnapfs-0");
    if (!given || *given != '/' || asprintf(&base, "%s/vmsnapfs", given) < 0)
        return NULL;
    return base;
}

int runtime_new(const char *source, struct runtime **runtime, struct error *err)
{
    /* When it was made, too: numbers of inodes are used again. */
    struct statx found;
    if (statx(AT_FDCWD, source, 0, STATX_INO | STATX_BTIME, &found) < 0)
        return error_set(err, errno, "%s: %m", source);
    struct runtime *made = calloc(1, sizeof *made);
    if (!made)
        return error_set(err, ENOMEM, "out of memory");
    made->base = base_directory();
    uint64_t hash = HASH_START;
    hash = hash_bytes(hash, &found.stx_ino, sizeof found.stx_ino);
    hash = hash_bytes(hash, &found.stx_dev_major, sizeof found.stx_dev_major);
    hash = hash_bytes(hash, &found.stx_dev_minor, sizeof found.stx_dev_minor);
    if (found.stx_mask & STATX_BTIME) {
        hash = hash_bytes(hash, &found.stx_btime.tv_sec, sizeof found.stx_btime.tv_sec);
        hash = hash_bytes(hash, &found.stx_btime.tv_nsec, sizeof found.stx_btime.tv_nsec);
    }
    made->source = hash;
    *runtime = made;
    return 0;
}

void runtime_free(struct runtime *runtime)
{
    if (!runtime)
        return;
    free(runtime->base);
    free(runtime);
}

char *runtime_guest(const struct runtime *runtime, uint64_t domain)
{
    char *path = NULL;
    if (!runtime->base ||
        asprintf(&path, "%s/%016" PRIx64 "-%" PRIu64, runtime->base, runtime->source, domain) < 0)
        return NULL;
    return path;
}

void runtime_each(const struct runtime *runtime, void (*visit)(const char *guest))
{
    char prefix[24];
    int length = snprintf(prefix, sizeof prefix, "%016" PRIx64 "-", runtime->source);
    cleanup_closedir DIR *directory = runtime->base ? opendir(runtime->base) : NULL;
    const struct dirent *entry;
    while (directory && (entry = readdir(directory))) {
        cleanup_free char *path = NULL;
        if (strncmp(entry->d_name, prefix, (size_t)length) == 0 &&
            asprintf(&path, "%s/%s", runtime->base, entry->d_name) >= 0)
            visit(path);
    }
}

static bool is_ours(const char *path)
{
    struct stat found;
    return lstat(path, &found) == 0 && S_ISDIR(found.st_mode) && found.st_uid == geteuid() &&
           !(found.st_mode & 077);
}

bool runtime_is_ours(const char *guest)
{
    const char *slash = strrchr(guest, '/');
    cleanup_free char *base = strndup(guest, (size_t)(slash - guest));
    return base && is_ours(base) && is_ours(guest);
}

int runtime_make(const char *guest, struct error *err)
{
    const char *slash = strrchr(guest, '/');
    if (strlen(guest) + NAME_ROOM > sizeof((struct sockaddr_un *)NULL)->sun_path)
        return error_set(err, ENAMETOOLONG, "%s is too long a name for a directory of sockets", guest);
    cleanup_free char *base = strndup(guest, (size_t)(slash - guest));
    if (!base)
        return error_set(err, ENOMEM, "out of memory");
    if ((mkdir(base, 0700) < 0 && errno != EEXIST))
        return error_set(err, errno, "%s can't be made: %m", base);
    if (!is_ours(base))
        return error_set(err, EPERM, "%s is not ours alone", base);
    if (mkdir(guest, 0700) < 0)
        return error_set(err, errno, "%s can't be made: %m", guest);
    return 0;
}

void runtime_remove(const char *guest)
{
    if (!runtime_is_ours(guest))
        return;
    cleanup_closedir DIR *directory = opendir(guest);
    const struct dirent *entry;
    while (directory && (entry = readdir(directory)))
        unlinkat(dirfd(directory), entry->d_name, 0);
    rmdir(guest);
}
