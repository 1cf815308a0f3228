// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * See sandbox.h. Everything that can fail with a text, or that allocates, is done in the caller's thread; the
 * child makes system calls and nothing else. Until it executes the program it has our memory (vfork(2)): a
 * fork would have to copy the page tables of a large process, and make each of its threads fault for what it
 * writes to next. So the child may write to its plan and its stack, and calls nothing that the C library
 * carries out in all threads, as setuid(3).
 *
 * A child dies with its parent twice over: PDEATHSIG kills it, and the connections that it serves end.
 * PDEATHSIG is sent when the *thread* that forked ends, and a thread of the daemon may end at any time; so
 * one thread, which never ends, forks for all. It also reaps those that nobody waits for.
 */
#include "helper/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/monotonic.h"
#include "base/stats.h"
#include "helper/confinement.h"
#include "helper/program.h"

#define PID_DIGITS      10 /* of a pid_t */
#define LISTEN_PID_NAME "LISTEN_PID="
#define KILL_WAIT_MS    5000
#define OOM_SCORE       "500" /* taken before any process of the same size that does not ask for it */
#define REAP_FIRST_MS   2
#define REAP_MAX_MS     1000

/* What the child needs, all made before it is there. */
struct plan {
    const char *program; /* absolute */
    const char *const *argv;
    char **environment;
    char *listen_pid; /* where its digits belong in `environment`; NULL: not told */
    int *fds;         /* for 0, 1, 2 and SANDBOX_FIRST_FD on; overwritten by the child */
    size_t fd_count;
    int report_fd; /* where a child that fails says so; close-on-exec; overwritten by the child */
    bool take_stdout;
    size_t memory_bytes; /* 0: any */
    const struct confinement *confinement;
    pid_t parent;
};

struct report {
    const char *step; /* the same address in parent and child */
    int code;
};

/* ---- the child ---- */

static void __attribute__((noreturn)) child_fail(const struct plan *plan, const char *step, int code)
{
    struct report report = {step, code};
    ssize_t written = write(plan->report_fd, &report, sizeof report);
    _exit(written == (ssize_t)sizeof report ? 127 : 126);
}

static void child_reset_signals(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    for (int number = 1; number < NSIG; number++)
        sigaction(number, &action, NULL); /* EINVAL for KILL, STOP and the C library's own */
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Above `first`, so that no number is overwritten before it was used. */
static int move_up(const struct plan *plan, int fd, int first)
{
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, first);
    if (moved < 0)
        child_fail(plan, "numbering its descriptors", errno);
    return moved;
}

static void child_number_fds(struct plan *plan, int *ruleset_fd)
{
    int first = (int)plan->fd_count;
    plan->report_fd = move_up(plan, plan->report_fd, first);
    if (*ruleset_fd >= 0)
        *ruleset_fd = move_up(plan, *ruleset_fd, first);
    for (int i = 0; i < first; i++)
        plan->fds[i] = move_up(plan, plan->fds[i], first);
    for (int i = 0; i < first; i++)
        if (dup2(plan->fds[i], i) < 0)
            child_fail(plan, "numbering its descriptors", errno);
    if (close_range((unsigned)first, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
        child_fail(plan, "closing descriptors", errno);
}

static void child_write_pid(char *digits, pid_t pid)
{
    char reversed[PID_DIGITS];
    size_t count = 0;
    do {
        reversed[count++] = (char)('0' + pid % 10);
        pid /= 10;
    } while (pid > 0 && count < sizeof reversed);
    while (count > 0)
        *digits++ = reversed[--count];
    *digits = '\0';
}

static void child_limit(const struct plan *plan)
{
    /* Each file is open twice in the helper: as passed, and anew. */
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    limit = (struct rlimit){plan->memory_bytes, plan->memory_bytes};
    if (plan->memory_bytes && setrlimit(RLIMIT_DATA, &limit) < 0)
        child_fail(plan, "limiting its memory", errno);
    cleanup_close int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, OOM_SCORE, strlen(OOM_SCORE)) < 0)
        return; /* where it can't be said, all are equal */
}

