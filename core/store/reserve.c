// SPDX-License-Identifier: LGPL-2.1-or-later
/* Room for the store; see reserve.h. */
#include "store/reserve.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

#define NAME     "reserve"
#define LEAST    ((size_t)256 * 1024)
#define FILE_OWN (O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)

void reserve_init(struct reserve *reserve, int directory)
{
    *reserve = (struct reserve){.directory = directory};
}

void reserve_fill(struct reserve *reserve, size_t bytes)
{
    struct stat stat;
    bytes = bytes < LEAST ? LEAST : bytes;
    if (reserve->directory < 0 || reserve->bytes >= bytes)
        return;
    cleanup_close int fd = openat(reserve->directory, NAME, FILE_OWN, 0600);
    if (fd < 0 || fstat(fd, &stat) < 0 || !S_ISREG(stat.st_mode))
        return;
    if ((size_t)stat.st_blocks * 512 >= bytes || fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes) == 0)
        reserve->bytes = bytes;
}

bool reserve_release(struct reserve *reserve)
{
    if (reserve->directory < 0 || reserve->bytes == 0)
        return false;
    reserve->bytes = 0;
    /* An open descriptor of it elsewhere does not matter: there is none. */
    return unlinkat(reserve->directory, NAME, 0) == 0;
}
