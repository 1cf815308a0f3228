// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * See nbd_session.h.
 *
 * qemu-nbd wants to accept connections from a listening socket, and a listening UNIX socket must have a name.
 * An abstract name could be connected to by every user of the host. So the socket is bound in a directory,
 * with mode 0600, and unlinked as soon as all connections were made, which the kernel queues: before the
 * helper is even started. No name is left unless we are killed within those few system calls.
 *
 * libnbd's plain calls wait for ever; its aio calls, driven here by poll, do not.
 */
#include "image/nbd_session.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libnbd.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "image/network_access.h"

#define SAID_BYTES_MAX  1024
#define MAP_RUNS_MAX    (1 << 17) /* QEMU sends no more (NBD_MAX_BLOCK_STATUS_EXTENTS) */
#define SHARED_ARGUMENT "--shared=4"
_Static_assert(NBD_HELPER_CONNECTIONS == 4, "what qemu-nbd is told");

/* ---- the socket ---- */

static int bind_somewhere(int fd, struct sockaddr_un *address, struct error *err)
{
    const char *const folders[] = {getenv("XDG_RUNTIME_DIR"), "/run", "/tmp", "/dev/shm"};
    uint64_t random[2];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return error_set(err, EIO, "no random numbers: %m");
    if (fchmod(fd, 0600) < 0) /* the mode that its name will have */
        return error_set(err, errno, "a socket's mode can't be set: %m");
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        if (!folders[i] || *folders[i] != '/')
            continue;
        *address = (struct sockaddr_un){.sun_family = AF_UNIX};
        int length = snprintf(address->sun_path, sizeof address->sun_path,
                              "%s/vmsnapfs-nbd-%016" PRIx64 "%016" PRIx64, folders[i], random[0], random[1]);
        if (length > 0 && (size_t)length < sizeof address->sun_path &&
            bind(fd, (struct sockaddr *)address, sizeof *address) == 0)
            return 0;
    }
    return error_set(err, errno, "there is no place for a socket, neither in /run nor in /tmp: %m");
}

static void close_all(int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
        fds[i] = -1;
    }
}

/* Makes a listening socket and the connections to it. */
static int make_sockets(int *listener, int *connections, struct error *err)
{
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address;
    if (fd < 0)
        return error_set(err, errno, "no socket: %m");
    int rc = bind_somewhere(fd, &address, err);
    if (rc < 0)
        return rc;
    if (listen(fd, NBD_HELPER_CONNECTIONS) < 0)
        rc = -errno;
    for (int i = 0; i < NBD_HELPER_CONNECTIONS && rc == 0; i++) {
        connections[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connections[i] < 0 || connect(connections[i], (struct sockaddr *)&address, sizeof address) < 0)
            rc = -errno;
    }
    unlink(address.sun_path);
    if (rc < 0) {
        close_all(connections, NBD_HELPER_CONNECTIONS);
        return error_set(err, -rc, "no connection to a socket of our own: %s", strerror(-rc));
    }
    *listener = steal_fd(&fd);
    return 0;
}

/* ---- waiting ---- */

/* Becomes readable at the end; -1 where there are no descriptors left: then the end waits for what hangs. */
static int ending = -1;
static pthread_once_t ending_once = PTHREAD_ONCE_INIT;

