// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Faults for tests of the mount: preloaded into the daemon, and into nothing that it starts, it lets the Nth
 * call of a kind fail. Which one, and how, stands in a page that the test shares with it (faults.py), so
 * that it can be said, and taken back, while the daemon runs.
 *
 *     files    calls that write, by the daemon itself, beneath the source: they give an errno
 *     reads    calls that open for reading, or read, likewise
 *     starts   forks for helper programs: they give an errno
 *     qmp      commands to a storage daemon, on their way: a thread stands between the two ends of its
 *              monitor and answers in its place, says nothing any more, or kills it
 *     runs     of qemu-img: fails, is killed, says what nobody asked for, or never ends
 *     monitor  commands to a QEMU that runs a domain, in the same way; the connection can break, too
 *     writes   system calls by which a helper program writes to images: they give an errno, or it is killed
 *              right before. The kernel asks us about each (seccomp's user notification)
 *
 * So helpers are the real ones, started and confined as always. Where nobody ever answers, time passes
 * faster for the thread that waits: its poll returns early, as if the time had been over.
 */
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

enum kind { NOTHING, FILES, READS, STARTS, QMP, RUNS, WRITES, MONITOR };
enum qmp_fault {
    QMP_ERROR = 1,
    QMP_SILENT,
    QMP_DEAF,
    QMP_KILL,
    QMP_KILL_AFTER,
    QMP_GARBAGE,
    QMP_BREAK,
    QMP_BREAK_AFTER
};
enum run_fault { RUN_FAILS = 1, RUN_KILLED, RUN_GARBAGE, RUN_HANGS, RUN_NOT_STARTED };

/* As faults.py writes it. */
struct control {
    _Atomic uint32_t kind;
    uint32_t how; /* an errno, or one of the enumerations above; 0 with WRITES: killed */
    _Atomic int32_t countdown;
    uint32_t lasts; /* also all calls after the Nth */
    _Atomic uint32_t fired;
    _Atomic int32_t hung; /* a helper that never ends by itself */
    char told[2048];      /* which calls were hit */
    char source[1024];
    char only[64]; /* a command: no other is counted. Empty: all are */
};

#define FDS_MAX     65536
#define HIGH_FD     900 /* above the descriptors that a helper gets */
#define SHORT_MS    30
#define PATIENCE_MS 10000 /* who waits so long waits for the end of a program */
#define LOOK_MS     100   /* or looks every so often */
#define SKIP_MS     INT64_C(100000)

static struct control *control;
static bool is_child;                      /* between fork and exec of a helper */
static int listener_sockets[2] = {-1, -1}; /* a helper sends the listener of its filter */
static atomic_int monitors[FDS_MAX];       /* our ends of monitors, by their numbers */
enum monitor { NONE, TALKS, SILENT /* nothing will ever come */ };
static _Thread_local int64_t skipped_ms;

#define REAL(name)                                                                                           \
    static __typeof__(name) *real;                                                                           \
    if (!real)                                                                                               \
    real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* ---- Whether ---- */

static void tell(const char *call, const char *what)
{
    size_t length = strnlen(control->told, sizeof control->told);
    if (length < sizeof control->told - 1)
        snprintf(control->told + length, sizeof control->told - length, "%s%s %s", length ? "; " : "", call,
                 what);
}

/* 0: it goes on as always. Else how it fails. */
static uint32_t hit(enum kind kind, const char *call, const char *what)
{
    if (!control || atomic_load(&control->kind) != kind ||
        (*control->only && strcmp(what, control->only) != 0))
        return 0;
    int32_t left = atomic_fetch_sub(&control->countdown, 1);
    if (left > 1 || (left < 1 && !control->lasts))
        return 0;
    if (atomic_fetch_add(&control->fired, 1) < 10)
        tell(call, what);
    return kind == WRITES ? control->how + 1 : control->how;
}

static void path_of(int fd, char path[static 1024])
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, 1023);
    path[length < 0 ? 0 : length] = '\0';
}

