// SPDX-License-Identifier: LGPL-2.1-or-later
/* memory_save.h and memory_load.h with a real QEMU, and memory_save.h with a model of one that fails at each
 * command in each way. */
#include "qemu_process.h"

#include <pthread.h>

#include "fake_monitor.h"
#include "hypervisor/block_snapshot.h"
#include "hypervisor/memory_load.h"
#include "hypervisor/memory_save.h"
#include "hypervisor/run_state.h"

#define SHORT_MS  50
#define SILENT_MS 10

static const struct qmp_job_watch patient = {.timeout_ms = LONG_MS};

static struct qemu_process qemu;

/* ---- a real one ---- */

static void start(const char *incoming)
{
    /* The second monitor is for who comes after a crash. */
    static char second[160];
    snprintf(second, sizeof second, "socket,id=second,path=%s,server=on,wait=off", in_folder("second"));
    qemu_process_start(&qemu,
                       (const char *const[]){"-S", "-chardev", second, "-mon", "chardev=second,mode=control",
                                             incoming ? "-incoming" : NULL, incoming, NULL});
    static const char *const names[] = {"a", "b"};
    for (size_t i = 0; i < 2; i++)
        json_object_put(qemu_process_do(
            &qemu, "blockdev-add",
            "{'node-name': '%s', 'driver': 'qcow2', 'file': {'driver': 'file', 'filename': '%s/%s.qcow2'}}",
            names[i], folder, names[i]));
    if (!incoming) { /* "prelaunch" comes never again */
        must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
        must(run_state_stop(qemu.engine.qmp, LONG_MS, &why));
    }
}

static void make_disks(void)
{
    run("rm -f *.qcow2 memory; qemu-img create -q -f qcow2 a.qcow2 4M && qemu-img create -q -f qcow2 b.qcow2 "
        "4M");
}

static void fill(int value)
{
    must(run_state_stop(qemu.engine.qmp, LONG_MS, &why));
    qemu_process_set_memory(&qemu, value);
    qemu_process_write(&qemu, "a", value, 0, 1 << 20);
    qemu_process_write(&qemu, "b", value, 0, 1 << 20);
}

