// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * vmsnapfs: the command. Returns when the mount can be used, or exits with one line on standard error that
 * says why not; the daemon goes on in the background.
 *
 * Exit status, as mount(8) has it: 0, 1 wrong usage, 2 the system failed us, 32 the mount failed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "options.h"
#include "session.h"

enum { EXIT_USAGE = 1, EXIT_SYSTEM = 2, EXIT_MOUNT = 32 };

static int fail(int status, const char *reason)
{
    fprintf(stderr, "vmsnapfs: %s\n", reason);
    return status;
}

/* SOURCE and MOUNTPOINT are given relative to where the command was started; the daemon leaves that place. */
static int make_absolute(char **path)
{
    if ((*path)[0] == '/')
        return 0;
    cleanup_free char *here = getcwd(NULL, 0);
    char *absolute;
    if (!here || asprintf(&absolute, "%s/%s", here, *path) < 0)
        return -ENOMEM;
    free(*path);
    *path = absolute;
    return 0;
}

static int make_all_absolute(struct options *options)
{
    int result = make_absolute(&options->source);
    if (result == 0)
        result = make_absolute(&options->mountpoint);
    for (size_t i = 0; result == 0 && i < options->allow_count; i++)
        result = make_absolute(&options->allow[i]);
    return result;
}

static void ready_in_foreground(void *opaque)
{
    log_info("ready");
}

/* Lets go of the terminal and tells the waiting command that all is well. */
static void ready_in_background(void *opaque)
{
    int *status_pipe = opaque;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; null >= 0 && fd < 3; fd++)
        dup2(null, fd);
    if (null > 2)
        close(null);
    char status = 0;
    while (write(*status_pipe, &status, 1) < 0 && errno == EINTR)
        continue;
    close(*status_pipe);
    *status_pipe = -1;
}

static int run_in_foreground(const struct options *options)
{
    struct error err = {0};
    if (session_run(options, ready_in_foreground, NULL, &err) != 0)
        return fail(EXIT_MOUNT, err.text);
    return 0;
}

static int run_daemon(const struct options *options, int status_pipe)
{
    struct error err = {0};
    setsid();
    if (chdir("/") != 0)
        return fail(EXIT_SYSTEM, "can't leave for /");
    /* From the start: the command says nothing, or one line of reason. */
    openlog("vmsnapfs", LOG_PID, LOG_DAEMON);
    log_set_sink(LOG_SINK_SYSLOG);
    if (session_run(options, ready_in_background, &status_pipe, &err) != 0)
        return fail(EXIT_MOUNT, err.text);
    return 0;
}

/* Forks; the child becomes the daemon, the parent waits until it is ready or has ended with a reason. */
static int run_in_background(const struct options *options)
{
    int pipe_fds[2];
    if (pipe2(pipe_fds, O_CLOEXEC) != 0)
        return fail(EXIT_SYSTEM, strerror(errno));
    pid_t pid = fork();
    if (pid < 0)
        return fail(EXIT_SYSTEM, strerror(errno));
    if (pid == 0) {
        close(pipe_fds[0]);
        return run_daemon(options, pipe_fds[1]);
    }
    close(pipe_fds[1]);
    char status;
    ssize_t count;
    while ((count = read(pipe_fds[0], &status, 1)) < 0 && errno == EINTR)
        continue;
    close(pipe_fds[0]);
    if (count == 1)
        return 0;
    int ended;
    while (waitpid(pid, &ended, 0) < 0 && errno == EINTR)
        continue;
    if (WIFEXITED(ended) && WEXITSTATUS(ended) != 0)
        return WEXITSTATUS(ended); /* it gave its reason */
    return fail(EXIT_SYSTEM, "the daemon died before it was ready");
}

int main(int argc, char **argv)
{
    struct options options;
    struct error err = {0};
    if (options_parse(argc, argv, &options, &err) != 0)
        return fail(EXIT_USAGE, err.text);
    int status = 0;
    if (options.help) {
        fputs(options_usage(), stdout);
    } else if (options.version) {
        puts("vmsnapfs " VMSNAPFS_VERSION);
    } else if (make_all_absolute(&options) != 0) {
        status = fail(EXIT_SYSTEM, "can't tell the present directory");
    } else {
        if (options.debug)
            log_set_level(LOG_LEVEL_DEBUG);
        status = options.foreground ? run_in_foreground(&options) : run_in_background(&options);
    }
    options_done(&options);
    return status;
}
