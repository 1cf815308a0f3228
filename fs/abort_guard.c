// SPDX-License-Identifier: LGPL-2.1-or-later
/* See abort_guard.h. */
#include "abort_guard.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

#define CONTROL    "/sys/fs/fuse/connections"
#define DEATH      SIGUSR2
#define ABORT_FILE 3 /* in the guard */

/* The kernel's number of the connection; asks nothing of the daemon, which does not answer yet. */
static int connection_of(const char *mountpoint, unsigned *number)
{
    struct statx found;
    if (statx(AT_FDCWD, mountpoint, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE, &found) < 0)
        return -errno;
    *number = found.stx_dev_minor;
    return 0;
}

/* Where nobody has mounted fusectl: a mount of it that nobody sees. */
static int open_control(void)
{
    cleanup_close int context = fsopen("fusectl", FSOPEN_CLOEXEC);
    if (context < 0 || fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return -1;
    return fsmount(context, FSMOUNT_CLOEXEC, 0);
}

static int open_abort(const char *mountpoint)
{
    char name[32];
    unsigned number = 0;
    if (connection_of(mountpoint, &number) < 0)
        return -1;
    snprintf(name, sizeof name, "%u/abort", number);
    cleanup_close int there = open(CONTROL, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = there >= 0 ? openat(there, name, O_WRONLY | O_CLOEXEC) : -1;
    if (fd >= 0)
        return fd;
    cleanup_close int control = open_control();
    return control >= 0 ? openat(control, name, O_WRONLY | O_CLOEXEC) : -1;
}

/* In the guard. Other threads' locks may be held for ever here: nothing but system calls. */
static _Noreturn void guard(pid_t daemon, int abort_file)
{
    sigset_t all, death;
    int number;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    sigemptyset(&death);
    sigaddset(&death, DEATH);
    prctl(PR_SET_NAME, "vmsnapfs-guard");
    prctl(PR_SET_PDEATHSIG, DEATH);
    setsid();
    dup2(abort_file, ABORT_FILE);
    close_range(ABORT_FILE + 1, ~0U, 0);
    for (int fd = 0; fd < ABORT_FILE; fd++)
        close(fd);
    /* Killed before that could be told? */
    while (getppid() == daemon && sigwait(&death, &number) != 0)
        continue;
    ssize_t written = write(ABORT_FILE, "1", 1);
    _exit(written != 1);
}

pid_t abort_guard_start(const char *mountpoint)
{
    cleanup_close int abort_file = open_abort(mountpoint);
    if (abort_file < 0) {
        log_debug("a connection can't be aborted here: %m");
        return 0;
    }
    pid_t daemon = getpid(), made = fork();
    if (made == 0)
        guard(daemon, abort_file);
    if (made < 0)
        log_warning("there is nobody to abort the mount if vmsnapfs is killed: %m");
    return made < 0 ? 0 : made;
}

void abort_guard_stop(pid_t guard)
{
    if (guard <= 0)
        return;
    kill(guard, SIGKILL);
    while (waitpid(guard, NULL, 0) < 0 && errno == EINTR)
        continue;
}