static int make_file(void)
{
    int fd = open(in_folder("memory"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    return fd;
}

static void assert_as_before(bool running)
{
    struct qmp *qmp = qemu.engine.qmp;
    struct run_state_answer answer;
    must(run_state_query(qmp, LONG_MS, &answer, &why));
    /* QEMU 10 has no way from "postmigrate" to "paused" but to let it run. */
    if (running || qmp_version(qmp).major < 10 || strcmp(answer.word, "postmigrate") != 0)
        assert_string_equal(answer.word, running ? "running" : "paused");
    assert_int_equal(answer.state, running ? RUN_STATE_RUNNING : RUN_STATE_PAUSED);
    struct migration_settings settings;
    must(migration_settings_query(qmp, LONG_MS, &settings, &why));
    assert_false(settings.events);
    assert_false(settings.pause_before_switchover);
    assert_int_equal(settings.max_bandwidth, 128 << 20);
    /* Its disks are active: an inactive one takes no internal snapshot. */
    must(block_snapshot_internal(&qemu.engine, (const char *const[]){"a", "b"}, 2, "probe", &why));
    must(block_snapshot_delete(&qemu.engine, "a", NULL, "probe", &why));
    must(block_snapshot_delete(&qemu.engine, "b", NULL, "probe", &why));
}

enum stage { LOOKED, BEGUN, COPIED, FINISHED, RESUMED };

static struct memory_save_before before;
static struct memory_save saving;

static void save_up_to(enum stage stage, int fd, bool live)
{
    struct qmp *qmp = qemu.engine.qmp;
    const struct memory_save_spec spec = {.fd = fd, .live = live, .timeout_ms = LONG_MS};
    must(memory_save_look(qmp, LONG_MS, &before, &why));
    if (stage >= BEGUN)
        must(memory_save_begin(qmp, &spec, &before, &saving, &why));
    if (stage >= COPIED) {
        must(memory_save_copy(&saving, &patient, &why));
        must(block_snapshot_internal(&qemu.engine, (const char *const[]){"a", "b"}, 2, "tag", &why));
    }
    if (stage >= FINISHED)
        must(memory_save_finish(&saving, &patient, &why));
    if (stage >= RESUMED)
        must(memory_save_resume(&saving, &why));
}

static bool count_bytes(void *opaque, uint64_t current, uint64_t total)
{
    uint64_t *most = opaque;
    assert_true(current <= total || total == 0);
    if (current > *most)
        *most = current;
    return true;
}

static void assert_restores(int value)
{
    run("qemu-img snapshot -a tag a.qcow2 && qemu-img snapshot -a tag b.qcow2");
    start("defer");
    cleanup_close int fd = open(in_folder("memory"), O_RDONLY | O_CLOEXEC);
    uint64_t most = 0;
    const struct qmp_job_watch watch = {.progress = count_bytes, .opaque = &most, .timeout_ms = LONG_MS};
    must(memory_load(qemu.engine.qmp, fd, &watch, &why));
    assert_true(most > 0);
    struct run_state_answer answer;
    must(run_state_query(qemu.engine.qmp, LONG_MS, &answer, &why));
    assert_false(answer.running);
    assert_int_equal(qemu_process_memory(&qemu), value);
    /* A paused domain can be saved at once, and again. */
    for (int i = 0; i < 2; i++) {
        cleanup_close int new = open(in_folder("new"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        const struct memory_save_spec spec = {.fd = new, .timeout_ms = LONG_MS};
        must(memory_save_look(qemu.engine.qmp, LONG_MS, &before, &why));
        must(memory_save_begin(qemu.engine.qmp, &spec, &before, &saving, &why));
        must(memory_save_copy(&saving, &patient, &why));
        must(memory_save_finish(&saving, &patient, &why));
        must(memory_save_resume(&saving, &why));
        assert_int_equal(qemu_process_memory(&qemu), value);
        must(block_snapshot_internal(&qemu.engine, (const char *const[]){"a", "b"}, 2, "probe", &why));
        must(block_snapshot_delete(&qemu.engine, "a", NULL, "probe", &why));
        must(block_snapshot_delete(&qemu.engine, "b", NULL, "probe", &why));
    }
    must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
    must(run_state_stop(qemu.engine.qmp, LONG_MS, &why));
    qemu_process_kill(&qemu);
    for (const char *name = "ab"; *name; name++)
        run("qemu-io -r -f qcow2 -c 'read -P %d 0 1M' %c.qcow2 > out && ! grep -q failed out", value, *name);
}

static void test_saved_and_loaded(void **state)
{
    for (int i = 0; i < 3; i++) {
        bool running = i != 0, live = i != 1;
        make_disks();
        start(NULL);
        for (int value = 1; value <= 2; value++) { /* twice: a paused domain, too, can be saved again */
            fill(value);
            if (running)
                must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
            if (value == 2) {
                must(block_snapshot_delete(&qemu.engine, "a", NULL, "tag", &why));
                must(block_snapshot_delete(&qemu.engine, "b", NULL, "tag", &why));
            }
            cleanup_close int fd = make_file();
            save_up_to(RESUMED, fd, live);
            assert_int_equal(before.running, running);
            assert_as_before(running);
        }
        fill(3);
        qemu_process_kill(&qemu);
        assert_restores(2);
    }
}

static void test_cancelled_at_each_stage(void **state)
{
    make_disks();
    start(NULL);
    fill(1);
    for (int running = 0; running < 2; running++) {
        if (running)
            must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
        for (int live = 0; live < 2; live++) {
            for (enum stage stage = BEGUN; stage <= RESUMED; stage++) {
                cleanup_close int fd = make_file();
                save_up_to(stage, fd, live);
                if (stage >= COPIED) {
                    /* The transaction's undoing; at FINISHED only a later one can. */
                    if (stage != FINISHED) {
                        must(block_snapshot_delete(&qemu.engine, "a", NULL, "tag", &why));
                        must(block_snapshot_delete(&qemu.engine, "b", NULL, "tag", &why));
                    }
                }
                must(memory_save_cancel(&saving, &why));
                assert_as_before(running);
                if (stage == FINISHED) {
                    must(block_snapshot_delete(&qemu.engine, "a", NULL, "tag", &why));
                    must(block_snapshot_delete(&qemu.engine, "b", NULL, "tag", &why));
                }
            }
        }
    }
    qemu_process_kill(&qemu);
}

/* Killed at each stage; another process of ours has only what was written down. */
static void test_recovered_at_each_stage(void **state)
{
    for (enum stage stage = LOOKED; stage <= RESUMED; stage++) {
        for (int running = 0; running < 2; running++) {
            make_disks();
            start(NULL);
            fill(1);
            if (running)
                must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
            cleanup_close int fd = make_file();
            save_up_to(stage, fd, false);
            qmp_free(qemu.engine.qmp);
            must(qmp_connect(in_folder("second"), "qemu", LONG_MS, &qemu.engine.qmp, &why));
            must(memory_save_recover(qemu.engine.qmp, &before, LONG_MS, &why));
            if (stage >= COPIED) {
                must(block_snapshot_delete(&qemu.engine, "a", NULL, "tag", &why));
                must(block_snapshot_delete(&qemu.engine, "b", NULL, "tag", &why));
            }
            assert_int_equal(before.running, running);
            assert_as_before(running);
            must(memory_save_recover(qemu.engine.qmp, &before, LONG_MS, &why)); /* again */
            assert_as_before(running);
            qemu_process_kill(&qemu);
        }
    }
}

static void test_killed_at_each_stage(void **state)
{
    for (enum stage stage = BEGUN; stage <= FINISHED; stage++) {
        make_disks();
        start(NULL);
        must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
        cleanup_close int fd = make_file();
        save_up_to(stage, fd, true);
        kill(qemu.pid, SIGKILL);
        why = (struct error){0};
        int rc = stage == BEGUN    ? memory_save_copy(&saving, &patient, &why)
                 : stage == COPIED ? memory_save_finish(&saving, &patient, &why)
                                   : memory_save_resume(&saving, &why);
        /* It may have been quicker than the signal with what it was told before. */
        if (rc == 0)
            rc = memory_save_cancel(&saving, &why);
        assert_true(rc == -ECONNRESET || rc == -EPIPE);
        rc = memory_save_cancel(&saving, &why);
        assert_true(rc == -ECONNRESET || rc == -EPIPE);
        qemu_process_kill(&qemu);
    }
}

static void test_no_room(void **state)
{
    make_disks();
    start(NULL);
    must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
    cleanup_close int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    save_up_to(BEGUN, full, true);
    /* QEMU 10 does not say why, where not even the first bytes could be written. */
    int rc = memory_save_copy(&saving, &patient, &why);
    if (qmp_version(qemu.engine.qmp).major < 10 || rc != -EIO)
        assert_int_equal(rc, -ENOSPC);
    must(memory_save_cancel(&saving, &why));
    assert_as_before(true);
    /* One that takes nothing at all. */
    cleanup_close int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    save_up_to(BEGUN, null, false);
    must_fail(memory_save_copy(&saving, &patient, &why), EIO);
    must(memory_save_cancel(&saving, &why));
    assert_as_before(true);
    qemu_process_kill(&qemu);
}

static void *drain(void *opaque)
{
    char bytes[65536];
    while (read(*(int *)opaque, bytes, sizeof bytes) > 0)
        continue;
    return NULL;
}

static void test_into_a_pipe(void **state)
{
    make_disks();
    start(NULL);
    must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
    int ends[2];
    assert_return_code(pipe2(ends, O_CLOEXEC), errno);
    pthread_t reader;
    assert_int_equal(pthread_create(&reader, NULL, drain, &ends[0]), 0);
    save_up_to(RESUMED, ends[1], true);
    close(ends[1]);
    assert_int_equal(pthread_join(reader, NULL), 0); /* QEMU has let go of its end */
    close(ends[0]);
    assert_as_before(true);
    qemu_process_kill(&qemu);
}

/* Nobody reads: it stalls, and ends when the reading end goes. */
static void test_into_a_pipe_that_is_stuck(void **state)
{
    make_disks();
    start(NULL);
    must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
    for (int i = 0; i < 2; i++) {
        int ends[2];
        assert_return_code(pipe2(ends, O_CLOEXEC), errno);
        save_up_to(BEGUN, ends[1], true);
        close(ends[1]);
        const struct qmp_job_watch impatient = {.timeout_ms = LONG_MS, .stall_ms = SHORT_MS};
        must_fail(memory_save_copy(&saving, &impatient, &why), ETIMEDOUT);
        close(ends[0]);
        if (i == 0)
            must_fail(memory_save_copy(&saving, &patient, &why), EIO);
        must(memory_save_cancel(&saving, &why));
        assert_as_before(true);
    }
    qemu_process_kill(&qemu);
}

static bool stop_at_once(void *opaque, uint64_t current, uint64_t total)
{
    return false;
}

static void test_cancelled_by_its_watch(void **state)
{
    make_disks();
    start(NULL);
    must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
    int ends[2];
    assert_return_code(pipe2(ends, O_CLOEXEC), errno);
    save_up_to(BEGUN, ends[1], true);
    close(ends[1]);
    const struct qmp_job_watch impatient = {.progress = stop_at_once, .timeout_ms = LONG_MS};
    must_fail(memory_save_copy(&saving, &impatient, &why), ECANCELED);
    close(ends[0]);
    must(memory_save_cancel(&saving, &why));
    assert_as_before(true);
    qemu_process_kill(&qemu);
}

/* A migration of somebody else's goes on undisturbed. */
static void test_beside_another_migration(void **state)
{
    make_disks();
    start(NULL);
    must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
    must(memory_save_look(qemu.engine.qmp, LONG_MS, &before, &why));
    int ends[2];
    assert_return_code(pipe2(ends, O_CLOEXEC), errno);
    must(migration_start(qemu.engine.qmp, "migrate", ends[1], LONG_MS, &why));
    close(ends[1]);
    struct memory_save_before now;
    must_fail(memory_save_look(qemu.engine.qmp, LONG_MS, &now, &why), EBUSY);
    cleanup_close int fd = make_file();
    const struct memory_save_spec spec = {.fd = fd, .timeout_ms = LONG_MS};
    must_fail(memory_save_begin(qemu.engine.qmp, &spec, &before, &saving, &why), EBUSY);
    must(memory_save_recover(qemu.engine.qmp, &before, LONG_MS, &why));
    struct migration_status status;
    must(migration_query(qemu.engine.qmp, LONG_MS, &status, &why));
    assert_true(migration_is_under_way(&status));
    pthread_t reader;
    assert_int_equal(pthread_create(&reader, NULL, drain, &ends[0]), 0);
    do
        must(migration_query(qemu.engine.qmp, LONG_MS, &status, &why));
    while (migration_is_under_way(&status));
    assert_int_equal(status.phase, MIGRATION_COMPLETED);
    pthread_join(reader, NULL);
    close(ends[0]);
    /* Now it may run elsewhere. */
    must_fail(memory_save_look(qemu.engine.qmp, LONG_MS, &now, &why), EBUSY);
    must(memory_save_recover(qemu.engine.qmp, &before, LONG_MS, &why));
    struct run_state_answer answer;
    must(run_state_query(qemu.engine.qmp, LONG_MS, &answer, &why));
    assert_string_equal(answer.word, "postmigrate");
    qemu_process_kill(&qemu);
}

static void test_what_can_not_be_saved(void **state)
{
    make_disks();
    start("defer");
    must_fail(memory_save_look(qemu.engine.qmp, LONG_MS, &before, &why), EBUSY);
    qemu_process_kill(&qemu);
    qemu_process_start(&qemu, (const char *const[]){"-blockdev", "null-co,node-name=n", "-device",
                                                    "nvme,serial=1,drive=n", NULL});
    must(memory_save_look(qemu.engine.qmp, LONG_MS, &before, &why));
    cleanup_close int fd = make_file();
    const struct memory_save_spec spec = {.fd = fd, .timeout_ms = LONG_MS};
    must_fail(memory_save_begin(qemu.engine.qmp, &spec, &before, &saving, &why), EOPNOTSUPP);
    struct run_state_answer answer;
    must(run_state_query(qemu.engine.qmp, LONG_MS, &answer, &why));
    assert_int_equal(answer.state, RUN_STATE_RUNNING);
    struct migration_settings settings;
    must(migration_settings_query(qemu.engine.qmp, LONG_MS, &settings, &why));
    assert_false(settings.pause_before_switchover);
    qemu_process_kill(&qemu);
}

/* ---- loading ---- */

static void save_once(void)
{
    make_disks();
    start(NULL);
    fill(1);
    cleanup_close int fd = make_file();
    save_up_to(RESUMED, fd, true);
    qemu_process_kill(&qemu);
}

static int load(const struct qmp_job_watch *watch)
{
    cleanup_close int fd = open(in_folder("memory"), O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    why = (struct error){0};
    return memory_load(qemu.engine.qmp, fd, watch, &why);
}

/* QEMU ends over what is no memory of this machine, and says why on its standard error. */
static void test_loading_what_is_damaged(void **state)
{
    static const char *const damages[] = {
        "truncate -s 0 memory",
        "truncate -s 100 memory",
        "truncate -s 200000 memory",
        "head -c 100000 /dev/zero >memory",
        "dd if=/dev/zero of=memory bs=1 seek=5000 count=64 conv=notrunc",
    };
    save_once();
    run("cp memory whole");
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        run("cp whole memory && %s", damages[i]);
        start("defer");
        int rc = load(&patient);
        if (rc != -ECONNRESET && rc != -EPIPE && rc != -EIO)
            fail_msg("%s: %d %s", damages[i], rc, why.text);
        qemu_process_kill(&qemu);
        run("grep -q . said");
    }
    run("cp whole memory");
    qemu_process_start(&qemu, (const char *const[]){"-S", "-m", "64", "-incoming", "defer", NULL});
    assert_true(load(&patient) < 0);
    qemu_process_kill(&qemu);
    run("grep -q 'Size mismatch' said");
}

static void test_loading_where_none_is_waited_for(void **state)
{
    save_once();
    start(NULL);
    must_fail(load(&patient), EINVAL);
    must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
    must_fail(load(&patient), EINVAL);
    qemu_process_kill(&qemu);
}

static void test_loading_from_a_pipe(void **state)
{
    save_once();
    start("defer");
    FILE *pipe = popen("exec 2>/dev/null; cat \"$MEMORY\"", "re");
    assert_non_null(pipe);
    must(memory_load(qemu.engine.qmp, fileno(pipe), &patient, &why));
    assert_int_equal(qemu_process_memory(&qemu), 1);
    assert_int_equal(pclose(pipe), 0);
    qemu_process_kill(&qemu);
    /* One that brings nothing, until its caller has enough of it. */
    start("defer");
    int ends[2];
    assert_return_code(pipe2(ends, O_CLOEXEC), errno);
    const struct qmp_job_watch impatient = {.progress = stop_at_once, .timeout_ms = LONG_MS};
    must_fail(memory_load(qemu.engine.qmp, ends[0], &impatient, &why), ECANCELED);
    close(ends[0]);
    close(ends[1]);
    qemu_process_kill(&qemu);
}

/* ---- a model of a QEMU that fails ---- */

enum failure {
    REFUSED,    /* the command is not carried out, and says so */
    LOST,       /* it is not, and is not answered */
    UNANSWERED, /* it is, and is not answered */
    GONE,       /* it is, and the monitor hangs up */
    FAILURES
};

static struct {
    int fail_at; /* counts down to the command that fails; negative: none */
    enum failure failure;
    const char *word, *migration;
    bool events, pause, has_fd, ran;
    bool kvm;
    bool is_10; /* as of 10.0: disks can be activated while it stands still */
    bool is_inactive, was_continued;
    bool was_saved;  /* before, and has only got its disks back since (10.0) */
    bool missed_it;  /* it pauses, and does not know that it was cancelled */
    bool restless;   /* its memory is never in step while it runs */
    int passes;      /* over it */
    bool began_live; /* it ran when its migration was begun */
    long long bandwidth;
} fake;

static void fake_reset(bool running)
{
    memset(&fake, 0, sizeof fake);
    fake.fail_at = -1;
    fake.word = running ? "running" : "paused";
    fake.migration = "none";
    fake.kvm = true;
    fake.bandwidth = 128 << 20;
}

static bool is(const char *one, const char *other)
{
    return strcmp(one, other) == 0;
}

static bool fake_migrates(void)
{
    return is(fake.migration, "setup") || is(fake.migration, "active") ||
           is(fake.migration, "pre-switchover") || is(fake.migration, "cancelling");
}

/* Time goes on from one question to the next. */
static void fake_pass_time(void)
{
    if (is(fake.migration, "setup")) {
        fake.migration = "active";
    } else if (is(fake.migration, "active") && fake.restless && is(fake.word, "running")) {
        fake.passes++;
    } else if (is(fake.migration, "active")) {
        fake.ran = is(fake.word, "running");
        fake.word = fake.pause ? "finish-migrate" : "postmigrate";
        fake.migration = fake.pause ? "pre-switchover" : "completed";
    } else if (is(fake.migration, "cancelling") && !fake.missed_it) {
        fake.migration = "cancelled";
        if (is(fake.word, "finish-migrate"))
            fake.word = fake.ran ? "running" : "postmigrate";
    }
}

/* Carries a command out; false: refuses it. */
static bool fake_do(const struct monitor *monitor, const char *command, char *answer, size_t size)
{
    snprintf(answer, size, "\"return\": {}");
    if (is(command, "query-status")) {
        snprintf(answer, size, "\"return\": {\"status\": \"%s\", \"running\": %s}", fake.word,
                 is(fake.word, "running") ? "true" : "false");
    } else if (is(command, "query-migrate")) {
        fake_pass_time();
        snprintf(answer, size, "\"return\": {\"status\": \"%s\", \"ram\": {\"dirty-sync-count\": %d}}",
                 fake.migration, fake.passes);
    } else if (is(command, "query-kvm")) {
        snprintf(answer, size, "\"return\": {\"enabled\": %s, \"present\": true}",
                 fake.kvm ? "true" : "false");
    } else if (is(command, "query-migrate-capabilities")) {
        snprintf(
            answer, size,
            "\"return\": [{\"capability\": \"x\", \"state\": true}, {\"capability\": \"events\", \"state\": "
            "%s}, {\"capability\": \"pause-before-switchover\", \"state\": %s}]",
            fake.events ? "true" : "false", fake.pause ? "true" : "false");
    } else if (is(command, "query-migrate-parameters")) {
        snprintf(answer, size, "\"return\": {\"max-bandwidth\": %lld}", fake.bandwidth);
    } else if (is(command, "migrate-set-capabilities")) {
        if (fake_migrates())
            return false;
        fake.events = strstr(monitor->heard, "\"events\",\"state\":true") != NULL;
        fake.pause = strstr(monitor->heard, "\"pause-before-switchover\",\"state\":true") != NULL;
    } else if (is(command, "migrate-set-parameters")) {
        fake.bandwidth = strtoll(strstr(monitor->heard, "bandwidth\":") + 11, NULL, 10);
    } else if (is(command, "getfd")) {
        fake.has_fd = monitor->passed_fd >= 0;
        return fake.has_fd;
    } else if (is(command, "closefd")) {
        fake.has_fd = false;
    } else if (is(command, "migrate")) {
        if (!fake.has_fd || fake_migrates() || is(fake.word, "postmigrate"))
            return false;
        fake.has_fd = false;
        fake.migration = "setup";
        fake.began_live = is(fake.word, "running");
    } else if (is(command, "migrate-continue") && strstr(monitor->heard, "\"cancelling\"")) {
        fake.missed_it = false;
        return is(fake.migration, "cancelling");
    } else if (is(command, "migrate-continue")) {
        if (!is(fake.migration, "pre-switchover"))
            return false;
        fake.migration = "completed";
        fake.word = "postmigrate";
        fake.is_inactive = true;
    } else if (is(command, "migrate_cancel")) {
        if (fake_migrates())
            fake.migration = "cancelling";
    } else if (is(command, "stop")) {
        if (is(fake.word, "running"))
            fake.word = "paused";
    } else if (is(command, "cont")) {
        if (is(fake.word, "finish-migrate"))
            return false;
        fake.word = "running";
        fake.is_inactive = false;
        fake.was_continued = true;
    } else if (is(command, "blockdev-set-active") && fake.is_10) {
        fake.is_inactive = false;
    } else if (is(command, "query-named-block-nodes")) {
        snprintf(answer, size, "\"return\": [{\"active\": true}, {%s}]",
                 !fake.is_10        ? ""
                 : fake.is_inactive ? "\"active\": false"
                                    : "\"active\": true");
    } else if (is(command, "blockdev-set-active")) {
        snprintf(answer, size, "\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"it is not known\"}");
    } else {
        return false;
    }
    return true;
}

static void serve(struct monitor *monitor)
{
    monitor_greet(monitor);
    while (monitor_hear(monitor)) {
        char command[64] = "", answer[512];
        sscanf(monitor->heard, "{\"execute\":\"%63[^\"]", command);
        bool fails = fake.fail_at >= 0 && fake.fail_at-- == 0;
        bool done = !(fails && fake.failure <= LOST) && fake_do(monitor, command, answer, sizeof answer);
        if (monitor->passed_fd >= 0)
            close(monitor->passed_fd);
        if (fails && fake.failure == GONE)
            return;
        if (fails && fake.failure != REFUSED)
            continue;
        monitor_say(monitor, "{\"event\": \"MIGRATION\"}\r\n"); /* that nobody waits for the next question */
        monitor_answer(monitor, done ? answer : "\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}");
    }
}

static struct monitor_thread server;

static struct qmp *connect_to_fake(void)
{
    int fd = monitor_start(&server, serve);
    struct qmp *client = NULL;
    must(qmp_take(&fd, "fake", LONG_MS, &client, &why));
    return client;
}

static void disconnect(struct qmp *client)
{
    qmp_free(client);
    monitor_join(&server);
}

static void assert_fake_is_as_before(bool running)
{
    if (!running && fake.is_10 && is(fake.word, "postmigrate"))
        assert_true(!fake.was_continued || fake.was_saved);
    else
        assert_string_equal(fake.word, running ? "running" : "paused");
    assert_false(fake.is_inactive);
    assert_false(fake_migrates());
    assert_false(fake.events);
    assert_false(fake.pause);
    assert_false(fake.has_fd);
    assert_int_equal(fake.bandwidth, 128 << 20);
}

/* All of it, up to where it fails; what was done is in `*stage`. */
static int save_all(struct qmp *client, bool live, int timeout_ms, bool give_up, enum stage *stage)
{
    cleanup_close int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    const struct memory_save_spec spec = {.fd = fd, .live = live, .timeout_ms = timeout_ms};
    const struct qmp_job_watch watch = {.timeout_ms = timeout_ms};
    int rc = memory_save_begin(client, &spec, &before, &saving, &why);
    if (rc < 0)
        return rc;
    *stage = BEGUN;
    rc = memory_save_copy(&saving, &watch, &why);
    if (rc == 0)
        *stage = COPIED;
    if (rc == 0 && !give_up)
        rc = memory_save_finish(&saving, &watch, &why);
    if (rc == 0 && !give_up) {
        *stage = FINISHED;
        rc = memory_save_resume(&saving, &why);
    }
    if (rc == 0 && !give_up)
        *stage = RESUMED;
    if (rc == 0 && give_up)
        rc = memory_save_cancel(&saving, &why);
    return rc;
}

/* Whatever fails, either the call after it or whoever comes after a crash brings the domain back. */
static void fail_at_each_command(bool running, bool live, bool give_up, bool is_10, bool was_saved)
{
    for (enum failure failure = 0; failure < FAILURES; failure++) {
        bool failed = true;
        for (int at = 0; failed; at++) {
            fake_reset(running);
            fake.is_10 = is_10;
            fake.was_saved = was_saved;
            if (was_saved)
                fake.word = "postmigrate";
            struct qmp *client = connect_to_fake();
            must(memory_save_look(client, LONG_MS, &before, &why));
            assert_int_equal(before.running, running);
            assert_false(before.loses_pages);
            fake.fail_at = at;
            fake.failure = failure;
            enum stage stage = LOOKED;
            bool silent = failure == LOST || failure == UNANSWERED;
            int timeout_ms = silent ? SILENT_MS : LONG_MS;
            why = (struct error){0};
            int rc = save_all(client, live, timeout_ms, give_up, &stage);
            failed = fake.fail_at < 0;
            fake.fail_at = -1;
            if (rc < 0)
                assert_int_equal(rc, -why.code);
            if (!failed && !silent) /* a slow machine is silent, too */
                assert_int_equal(rc, 0);
            else if (failed && failure != REFUSED)
                assert_true(rc < 0 || qmp_is_dead(client));
            if (rc < 0 && !qmp_is_dead(client) && stage != LOOKED) {
                must(memory_save_cancel(&saving, &why));
                assert_fake_is_as_before(running);
            } else if (rc < 0 && qmp_is_dead(client)) {
                disconnect(client);
                client = connect_to_fake();
                must(memory_save_recover(client, &before, LONG_MS, &why));
            }
            if (fake.has_fd && rc < 0) /* goes with the monitor's connection */
                fake.has_fd = false;
            assert_fake_is_as_before(running);
            disconnect(client);
        }
    }
}

/* Without KVM QEMU loses what a guest changes meanwhile. */
static void test_when_it_is_copied_live(void **state)
{
    for (int kvm = 0; kvm < 2; kvm++) {
        for (int live = 0; live < 2; live++) {
            fake_reset(true);
            fake.kvm = kvm;
            struct qmp *client = connect_to_fake();
            must(memory_save_look(client, LONG_MS, &before, &why));
            enum stage stage;
            must(save_all(client, live, LONG_MS, false, &stage));
            assert_int_equal(fake.began_live, kvm && live);
            assert_fake_is_as_before(true);
            disconnect(client);
        }
    }
}

static void test_a_cancellation_that_is_missed(void **state)
{
    fake_reset(true);
    fake.missed_it = true;
    struct qmp *client = connect_to_fake();
    must(memory_save_look(client, LONG_MS, &before, &why));
    enum stage stage;
    must(save_all(client, true, LONG_MS, true, &stage));
    assert_fake_is_as_before(true);
    disconnect(client);
}

static void test_a_guest_that_outruns_the_copying(void **state)
{
    fake_reset(true);
    fake.restless = true;
    struct qmp *client = connect_to_fake();
    must(memory_save_look(client, LONG_MS, &before, &why));
    enum stage stage;
    must(save_all(client, true, LONG_MS, false, &stage));
    assert_true(fake.began_live);
    assert_int_equal(fake.passes, MEMORY_SAVE_PASSES + 1);
    assert_fake_is_as_before(true);
    disconnect(client);
}

static void test_failures_at_each_command(void **state)
{
    for (int bits = 0; bits < 16; bits++)
        fail_at_each_command(bits & 1, bits & 2, bits & 4, bits & 8, false);
    for (int bits = 0; bits < 4; bits++)
        fail_at_each_command(false, bits & 1, bits & 2, true, true);
}

/* A guest that was paused gets its disks back without running for a moment, where that can be had. */
static void test_a_paused_guest_gets_its_disks_back(void **state)
{
    for (int is_10 = 0; is_10 < 2; is_10++) {
        fake_reset(false);
        fake.is_10 = is_10;
        struct qmp *client = connect_to_fake();
        must(memory_save_look(client, LONG_MS, &before, &why));
        enum stage stage;
        must(save_all(client, false, LONG_MS, false, &stage));
        assert_fake_is_as_before(false);
        assert_int_equal(fake.was_continued, !is_10);
        disconnect(client);
    }
}

/* One that was saved before is known by its disks from one that runs elsewhere. */
static void test_a_paused_guest_that_has_its_disks_is_saved_again(void **state)
{
    fake_reset(false);
    fake.is_10 = true;
    struct qmp *client = connect_to_fake();
    for (int i = 0; i < 3; i++) {
        must(memory_save_look(client, LONG_MS, &before, &why));
        enum stage stage;
        must(save_all(client, false, LONG_MS, false, &stage));
        fake.was_saved = true;
        assert_fake_is_as_before(false);
    }
    fake.is_inactive = true;
    fake.was_continued = false;
    must_fail(memory_save_look(client, LONG_MS, &before, &why), EBUSY);
    /* Also where it went after it was looked at. */
    enum stage stage;
    assert_int_equal(save_all(client, false, LONG_MS, false, &stage), -EBUSY);
    assert_false(fake.was_continued);
    fake.is_inactive = fake.is_10 = false;
    must_fail(memory_save_look(client, LONG_MS, &before, &why), EBUSY);
    disconnect(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_saved_and_loaded),
        cmocka_unit_test(test_cancelled_at_each_stage),
        cmocka_unit_test(test_recovered_at_each_stage),
        cmocka_unit_test(test_killed_at_each_stage),
        cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_into_a_pipe),
        cmocka_unit_test(test_into_a_pipe_that_is_stuck),
        cmocka_unit_test(test_cancelled_by_its_watch),
        cmocka_unit_test(test_beside_another_migration),
        cmocka_unit_test(test_what_can_not_be_saved),
        cmocka_unit_test(test_loading_what_is_damaged),
        cmocka_unit_test(test_loading_where_none_is_waited_for),
        cmocka_unit_test(test_loading_from_a_pipe),
        cmocka_unit_test(test_when_it_is_copied_live),
        cmocka_unit_test(test_a_cancellation_that_is_missed),
        cmocka_unit_test(test_a_guest_that_outruns_the_copying),
        cmocka_unit_test(test_a_paused_guest_gets_its_disks_back),
        cmocka_unit_test(test_a_paused_guest_that_has_its_disks_is_saved_again),
#ifndef __SANITIZE_THREAD__ /* the sanitizer does not see that an answer orders what the fake has done */
        cmocka_unit_test(test_failures_at_each_command),
#endif
    };
    int skip = folder_make();
    if (skip == 0)
        skip = qemu_process_need();
    if (skip == 0)
        setenv("MEMORY", in_folder("memory"), 1);
    return skip ? skip : cmocka_run_group_tests(tests, NULL, folder_remove);
}
