// SPDX-License-Identifier: LGPL-2.1-or-later
/* See unix_socket.h. */
#include "hypervisor/unix_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "hypervisor/deadline.h"

#define CONNECT_RETRY_MS 10

/* A path that is too long for an address is reached through its directory's descriptor. */
static int make_address(const char *path, int *directory, struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) < sizeof address->sun_path) {
        memcpy(address->sun_path, path, strlen(path) + 1);
        return 0;
    }
    const char *slash = strrchr(path, '/');
    cleanup_free char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : NULL;
    if (!folder)
        return slash ? -ENOMEM : -ENAMETOOLONG;
    *directory = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*directory < 0)
        return -errno;
    int length =
        snprintf(address->sun_path, sizeof address->sun_path, "/proc/self/fd/%d/%s", *directory, slash + 1);
    return length > 0 && (size_t)length < sizeof address->sun_path ? 0 : -ENAMETOOLONG;
}

static int connect_socket(int fd, const char *path, int64_t deadline)
{
    cleanup_close int directory = -1;
    struct sockaddr_un address;
    int rc = make_address(path, &directory, &address);
    if (rc < 0)
        return rc;
    while (connect(fd, (const struct sockaddr *)&address, sizeof address) < 0) {
        /* EAGAIN: too many others wait to be accepted. */
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
        if (deadline_left_ms(deadline) == 0)
            return -ETIMEDOUT;
        poll(NULL, 0, CONNECT_RETRY_MS);
    }
    return 0;
}

int unix_socket_connect(const char *path, const char *name, int timeout_ms, int *fd, struct error *err)
{
    cleanup_close int made = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (made < 0)
        return error_set(err, errno, "no socket: %m");
    int rc = connect_socket(made, path, deadline_in(timeout_ms));
    if (rc == -ECONNREFUSED)
        return error_set(err, ECONNREFUSED, "%s: nobody listens on %s: its QEMU has ended", name, path);
    if (rc < 0)
        return error_set(err, -rc, "%s: no connection to %s: %s", name, path, strerror(-rc));
    *fd = steal_fd(&made);
    return 0;
}
