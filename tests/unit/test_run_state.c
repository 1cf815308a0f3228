// SPDX-License-Identifier: LGPL-2.1-or-later
/* run_state.h with a real QEMU, and with a monitor that says everything else. */
#include "qemu_process.h"

#include "fake_monitor.h"
#include "hypervisor/run_state.h"

#define SHORT_MS 50

/* ---- a real one ---- */

static enum run_state state_of(const struct qemu_process *qemu)
{
    struct run_state_answer answer;
    must(run_state_query(qemu->engine.qmp, LONG_MS, &answer, &why));
    return answer.state;
}

static void test_of_a_real_qemu(void **state)
{
    struct qemu_process qemu;
    qemu_process_start(&qemu, (const char *const[]){"-S", "-no-shutdown", NULL});
    struct qmp *qmp = qemu.engine.qmp;
    assert_int_equal(state_of(&qemu), RUN_STATE_PAUSED);
    must(run_state_continue(qmp, LONG_MS, &why));
    assert_int_equal(state_of(&qemu), RUN_STATE_RUNNING);
    must(run_state_continue(qmp, LONG_MS, &why));
    must(run_state_stop(qmp, LONG_MS, &why));
    assert_int_equal(state_of(&qemu), RUN_STATE_PAUSED);
    must(run_state_stop(qmp, LONG_MS, &why));
    must(run_state_reset(qmp, LONG_MS, &why));
    must(run_state_power_down(qmp, LONG_MS, &why));
    must(run_state_continue(qmp, LONG_MS, &why));
    must(run_state_quit(qmp, LONG_MS, &why));
    assert_true(qmp_is_dead(qmp));
    must(run_state_quit(qmp, LONG_MS, &why)); /* again */
    qmp_free(qmp);
    int status;
    assert_int_equal(waitpid(qemu.pid, &status, 0), qemu.pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_of_one_that_waits_for_memory(void **state)
{
    struct qemu_process qemu;
    qemu_process_start(&qemu, (const char *const[]){"-S", "-incoming", "defer", NULL});
    assert_int_equal(state_of(&qemu), RUN_STATE_MIGRATING);
    must_fail(run_state_continue(qemu.engine.qmp, LONG_MS, &why), EIO);
    assert_non_null(strstr(why.text, "inmigrate"));
    qemu_process_kill(&qemu);
}

/* What the monitor writes to a port of the machine is to it as if the guest had. */
static void write_port(const struct qemu_process *qemu, const char *what)
{
    json_object_put(qemu_process_do(qemu, "human-monitor-command", "{'command-line': 'o /b %s'}", what));
}

static void test_of_a_guest_that_crashed(void **state)
{
    struct qemu_process qemu;
    qemu_process_start(&qemu, (const char *const[]){"-device", "pvpanic", "-action", "panic=pause", NULL});
    write_port(&qemu, "0x505 1");
    assert_int_equal(state_of(&qemu), RUN_STATE_CRASHED);
    must(run_state_reset(qemu.engine.qmp, LONG_MS, &why));
    must(run_state_continue(qemu.engine.qmp, LONG_MS, &why));
    assert_int_equal(state_of(&qemu), RUN_STATE_RUNNING);
    qemu_process_kill(&qemu);
}

static void test_of_a_guest_that_powered_off(void **state)
{
    struct qemu_process qemu;
    qemu_process_start(&qemu, (const char *const[]){"-no-reboot", "-no-shutdown", NULL});
    write_port(&qemu, "0x64 0xfe"); /* a reset, which is a power-off to this QEMU */
    while (state_of(&qemu) == RUN_STATE_RUNNING)
        usleep(1000);
    assert_int_equal(state_of(&qemu), RUN_STATE_SHUTTING_DOWN);
    must_fail(run_state_continue(qemu.engine.qmp, LONG_MS, &why), EIO);
    qemu_process_kill(&qemu);
}

static void test_of_one_that_was_killed(void **state)
{
    struct qemu_process qemu;
    qemu_process_start(&qemu, NULL);
    kill(qemu.pid, SIGKILL);
    assert_int_equal(waitpid(qemu.pid, NULL, 0), qemu.pid);
    struct run_state_answer answer;
    int rc = run_state_query(qemu.engine.qmp, LONG_MS, &answer, &why);
    assert_true(rc == -ECONNRESET || rc == -EPIPE);
    must(run_state_quit(qemu.engine.qmp, LONG_MS, &why));
    qmp_free(qemu.engine.qmp);
}

/* ---- words ---- */

static void test_words(void **state)
{
    static const struct {
        const char *word;
        bool running;
        enum run_state wanted;
    } words[] = {
        {"running", true, RUN_STATE_RUNNING},
        {"debug", false, RUN_STATE_PAUSED},
        {"paused", false, RUN_STATE_PAUSED},
        {"prelaunch", false, RUN_STATE_PAUSED},
        {"preconfig", false, RUN_STATE_PAUSED},
        {"io-error", false, RUN_STATE_PAUSED},
        {"watchdog", false, RUN_STATE_PAUSED},
        {"suspended", false, RUN_STATE_PAUSED},
        {"postmigrate", false, RUN_STATE_PAUSED},
        {"restore-vm", false, RUN_STATE_PAUSED},
        {"save-vm", false, RUN_STATE_MIGRATING},
        {"inmigrate", false, RUN_STATE_MIGRATING},
        {"finish-migrate", false, RUN_STATE_MIGRATING},
        {"colo", true, RUN_STATE_MIGRATING},
        {"shutdown", false, RUN_STATE_SHUTTING_DOWN},
        {"internal-error", false, RUN_STATE_CRASHED},
        {"guest-panicked", false, RUN_STATE_CRASHED},
        {"dancing", true, RUN_STATE_RUNNING},
        {"dreaming", false, RUN_STATE_PAUSED},
        {"", false, RUN_STATE_PAUSED},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (run_state_of_word(words[i].word, words[i].running) != words[i].wanted)
            fail_msg("%s", words[i].word);
    assert_string_equal(run_state_name(RUN_STATE_RUNNING), "running");
    assert_string_equal(run_state_name(RUN_STATE_PAUSED), "paused");
    assert_string_equal(run_state_name(RUN_STATE_SHUTOFF), "shutoff");
    assert_string_equal(run_state_name(RUN_STATE_SHUTTING_DOWN), "shutting-down");
    assert_string_equal(run_state_name(RUN_STATE_MIGRATING), "migrating");
    assert_string_equal(run_state_name(RUN_STATE_CRASHED), "crashed");
}

/* ---- answers ---- */

static const char *const *script; /* what each command is answered; NULL: nothing more */
static bool hang_up_after;

static void serve_script(struct monitor *monitor)
{
    monitor_greet(monitor);
    for (size_t i = 0; script[i] && monitor_hear(monitor); i++)
        monitor_answer(monitor, script[i]);
    if (!hang_up_after)
        monitor_await_hangup(monitor);
}

static struct monitor_thread server;

static struct qmp *connect_to(const char *const *answers, bool hang_up)
{
    script = answers;
    hang_up_after = hang_up;
    int fd = monitor_start(&server, serve_script);
    struct qmp *client = NULL;
    must(qmp_take(&fd, "fake", LONG_MS, &client, &why));
    return client;
}

static void disconnect(struct qmp *client)
{
    qmp_free(client);
    monitor_join(&server);
}

#define ANSWERS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define STATUS(word, running)                                                                                \
    "\"return\": {\"status\": \"" word "\", \"singlestep\": false, \"running\": " running "}"
#define MIGRATION(word) "\"return\": {\"status\": \"" word "\"}"
#define REFUSAL         "\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}"
#define NOTHING         "\"return\": {}"

static void query_gives(const char *status, const char *migration, enum run_state wanted, bool running)
{
    struct qmp *client = connect_to(ANSWERS(status, migration), false);
    struct run_state_answer answer;
    must(run_state_query(client, LONG_MS, &answer, &why));
    assert_int_equal(answer.state, wanted);
    assert_int_equal(answer.running, running);
    disconnect(client);
}

static void query_fails(const char *status, const char *migration, int code)
{
    struct qmp *client = connect_to(migration ? ANSWERS(status, migration) : ANSWERS(status), false);
    struct run_state_answer answer = {.state = RUN_STATE_CRASHED};
    must_fail(run_state_query(client, LONG_MS, &answer, &why), code);
    assert_int_equal(answer.state, RUN_STATE_CRASHED);
    disconnect(client);
}

static void test_answers_to_queries(void **state)
{
    query_gives(STATUS("running", "true"), NOTHING, RUN_STATE_RUNNING, true);
    query_gives(STATUS("running", "true"), MIGRATION("completed"), RUN_STATE_RUNNING, true);
    query_gives(STATUS("running", "true"), MIGRATION("active"), RUN_STATE_MIGRATING, true);
    query_gives(STATUS("running", "true"), MIGRATION("wait-unplug"), RUN_STATE_MIGRATING, true);
    query_gives(STATUS("paused", "false"), MIGRATION("cancelling"), RUN_STATE_MIGRATING, false);
    query_gives(STATUS("paused", "false"), MIGRATION("failed"), RUN_STATE_PAUSED, false);
    query_gives("\"return\": {\"status\": \"running\"}", NOTHING, RUN_STATE_RUNNING, true);
    query_gives(
        "\"return\": {\"status\": \"a word that is much longer than any of QEMU's own\", \"running\": true}",
        NOTHING, RUN_STATE_RUNNING, true);
    query_fails("\"return\": []", NULL, EPROTO);
    query_fails("\"return\": {\"status\": 3}", NULL, EPROTO);
    query_fails(NOTHING, NULL, EPROTO);
    query_fails(REFUSAL, NULL, EIO);
    query_fails(STATUS("running", "true"), "\"return\": null", EPROTO);
    query_fails(STATUS("running", "true"), "\"return\": {\"status\": []}", EPROTO);
    query_fails(STATUS("running", "true"), REFUSAL, EIO);
}

static void test_refusals_and_silence(void **state)
{
    static int (*const calls[])(struct qmp *, int, struct error *) = {
        run_state_stop, run_state_continue, run_state_power_down, run_state_reset, run_state_quit,
    };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        struct qmp *client = connect_to(ANSWERS(REFUSAL), false);
        must_fail(calls[i](client, LONG_MS, &why), EIO);
        assert_false(qmp_is_dead(client));
        must_fail(calls[i](client, SHORT_MS, &why), ETIMEDOUT);
        assert_true(qmp_is_dead(client));
        disconnect(client);
    }
}

static void test_what_does_not_run_when_it_is_continued(void **state)
{
    struct qmp *client = connect_to(ANSWERS(NOTHING, STATUS("shutdown", "false")), false);
    must_fail(run_state_continue(client, LONG_MS, &why), EIO);
    assert_non_null(strstr(why.text, "\"shutdown\""));
    disconnect(client);
    client = connect_to(
        ANSWERS("\"error\": {\"class\": \"GenericError\", \"desc\": \"Failed to get \\\"write\\\" lock\"}"),
        false);
    must_fail(run_state_continue(client, LONG_MS, &why), EBUSY);
    disconnect(client);
}

static void test_ending(void **state)
{
    struct qmp *client = connect_to(ANSWERS(NOTHING), true);
    must(run_state_quit(client, LONG_MS, &why));
    disconnect(client);
    client = connect_to((const char *const[]){NULL}, true);
    must(run_state_quit(client, LONG_MS, &why));
    disconnect(client);
    /* It says yes, and stays. */
    client = connect_to(ANSWERS(NOTHING), false);
    must_fail(run_state_quit(client, SHORT_MS, &why), ETIMEDOUT);
    assert_true(qmp_is_dead(client));
    disconnect(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_of_a_real_qemu),
        cmocka_unit_test(test_of_one_that_waits_for_memory),
        cmocka_unit_test(test_of_a_guest_that_crashed),
        cmocka_unit_test(test_of_a_guest_that_powered_off),
        cmocka_unit_test(test_of_one_that_was_killed),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_answers_to_queries),
        cmocka_unit_test(test_refusals_and_silence),
        cmocka_unit_test(test_what_does_not_run_when_it_is_continued),
        cmocka_unit_test(test_ending),
    };
    int skip = folder_make();
    if (skip == 0)
        skip = qemu_process_need();
    return skip ? skip : cmocka_run_group_tests(tests, NULL, folder_remove);
}