static void path_at(int directory, const char *name, char path[static 1024])
{
    static const char descriptors[] = "/proc/self/fd/";
    if (strncmp(name, descriptors, sizeof descriptors - 1) == 0) {
        path_of(atoi(name + sizeof descriptors - 1), path);
    } else if (*name == '/' || directory == AT_FDCWD) {
        snprintf(path, 1024, "%s", name);
    } else {
        path_of(directory, path);
        size_t length = strlen(path);
        snprintf(path + length, 1024 - length, "/%s", name);
    }
}

/* errno is set where it is to fail. */
static bool fails(enum kind kind, const char *call, const char *path)
{
    size_t length = strlen(control->source);
    if (is_child || strncmp(path, control->source, length) != 0 || (path[length] && path[length] != '/'))
        return false;
    uint32_t code = hit(kind, call, path + length);
    if (code)
        errno = (int)code;
    return code;
}

static bool is_armed(enum kind kind)
{
    return control && atomic_load(&control->kind) == kind;
}

static bool fails_at(enum kind kind, const char *call, int directory, const char *name)
{
    char path[1024];
    if (!is_armed(kind))
        return false;
    path_at(directory, name, path);
    return fails(kind, call, path);
}

static bool fails_on(enum kind kind, const char *call, int fd)
{
    char path[1024];
    if (!is_armed(kind))
        return false;
    path_of(fd, path);
    return fails(kind, call, path);
}

/* ---- Calls on files ---- */

static bool open_fails(int directory, const char *name, int flags)
{
    bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT);
    return fails_at(writes ? FILES : READS, writes ? "open for writing" : "open", directory, name);
}

#define TAKE_MODE(flags)                                                                                     \
    mode_t mode = 0;                                                                                         \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                   \
        va_list arguments;                                                                                   \
        va_start(arguments, flags);                                                                          \
        mode = va_arg(arguments, mode_t);                                                                    \
        va_end(arguments);                                                                                   \
    }

int open(const char *name, int flags, ...)
{
    REAL(open);
    TAKE_MODE(flags);
    return open_fails(AT_FDCWD, name, flags) ? -1 : real(name, flags, mode);
}

int open64(const char *name, int flags, ...)
{
    REAL(open64);
    TAKE_MODE(flags);
    return open_fails(AT_FDCWD, name, flags) ? -1 : real(name, flags, mode);
}

int openat(int directory, const char *name, int flags, ...)
{
    REAL(openat);
    TAKE_MODE(flags);
    return open_fails(directory, name, flags) ? -1 : real(directory, name, flags, mode);
}

int openat64(int directory, const char *name, int flags, ...)
{
    REAL(openat64);
    TAKE_MODE(flags);
    return open_fails(directory, name, flags) ? -1 : real(directory, name, flags, mode);
}

