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

static int load(const char *tag, bool *broken)
{
    struct memory_internal snapshot = snapshot_of(tag);
    *broken = false;
    return memory_internal_load(qemu.engine.qmp, &snapshot, &patient, broken, &why);
}

static int delete (const char *tag)
{
    struct memory_internal snapshot = snapshot_of(tag);
    return memory_internal_delete(qemu.engine.qmp, &snapshot, &patient, &why);
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

static void test_save_and_load(void **state)
{
    make_disks();
    start();
    bool broken;
    fill(1);
    must(save("one"));
    assert_runs(false);
    fill(2);
    must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
    must(save("two"));
    assert_runs(true);
    fill(3);
    must(load("one", &broken)); /* saved and loaded while it stood still */
    assert_runs(false);
    assert_filled(1);
    must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
    must(load("two", &broken)); /* running to running */
    assert_runs(true);
    assert_filled(2);
    must(load("two", &broken)); /* saved while it ran, loaded while it stood still */
    assert_runs(false);
    must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
    must(load("one", &broken)); /* and the other way round */
    assert_runs(true);
    assert_filled(1);
    must(run_state_quit(qemu.engine.qmp, LONG_MS, &why));
    qemu_process_kill(&qemu);
    start(); /* another process */
    must(load("two", &broken));
    assert_filled(2);
    must(delete ("two"));
    must(delete ("two"));
    must_fail(load("two", &broken), ENOENT);
    assert_false(broken);
    assert_filled(2);
    must(load("one", &broken));
    assert_filled(1);
    qemu_process_kill(&qemu);
    assert_undamaged("a.qcow2");
    assert_undamaged("b.qcow2");
    run("qemu-img snapshot -l a.qcow2 | grep -w one && ! qemu-img snapshot -l b.qcow2 | grep -w two");
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
    must_fail(delete ("17"), EINVAL);
    qemu_process_kill(&qemu);
    run("! qemu-img snapshot -l a.qcow2 | grep -w two && ! qemu-img snapshot -l b.qcow2 | grep -w two");
}

/* A failed load leaves a domain of QEMU 7.2 stopped. */
static void test_what_can_not_be_loaded(void **state)
{
    make_disks();
    run("qemu-img snapshot -c disks a.qcow2 && qemu-img snapshot -c disks b.qcow2 && "
        "qemu-img snapshot -c only-a a.qcow2");
    start();
    fill(1);
    must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
    bool broken;
    static const char *const tags[] = {"disks", "only-a", "nosuch", "Could not"};
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++) {
        must_fail(load(tags[i], &broken), ENOENT);
        assert_false(broken);
        assert_runs(true);
    }
    must_fail(load("5", &broken), EINVAL);
    assert_false(broken);
    assert_filled(1);
    must_fail(load("nosuch", &broken), ENOENT);
    assert_runs(false);
    qemu_process_kill(&qemu);
}

/* The memory that was saved is none for this machine: the disks have gone back by then. */
static void test_of_a_load_that_fails_half_way(void **state)
{
    make_disks();
    start();
    fill(1);
    must(save("one"));
    must(run_state_quit(qemu.engine.qmp, LONG_MS, &why));
    qemu_process_kill(&qemu);
    qemu_process_start(&qemu, (const char *const[]){"-S", "-m", "64", NULL});
    add_disk("a", "qcow2");
    add_disk("b", "qcow2");
    must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
    bool broken;
    must_fail(load("one", &broken), EIO);
    assert_true(broken);
    assert_runs(false);
    qemu_process_kill(&qemu);
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
    bool broken = false;
    must(memory_internal_load(qemu.engine.qmp, &snapshot, &impatient, &broken, &why));
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
                     : i      ? "restore-vm"
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

static int load_from_fake(int timeout_ms, bool *broken)
{
    struct monitor_thread server;
    int fd = monitor_start(&server, serve);
    struct qmp *client = NULL;
    must(qmp_take(&fd, "fake", LONG_MS, &client, &why));
    const struct qmp_job_watch watch = {.timeout_ms = timeout_ms, .stall_ms = timeout_ms};
    struct memory_internal snapshot = snapshot_of("tag");
    why = (struct error){0};
    fake.running = *broken = false;
    int rc = memory_internal_load(client, &snapshot, &watch, broken, &why);
    assert_int_equal(rc, -why.code);
    qmp_free(client);
    monitor_join(&server);
    return rc;
}

static void test_failures_at_each_command(void **state)
{
    bool broken;
    fake.fail_at = -1;
    assert_int_equal(load_from_fake(LONG_MS, &broken), 0);
    assert_false(broken);
    /* query-status, snapshot-load, query-jobs, job-dismiss, query-status, cont, query-status. */
    for (fake.fail_at = 0; fake.fail_at < 7; fake.fail_at++) {
        fake.how = REFUSES;
        assert_int_equal(load_from_fake(LONG_MS, &broken), -EIO);
        fake.how = SILENT;
        assert_int_equal(load_from_fake(SHORT_MS, &broken), -ETIMEDOUT);
        if (fake.fail_at == 0)
            assert_false(broken);
        if (fake.fail_at >= 1 && fake.fail_at <= 3)
            assert_true(broken);
        fake.how = GONE;
        int rc = load_from_fake(LONG_MS, &broken);
        assert_true(rc == -ECONNRESET || rc == -EPIPE);
    }
    fake.fail_at = -1;
    /* Only what is known to come before anything was changed lets it go on. */
    static const struct {
        const char *problem;
        bool broken;
    } problems[] = {
        {"Snapshot 'x' does not exist in one or more devices", false},
        {"This is a disk-only snapshot. Revert to it  offline using qemu-img", false},
        {"There's a migration process in progress", false},
        {"Could not load snapshot 'does not exist in one or more devices' on 'a': Input/output error", true},
        {"Could not load snapshot 'x' on 'a': No such file or directory", true},
        {"Error -22 while loading VM state", true},
        {"Something new", true},
    };
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
        fake.problem = problems[i].problem;
        assert_true(load_from_fake(LONG_MS, &broken) < 0);
        assert_int_equal(broken, problems[i].broken);
        assert_int_equal(fake.running, !problems[i].broken);
    }
    fake.problem = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_save_and_load),
        cmocka_unit_test(test_what_can_not_be_saved),
        cmocka_unit_test(test_what_can_not_be_loaded),
        cmocka_unit_test(test_of_a_load_that_fails_half_way),
        cmocka_unit_test(test_that_it_is_never_cancelled),
        cmocka_unit_test(test_failures_at_each_command),
    };
    int skip = folder_make();
    if (skip == 0)
        skip = qemu_process_need();
    return skip ? skip : cmocka_run_group_tests(tests, NULL, folder_remove);
}