static void __attribute__((noreturn)) child_run(struct plan *plan)
{
    int ruleset_fd = plan->confinement->ruleset_fd;
    child_reset_signals();
    setsid();
    if (chdir("/") < 0)
        child_fail(plan, "leaving the working directory", errno);

    child_limit(plan);
    child_number_fds(plan, &ruleset_fd);
    if (plan->listen_pid)
        child_write_pid(plan->listen_pid, getpid());

    int rc = confinement_enter(plan->confinement, ruleset_fd);
    if (rc < 0)
        child_fail(plan, "being confined", -rc);
    /* After the change of capabilities, which could reset it. The parent may be dead already. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        child_fail(plan, "asking to end with its parent", errno);
    if (getppid() != plan->parent)
        _exit(125);
    execve(plan->program, (char *const *)plan->argv, plan->environment);
    child_fail(plan, "executing it", errno);
}

/* ---- the thread that forks, and reaps ---- */

struct job {
    struct plan *plan;
    pid_t pid; /* or a negative errno */
    bool done;
    struct job *next;
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pid_t owner;       /* the process in which the thread runs; protected by lock, as is what follows */
    struct job *first; /* not begun yet */
    pid_t *left;       /* killed, and not reaped: one that waits for storage that is gone may take long */
    size_t left_count;
} starter = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void starter_reap_locked(void)
{
    for (size_t i = starter.left_count; i-- > 0;)
        if (waitpid(starter.left[i], NULL, WNOHANG) != 0)
            starter.left[i] = starter.left[--starter.left_count];
}

/* Returns when there is one to start. */
static void starter_wait_locked(void)
{
    unsigned pause_ms = REAP_FIRST_MS;
    while (!starter.first) {
        if (starter.left_count == 0) {
            pause_ms = REAP_FIRST_MS;
            pthread_cond_wait(&starter.changed, &starter.lock);
            continue;
        }
        const struct timespec until = monotonic_in(pause_ms);
        pthread_cond_timedwait(&starter.changed, &starter.lock, &until);
        starter_reap_locked();
        if (pause_ms < REAP_MAX_MS)
            pause_ms *= 2;
    }
}

static void *starter_run(void *opaque)
{
    pthread_mutex_lock(&starter.lock);
    for (;;) {
        starter_wait_locked();
        struct job *job = starter.first;
        starter.first = job->next;
        pthread_mutex_unlock(&starter.lock);

        pid_t pid = vfork(); /* all signals are blocked here, so that no handler runs in the child */
        if (pid == 0)
            child_run(job->plan);
        if (pid < 0)
            pid = -errno;

        pthread_mutex_lock(&starter.lock);
        job->pid = pid;
        job->done = true;
        pthread_cond_broadcast(&starter.changed);
    }
    return NULL;
}

/* Called with the lock held. */
static int starter_ensure_locked(void)
{
    if (starter.owner == getpid())
        return 0;
    /* In a fork of the process that had the thread, the condition still counts it as a waiter. */
    monotonic_cond_init(&starter.changed);
    starter.first = NULL;
    starter.left_count = 0;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* inherited: signals are for the daemon's other threads */
    pthread_t thread;
    int rc = pthread_create(&thread, &attributes, starter_run, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (rc == 0)
        starter.owner = getpid();
    return -rc;
}

/* Returns the child's pid, or a negative errno. */
static pid_t starter_fork(struct plan *plan)
{
    struct job job = {.plan = plan};
    pthread_mutex_lock(&starter.lock);
    int rc = starter_ensure_locked();
    if (rc == 0) {
        struct job **end = &starter.first;
        while (*end)
            end = &(*end)->next;
        *end = &job;
        pthread_cond_broadcast(&starter.changed);
        while (!job.done)
            pthread_cond_wait(&starter.changed, &starter.lock);
    }
    pthread_mutex_unlock(&starter.lock);
    return rc < 0 ? rc : job.pid;
}

static void starter_reap(pid_t pid)
{
    pthread_mutex_lock(&starter.lock);
    starter_reap_locked(); /* the others: the thread may be busy starting new ones */
    pid_t *grown = realloc(starter.left, (starter.left_count + 1) * sizeof *grown);
    if (grown) {
        starter.left = grown;
        grown[starter.left_count++] = pid;
    } /* else it stays a zombie as long as we live */
    pthread_cond_broadcast(&starter.changed);
    pthread_mutex_unlock(&starter.lock);
}

/* ---- the caller ---- */

/* The strings of an environment that are made. */
struct environment_texts {
    struct text path, home, listen_pid;
};

static void environment_texts_done(struct environment_texts *texts)
{
    text_done(&texts->path);
    text_done(&texts->home);
    text_done(&texts->listen_pid);
}

static int make_environment(char *environment[6], const struct sandbox_spec *spec,
                            struct environment_texts *texts)
{
    const char *search = getenv("PATH");
    text_printf(&texts->path, "PATH=%s", search ? search : PROGRAM_DEFAULT_PATH);
    text_printf(&texts->home, "HOME=%s", spec->home ? spec->home : "/");
    text_printf(&texts->listen_pid, LISTEN_PID_NAME "%*s", PID_DIGITS, "");
    if (texts->path.failed || texts->home.failed || texts->listen_pid.failed)
        return -ENOMEM;
    static char language[] = "LANG=C", listen_fds[] = "LISTEN_FDS=1";
    size_t count = 0;
    environment[count++] = texts->path.data;
    environment[count++] = language;
    environment[count++] = texts->home.data;
    if (spec->listen) {
        environment[count++] = texts->listen_pid.data;
        environment[count++] = listen_fds;
    }
    environment[count] = NULL;
    return 0;
}

/* Waits until the child has executed the program, or has said why it could not. */
static int await_exec(int report_fd, const char *program, struct error *err)
{
    struct report report;
    ssize_t got;
    do
        got = read(report_fd, &report, sizeof report);
    while (got < 0 && errno == EINTR);
    if (got == 0)
        return 0;
    if (got != (ssize_t)sizeof report)
        return error_set(err, EIO, "%s can't be started", program);
    return error_set(err, report.code, "%s can't be started: %s: %s", program, report.step,
                     strerror(report.code));
}

/* True if it ended within `timeout_ms`; it stays to be reaped. */
static bool has_ended(const struct helper_process *process, int timeout_ms)
{
    struct pollfd poll_fd = {.fd = process->pidfd, .events = POLLIN};
    return poll(&poll_fd, 1, timeout_ms) > 0;
}

static int start_planned(struct plan *plan, struct helper_process *process, struct error *err)
{
    cleanup_close int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0)
        return error_set(err, errno, "/dev/null: %m");
    /* Neither side blocks: what a helper says too much is lost, rather than that it hangs with it. */
    int output[2];
    if (pipe2(output, O_CLOEXEC | O_NONBLOCK) < 0)
        return error_set(err, errno, "no pipe for %s: %m", plan->program);
    cleanup_close int output_read = output[0];
    cleanup_close int output_write = output[1];
    int report[2];
    if (pipe2(report, O_CLOEXEC) < 0)
        return error_set(err, errno, "no pipe for %s: %m", plan->program);
    cleanup_close int report_read = report[0];
    cleanup_close int report_write = report[1];

    plan->fds[0] = null_fd;
    plan->fds[1] = plan->take_stdout ? output_write : null_fd;
    plan->fds[2] = output_write;
    plan->report_fd = report_write;
    plan->parent = getpid();
    struct helper_process started = {.pid = starter_fork(plan), .pidfd = -1, .stderr_fd = -1};
    if (started.pid < 0)
        return error_set(err, -started.pid, "%s can't be started: %s", plan->program, strerror(-started.pid));
    close(steal_fd(&report_write));
    stats_add(STAT_HELPERS_RUNNING, 1);

    /* The pid can't be another process's: nobody but us reaps this child. */
    started.pidfd = (int)syscall(SYS_pidfd_open, started.pid, 0);
    int rc = started.pidfd < 0 ? error_set(err, errno, "%s can't be watched: %m", plan->program)
                               : await_exec(report_read, plan->program, err);
    if (rc < 0) {
        if (started.pidfd < 0)
            kill(started.pid, SIGKILL);
        sandbox_end(&started, 0);
        return rc;
    }
    started.stderr_fd = steal_fd(&output_read);
    *process = started;
    return 0;
}

int sandbox_start(const struct sandbox_spec *spec, struct helper_process *process, struct error *err)
{
    if (spec->pass_fd_count > SANDBOX_FDS_MAX)
        return error_set(err, EINVAL, "%s needs more than %d files", spec->argv[0], SANDBOX_FDS_MAX);
    cleanup_free char *program = NULL;
    int rc = program_find(spec->argv[0], &program, err);
    if (rc < 0)
        return rc;

    cleanup(environment_texts_done) struct environment_texts texts = {0};
    char *environment[6];
    size_t fd_count = SANDBOX_FIRST_FD + spec->pass_fd_count;
    cleanup_free int *fds = calloc(fd_count, sizeof *fds);
    if (!fds || make_environment(environment, spec, &texts) < 0)
        return error_set(err, ENOMEM, "no memory to start %s", program);
    if (spec->pass_fd_count)
        memcpy(fds + SANDBOX_FIRST_FD, spec->pass_fds, spec->pass_fd_count * sizeof *fds);

    struct confinement confinement;
    rc = confinement_prepare(spec, program, &confinement, err);
    if (rc < 0)
        return rc;
    struct plan plan = {
        .program = program,
        .argv = spec->argv,
        .environment = environment,
        .listen_pid = spec->listen ? texts.listen_pid.data + strlen(LISTEN_PID_NAME) : NULL,
        .fds = fds,
        .fd_count = fd_count,
        .take_stdout = spec->take_stdout,
        .memory_bytes = spec->memory_bytes,
        .confinement = &confinement,
    };
    rc = start_planned(&plan, process, err);
    confinement_done(&confinement);
    return rc;
}

bool sandbox_running(const struct helper_process *process)
{
    return process->pid > 0 && !has_ended(process, 0);
}

static void close_process(struct helper_process *process)
{
    stats_add(STAT_HELPERS_RUNNING, -1);
    if (process->pidfd >= 0)
        close(process->pidfd);
    if (process->stderr_fd >= 0)
        close(process->stderr_fd);
    *process = (struct helper_process){.pidfd = -1, .stderr_fd = -1};
}

void sandbox_end(struct helper_process *process, int grace_ms)
{
    if (process->pid <= 0)
        return;
    bool ended = false;
    if (process->pidfd >= 0 && grace_ms > 0) {
        syscall(SYS_pidfd_send_signal, process->pidfd, SIGTERM, NULL, 0);
        ended = has_ended(process, grace_ms);
    }
    if (process->pidfd >= 0 && !ended) {
        syscall(SYS_pidfd_send_signal, process->pidfd, SIGKILL, NULL, 0);
        ended = has_ended(process, KILL_WAIT_MS);
    }
    if (!ended)
        starter_reap(process->pid);
    else
        waitpid(process->pid, NULL, 0);
    close_process(process);
}

void sandbox_leave(struct helper_process *process)
{
    if (process->pid <= 0)
        return;
    if (process->pidfd >= 0)
        syscall(SYS_pidfd_send_signal, process->pidfd, SIGKILL, NULL, 0);
    starter_reap(process->pid);
    close_process(process);
}

void sandbox_stderr(const struct helper_process *process, char *buffer, size_t size)
{
    size_t length = 0;
    while (process->pid > 0 && length < size - 1) {
        ssize_t got = read(process->stderr_fd, buffer + length, size - 1 - length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        length += (size_t)got;
    }
    while (length > 0 && buffer[length - 1] == '\n')
        length--;
    buffer[length] = '\0';
}