#define ON_FD(kind, type, name, parameters, fd, ...)                                                         \
    type name parameters                                                                                     \
    {                                                                                                        \
        REAL(name);                                                                                          \
        return fails_on(kind, #name, fd) ? -1 : real(__VA_ARGS__);                                           \
    }

ON_FD(FILES, ssize_t, write, (int fd, const void *bytes, size_t length), fd, fd, bytes, length)
ON_FD(FILES, ssize_t, pwrite64, (int fd, const void *bytes, size_t length, off64_t at), fd, fd, bytes, length,
      at)
ON_FD(FILES, int, fsync, (int fd), fd, fd)
ON_FD(FILES, int, fdatasync, (int fd), fd, fd)
ON_FD(FILES, int, syncfs, (int fd), fd, fd)
ON_FD(FILES, int, ftruncate64, (int fd, off64_t length), fd, fd, length)
ON_FD(FILES, int, fallocate64, (int fd, int mode, off64_t at, off64_t length), fd, fd, mode, at, length)
ON_FD(FILES, int, fchown, (int fd, uid_t user, gid_t group), fd, fd, user, group)
ON_FD(FILES, int, fchmod, (int fd, mode_t mode), fd, fd, mode)
ON_FD(FILES, int, fsetxattr, (int fd, const char *key, const void *value, size_t size, int flags), fd, fd,
      key, value, size, flags)
ON_FD(FILES, int, fremovexattr, (int fd, const char *key), fd, fd, key)
ON_FD(READS, ssize_t, read, (int fd, void *bytes, size_t length), fd, fd, bytes, length)
ON_FD(READS, ssize_t, pread64, (int fd, void *bytes, size_t length, off64_t at), fd, fd, bytes, length, at)
ON_FD(READS, ssize_t, fgetxattr, (int fd, const char *key, void *value, size_t size), fd, fd, key, value,
      size)
ON_FD(READS, ssize_t, flistxattr, (int fd, char *list, size_t size), fd, fd, list, size)
ON_FD(READS, int, fstat64, (int fd, struct stat64 *stat), fd, fd, stat)

#define AT_NAME(name, parameters, directory, path, ...)                                                      \
    int name parameters                                                                                      \
    {                                                                                                        \
        REAL(name);                                                                                          \
        return fails_at(FILES, #name, directory, path) ? -1 : real(__VA_ARGS__);                             \
    }

AT_NAME(unlink, (const char *path), AT_FDCWD, path, path)
AT_NAME(unlinkat, (int at, const char *path, int flags), at, path, at, path, flags)
AT_NAME(mkdirat, (int at, const char *path, mode_t mode), at, path, at, path, mode)
AT_NAME(renameat, (int at, const char *from, int to_at, const char *to), to_at, to, at, from, to_at, to)
AT_NAME(renameat2, (int at, const char *from, int to_at, const char *to, unsigned flags), to_at, to, at, from,
        to_at, to, flags)
AT_NAME(linkat, (int at, const char *from, int to_at, const char *to, int flags), to_at, to, at, from, to_at,
        to, flags)

int fcntl64(int fd, int command, ...)
{
    REAL(fcntl64);
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (command != F_OFD_SETLK || !fails_on(FILES, "lock", fd))
        return real(fd, command, argument);
    if (errno == EACCES) /* would mean that somebody else has it */
        errno = EIO;
    return -1;
}

/* ---- Time ---- */

int clock_gettime(clockid_t clock, struct timespec *time)
{
    REAL(clock_gettime);
    int result = real(clock, time);
    if (clock == CLOCK_MONOTONIC && skipped_ms && control) {
        if (atomic_load(&control->hung) == 0)
            skipped_ms = 0;
        time->tv_sec += skipped_ms / 1000;
    }
    return result;
}

static bool is_of_hung(int fd)
{
    char path[64], text[256];
    REAL(open);
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    int info = real(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = info < 0 ? -1 : syscall(SYS_read, info, text, sizeof text - 1);
    if (info >= 0)
        syscall(SYS_close, info);
    text[length < 0 ? 0 : length] = '\0';
    const char *found = strstr(text, "\nPid:");
    return found && atoi(found + 5) == atomic_load(&control->hung);
}

int poll(struct pollfd *list, nfds_t count, int timeout)
{
    REAL(poll);
    if (!control || count != 1 || list->fd < 0 || list->fd >= FDS_MAX)
        return real(list, count, timeout);
    for (int left = timeout; left > SHORT_MS && atomic_load(&monitors[list->fd]) != NONE; left -= SHORT_MS) {
        int ready = real(list, count, SHORT_MS);
        if (ready != 0 || atomic_load(&monitors[list->fd]) == SILENT)
            return ready;
    }
    if (timeout <= 0 || !atomic_load(&control->hung) || !is_of_hung(list->fd))
        return real(list, count, timeout);
    /* But not where it was killed and is waited for: that may take what it takes. */
    bool is_hope = timeout >= PATIENCE_MS || timeout <= LOOK_MS;
    int ready = real(list, count, is_hope ? SHORT_MS : timeout);
    if (ready > 0)
        atomic_store(&control->hung, 0);
    else if (timeout <= LOOK_MS)
        skipped_ms += SKIP_MS;
    return ready;
}

int close(int fd)
{
    REAL(close);
    if (fd >= 0 && fd < FDS_MAX && !is_child)
        atomic_store(&monitors[fd], NONE);
    return real(fd);
}

/* ---- Between us and a storage daemon, or a QEMU ---- */

struct relay {
    enum kind kind;
    int client, server; /* the middle ends */
    int client_fd;      /* the daemon's own end, as a number */
    pid_t pid;          /* of the other side; 0: not known yet */
    int passed;         /* a descriptor that came with the next command; -1: none */
    bool silent, broken, doomed, greeted;
    char held[256]; /* an answer that must not come before the greeting */
    uint32_t then;  /* what happens when that command was answered: it is killed, or the connection breaks */
    char awaited[160]; /* its id */
    char line[1 << 20];
    size_t length;
};

static void send_all(int fd, const char *bytes, size_t length)
{
    while (length) {
        ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
        if (sent <= 0)
            return;
        bytes += sent;
        length -= (size_t)sent;
    }
}

/* A command with the descriptor that belongs to it. */
static void send_command(struct relay *relay, const char *line, size_t length)
{
    if (relay->passed >= 0) {
        union {
            struct cmsghdr align;
            char bytes[CMSG_SPACE(sizeof(int))];
        } attached = {0};
        struct iovec vector = {(void *)line, 1};
        struct msghdr message = {.msg_iov = &vector,
                                 .msg_iovlen = 1,
                                 .msg_control = attached.bytes,
                                 .msg_controllen = sizeof attached};
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &relay->passed, sizeof(int));
        if (sendmsg(relay->server, &message, MSG_NOSIGNAL) != 1)
            return;
        line++;
        length--;
    }
    send_all(relay->server, line, length);
}

/* The value of the last member of that name: a command's arguments may have one, too. */
static void copy_string(const char *line, const char *key, char *copy, size_t size)
{
    const char *found = NULL;
    for (const char *at = line; (at = strstr(at, key)); at++)
        found = at;
    size_t length = found ? strcspn(found + strlen(key), "\"") : 0;
    snprintf(copy, size, "%.*s", (int)length, found ? found + strlen(key) : "");
}

static void fall_silent(struct relay *relay)
{
    relay->silent = true;
    atomic_store(&monitors[relay->client_fd], SILENT);
}

static void kill_helper(pid_t pid)
{
    if (pid > 0)
        kill(pid, SIGKILL);
}

/* One command, with its line end. */
static void take_command(struct relay *relay, const char *line, size_t length)
{
    char command[128], id[128], answer[256];
    copy_string(line, "\"execute\":\"", command, sizeof command);
    copy_string(line, "\"id\":\"", id, sizeof id);
    uint32_t how = hit(relay->kind, "command", command);
    if (strcmp(command, "quit") == 0 && (how == QMP_ERROR || how == QMP_SILENT || how == QMP_GARBAGE))
        atomic_store(&control->hung, relay->pid);
    switch (how) {
    case 0:
        send_command(relay, line, length);
        return;
    case QMP_ERROR:
        snprintf(answer, sizeof answer,
                 "{\"error\": {\"class\": \"GenericError\", \"desc\": \"No space left on device\"}, "
                 "\"id\": \"%s\"}\r\n",
                 id);
        if (relay->greeted)
            send_all(relay->client, answer, strlen(answer));
        else
            memcpy(relay->held, answer, sizeof answer);
        return;
    case QMP_SILENT:
        fall_silent(relay);
        return;
    case QMP_DEAF: /* it is carried out, and nobody hears of it */
        fall_silent(relay);
        send_command(relay, line, length);
        return;
    case QMP_KILL:
        relay->doomed = relay->pid == 0; /* the first command can come before the greeting */
        kill_helper(relay->pid);
        return;
    case QMP_KILL_AFTER:
    case QMP_BREAK_AFTER:
        relay->then = how;
        snprintf(relay->awaited, sizeof relay->awaited, "\"%s\"", id);
        send_command(relay, line, length);
        return;
    case QMP_BREAK:
        relay->broken = true;
        return;
    case QMP_GARBAGE:
        send_all(relay->client, "{\"return\": ]\r\n", 14);
        return;
    }
}

static bool take_from_client(struct relay *relay)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } attached;
    struct iovec vector = {relay->line + relay->length, sizeof relay->line - 1 - relay->length};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = attached.bytes,
                             .msg_controllen = sizeof attached};
    ssize_t got = recvmsg(relay->client, &message, MSG_CMSG_CLOEXEC);
    if (got <= 0)
        return false;
    relay->length += (size_t)got;
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
        memcpy(&relay->passed, CMSG_DATA(header), sizeof(int));
    char *end;
    while ((end = memchr(relay->line, '\n', relay->length))) {
        size_t length = (size_t)(end + 1 - relay->line);
        char kept = relay->line[length];
        relay->line[length] = '\0';
        if (!relay->silent && !relay->broken)
            take_command(relay, relay->line, length);
        if (relay->passed >= 0)
            syscall(SYS_close, relay->passed);
        relay->passed = -1;
        relay->line[length] = kept;
        memmove(relay->line, relay->line + length, relay->length - length);
        relay->length -= length;
    }
    return !relay->broken;
}

