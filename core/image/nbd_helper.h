// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * One image served read-only by a qemu-nbd of its own, and read through libnbd.
 *
 * The helper is started by nbd_helper_new and ended by nbd_helper_free, or by the kernel when we die. It
 * listens on a socket whose name is gone before the helper runs; all connections to it were made by then, and
 * it takes no more. Nothing waits for it without bound: a helper that moves no byte for `stall_ms` is ended,
 * and what was asked of it fails. One that died is started again by the next request (and by the one that
 * it left unanswered, once). One that reads from the network and answers with an error is started again,
 * too: its server may have come back, and not every driver of QEMU connects again by itself.
 *
 * Any thread may read and walk; as many requests as there are connections are under way at once, others wait.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "helper/sandbox.h"
#include "image/extent.h"

/* The number that the first of the image's descriptors has in the helper; the socket comes before it. */
#define NBD_HELPER_FIRST_FD (SANDBOX_FIRST_FD + 1)

#define NBD_HELPER_CONNECTIONS 4

struct network_access;

/* Everything is borrowed, and must last as long as the helper. */
struct nbd_helper_spec {
    const char *path;                     /* of the image: for texts */
    const char *graph;                    /* QEMU's block graph, as JSON; its files are /proc/self/fd/N */
    const struct network_access *network; /* NULL: none. Else `path` is the name of a raw disk on the network,
                                             and there is no graph and no file */
    const int *fds; /* of the image; numbered from NBD_HELPER_FIRST_FD on, and readable */
    size_t fd_count;
    size_t memory_bytes; /* that the helper may allocate; 0: any */
    int stall_ms;        /* without a byte from the helper, before it is given up */
};

struct nbd_helper;

/*
 * Starts the helper. Errors: EOPNOTSUPP (qemu-nbd or Landlock missing), EIO (QEMU can't open the image: the
 * text is QEMU's), ETIMEDOUT, ENOMEM.
 */
int nbd_helper_new(const struct nbd_helper_spec *spec, struct nbd_helper **helper, struct error *err);

/* No request may be under way. */
void nbd_helper_free(struct nbd_helper *helper);

/* Virtual size, bytes. */
uint64_t nbd_helper_size(const struct nbd_helper *helper);

/* Reads exactly `length` bytes. -EINVAL: they don't all lie inside the image. -EIO: the image is damaged
 * there, or the helper is gone; the log says why. */
int nbd_helper_read(struct nbd_helper *helper, uint64_t offset, void *buffer, size_t length);

/*
 * Visits what of [offset, offset + length) lies inside the image, as EXTENT_ZERO and EXTENT_FOREIGN. Errors:
 * -EIO, -ENOMEM, what the visitor returned.
 */
int nbd_helper_walk(struct nbd_helper *helper, uint64_t offset, uint64_t length, extent_visitor visitor,
                    void *opaque);
