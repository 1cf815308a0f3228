// SPDX-License-Identifier: LGPL-2.1-or-later
/* memory_internal.h with a real QEMU, whose monitor writes to memory and disks as a guest would, and with a
 * monitor that fails. */
#include "qemu_process.h"

#include "fake_monitor.h"
#include "hypervisor/memory_internal.h"
#include "hypervisor/run_state.h"

#define SHORT_MS 50

static const struct qmp_job_watch patient = {.timeout_ms = LONG_MS};
static const char *const both[] = {"a", "b"};

static struct qemu_process qemu;

static void add_disk(const char *name, const char *driver)
{
    json_object_put(qemu_process_do(
        &qemu, "blockdev-add",
        "{'node-name': '%s', 'driver': '%s', 'file': {'driver': 'file', 'filename': '%s/%s.%s'}}", name,
        driver, folder, name, driver));
}

static void start(void)
{
    qemu_process_start(&qemu, (const char *const[]){"-S", NULL});
    add_disk("a", "qcow2");
    add_disk("b", "qcow2");
}

static void make_disks(void)
{
    run("rm -f *.qcow2 *.raw; qemu-img create -q -f qcow2 a.qcow2 4M && qemu-img create -q -f qcow2 b.qcow2 "
        "4M && "
        "qemu-img create -q -f raw r.raw 1M");
}

static void write_both(int pattern)
{
    qemu_process_write(&qemu, "a", pattern, 0, 1 << 20);
    qemu_process_write(&qemu, "b", pattern, 0, 1 << 20);
}

static void assert_disks_hold(int pattern)
{
    for (size_t i = 0; i < 2; i++) {
        cleanup_json struct json_object *said =
            qemu_process_do(&qemu, "human-monitor-command",
                            "{'command-line': 'qemu-io %s \\u0022read -P %d 0 1M\\u0022'}", both[i], pattern);
        assert_string_equal(json_object_get_string(said), "");
    }
    run("! grep -i 'verification failed' said");
}

static struct memory_internal snapshot_of(const char *tag)
{
    return (struct memory_internal){
        .job_id = "memory", .tag = tag, .vmstate = "a", .devices = both, .device_count = 2};
}

static int save(const char *tag)
{
    struct memory_internal snapshot = snapshot_of(tag);
    return memory_internal_save(qemu.engine.qmp, &snapshot, &patient, &why);
}

/* By the monitor for people, which tells what went wrong. */
static void load(const char *tag)
{
    cleanup_json struct json_object *told =
        qemu_process_do(&qemu, "human-monitor-command", "{'command-line': 'loadvm %s'}", tag);
    assert_string_equal(json_object_get_string(told), "");
}

static void assert_runs(bool wanted)
{
    struct run_state_answer answer;
    must(run_state_query(qemu.engine.qmp, LONG_MS, &answer, &why));
    assert_int_equal(answer.running, wanted);
}

static void fill(int value)
{
    must(run_state_stop(qemu.engine.qmp, LONG_MS, &why));
    qemu_process_set_memory(&qemu, value);
    write_both(value);
}

static void assert_filled(int value)
{
    must(run_state_stop(qemu.engine.qmp, LONG_MS, &why));
    assert_int_equal(qemu_process_memory(&qemu), value);
    assert_disks_hold(value);
}

/* ---- a real one ---- */

static void test_save(void **state)
{
    make_disks();
    start();
    fill(1);
    must(save("one")); /* while it stands still */
    assert_runs(false);
    fill(2);
    must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
    must(save("two")); /* while it runs */
    assert_runs(true);
    fill(3);
    load("one");
    assert_filled(1);
    load("two");
    assert_filled(2);
    must(run_state_quit(qemu.engine.qmp, LONG_MS, &why));
    qemu_process_kill(&qemu);
    start(); /* another process */
    load("one");
    assert_filled(1);
    load("two");
    assert_filled(2);
    qemu_process_kill(&qemu);
    assert_undamaged("a.qcow2");
    assert_undamaged("b.qcow2");
    run("for tag in one two; do for disk in a b; do qemu-img snapshot -l $disk.qcow2 | grep -qw $tag || exit "
        "1; done; done");
}

static void test_what_can_not_be_saved(void **state)
{
    make_disks();
    start();
    fill(1);
    must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
    must(save("one"));
    must_fail(save("one"), EEXIST);
    must_fail(save("17"), EINVAL);
    must_fail(save(""), EINVAL);
    struct memory_internal snapshot = snapshot_of("two");
    snapshot.vmstate = "nosuch";
    must_fail(memory_internal_save(qemu.engine.qmp, &snapshot, &patient, &why), ENODEV);
    snapshot.vmstate = "a";
    snapshot.devices = (const char *const[]){"a", "nosuch"};
    must_fail(memory_internal_save(qemu.engine.qmp, &snapshot, &patient, &why), ENODEV);
    add_disk("r", "raw");
    snapshot.devices = (const char *const[]){"a", "r"};
    must_fail(memory_internal_save(qemu.engine.qmp, &snapshot, &patient, &why), EOPNOTSUPP);
    snapshot.device_count = 0;
    must_fail(memory_internal_save(qemu.engine.qmp, &snapshot, &patient, &why), EINVAL);
    assert_runs(true);
    qemu_process_kill(&qemu);
    run("! qemu-img snapshot -l a.qcow2 | grep -w two && ! qemu-img snapshot -l b.qcow2 | grep -w two");
}