static bool take_from_server(struct relay *relay)
{
    char bytes[65536];
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(struct ucred))];
    } attached;
    struct iovec vector = {bytes, sizeof bytes - 1};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = attached.bytes,
                             .msg_controllen = sizeof attached};
    ssize_t got = recvmsg(relay->server, &message, 0);
    if (got <= 0)
        return false;
    bytes[got] = '\0';
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_CREDENTIALS) {
        struct ucred sender;
        memcpy(&sender, CMSG_DATA(header), sizeof sender);
        relay->pid = sender.pid;
    }
    if (relay->doomed)
        kill_helper(relay->pid);
    bool is_answer = *relay->awaited && strstr(bytes, relay->awaited);
    if (is_answer && relay->then == QMP_BREAK_AFTER)
        return false;
    if (is_answer)
        kill_helper(relay->pid);
    else if (!relay->silent)
        send_all(relay->client, bytes, (size_t)got);
    if (!relay->greeted)
        send_all(relay->client, relay->held, strlen(relay->held));
    relay->greeted = true;
    return true;
}

static void *relay_run(void *opaque)
{
    struct relay *relay = opaque;
    REAL(poll);
    for (bool goes_on = true; goes_on;) {
        struct pollfd ends[2] = {{.fd = relay->client, .events = POLLIN},
                                 {.fd = relay->server, .events = POLLIN}};
        if (real(ends, 2, -1) < 0)
            continue;
        if (ends[1].revents)
            goes_on = take_from_server(relay);
        if (goes_on && ends[0].revents)
            goes_on = take_from_client(relay);
    }
    syscall(SYS_close, relay->client);
    syscall(SYS_close, relay->server);
    free(relay);
    return NULL;
}

