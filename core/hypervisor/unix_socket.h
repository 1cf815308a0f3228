// SPDX-License-Identifier: LGPL-2.1-or-later
/* Connecting to the sockets that a QEMU listens on. Any thread. */
#pragma once

#include "base/error.h"

/*
 * A connected stream socket, O_NONBLOCK and O_CLOEXEC, in `*fd`, the caller's. `name` is what texts of errors
 * call the peer; a path of any length will do. Errors: ENOENT; ECONNREFUSED (the socket is a dead QEMU's);
 * EACCES; ETIMEDOUT where too many others wait before us.
 */
int unix_socket_connect(const char *path, const char *name, int timeout_ms, int *fd, struct error *err);
