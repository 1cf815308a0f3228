// SPDX-License-Identifier: LGPL-2.1-or-later
/* See image_claim.h. */
#include "hypervisor/image_claim.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "hypervisor/image_locks.h"

/* QEMU's RAW_LOCK_PERM_BASE, RAW_LOCK_SHARED_BASE, and the permissions that would change the image. */
#define USED_BASE    100
#define REFUSED_BASE 200

static const int changing[] = {1 /* BLK_PERM_WRITE */, 3 /* BLK_PERM_RESIZE */};
#define CHANGING_COUNT (sizeof changing / sizeof *changing)

/* ---- who has it open ---- */

/* A device may have several nodes. */
static bool is_same(const struct stat *a, const struct stat *b)
{
    return S_ISBLK(a->st_mode) && S_ISBLK(b->st_mode) ? a->st_rdev == b->st_rdev
                                                      : a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* 1, 0; -EAGAIN where it can't be seen. */
static int look_into(const char *process, const struct stat *file)
{
    char path[sizeof "/proc//fd/" + 2 * NAME_MAX];
    snprintf(path, sizeof path, "/proc/%s/fd", process);
    cleanup_closedir DIR *directory = opendir(path);
    const struct dirent *entry;
    while (directory && (entry = readdir(directory))) {
        struct stat other;
        if (fstatat(dirfd(directory), entry->d_name, &other, 0) == 0 && is_same(&other, file))
            return 1;
    }
    return directory ? 0 : -EAGAIN;
}

static bool has_open(const char *process, const struct stat *file)
{
    return look_into(process, file) == 1;
}

/* The name of its program; what it calls itself where that can't be seen. */
static void name_process(const char *process, char *name, size_t size)
{
    static const char deleted[] = " (deleted)";
    char path[sizeof "/proc//comm" + NAME_MAX], program[PATH_MAX];
    snprintf(path, sizeof path, "/proc/%s/exe", process);
    ssize_t length = readlink(path, program, sizeof program - 1);
    if (length > 0) {
        program[length] = '\0';
        size_t tail = sizeof deleted - 1;
        if ((size_t)length > tail && strcmp(program + (size_t)length - tail, deleted) == 0)
            program[(size_t)length - tail] = '\0';
        const char *slash = strrchr(program, '/');
        snprintf(name, size, "%.*s", (int)size - 1, slash ? slash + 1 : program);
        return;
    }
    snprintf(path, sizeof path, "/proc/%s/comm", process);
    cleanup_fclose FILE *file = fopen(path, "re");
    if (!file || !fgets(name, (int)size, file))
        snprintf(name, size, "a program");
    name[strcspn(name, "\n")] = '\0';
}

static bool is_other_process(const char *name)
{
    return !name[strspn(name, "0123456789")] && strtol(name, NULL, 10) != getpid();
}

static bool has_anybody_open(const struct stat *file)
{
    cleanup_closedir DIR *directory = opendir("/proc");
    const struct dirent *entry;
    while (directory && (entry = readdir(directory)))
        if (is_other_process(entry->d_name) && has_open(entry->d_name, file))
            return true;
    return false;
}

int image_claim_is_open(pid_t process, const struct stat *file)
{
    char number[16], name[NAME_MAX / 2] = "";
    snprintf(number, sizeof number, "%d", (int)process);
    int seen = process > 0 ? look_into(number, file) : -EAGAIN;
    if (seen > 0)
        return 1;
    name_process(number, name, sizeof name);
    if (seen == 0 && (strstr(name, "qemu") || strstr(name, "kvm")))
        return 0;
    image_locks_forget();
    if (has_anybody_open(file) || image_locks_written(file->st_dev, file->st_ino))
        return 1;
    return seen;
}

size_t image_claim_holders(int fd, char *text, size_t size)
{
    struct stat file;
    cleanup_closedir DIR *directory = opendir("/proc");
    size_t count = 0;
    char first[NAME_MAX], name[NAME_MAX / 2];
    const struct dirent *entry;
    bool known = directory && fstat(fd, &file) == 0;
    while (known && (entry = readdir(directory))) {
        const char *process = entry->d_name;
        if (!is_other_process(process) || !has_open(process, &file))
            continue;
        if (count++ > 0)
            continue;
        name_process(process, name, sizeof name);
        snprintf(first, sizeof first, "%s (process %.20s)", name, process);
    }
    if (count == 0)
        snprintf(text, size, "a process that can't be seen from here");
    else if (count == 1)
        snprintf(text, size, "%s", first);
    else
        snprintf(text, size, "%s and %zu other%s", first, count - 1, count > 2 ? "s" : "");
    return count;
}

/* ---- the claim ---- */

static struct flock byte_lock(short type, int byte)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
}

/* Both at once are never seen: who takes his lock first and looks then can't be overlooked. */
static int lock_and_look(int fd)
{
    for (size_t i = 0; i < CHANGING_COUNT; i++) {
        struct flock lock = byte_lock(F_RDLCK, REFUSED_BASE + changing[i]);
        if (fcntl(fd, F_OFD_SETLK, &lock) < 0)
            return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
    }
    for (size_t i = 0; i < CHANGING_COUNT; i++) {
        struct flock lock = byte_lock(F_WRLCK, USED_BASE + changing[i]);
        if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
            return -errno;
        if (lock.l_type != F_UNLCK)
            return -EBUSY;
    }
    return 0;
}

int image_claim_take(const char *name, int fd, int *claim, struct error *err)
{
    struct stat file;
    if (fstat(fd, &file) < 0)
        return error_set(err, errno, "%s: %m", name);
    if (S_ISBLK(file.st_mode)) {
        *claim = -1;
        return 0;
    }
    /* The locks belong to a file description of their own, so that one close ends them. */
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    cleanup_close int mine = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (mine < 0)
        return error_set(err, errno, "%s can't be opened: %m", name);
    int rc = lock_and_look(mine);
    if (rc == -EBUSY) {
        char holders[ERROR_TEXT_MAX / 2];
        image_claim_holders(fd, holders, sizeof holders);
        return error_set(err, EBUSY, "%s is open for writing elsewhere: in use by %s", name, holders);
    }
    if (rc < 0)
        return error_set(err, -rc, "%s can't be locked: %s", name, strerror(-rc));
    *claim = steal_fd(&mine);
    return 0;
}
