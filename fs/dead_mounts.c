// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Clearing dead mounts away; see dead_mounts.h.
 *
 * stat() does not tell whether a mount is dead, since the kernel answers it from its cache, and that holds
 * for a day. statfs() always asks the daemon. One that lives may be stuck, and whoever asks it can then not
 * even be killed. So a child asks, which may be left behind.
 */
#include "dead_mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

#define PATIENCE_MS (10 * 1000)
#define OUR_TYPE    "fuse.vmsnapfs"

extern char **environ;

/* What is on top at some path. */
struct top {
    int fd; /* O_PATH: opening it asks nobody */
    int id; /* the kernel's number of the mount */
    bool ours;
    uid_t user; /* who mounted it: the kernel lets nobody else ask */
    gid_t group;
};

static void top_done(struct top *top)
{
    if (top->fd >= 0)
        close(top->fd);
}

static int mount_id_of(int fd)
{
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fdinfo/%d", fd);
    cleanup_fclose FILE *file = fopen(name, "re");
    cleanup_free char *line = NULL;
    size_t size = 0;
    int id = -1;
    while (file && id < 0 && getline(&line, &size, file) > 0)
        sscanf(line, "mnt_id: %d", &id);
    return id;
}

/* The line of the mount in mountinfo, proc(5): "ID … - TYPE SOURCE OPTIONS". */
static void describe(struct top *top)
{
    cleanup_fclose FILE *file = fopen("/proc/self/mountinfo", "re");
    cleanup_free char *line = NULL;
    size_t size = 0;
    while (file && getline(&line, &size, file) > 0) {
        const char *type = atoi(line) == top->id ? strstr(line, " - ") : NULL;
        if (!type)
            continue;
        type += strlen(" - ");
        top->ours = strncmp(type, OUR_TYPE " ", strlen(OUR_TYPE " ")) == 0;
        const char *options = strrchr(line, ' ');
        const char *user = strstr(options, "user_id="), *group = strstr(options, "group_id=");
        top->user = user ? (uid_t)strtoul(user + strlen("user_id="), NULL, 10) : 0;
        top->group = group ? (gid_t)strtoul(group + strlen("group_id="), NULL, 10) : 0;
        return;
    }
}

static struct top look_at(const char *path)
{
    struct top top = {.id = -1};
    top.fd = open(path, O_PATH | O_CLOEXEC);
    if (top.fd >= 0)
        top.id = mount_id_of(top.fd);
    if (top.id >= 0)
        describe(&top);
    return top;
}

/* In the child, which must hold nothing that others wait for: it may stay for long. */
static _Noreturn void ask(const struct top *top, int answer)
{
    enum { TOP = 0, ANSWER = 1 };
    int top_fd = fcntl(top->fd, F_DUPFD, ANSWER + 1), answer_fd = fcntl(answer, F_DUPFD, ANSWER + 1);
    dup2(top_fd, TOP);
    dup2(answer_fd, ANSWER);
    close_range(ANSWER + 1, ~0U, 0);
    if (geteuid() == 0 && (setresgid(top->group, top->group, top->group) != 0 ||
                           setresuid(top->user, top->user, top->user) != 0))
        _exit(1);
    struct statfs found;
    int error = fstatfs(TOP, &found) == 0 ? 0 : errno;
    _exit(write(ANSWER, &error, sizeof error) != sizeof error);
}

/* What statfs() says: 0 or an errno; ETIMEDOUT where it has not come back. */
static int answer_of(const struct top *top)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return errno;
    cleanup_close int answer = ends[0];
    pid_t child = fork();
    if (child == 0)
        ask(top, ends[1]);
    close(ends[1]);
    if (child < 0)
        return EAGAIN;
    struct pollfd answered = {.fd = answer, .events = POLLIN};
    int result = ETIMEDOUT;
    bool ended = poll(&answered, 1, PATIENCE_MS) > 0;
    if (ended && read(answer, &result, sizeof result) != sizeof result)
        result = EIO;
    kill(child, SIGKILL);
    while (waitpid(child, NULL, ended ? 0 : WNOHANG) < 0 && errno == EINTR)
        continue;
    return result;
}

/* As an ordinary user only fusermount3 can do it. */
static void detach_by_fusermount(const char *path)
{
    char *const arguments[] = {(char[]){"fusermount3"}, (char[]){"-u"},          (char[]){"-z"},
                               (char[]){"--"},          (char *)(uintptr_t)path, NULL};
    pid_t pid;
    if (posix_spawnp(&pid, arguments[0], NULL, NULL, arguments, environ) == 0)
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            continue;
}

static void detach(const struct top *top, const char *path)
{
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", top->fd); /* this one, whatever is on it by now */
    if (umount2(name, MNT_DETACH) != 0)
        detach_by_fusermount(path);
}

int dead_mounts_clear(const char *real_path, struct error *err)
{
    for (int before = -1;;) {
        cleanup(top_done) struct top top = look_at(real_path);
        if (!top.ours)
            return 0;
        int answer = answer_of(&top);
        if (answer == ETIMEDOUT)
            return error_set(
                err, ETIMEDOUT,
                "%s: vmsnapfs is mounted here already, and does not answer (umount -l takes it away)",
                real_path);
        /* ECONNABORTED: it died while it was asked. */
        if (answer != ENOTCONN && answer != ECONNABORTED)
            return 0;
        if (top.id == before)
            return error_set(err, ENOTCONN, "%s: the daemon of this mount died, and it can't be unmounted",
                             real_path);
        log_info("%s: the daemon of this mount died; it is cleaned away", real_path);
        detach(&top, real_path);
        before = top.id;
    }
}