static void start_thread(void *(*run)(void *), void *argument)
{
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&thread, NULL, run, argument) != 0)
        abort();
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_detach(thread);
}

int socketpair(int domain, int type, int protocol, int ends[2])
{
    REAL(socketpair);
    int ours[2], theirs[2], on = 1;
    if (!is_armed(QMP))
        return real(domain, type, protocol, ends);
    struct relay *relay = calloc(1, sizeof *relay);
    if (!relay || real(domain, type, protocol, ours) < 0 || real(domain, type, protocol, theirs) < 0 ||
        setsockopt(theirs[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0)
        abort();
    relay->kind = QMP;
    relay->passed = -1;
    relay->client = ours[1];
    relay->client_fd = ours[0];
    relay->server = theirs[0];
    ends[0] = ours[0];
    ends[1] = theirs[1];
    atomic_store(&monitors[ours[0]], TALKS);
    start_thread(relay_run, relay);
    return 0;
}

/* Whether it is armed or not: a connection to a QEMU lasts. */
static void stand_between(int fd)
{
    REAL(socketpair);
    int ours[2];
    struct ucred other;
    socklen_t size = sizeof other;
    struct relay *relay = calloc(1, sizeof *relay);
    if (!relay || real(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ours) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &other, &size) < 0)
        abort();
    relay->kind = MONITOR;
    relay->passed = -1;
    relay->pid = other.pid;
    relay->client = ours[1];
    relay->client_fd = fd;
    relay->server = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, HIGH_FD);
    if (relay->server < 0 || syscall(SYS_fcntl, relay->server, F_SETFL, 0) < 0 ||
        syscall(SYS_fcntl, ours[0], F_SETFL, O_NONBLOCK) < 0 || syscall(SYS_dup3, ours[0], fd, O_CLOEXEC) < 0)
        abort();
    syscall(SYS_close, ours[0]);
    atomic_store(&monitors[fd], TALKS);
    start_thread(relay_run, relay);
}

