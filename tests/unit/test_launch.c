// SPDX-License-Identifier: LGPL-2.1-or-later
/* launch.h, guest.h and helper/lasting.h: what a domain is started with, and processes that are found again.
 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "helper/lasting.h"
#include "machine/guest.h"
#include "machine/launch.h"
#include "machine/runtime.h"

/* ---- Arguments ---- */

static char *const launch[] = {(char *)"qemu", (char *)"-m", (char *)"16", NULL};

static void test_arguments(void **unused)
{
    static const char *const wanted[] = {
        "qemu",
        "-m",
        "16",
        "-blockdev",
        "{\"driver\":\"file\",\"node-name\":\"vda-1-file\",\"filename\":\"/a "
        "\\\"b\\\",c\",\"discard\":\"unmap\","
        "\"auto-read-only\":true}",
        "-blockdev",
        "{\"driver\":\"raw\",\"node-name\":\"vda-1\",\"read-only\":true,\"discard\":\"unmap\",\"file\":\"vda-"
        "1-"
        "file\"}",
        "-blockdev",
        "{\"driver\":\"file\",\"node-name\":\"vda-file\",\"filename\":\"/top\",\"discard\":\"unmap\"}",
        "-blockdev",
        "{\"driver\":\"qcow2\",\"node-name\":\"vda\",\"read-only\":false,\"discard\":\"unmap\",\"file\":"
        "\"vda-"
        "file\",\"backing\":\"vda-1\"}",
        "-blockdev",
        "{\"driver\":\"host_device\",\"node-name\":\"vdb-file\",\"filename\":\"/dev/"
        "x\",\"discard\":\"unmap\"}",
        "-blockdev",
        "{\"driver\":\"file\",\"node-name\":\"vdb-data\",\"filename\":\"/data\",\"discard\":\"unmap\"}",
        "-blockdev",
        "{\"driver\":\"qcow2\",\"node-name\":\"vdb\",\"read-only\":false,\"discard\":\"unmap\",\"file\":"
        "\"vdb-"
        "file\",\"data-file\":\"vdb-data\",\"backing\":null}",
        "-chardev",
        "socket,id=vmsnapfs-1,server=on,wait=off,path=/run/a,,b/monitor",
        "-mon",
        "chardev=vmsnapfs-1,mode=control",
    };
    const struct launch_layer vda[] = {{.path = "/top", .format = IMAGE_FORMAT_QCOW2},
                                       {.path = "/a \"b\",c", .format = IMAGE_FORMAT_RAW}};
    const struct launch_layer vdb[] = {
        {.path = "/dev/x", .is_device = true, .format = IMAGE_FORMAT_QCOW2, .data_path = "/data"}};
    const struct launch_disk disks[] = {{"vda", vda, 2}, {"vdb", vdb, 1}};
    char *const monitors[] = {(char *)"/run/a,b/monitor", NULL};
    char **argv;
    assert_int_equal(launch_arguments(launch, disks, 2, monitors, &argv, NULL), 0);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        assert_string_equal(argv[i], wanted[i]);
    assert_null(argv[sizeof wanted / sizeof *wanted]);
    launch_free(argv);
}

static void test_wrong_arguments(void **unused)
{
    static const struct launch_layer layer = {.path = "/a", .format = IMAGE_FORMAT_RAW};
    static const char *const targets[] = {"0da", "a b", "d\xc3\xa9", "abcdefghijklmnopqrstuvwxyz01234"};
    char *const monitors[] = {NULL};
    char **argv;
    struct error err = {0};
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        const struct launch_disk disk = {targets[i], &layer, 1};
        assert_int_equal(launch_arguments(launch, &disk, 1, monitors, &argv, &err), -EINVAL);
        assert_non_null(strstr(err.text, targets[i]));
    }
    const struct launch_disk same[] = {{"vda", &layer, 1}, {"vda-file", &layer, 1}};
    assert_int_equal(launch_arguments(launch, same, 2, monitors, &argv, &err), -EINVAL);
    char *const background[] = {(char *)"qemu", (char *)"-daemonize", NULL};
    assert_int_equal(launch_arguments(background, same, 1, monitors, &argv, &err), -EINVAL);
}

/* ---- Processes ---- */

static char folder[] = "/tmp/test_launch.XXXXXX";
static bool refuse_note;
static pid_t noted;

static int note(void *opaque, const struct lasting_process *process, struct error *err)
{
    noted = process->pid;
    return refuse_note ? error_set(err, ENOSPC, "no room") : 0;
}

