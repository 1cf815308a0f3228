// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * sandbox.h: what a helper can reach, and that it goes when it should. The helper is this program itself,
 * started as `test_sandbox probe WORD...`, which does what the words say and tells it on descriptor 3.
 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/stats.h"
#include "helper/sandbox.h"

static char folder[] = "/tmp/test_sandbox.XXXXXX";
static char self[4096];

/* ---- the helper's side ---- */

static int probe_word(const char *word, const char *argument)
{
    if (strcmp(word, "read") == 0) {
        int fd = open(argument, O_RDONLY);
        char byte;
        return fd < 0 ? -errno : read(fd, &byte, 1) < 0 ? -errno : 0;
    }
    if (strcmp(word, "write") == 0)
        return open(argument, O_WRONLY) < 0 ? -errno : 0;
    if (strcmp(word, "create") == 0)
        return open(argument, O_WRONLY | O_CREAT | O_EXCL, 0600) < 0 ? -errno : 0;
    if (strcmp(word, "list") == 0)
        return open(argument, O_RDONLY | O_DIRECTORY) < 0 ? -errno : 0;
    if (strcmp(word, "socket") == 0)
        return socket(strcmp(argument, "unix") == 0 ? AF_UNIX : AF_INET, SOCK_STREAM, 0) < 0 ? -errno : 0;
    if (strcmp(word, "environment") == 0)
        return getenv(argument) ? 0 : -ENOENT;
    if (strcmp(word, "fd") == 0)
        return fcntl(atoi(argument), F_GETFD) < 0 ? -errno : 0;
    if (strcmp(word, "listen-pid") == 0)
        return getenv("LISTEN_PID") && atoi(getenv("LISTEN_PID")) == getpid() &&
                       strcmp(getenv("LISTEN_FDS"), argument) == 0
                   ? 0
                   : -EINVAL;
    if (strcmp(word, "signal") == 0)
        return kill(atoi(argument), 0) < 0 ? -errno : 0;
    if (strcmp(word, "chown") == 0)
        return chown(argument, 12345, 12345) < 0 ? -errno : 0;
    if (strcmp(word, "say") == 0)
        return fprintf(stderr, "%s\n", argument) > 0 ? 0 : -EIO;
    if (strcmp(word, "flood") == 0) {
        for (int i = 0; i < 100000; i++)
            fputs("a line that nobody reads\n", stderr);
        return 0;
    }
    if (strcmp(word, "ignore-term") == 0)
        return signal(SIGTERM, SIG_IGN) == SIG_ERR ? -errno : 0;
    if (strcmp(word, "wait") == 0) {
        dprintf(3, "waiting ");
        for (;;)
            pause();
    }
    return -ENOSYS;
}

static int probe(int argc, char **argv)
{
    for (int i = 2; i + 1 < argc; i += 2)
        dprintf(3, "%d ", probe_word(argv[i], argv[i + 1]));
    return 0;
}

/* ---- our side ---- */

static struct sandbox_spec spec_of(const char *const *argv, const int *fds, size_t fd_count)
{
    return (struct sandbox_spec){.argv = argv, .pass_fds = fds, .pass_fd_count = fd_count};
}

/* Starts the probe of `spec` (argv[0] is put in) with a pipe as its first descriptor. */
static struct helper_process start_probe(struct sandbox_spec spec, const char *const *words, int *answer)
{
    const char *argv[16] = {self, "probe"};
    for (size_t i = 0; words[i]; i++)
        argv[i + 2] = words[i];
    int ends[2];
    assert_return_code(pipe2(ends, O_CLOEXEC), errno);
    int fds[8] = {ends[1]};
    for (size_t i = 0; i < spec.pass_fd_count; i++)
        fds[i + 1] = spec.pass_fds[i];
    spec.argv = argv;
    spec.pass_fds = fds;
    spec.pass_fd_count++;
    struct error err = {0};
    struct helper_process process;
    if (sandbox_start(&spec, &process, &err) < 0)
        fail_msg("%s", err.text);
    close(ends[1]);
    *answer = ends[0];
    return process;
}