static bool stop_at_once(void *opaque, uint64_t current, uint64_t total)
{
    (*(unsigned *)opaque)++;
    return false;
}

static void test_that_it_is_never_cancelled(void **state)
{
    make_disks();
    start();
    fill(1);
    unsigned asked = 0;
    const struct qmp_job_watch impatient = {
        .progress = stop_at_once, .opaque = &asked, .timeout_ms = LONG_MS};
    struct memory_internal snapshot = snapshot_of("one");
    must(memory_internal_save(qemu.engine.qmp, &snapshot, &impatient, &why));
    assert_true(asked > 0);
    fill(2);
    load("one");
    assert_filled(1);
    qemu_process_kill(&qemu);
}

/* ---- a monitor that fails ---- */

static struct {
    int fail_at; /* the command that is not answered as it should be */
    enum { REFUSES, SILENT, GONE } how;
    bool running;
    const char *problem; /* what the job fails with; NULL: it does not */
} fake;

static void serve(struct monitor *monitor)
{
    monitor_greet(monitor);
    bool going_on = false;
    for (int i = 0; monitor_hear(monitor); i++) {
        const char *heard = monitor->heard;
        if (i == fake.fail_at && fake.how == GONE)
            return;
        if (i == fake.fail_at && fake.how == SILENT)
            continue;
        char answer[256] = "\"return\": {}";
        if (i == fake.fail_at)
            strcpy(answer, "\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}");
        else if (strstr(heard, "\"query-status\""))
            snprintf(answer, sizeof answer, "\"return\": {\"status\": \"%s\", \"running\": %s}",
                     going_on ? "running"
                     : i      ? "paused"
                              : "running",
                     going_on || !i ? "true" : "false");
        else if (strstr(heard, "\"query-jobs\""))
            snprintf(answer, sizeof answer,
                     "\"return\": [{\"id\": \"memory\", \"status\": \"concluded\"%s%s%s}]",
                     fake.problem ? ", \"error\": \"" : "", fake.problem ? fake.problem : "",
                     fake.problem ? "\"" : "");
        else if (strstr(heard, "\"cont\""))
            going_on = true;
        monitor_answer(monitor, answer);
    }
    fake.running = going_on;
}

static int save_to_fake(int timeout_ms)
{
    struct monitor_thread server;
    int fd = monitor_start(&server, serve);
    struct qmp *client = NULL;
    must(qmp_take(&fd, "fake", LONG_MS, &client, &why));
    const struct qmp_job_watch watch = {.timeout_ms = timeout_ms, .stall_ms = timeout_ms};
    struct memory_internal snapshot = snapshot_of("tag");
    why = (struct error){0};
    fake.running = false;
    int rc = memory_internal_save(client, &snapshot, &watch, &why);
    assert_int_equal(rc, -why.code);
    qmp_free(client);
    monitor_join(&server);
    return rc;
}

static void test_failures_at_each_command(void **state)
{
    fake.fail_at = -1;
    assert_int_equal(save_to_fake(LONG_MS), 0);
    assert_true(fake.running);
    /* query-status, snapshot-save, query-jobs, job-dismiss, query-status, cont, query-status. */
    for (fake.fail_at = 0; fake.fail_at < 7; fake.fail_at++) {
        fake.how = REFUSES;
        assert_int_equal(save_to_fake(LONG_MS), -EIO);
        assert_int_equal(fake.running, fake.fail_at > 0 && fake.fail_at != 4 && fake.fail_at != 5);
        fake.how = SILENT;
        assert_int_equal(save_to_fake(SHORT_MS), -ETIMEDOUT);
        fake.how = GONE;
        int rc = save_to_fake(LONG_MS);
        assert_true(rc == -ECONNRESET || rc == -EPIPE);
    }
    fake.fail_at = -1;
    fake.problem = "No space left on device"; /* the guest goes on all the same */
    assert_int_equal(save_to_fake(LONG_MS), -ENOSPC);
    assert_true(fake.running);
    fake.problem = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_save),
        cmocka_unit_test(test_what_can_not_be_saved),
        cmocka_unit_test(test_that_it_is_never_cancelled),
        cmocka_unit_test(test_failures_at_each_command),
    };
    int skip = folder_make();
    if (skip == 0)
        skip = qemu_process_need();
    return skip ? skip : cmocka_run_group_tests(tests, NULL, folder_remove);
}
