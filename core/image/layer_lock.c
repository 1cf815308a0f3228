// SPDX-License-Identifier: LGPL-2.1-or-later
/* Readers and changers of images in two mounts; see layer_lock.h. */
#include "image/layer_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static struct flock byte_lock(short type, enum layer_lock which)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = which, .l_len = 1};
}

int layer_lock_take(int fd, enum layer_lock which)
{
    struct flock lock = byte_lock(F_RDLCK, which);
    return fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

bool layer_lock_is_taken(int fd, enum layer_lock which)
{
    struct flock lock = byte_lock(F_WRLCK, which);
    return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}
