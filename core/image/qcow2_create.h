// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The content of an image that has none yet, as `qemu-img create` makes it: version 3, clusters of 64 KiB,
 * references of 16 bits (QEMU docs/interop/qcow2.txt). Some hundred bytes in a sparse file, for which no QEMU
 * is started, and none that runs is kept busy.
 */
#pragma once

#include <stdint.h>

#include "base/error.h"

struct qcow2_create {
    uint64_t size_bytes; /* virtual; a multiple of 512 */
    /* What its header says, 1 to 1023 bytes of UTF-8; it is not opened. NULL: no overlay. */
    const char *backing_name;
    const char *backing_format; /* QEMU's name; never to be guessed: NULL is refused with a name */
};

/*
 * Makes the file, which is empty, or was to become such an image before, one. Nothing is flushed. Errors,
 * after which its content is garbage: EINVAL; ENAMETOOLONG for the backing name; EFBIG for more than 2 PiB,
 * which QEMU opens no more; ENOSPC and others of ftruncate and pwrite.
 */
int qcow2_create(int fd, const struct qcow2_create *what, struct error *err);
