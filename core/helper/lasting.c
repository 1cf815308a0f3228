// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * See lasting.h. As in sandbox.c the child makes system calls and nothing else. It waits for one byte in a
 * pipe before it becomes the program: where we are killed before, it reads the end of the pipe.
 */
#include "helper/lasting.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "helper/program.h"

/* Its place in /proc/PID/stat, counted from the state, which follows the name in parentheses. */
#define STARTED_FIELD 19

#define CHILD_FIRST_FD 3

/* ---- Which process ---- */

static int read_started(pid_t pid, uint64_t *started)
{
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, line, sizeof line - 1);
    if (length <= 0)
        return -ESRCH;
    line[length] = '\0';
    char *at = strrchr(line, ')'); /* the name may have some, too */
    for (int field = 0; at && field <= STARTED_FIELD; field++)
        at = strchr(at + 1, ' ');
    return at && sscanf(at, " %" SCNu64, started) == 1 ? 0 : -ESRCH;
}

static int open_pidfd(pid_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    return fd < 0 ? -errno : fd;
}

static bool is_over(int pidfd)
{
    struct pollfd poll_fd = {.fd = pidfd, .events = POLLIN};
    return poll(&poll_fd, 1, 0) > 0;
}

int lasting_find(pid_t pid, uint64_t started, struct lasting_process *process, struct error *err)
{
    cleanup_close int pidfd = pid > 0 ? open_pidfd(pid) : -ESRCH;
    uint64_t found;
    /* Its number can't go to another one between these, unless it has ended, and then the pidfd says so. */
    if (pidfd < 0 || read_started(pid, &found) < 0 || found != started || is_over(pidfd))
        return error_set(err, ESRCH, "process %ld has ended", (long)pid);
    *process = (struct lasting_process){pid, started, steal_fd(&pidfd)};
    return 0;
}

bool lasting_has_ended(const struct lasting_process *process, siginfo_t *status)
{
    *status = (siginfo_t){0};
    if (!is_over(process->pidfd))
        return false;
    if (waitid(P_PIDFD, (id_t)process->pidfd, status, WEXITED | WNOHANG) < 0)
        *status = (siginfo_t){0};
    return true;
}

bool lasting_is_over(const struct lasting_process *process)
{
    return is_over(process->pidfd);
}

int lasting_signal(const struct lasting_process *process, int number)
{
    return syscall(SYS_pidfd_send_signal, process->pidfd, number, NULL, 0) < 0 ? -errno : 0;
}

void lasting_close(struct lasting_process *process)
{
    if (process->pidfd >= 0 && process->pid > 0)
        close(process->pidfd);
    *process = (struct lasting_process){.pidfd = -1};
}

/* ---- The child ---- */

struct plan {
    const char *program;
    char *const *argv;
    const char *directory;
    int null_fd, output_fd;
    int go_read, go_write;
    int report_read, report_write; /* an errno, where it does not become the program */
};

static void __attribute__((noreturn)) child_fail(const struct plan *plan)
{
    int code = errno;
    _exit(write(plan->report_write, &code, sizeof code) == (ssize_t)sizeof code ? 127 : 126);
}

static void __attribute__((noreturn)) child_run(const struct plan *plan)
{
    char go;
    ssize_t count;
    close(plan->go_write);
    do
        count = read(plan->go_read, &go, 1);
    while (count < 0 && errno == EINTR);
    if (count != 1)
        _exit(125);
    struct sigaction action = {.sa_handler = SIG_DFL};
    for (int number = 1; number < NSIG; number++)
        sigaction(number, &action, NULL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (setsid() < 0 || chdir(plan->directory) < 0 || dup2(plan->null_fd, 0) < 0 ||
        dup2(plan->output_fd, 1) < 0 || dup2(plan->output_fd, 2) < 0 ||
        close_range(CHILD_FIRST_FD, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
        child_fail(plan);
    execv(plan->program, plan->argv);
    child_fail(plan);
}

/* ---- Starting it ---- */

static void close_plan(struct plan *plan)
{
    int *const fds[] = {&plan->null_fd,  &plan->output_fd,   &plan->go_read,
                        &plan->go_write, &plan->report_read, &plan->report_write};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
}

/* All above those that the child replaces. */
static int open_plan(struct plan *plan, int output_fd)
{
    int go[2], report[2];
    if (pipe2(go, O_CLOEXEC) < 0)
        return -errno;
    cleanup_close int go_read = go[0], go_write = go[1];
    if (pipe2(report, O_CLOEXEC) < 0)
        return -errno;
    cleanup_close int report_read = report[0], report_write = report[1];
    cleanup_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    const int from[] = {null, output_fd, go_read, go_write, report_read, report_write};
    int *const to[] = {&plan->null_fd,  &plan->output_fd,   &plan->go_read,
                       &plan->go_write, &plan->report_read, &plan->report_write};
    for (size_t i = 0; i < sizeof from / sizeof *from; i++) {
        *to[i] = fcntl(from[i], F_DUPFD_CLOEXEC, CHILD_FIRST_FD);
        if (*to[i] < 0)
            return -errno;
    }
    return 0;
}

static void end_child(const struct lasting_process *process)
{
    lasting_signal(process, SIGKILL);
    siginfo_t status;
    while (waitid(P_PIDFD, (id_t)process->pidfd, &status, WEXITED) < 0 && errno == EINTR)
        continue;
}

/* Lets it become the program. A positive errno where it could not. */
static int let_go(struct plan *plan)
{
    close(plan->report_write);
    plan->report_write = -1;
    ssize_t count = write(plan->go_write, "", 1);
    int code = 0;
    do
        count = read(plan->report_read, &code, sizeof code);
    while (count < 0 && errno == EINTR);
    return count == (ssize_t)sizeof code ? code : 0;
}

static int start(struct plan *plan, lasting_note *note, void *opaque, struct lasting_process *process,
                 struct error *err)
{
    pid_t pid = fork();
    if (pid == 0)
        child_run(plan);
    if (pid < 0)
        return error_set(err, errno, "%s can't be started: %m", plan->program);
    struct lasting_process made = {.pid = pid, .pidfd = open_pidfd(pid)};
    if (made.pidfd < 0 || read_started(pid, &made.started) < 0) {
        close_plan(plan); /* it reads the end of the pipe */
        waitpid(pid, NULL, 0);
        lasting_close(&made);
        return error_set(err, EOPNOTSUPP, "%s can't be watched by this kernel", plan->program);
    }
    int rc = note(opaque, &made, err);
    if (rc == 0) {
        int code = let_go(plan);
        rc = code ? error_set(err, code, "%s can't be executed in %s: %s", plan->program, plan->directory,
                              strerror(code))
                  : 0;
    }
    if (rc < 0) {
        end_child(&made);
        lasting_close(&made);
        return rc;
    }
    *process = made;
    return 0;
}

int lasting_start(const struct lasting_spec *spec, lasting_note *note, void *opaque,
                  struct lasting_process *process, struct error *err)
{
    cleanup_free char *program = NULL;
    int rc = program_find(spec->argv[0], &program, err);
    if (rc < 0)
        return rc;
    cleanup(close_plan) struct plan plan = {
        .program = program,
        .argv = (char *const *)spec->argv,
        .directory = spec->directory,
        .null_fd = -1,
        .output_fd = -1,
        .go_read = -1,
        .go_write = -1,
        .report_read = -1,
        .report_write = -1,
    };
    rc = open_plan(&plan, spec->output_fd);
    if (rc < 0)
        return error_set(err, -rc, "%s can't be started: %s", program, strerror(-rc));
    return start(&plan, note, opaque, process, err);
}
