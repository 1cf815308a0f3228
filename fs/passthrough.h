// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * FUSE passthrough: the kernel reads a file of the mount from a backing file by itself (Linux >= 6.9, root
 * only).
 *
 * libfuse has functions for it from 3.17 on. With an older one, the replies to INIT and OPEN are completed on
 * their way to the kernel, by the hook that fuse_session_custom_io offers (struct fuse_init_out and
 * fuse_open_out of linux/fuse.h, protocol 7.40). One session per process.
 */
#pragma once

#include <stdbool.h>

#include "fuse.h"

/* After the session was mounted and before its loop. 0 or a negative errno; without it there is just no
 * passthrough. */
int passthrough_attach(struct fuse_session *session);

/* In the init handler: asks for it where it can be had. */
void passthrough_init(struct fuse_conn_info *connection);

/* Registers `fd` as a backing file. Returns its id, > 0; 0 where the kernel or we can't. */
int passthrough_register(fuse_req_t request, int fd);

/* Gives the id back. Files that are open with it go on reading. */
void passthrough_unregister(fuse_req_t request, int id);

/* fuse_reply_open, for a file that the kernel reads from the backing file `id`. */
int passthrough_reply_open(fuse_req_t request, struct fuse_file_info *file, int id);