static int start(const char *line, struct lasting_process *process, struct error *err)
{
    const char *const argv[] = {"sh", "-c", line, NULL};
    cleanup_close int output = open("/dev/null", O_WRONLY | O_CLOEXEC);
    const struct lasting_spec spec = {.argv = argv, .directory = folder, .output_fd = output};
    return lasting_start(&spec, note, NULL, process, err);
}

static void await_end(const struct lasting_process *process)
{
    struct pollfd fd = {.fd = process->pidfd, .events = POLLIN};
    while (poll(&fd, 1, -1) < 1)
        continue;
}

static void test_process(void **unused)
{
    struct lasting_process process, found;
    siginfo_t status;
    struct error err = {0};
    assert_int_equal(start("exec sleep 1000", &process, &err), 0);
    assert_int_equal(process.pid, noted);
    assert_false(lasting_has_ended(&process, &status));
    assert_int_equal(lasting_find(process.pid, process.started, &found, &err), 0);
    lasting_close(&found);
    assert_int_equal(lasting_find(process.pid, process.started + 1, &found, &err), -ESRCH);
    assert_int_equal(lasting_find(1, process.started, &found, &err), -ESRCH);
    assert_int_equal(getsid(process.pid), process.pid);
    assert_int_equal(lasting_signal(&process, SIGKILL), 0);
    await_end(&process);
    assert_int_equal(lasting_find(process.pid, process.started, &found, &err), -ESRCH); /* not buried yet */
    assert_true(lasting_has_ended(&process, &status));
    assert_int_equal(status.si_pid, process.pid);
    assert_int_equal(status.si_status, SIGKILL);
    assert_true(lasting_has_ended(&process, &status)); /* and buried */
    assert_int_equal(status.si_pid, 0);
    assert_int_equal(lasting_signal(&process, SIGKILL), -ESRCH);
    lasting_close(&process);
    lasting_close(&process);
}

/* It has no descriptor of ours, the directory that was asked for, and no signal that is blocked or ignored.
 */
static void test_surroundings(void **unused)
{
    char line[512], text[8192] = "";
    struct lasting_process process;
    siginfo_t status;
    cleanup_close int left = open("/dev/zero", O_RDONLY);
    assert_true(left >= 0);
    signal(SIGPIPE, SIG_IGN);
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, &old);
    snprintf(line, sizeof line, "{ ls -l /proc/self/fd; pwd; grep Sig /proc/self/status; } > out");
    assert_int_equal(start(line, &process, NULL), 0);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    signal(SIGPIPE, SIG_DFL);
    await_end(&process);
    assert_true(lasting_has_ended(&process, &status));
    assert_int_equal(status.si_status, 0);
    lasting_close(&process);
    snprintf(line, sizeof line, "%s/out", folder);
    cleanup_fclose FILE *file = fopen(line, "re");
    assert_non_null(file);
    assert_true(fread(text, 1, sizeof text - 1, file) > 0);
    assert_null(strstr(text, "/dev/zero"));
    assert_null(strstr(text, "pipe:"));
    assert_non_null(strstr(text, folder));
    assert_non_null(strstr(text, "SigBlk:\t0000000000000000"));
    assert_non_null(strstr(text, "SigIgn:\t0000000000000000"));
    unlink(line);
}

static void test_no_process(void **unused)
{
    struct lasting_process process;
    struct error err = {0};
    const char *const argv[] = {"/nonexistent/program", NULL};
    struct lasting_spec spec = {.argv = argv, .directory = folder, .output_fd = 2};
    assert_int_equal(lasting_start(&spec, note, NULL, &process, &err), -ENOENT);
    const char *const shell[] = {"sh", "-c", "true", NULL};
    spec.argv = shell;
    spec.directory = "/nonexistent/directory";
    assert_int_equal(lasting_start(&spec, note, NULL, &process, &err), -ENOENT);
    assert_non_null(strstr(err.text, spec.directory));
    refuse_note = true;
    spec.directory = folder;
    const char *const trace[] = {"sh", "-c", "touch ran", NULL};
    spec.argv = trace;
    assert_int_equal(lasting_start(&spec, note, NULL, &process, &err), -ENOSPC);
    refuse_note = false;
    assert_int_equal(kill(noted, 0), -1); /* it is not there, not even as a zombie */
    char path[sizeof folder + 8];
    snprintf(path, sizeof path, "%s/ran", folder);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left */
}

/* ---- Guests ---- */

static char *guest_directory(void)
{
    struct runtime *runtime;
    setenv("XDG_RUNTIME_DIR", folder, 1);
    assert_int_equal(runtime_new(folder, &runtime, NULL), 0);
    char *directory = runtime_guest(runtime, 7);
    runtime_free(runtime);
    assert_non_null(directory);
    return directory;
}