/* What it answers until it ends. */
static const char *run_probe(struct sandbox_spec spec, const char *const *words)
{
    static char answer[256];
    int fd;
    struct helper_process process = start_probe(spec, words, &fd);
    size_t length = 0;
    ssize_t got;
    while ((got = read(fd, answer + length, sizeof answer - 1 - length)) > 0)
        length += (size_t)got;
    answer[length] = '\0';
    close(fd);
    sandbox_end(&process, 60000);
    return answer;
}

static const char *in_folder(const char *name)
{
    static char paths[16][64];
    static unsigned next;
    char *path = paths[next++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static const char *make_file(const char *name)
{
    const char *path = in_folder(name);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_return_code(fd, errno);
    assert_int_equal(pwrite(fd, "bytes", 5, 0), 5);
    close(fd);
    return path;
}

#define WORDS(...)                                                                                           \
    (const char *const[])                                                                                    \
    {                                                                                                        \
        __VA_ARGS__, NULL                                                                                    \
    }
static const struct sandbox_spec plain;

static void a_helper_reads_what_it_was_given_and_nothing_else(void **state)
{
    const char *given = make_file("given"), *other = make_file("other");
    struct sandbox_spec spec = {.read_paths = WORDS(given)};
    assert_string_equal(run_probe(spec, WORDS("read", given, "write", given, "read", other, "list", folder,
                                              "read", "/etc/passwd", "read", "/proc/self/environ")),
                        "0 -13 -13 -13 -13 -13 ");
}

static void a_folder_gives_what_lies_below_it_but_not_through_links(void **state)
{
    const char *sub = in_folder("sub");
    mkdir(sub, 0700);
    make_file("sub/in");
    make_file("outside");
    symlink("../outside", in_folder("sub/link"));
    struct sandbox_spec spec = {.read_paths = WORDS(sub)};
    assert_string_equal(run_probe(spec, WORDS("list", sub, "read", in_folder("sub/in"), "read",
                                              in_folder("sub/link"), "create", in_folder("sub/new"))),
                        "0 0 -13 -13 ");
    spec = (struct sandbox_spec){.write_paths = WORDS(sub)};
    assert_string_equal(run_probe(spec, WORDS("write", in_folder("sub/in"), "create", in_folder("sub/new"),
                                              "write", in_folder("sub/link"))),
                        "0 0 -13 ");
}

static void a_passed_file_can_be_opened_anew_whatever_its_name_leads_to(void **state)
{
    const char *path = make_file("passed");
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    cleanup_close int memory = memfd_create("memory", MFD_CLOEXEC);
    assert_int_equal(write(memory, "x", 1), 1);
    unlink(path);
    make_file("passed");
    struct sandbox_spec spec = {.pass_fds = (const int[]){fd, memory}, .pass_fd_count = 2};
    assert_string_equal(run_probe(spec, WORDS("read", "/proc/self/fd/4", "read", "/proc/self/fd/5", "read",
                                              path, "write", "/proc/self/fd/4")),
                        "0 0 -13 -13 ");
}

static void libraries_can_be_loaded_and_etc_stays_closed(void **state)
{
    assert_string_equal(
        run_probe(plain, WORDS("read", "/etc/hostname", "read", "/etc/shadow", "list", "/etc", "list",
                               "/usr/lib", "read", "/usr/bin/env", "read", "/etc/ld.so.cache")),
        "-13 -13 -13 -13 -13 0 ");
}

static void a_helper_has_no_sockets_but_of_the_kind_that_is_asked_for(void **state)
{
    assert_string_equal(run_probe(plain, WORDS("socket", "unix", "socket", "inet")), "-13 -13 ");
    struct sandbox_spec spec = {.network = SANDBOX_INTERNET};
    assert_string_equal(run_probe(spec, WORDS("socket", "unix", "socket", "inet")), "-13 0 ");
    spec.network = SANDBOX_UNIX_SOCKETS;
    assert_string_equal(run_probe(spec, WORDS("socket", "unix", "socket", "inet")), "0 -13 ");
}

static void what_is_not_there_need_not_be_readable(void **state)
{
    const char *paths[] = {"/nothing-here", make_file("there"), NULL};
    const char *path = paths[1];
    struct sandbox_spec spec = {.read_if_there = paths, .home = "/somewhere"};
    assert_string_equal(run_probe(spec, WORDS("read", path, "environment", "HOME")), "0 0 ");
    assert_string_equal(run_probe(plain, WORDS("read", path)), "-13 ");
}

static void a_helper_has_only_the_descriptors_and_words_that_it_was_given(void **state)
{
    cleanup_close int inherited = open("/dev/null", O_RDONLY); /* not close-on-exec, on purpose */
    assert_int_equal(fcntl(inherited, F_DUPFD, 100), 100);
    setenv("VMSNAPFS_SECRET", "1", 1);
    assert_string_equal(run_probe(plain, WORDS("fd", "0", "fd", "2", "fd", "3", "fd", "4", "fd", "100",
                                               "environment", "VMSNAPFS_SECRET")),
                        "0 0 0 -9 -9 -2 ");
    close(100);
    assert_string_equal(run_probe(plain, WORDS("environment", "PATH", "environment", "HOME", "environment",
                                               "LANG", "environment", "LISTEN_PID")),
                        "0 0 0 -2 ");
    struct sandbox_spec spec = {.listen = true};
    assert_string_equal(run_probe(spec, WORDS("listen-pid", "1")), "0 ");
}

static void descriptors_are_numbered_in_the_order_given_even_where_numbers_collide(void **state)
{
    /* 3, 4 and 5 in reverse: each one's number is another one's target. */
    int low[3];
    for (int i = 0; i < 3; i++)
        low[i] = open(make_file(i == 0 ? "a" : i == 1 ? "b" : "c"), O_RDONLY | O_CLOEXEC);
    cleanup_close int memory = memfd_create("empty", MFD_CLOEXEC);
    struct sandbox_spec spec = {.pass_fds = (const int[]){low[2], low[1], low[0], memory},
                                .pass_fd_count = 4};
    assert_string_equal(
        run_probe(spec, WORDS("fd", "7", "fd", "8", "read", "/proc/self/fd/4", "read", "/proc/self/fd/6")),
        "0 -9 0 0 ");
    for (int i = 0; i < 3; i++)
        close(low[i]);
}

static void a_helper_of_root_keeps_no_power_over_files(void **state)
{
    if (geteuid() != 0)
        skip();
    const char *given = make_file("given");
    assert_return_code(chown(given, 4711, 4711), errno);
    struct sandbox_spec spec = {.read_paths = WORDS(given)};
    assert_string_equal(run_probe(spec, WORDS("read", given, "chown", given)), "0 -1 ");
}

static void what_it_says_is_kept_and_too_much_of_it_does_not_stop_it(void **state)
{
    int fd;
    struct helper_process process =
        start_probe(plain, WORDS("say", "first", "say", "second", "wait", ""), &fd);
    char answer[32] = "", text[64];
    for (size_t length = 0; !strstr(answer, "waiting");)
        length += (size_t)read(fd, answer + length, sizeof answer - 1 - length);
    sandbox_stderr(&process, text, sizeof text);
    assert_string_equal(text, "first\nsecond");
    sandbox_stderr(&process, text, sizeof text);
    assert_string_equal(text, "");
    close(fd);
    sandbox_end(&process, 0);
    assert_string_equal(run_probe(plain, WORDS("flood", "")), "0 ");
}

static void ending_takes_even_one_that_ignores_it(void **state)
{
    int fd;
    struct helper_process process = start_probe(plain, WORDS("ignore-term", "", "wait", ""), &fd);
    char answer[32] = "";
    for (size_t length = 0; !strstr(answer, "waiting");)
        length += (size_t)read(fd, answer + length, sizeof answer - 1 - length);
    assert_true(sandbox_running(&process));
    assert_int_equal(stats_get(STAT_HELPERS_RUNNING), 1);
    pid_t pid = process.pid;
    sandbox_end(&process, 20);
    assert_false(sandbox_running(&process));
    assert_int_equal(stats_get(STAT_HELPERS_RUNNING), 0);
    assert_int_equal(kill(pid, 0), -1);
    sandbox_end(&process, 20);
    struct helper_process none = {0};
    sandbox_end(&none, 20);
    assert_false(sandbox_running(&none));
    close(fd);
}

static void one_that_is_left_is_killed_and_reaped(void **state)
{
    int fd;
    struct helper_process process = start_probe(plain, WORDS("ignore-term", "", "wait", ""), &fd), none = {0};
    pid_t pid = process.pid;
    sandbox_leave(&process);
    assert_false(sandbox_running(&process));
    while (kill(pid, 0) == 0) /* a zombie can be told, too */
        usleep(1000);
    assert_int_equal(errno, ESRCH);
    assert_int_equal(stats_get(STAT_HELPERS_RUNNING), 0);
    sandbox_leave(&process);
    sandbox_leave(&none);
    close(fd);
}

/* However many there are at once. */
static void all_that_are_left_are_reaped(void **state)
{
    enum { COUNT = 150 };
    static struct helper_process processes[COUNT];
    pid_t pids[COUNT];
    int fds[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        processes[i] = start_probe(plain, WORDS("wait", ""), &fds[i]);
        pids[i] = processes[i].pid;
    }
    for (size_t i = 0; i < COUNT; i++)
        sandbox_leave(&processes[i]);
    for (size_t i = 0; i < COUNT; i++) {
        for (int tries = 0; kill(pids[i], 0) == 0; tries++) {
            assert_true(tries < 60000);
            usleep(1000);
        }
        close(fds[i]);
    }
}

static void *start_and_leave(void *opaque)
{
    int fd;
    *(struct helper_process *)opaque = start_probe(plain, WORDS("wait", ""), &fd);
    char answer[32] = "";
    assert_true(read(fd, answer, sizeof answer) > 0);
    close(fd);
    return NULL;
}

static void a_helper_outlives_the_thread_that_asked_for_it(void **state)
{
    struct helper_process process;
    pthread_t thread;
    pthread_create(&thread, NULL, start_and_leave, &process);
    pthread_join(thread, NULL);
    struct pollfd poll_fd = {.fd = process.pidfd, .events = POLLIN};
    assert_int_equal(poll(&poll_fd, 1, 200), 0);
    sandbox_end(&process, 0);
}

/* A process of its own, since a fork of one with threads is no daemon: tells its helper's pid on
 * descriptor 3. */
static int be_a_daemon(void)
{
    struct helper_process process;
    start_and_leave(&process);
    if (write(3, &process.pid, sizeof process.pid) < 0)
        return 1;
    for (;;)
        pause();
}

/* Runs this program as `mode`, with `fd` (unless -1) as its descriptor 3. */
static pid_t run_self(const char *mode, int fd)
{
    pid_t pid = fork();
    if (pid == 0) {
        if (fd >= 0 && fd != 3)
            dup2(fd, 3);
        else if (fd == 3)
            fcntl(3, F_SETFD, 0);
        execl(self, self, mode, (char *)NULL);
        _exit(126);
    }
    return pid;
}

static void a_helper_dies_with_the_daemon(void **state)
{
    int ends[2];
    assert_return_code(pipe2(ends, O_CLOEXEC), errno);
    pid_t daemon = run_self("daemon", ends[1]);
    close(ends[1]);
    pid_t pid;
    assert_int_equal(read(ends[0], &pid, sizeof pid), sizeof pid);
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    assert_return_code(pidfd, errno);
    struct pollfd poll_fd = {.fd = pidfd, .events = POLLIN};
    assert_int_equal(poll(&poll_fd, 1, 100), 0);
    kill(daemon, SIGKILL);
    waitpid(daemon, NULL, 0);
    assert_int_equal(poll(&poll_fd, 1, 60000), 1);
    close(pidfd);
    close(ends[0]);
}

static void a_missing_program_is_named_with_its_package(void **state)
{
    struct helper_process process;
    struct error err = {0};
    cleanup_free char *path = strdup(getenv("PATH"));
    setenv("PATH", folder, 1);
    struct sandbox_spec spec = spec_of(WORDS("qemu-nbd"), NULL, 0);
    assert_int_equal(sandbox_start(&spec, &process, &err), -ENOENT);
    assert_string_equal(err.text, "qemu-nbd is not installed (package qemu-utils)");
    setenv("PATH", path, 1);

    spec = spec_of(WORDS("true"), NULL, 0);
    spec.read_paths = WORDS("/no/such/file");
    assert_int_equal(sandbox_start(&spec, &process, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/no/such/file"));
}

static void a_program_that_can_not_be_executed_says_so(void **state)
{
    const char *path = make_file("broken");
    assert_return_code(chmod(path, 0700), errno);
    struct helper_process process;
    struct error err = {0};
    struct sandbox_spec spec = spec_of(WORDS(path), NULL, 0);
    assert_int_equal(sandbox_start(&spec, &process, &err), -ENOEXEC);
    assert_non_null(strstr(err.text, "executing it: Exec format error"));
    assert_int_equal(stats_get(STAT_HELPERS_RUNNING), 0);
}

/* Makes landlock_create_ruleset fail for this process as it does on a kernel without Landlock. */
static void take_landlock_away(void)
{
    struct sock_filter instructions[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_landlock_create_ruleset, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = 4, .filter = instructions};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        _exit(9);
}

static int be_without_landlock(void)
{
    take_landlock_away();
    struct helper_process process;
    struct error err = {0};
    struct sandbox_spec spec = spec_of(WORDS("true"), NULL, 0);
    if (sandbox_start(&spec, &process, &err) != -EOPNOTSUPP || !strstr(err.text, "Landlock"))
        return 1;
    spec.without_landlock = true;
    if (sandbox_start(&spec, &process, &err) != 0)
        return 2;
    sandbox_end(&process, 60000);
    return 0;
}

static void without_landlock_a_helper_is_refused_unless_trusted(void **state)
{
    pid_t child = run_self("without-landlock", -1);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static int make_folder(void **state)
{
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "probe") == 0)
        return probe(argc, argv);
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length < 0)
        return 1;
    if (argc > 1 && strcmp(argv[1], "daemon") == 0)
        return be_a_daemon();
    if (argc > 1 && strcmp(argv[1], "without-landlock") == 0)
        return be_without_landlock();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_helper_reads_what_it_was_given_and_nothing_else),
        cmocka_unit_test(a_folder_gives_what_lies_below_it_but_not_through_links),
        cmocka_unit_test(a_passed_file_can_be_opened_anew_whatever_its_name_leads_to),
        cmocka_unit_test(libraries_can_be_loaded_and_etc_stays_closed),
        cmocka_unit_test(a_helper_has_no_sockets_but_of_the_kind_that_is_asked_for),
        cmocka_unit_test(what_is_not_there_need_not_be_readable),
        cmocka_unit_test(a_helper_has_only_the_descriptors_and_words_that_it_was_given),
        cmocka_unit_test(descriptors_are_numbered_in_the_order_given_even_where_numbers_collide),
        cmocka_unit_test(a_helper_of_root_keeps_no_power_over_files),
        cmocka_unit_test(what_it_says_is_kept_and_too_much_of_it_does_not_stop_it),
        cmocka_unit_test(ending_takes_even_one_that_ignores_it),
        cmocka_unit_test(one_that_is_left_is_killed_and_reaped),
        cmocka_unit_test(all_that_are_left_are_reaped),
        cmocka_unit_test(a_helper_outlives_the_thread_that_asked_for_it),
        cmocka_unit_test(a_helper_dies_with_the_daemon),
        cmocka_unit_test(a_missing_program_is_named_with_its_package),
        cmocka_unit_test(a_program_that_can_not_be_executed_says_so),
        cmocka_unit_test(without_landlock_a_helper_is_refused_unless_trusted),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