int connect(int fd, __CONST_SOCKADDR_ARG address, socklen_t length)
{
    REAL(connect);
    int result = real(fd, address, length);
    const struct sockaddr_un *to = (const void *)address.__sockaddr__;
    size_t name = to->sun_family == AF_UNIX ? strnlen(to->sun_path, sizeof to->sun_path) : 0;
    static const char wanted[] = "/monitor";
    size_t end = sizeof wanted - 1;
    if (result == 0 && control && fd < FDS_MAX && name > end &&
        memcmp(to->sun_path + name - end, wanted, end) == 0)
        stand_between(fd);
    return result;
}

/* ---- Helper programs ---- */

static pid_t start(pid_t (*real)(void))
{
    uint32_t code = hit(STARTS, "fork", "");
    if (code) {
        errno = (int)code;
        return -1;
    }
    pid_t pid = real();
    if (pid == 0)
        is_child = true;
    return pid;
}

pid_t fork(void)
{
    REAL(fork);
    return start(real);
}

/* One with a memory of its own: nobody can return twice from the function that called vfork, and the daemon
 * is no child. */
pid_t vfork(void)
{
    REAL(fork);
    return start(real);
}

#define CALLS 7
static const uint32_t writing_calls[CALLS] = {SYS_pwrite64,  SYS_pwritev, SYS_pwritev2, SYS_fdatasync,
                                              SYS_fallocate, SYS_fsync,   SYS_ftruncate};

/* In the helper to be: from here on the kernel asks whether it may write. */
static void ask_about_writes(void)
{
    struct sock_filter instructions[1 + 2 * CALLS + 1];
    size_t count = 0;
    instructions[count++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < CALLS; i++) {
        instructions[count++] =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, writing_calls[i], 0, 1);
        instructions[count++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
    }
    instructions[count++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {.len = (unsigned short)count, .filter = instructions};
    int listener =
        (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    if (listener < 0)
        _exit(124);
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } attached = {0};
    char byte = 0;
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = attached.bytes,
                             .msg_controllen = sizeof attached};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &listener, sizeof listener);
    if (sendmsg(listener_sockets[1], &message, 0) < 0)
        _exit(123);
}

static const char *name_of_call(int number)
{
    static const char *const names[CALLS] = {"pwrite",    "pwritev", "pwritev2", "fdatasync",
                                             "fallocate", "fsync",   "ftruncate"};
    size_t i = 0;
    while (i < CALLS - 1 && (int)writing_calls[i] != number)
        i++;
    return names[i];
}