static struct guest *start_guest(const char *directory, const char *line)
{
    const char *const argv[] = {"sh", "-c", line, NULL};
    struct guest *guest = NULL;
    struct error err = {0};
    if (guest_start(directory, argv, folder, &guest, &err) < 0)
        fail_msg("%s", err.text);
    return guest;
}

static void write_record(const char *directory, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/record", directory);
    cleanup_fclose FILE *file = fopen(path, "we");
    assert_non_null(file);
    fputs(text, file);
}

static void test_guest(void **unused)
{
    cleanup_free char *directory = guest_directory();
    struct guest *guest, *found = NULL;
    enum guest_trace trace;
    char said[32];
    siginfo_t status;
    assert_int_equal(guest_find(directory, &found, &trace, NULL), -ESRCH);
    assert_int_equal(trace, GUEST_NO_TRACE);
    const char *const nowhere[] = {"/nonexistent/program", NULL};
    assert_int_equal(guest_start(directory, nowhere, folder, &guest, NULL), -ENOENT);
    assert_int_equal(access(directory, F_OK), -1);
    guest =
        start_guest(directory, "printf 'a long line, which is the first\nlast\033 one\n'; exec sleep 1000");
    assert_true(runtime_is_ours(directory));
    assert_int_equal(guest_find(directory, &found, &trace, NULL), 0);
    assert_int_equal(found->process.pid, guest->process.pid);
    assert_string_equal(found->monitor, guest->monitor);
    guest_free(found);
    do
        guest_said(guest, said, sizeof said);
    while (!strstr(said, "one"));
    assert_null(strstr(said, "first"));
    assert_null(strchr(said, '\033'));
    close(open(guest->monitor, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    lasting_signal(&guest->process, SIGKILL);
    await_end(&guest->process);
    assert_int_equal(guest_find(directory, &found, &trace, NULL), -ESRCH);
    assert_int_equal(trace, GUEST_KILLED);
    assert_int_equal(access(directory, F_OK), -1);
    lasting_has_ended(&guest->process, &status);
    guest_free(guest);
}

static void test_bad_records(void **unused)
{
    static const char *const bad[] = {"",
                                      "\n",
                                      "vmsnapfs guest 2\npid 1\nstarted 1\nboot x\n",
                                      "vmsnapfs guest 1\npid -5\nstarted 1\nboot x\n",
                                      "vmsnapfs guest 1\npid 0\nstarted 1\nboot x\n",
                                      "vmsnapfs guest 1\npid 99999999999\nstarted 1\nboot x\n",
                                      "vmsnapfs guest 1\npid 1\n"};
    cleanup_free char *directory = guest_directory();
    struct guest *guest = NULL, *found;
    enum guest_trace trace;
    struct error err;
    assert_int_equal(runtime_make(directory, &err), 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_record(directory, bad[i]);
        err = (struct error){0};
        assert_int_equal(guest_find(directory, &found, &trace, &err), -EIO);
        assert_string_not_equal(err.text, "");
        assert_int_equal(access(directory, F_OK), 0); /* nobody knows what it is */
    }
    runtime_remove(directory);
    guest = start_guest(directory, "exec sleep 1000");
    char text[256];
    snprintf(text, sizeof text, "vmsnapfs guest 1\npid %ld\nstarted %llu\nboot 0-1-2\n",
             (long)guest->process.pid, (unsigned long long)guest->process.started);
    write_record(directory, text);
    /* Others can write to it. */
    assert_int_equal(chmod(directory, 0770), 0);
    assert_int_equal(guest_find(directory, &found, &trace, &err), -EPERM);
    assert_int_equal(chmod(directory, 0700), 0);
    /* It is of another run of the machine. */
    assert_int_equal(guest_find(directory, &found, &trace, NULL), -ESRCH);
    assert_int_equal(access(directory, F_OK), -1);
    lasting_signal(&guest->process, SIGKILL);
    await_end(&guest->process);
    siginfo_t status;
    lasting_has_ended(&guest->process, &status);
    guest_bury(guest);
    guest_free(guest);
}

static int set_up(void **unused)
{
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **unused)
{
    char line[128];
    snprintf(line, sizeof line, "rm -rf %s", folder);
    return system(line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arguments),   cmocka_unit_test(test_wrong_arguments),
        cmocka_unit_test(test_process),     cmocka_unit_test(test_surroundings),
        cmocka_unit_test(test_no_process),  cmocka_unit_test(test_guest),
        cmocka_unit_test(test_bad_records),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
