// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A scripted QMP server for tests: a thread at the other end of a socketpair that runs a function of the
 * test's, with words for what such a server says and hears.
 */
#pragma once

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MONITOR_GREETING                                                                                     \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, \"package\": \"x\"}, "  \
    "\"capabilities\": [\"oob\"]}}\r\n"

struct monitor {
    int fd;
    char heard[65536]; /* the last command, a whole line */
    char id[128];      /* its id */
    int passed_fd;     /* that came with it, or -1 */
};

typedef void monitor_script(struct monitor *monitor);

struct monitor_thread {
    pthread_t thread;
    int fd; /* the server's end */
    monitor_script *script;
};

static inline void monitor_say(struct monitor *monitor, const char *text)
{
    size_t length = strlen(text);
    while (length > 0) {
        ssize_t sent = send(monitor->fd, text, length, MSG_NOSIGNAL);
        if (sent <= 0)
            return; /* the client has given up */
        text += sent;
        length -= (size_t)sent;
    }
}

/* One byte for each write. */
static inline void monitor_stutter(struct monitor *monitor, const char *text)
{
    for (; *text; text++) {
        char byte[2] = {*text, '\0'};
        monitor_say(monitor, byte);
    }
}

/* The next command; false when the client has gone. */
static inline bool monitor_hear(struct monitor *monitor)
{
    size_t length = 0;
    monitor->passed_fd = -1;
    for (;;) {
        union {
            struct cmsghdr align;
            char bytes[CMSG_SPACE(sizeof(int))];
        } control;
        struct iovec vector = {.iov_base = monitor->heard + length, .iov_len = 1};
        struct msghdr message = {.msg_iov = &vector,
                                 .msg_iovlen = 1,
                                 .msg_control = control.bytes,
                                 .msg_controllen = sizeof control.bytes};
        if (length + 1 >= sizeof monitor->heard || recvmsg(monitor->fd, &message, 0) != 1)
            return false;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        if (header && header->cmsg_type == SCM_RIGHTS)
            memcpy(&monitor->passed_fd, CMSG_DATA(header), sizeof(int));
        if (monitor->heard[length++] == '\n')
            break;
    }
    monitor->heard[length] = '\0';
    const char *id = NULL; /* the last: arguments may have one, too */
    for (const char *at = monitor->heard; (at = strstr(at, "\"id\":\"")); at++)
        id = at;
    *monitor->id = '\0';
    if (id)
        snprintf(monitor->id, sizeof monitor->id, "%.*s", (int)strcspn(id + 6, "\""), id + 6);
    return true;
}

/* Answers what was heard: `body` is the member, as in: "return": {} */
static inline void monitor_answer(struct monitor *monitor, const char *body)
{
    char *line = NULL;
    if (asprintf(&line, "{%s, \"id\": \"%s\"}\r\n", body, monitor->id) < 0)
        abort();
    monitor_say(monitor, line);
    free(line);
}

static inline void monitor_greet(struct monitor *monitor)
{
    monitor_say(monitor, MONITOR_GREETING);
    if (monitor_hear(monitor))
        monitor_answer(monitor, "\"return\": {}");
}

/* Says nothing until the client hangs up. */
static inline void monitor_await_hangup(struct monitor *monitor)
{
    char byte[256];
    while (recv(monitor->fd, byte, sizeof byte, 0) > 0)
        continue;
}

static inline void *monitor_run(void *opaque)
{
    struct monitor_thread *thread = opaque;
    struct monitor *monitor = calloc(1, sizeof *monitor);
    if (!monitor)
        abort();
    monitor->fd = thread->fd;
    thread->script(monitor);
    close(monitor->fd);
    free(monitor);
    return NULL;
}

/* Starts a server; returns the client's end. To be ended with monitor_join, after the client is gone. */
static inline int monitor_start(struct monitor_thread *thread, monitor_script *script)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        abort();
    thread->fd = ends[1];
    thread->script = script;
    if (pthread_create(&thread->thread, NULL, monitor_run, thread) != 0)
        abort();
    return ends[0];
}

static inline void monitor_join(struct monitor_thread *thread)
{
    pthread_join(thread->thread, NULL);
}