static void *answer_run(void *opaque)
{
    int listener = (int)(intptr_t)opaque;
    REAL(poll);
    for (;;) {
        struct pollfd ready = {.fd = listener, .events = POLLIN};
        struct seccomp_notif asked = {0};
        if (real(&ready, 1, -1) < 0)
            continue;
        if (!(ready.revents & POLLIN))
            break; /* the helper has ended */
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) < 0)
            continue;
        struct seccomp_notif_resp answer = {.id = asked.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        char what[64];
        snprintf(what, sizeof what, "of fd %d by a helper", (int)asked.data.args[0]);
        uint32_t code = hit(WRITES, name_of_call(asked.data.nr), what);
        if (code == 1) {
            kill((pid_t)asked.pid, SIGKILL);
            continue;
        }
        if (code > 1) {
            answer.flags = 0;
            answer.error = -(int)(code - 1);
        }
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
    syscall(SYS_close, listener);
    return NULL;
}

static void *listeners_run(void *opaque)
{
    for (;;) {
        union {
            struct cmsghdr align;
            char bytes[CMSG_SPACE(sizeof(int))];
        } attached;
        char byte;
        struct iovec vector = {&byte, 1};
        struct msghdr message = {.msg_iov = &vector,
                                 .msg_iovlen = 1,
                                 .msg_control = attached.bytes,
                                 .msg_controllen = sizeof attached};
        if (recvmsg(listener_sockets[0], &message, MSG_CMSG_CLOEXEC) <= 0)
            continue;
        int listener;
        const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        if (!header)
            continue;
        memcpy(&listener, CMSG_DATA(header), sizeof listener);
        start_thread(answer_run, (void *)(intptr_t)listener);
    }
    return NULL;
}

static void say(int fd, const char *text)
{
    if (syscall(SYS_write, fd, text, strlen(text)) < 0)
        _exit(122);
}

int execve(const char *program, char *const arguments[], char *const environment[])
{
    REAL(execve);
    if (is_armed(WRITES))
        ask_about_writes();
    uint32_t how = strcmp(arguments[0], "qemu-img") == 0 ? hit(RUNS, "qemu-img", arguments[1]) : 0;
    switch (how) {
    case RUN_FAILS:
        say(2, "qemu-img: something went wrong: Input/output error\n");
        _exit(1);
    case RUN_KILLED:
        kill(getpid(), SIGKILL);
        break;
    case RUN_GARBAGE:
        say(1, "\x1b[31m(99.00/100%) \xff\xfe{\"return\": [[[[\r\r\n");
        say(2, "(1e9/100%)\r warning: \xff\xfe\n");
        break;
    case RUN_HANGS:
        atomic_store(&control->hung, getpid());
        syscall(SYS_close_range, 3, ~0U, 0); /* as if it had been executed */
        for (;;)
            pause();
    case RUN_NOT_STARTED:
        errno = EACCES;
        return -1;
    }
    return real(program, arguments, environment);
}

/* ---- Beginning ---- */

static void __attribute__((constructor)) begin(void)
{
    const char *path = getenv("VMSNAPFS_TEST_FAULTS");
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0) : -1;
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    int ends[2];
    REAL(socketpair);
    if (mapped == MAP_FAILED || real(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        abort();
    for (int i = 0; i < 2; i++) {
        listener_sockets[i] = (int)syscall(SYS_fcntl, ends[i], F_DUPFD_CLOEXEC, HIGH_FD);
        syscall(SYS_close, ends[i]);
        if (listener_sockets[i] < 0)
            abort();
    }
    start_thread(listeners_run, NULL);
    unsetenv("LD_PRELOAD"); /* a QEMU gets the daemon's environment */
    unsetenv("VMSNAPFS_TEST_FAULTS");
    control = mapped;
}
