// SPDX-License-Identifier: LGPL-2.1-or-later
/* The lock of a writable mount; see lock.h. */
#include "store/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

/* The daemon of a mount that was just taken down may still be ending: umount does not wait for it. */
#define WAIT_MS 2000
#define TRY_MS  20

/* What the holder wrote, or a guess where it was killed between locking and writing. */
static void read_holder(int fd, char *holder, size_t size)
{
    char text[HOST_NAME_MAX + 32], host[HOST_NAME_MAX + 1];
    long pid;
    ssize_t length = pread(fd, text, sizeof text - 1, 0);
    text[length > 0 ? length : 0] = '\0';
    for (char *at = text; *at; at++)
        if ((unsigned char)*at < 0x20 && *at != '\n')
            *at = '?';
    if (sscanf(text, "%64s %ld", host, &pid) == 2)
        snprintf(holder, size, "host %s, process %ld", host, pid);
    else
        snprintf(holder, size, "another process");
}

/* Only for people to read: a full disk must not keep the lock from being taken. */
static void sign(int fd)
{
    char host[HOST_NAME_MAX + 1] = "", text[HOST_NAME_MAX + 32];
    gethostname(host, sizeof host - 1);
    int length = snprintf(text, sizeof text, "%s %ld\n", host[0] ? host : "localhost", (long)getpid());
    if (length > 0 && pwrite(fd, text, (size_t)length, 0) == length && ftruncate(fd, length) < 0)
        return;
}

int lock_take(int directory, int *fd, struct error *err)
{
    for (unsigned waited_ms = 0;;) {
        cleanup_close int file =
            openat(directory, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
        if (file < 0)
            return error_set(err, errno, "lock: %s", strerror(errno));
        struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        if (fcntl(file, F_OFD_SETLK, &whole) < 0) {
            bool is_held = errno == EAGAIN || errno == EACCES;
            if (is_held && waited_ms < WAIT_MS) {
                usleep(TRY_MS * 1000);
                waited_ms += TRY_MS;
                continue;
            }
            if (!is_held)
                return error_set(err, errno, "it can't be locked (%s), so it can only be mounted with -o ro",
                                 strerror(errno));
            char holder[HOST_NAME_MAX + 64];
            read_holder(file, holder, sizeof holder);
            return error_set(err, EBUSY, "it is mounted for writing already (%s)", holder);
        }
        /* The file may have been removed between opening and locking: then the lock is worth nothing. */
        struct stat ours, there;
        if (fstat(file, &ours) == 0 && fstatat(directory, "lock", &there, AT_SYMLINK_NOFOLLOW) == 0 &&
            ours.st_dev == there.st_dev && ours.st_ino == there.st_ino) {
            sign(file);
            *fd = steal_fd(&file);
            return 0;
        }
    }
}