static void make_ending(void)
{
    ending = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

void nbd_sessions_end(void)
{
    pthread_once(&ending_once, make_ending);
    if (ending >= 0)
        eventfd_write(ending, 1);
}

/*
 * Lets the connection work until the command `cookie` is done, or, with 0, until the handshake is. What
 * counts against the limit is the time in which nothing moves.
 */
static int await(struct nbd_handle *nbd, int64_t cookie, int stall_ms)
{
    for (;;) {
        int done = cookie ? nbd_aio_command_completed(nbd, (uint64_t)cookie) : nbd_aio_is_ready(nbd);
        if (done > 0)
            return 0;
        if (nbd_aio_is_dead(nbd) || nbd_aio_is_closed(nbd))
            return -ECONNRESET;
        if (done < 0)
            return -EIO;
        unsigned direction = nbd_aio_get_direction(nbd);
        struct pollfd poll_fds[] = {{.fd = nbd_aio_get_fd(nbd)}, {.fd = ending, .events = POLLIN}};
        if (direction & LIBNBD_AIO_DIRECTION_READ)
            poll_fds[0].events |= POLLIN;
        if (direction & LIBNBD_AIO_DIRECTION_WRITE)
            poll_fds[0].events |= POLLOUT;
        int ready = poll(poll_fds, 2, stall_ms);
        if (ready == 0)
            return -ETIMEDOUT;
        if (ready > 0 && poll_fds[1].revents)
            return -ECANCELED;
        if (ready < 0 && errno != EINTR)
            return -ECONNRESET;
        /* What these return shows in the state of the connection. */
        if (ready > 0 && (direction & LIBNBD_AIO_DIRECTION_READ) &&
            (poll_fds[0].revents & (POLLIN | POLLHUP | POLLERR)))
            nbd_aio_notify_read(nbd);
        else if (ready > 0 && (direction & LIBNBD_AIO_DIRECTION_WRITE))
            nbd_aio_notify_write(nbd);
    }
}

/* ---- starting and ending ---- */

/*
 * Makes one clean line for a person of what QEMU said: shortens "qemu-nbd: Failed to blk_new_open 'GRAPH':
 * TEXT" to TEXT, and puts the image's name where QEMU knows only the descriptor.
 */
static void clean_said(const struct nbd_helper_spec *spec, const char *said, struct text *text)
{
    static const char image_fd[] = "/proc/self/fd/4";
    _Static_assert(NBD_HELPER_FIRST_FD == 4, "the image's descriptor");
    const char *named = spec->network ? spec->path : spec->graph;
    const char *found = strstr(said, named);
    if (found) {
        found += strlen(named);
        said = found + strspn(found, "': ");
    }
    while (*said) {
        size_t length = strlen(image_fd);
        if (strncmp(said, image_fd, length) == 0 && !(said[length] >= '0' && said[length] <= '9')) {
            text_append_string(text, spec->path);
            said += length;
        } else if (*said == '\n') {
            text_append_string(text, "; ");
            said++;
        } else {
            char byte = (unsigned char)*said < ' ' || *said == 127 ? '?' : *said;
            text_append(text, &byte, 1);
            said++;
        }
    }
}

void nbd_session_said(struct nbd_session *session, char *text, size_t size)
{
    char said[SAID_BYTES_MAX * 8];
    sandbox_stderr(&session->process, said, sizeof said);
    cleanup_text struct text clean = {0};
    clean_said(session->spec, said, &clean);
    snprintf(text, size, "%s", clean.failed || !clean.data ? "" : clean.data);
}

static int start_process(struct nbd_session *session, int listener, struct error *err)
{
    const struct nbd_helper_spec *spec = session->spec;
    cleanup_free int *fds = calloc(spec->fd_count + 1, sizeof *fds);
    cleanup_text struct text image = {0};
    if (spec->network)
        text_append_string(&image, spec->path);
    else
        text_printf(&image, "json:%s", spec->graph);
    if (!fds || image.failed)
        return error_set(err, ENOMEM, "out of memory");
    fds[0] = listener;
    for (size_t i = 0; i < spec->fd_count; i++)
        fds[i + 1] = spec->fds[i];
    /* Without --persistent it ends by itself when the last connection does. */
    const char *const argv[] = {"qemu-nbd", "--read-only", SHARED_ARGUMENT, image.data, NULL};
    /* The whole graph: raw over the protocol that the name begins with. Nothing is probed. */
    const char *const network_argv[] = {"qemu-nbd",     "--read-only", SHARED_ARGUMENT,
                                        "--format=raw", image.data,    NULL};
    const struct sandbox_spec sandbox = {
        .argv = spec->network ? network_argv : argv,
        .network = spec->network ? spec->network->sockets : SANDBOX_NO_NETWORK,
        .read_if_there = spec->network ? (const char *const *)spec->network->read_if_there : NULL,
        .home = spec->network ? spec->network->home : NULL,
        .pass_fds = fds,
        .pass_fd_count = spec->fd_count + 1,
        .memory_bytes = spec->memory_bytes,
        .listen = true,
    };
    int rc = sandbox_start(&sandbox, &session->process, err);
    return rc == -ENOENT && err ? error_set(err, EOPNOTSUPP, "%s", err->text)
           : rc == -ENOENT      ? -EOPNOTSUPP
                                : rc;
}

/* Takes over `*socket`. */
static int make_connection(int *socket, struct nbd_handle **connection)
{
    struct nbd_handle *nbd = nbd_create();
    if (!nbd)
        return -ENOMEM;
    /* Without the block size of the server, QEMU takes requests of any alignment. */
    if (nbd_set_request_block_size(nbd, false) < 0 ||
        nbd_add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 ||
        nbd_aio_connect_socket(nbd, steal_fd(socket)) < 0) {
        nbd_close(nbd);
        return -ECONNRESET;
    }
    *connection = nbd;
    return 0;
}

/* Why the handshake failed: the helper mostly has said it before it ended. */
static int explain(struct nbd_session *session, int rc, struct error *err)
{
    char said[SAID_BYTES_MAX / 4];
    nbd_session_said(session, said, sizeof said);
    if (rc == -ETIMEDOUT)
        return error_set(err, ETIMEDOUT, "qemu-nbd gave no answer within %d ms%s%s", session->spec->stall_ms,
                         *said ? ": " : "", said);
    if (rc != -ECONNRESET)
        return error_set(err, -rc, "no connection to qemu-nbd: %s", strerror(-rc));
    return error_set(err, strstr(said, "Unknown driver") ? EOPNOTSUPP : EIO, "qemu-nbd ended: %s",
                     *said ? said : "it did not say why");
}

static int connect_all(struct nbd_session *session, int *sockets, struct error *err)
{
    int rc = 0;
    for (unsigned i = 0; i < NBD_HELPER_CONNECTIONS && rc == 0; i++) {
        session->sockets[i] = fcntl(sockets[i], F_DUPFD_CLOEXEC, 0);
        rc = session->sockets[i] < 0 ? -errno : make_connection(&sockets[i], &session->connections[i]);
    }
    for (unsigned i = 0; i < NBD_HELPER_CONNECTIONS && rc == 0; i++)
        rc = await(session->connections[i], 0, session->spec->stall_ms);
    if (rc < 0)
        return explain(session, rc, err);
    int64_t size = nbd_get_size(session->connections[0]);
    if (size < 0)
        return error_set(err, EIO, "qemu-nbd does not tell the size");
    session->size = (uint64_t)size;
    session->has_map = nbd_can_meta_context(session->connections[0], LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
    return 0;
}

int nbd_session_start(const struct nbd_helper_spec *spec, struct nbd_session **session, struct error *err)
{
    pthread_once(&ending_once, make_ending);
    struct pollfd end = {.fd = ending, .events = POLLIN};
    if (poll(&end, 1, 0) > 0)
        return error_set(err, ECANCELED, "vmsnapfs is ending");
    struct nbd_session *made = calloc(1, sizeof *made);
    if (!made)
        return error_set(err, ENOMEM, "out of memory");
    made->spec = spec;
    int sockets[NBD_HELPER_CONNECTIONS];
    for (unsigned i = 0; i < NBD_HELPER_CONNECTIONS; i++)
        sockets[i] = made->sockets[i] = -1;
    cleanup_close int listener = -1;
    int rc = make_sockets(&listener, sockets, err);
    if (rc == 0)
        rc = start_process(made, listener, err);
    if (rc == 0) {
        close(steal_fd(&listener)); /* or we would not see that the helper's is gone */
        rc = connect_all(made, sockets, err);
    }
    if (rc < 0) {
        close_all(sockets, NBD_HELPER_CONNECTIONS);
        nbd_session_free(made);
        return rc;
    }
    *session = made;
    return 0;
}

void nbd_session_free(struct nbd_session *session)
{
    if (!session)
        return;
    for (unsigned i = 0; i < NBD_HELPER_CONNECTIONS; i++)
        if (session->connections[i])
            nbd_close(session->connections[i]);
    close_all(session->sockets, NBD_HELPER_CONNECTIONS);
    sandbox_end(&session->process, 0); /* it only reads: there is nothing that it should finish */
    free(session);
}

void nbd_session_cut(struct nbd_session *session)
{
    for (unsigned i = 0; i < NBD_HELPER_CONNECTIONS; i++)
        shutdown(session->sockets[i], SHUT_RDWR);
}

/* ---- requests ---- */

/* Waits for the command `cookie`. Where it is given up, nothing comes into the caller's buffer any more:
 * libnbd reads from the socket only when it is called. */
static int finish(struct nbd_session *session, unsigned connection, int64_t cookie)
{
    struct nbd_handle *nbd = session->connections[connection];
    if (cookie < 0)
        return nbd_aio_is_ready(nbd) > 0 ? -EIO : -ECONNRESET;
    return await(nbd, cookie, session->spec->stall_ms);
}

int nbd_connection_read(struct nbd_session *session, unsigned connection, uint64_t offset, void *buffer,
                        size_t length)
{
    int64_t cookie =
        nbd_aio_pread(session->connections[connection], buffer, length, offset, NBD_NULL_COMPLETION, 0);
    return finish(session, connection, cookie);
}

static int map_append(struct nbd_map *map, uint64_t length, bool zero)
{
    if (map->count > 0 && map->runs[map->count - 1].zero == zero) {
        map->runs[map->count - 1].length += length;
        return 0;
    }
    if (map->count == map->capacity) {
        size_t capacity = map->capacity ? map->capacity * 2 : 64;
        struct nbd_run *runs = capacity > MAP_RUNS_MAX ? NULL : realloc(map->runs, capacity * sizeof *runs);
        if (!runs)
            return -1;
        map->runs = runs;
        map->capacity = capacity;
    }
    map->runs[map->count++] = (struct nbd_run){.length = length, .zero = zero};
    return 0;
}

static int take_extents(void *opaque, const char *context, uint64_t offset, uint32_t *entries, size_t count,
                        int *error)
{
    if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0)
        return 0;
    for (size_t i = 0; i + 1 < count; i += 2)
        if (map_append(opaque, entries[i], entries[i + 1] & LIBNBD_STATE_ZERO) < 0) {
            *error = ENOMEM;
            return -1;
        }
    return 0;
}

int nbd_connection_map(struct nbd_session *session, unsigned connection, uint64_t offset, uint64_t length,
                       struct nbd_map *map)
{
    map->count = 0;
    int64_t cookie = nbd_aio_block_status(session->connections[connection], length, offset,
                                          (nbd_extent_callback){.callback = take_extents, .user_data = map},
                                          NBD_NULL_COMPLETION, 0);
    return finish(session, connection, cookie);
}
