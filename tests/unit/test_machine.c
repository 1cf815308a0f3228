// SPDX-License-Identifier: LGPL-2.1-or-later
/* machine.h against monitors that behave, lose connections, are silent
 * or slow. Where something has to come it is waited for without end. */
#include "unit.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "base/cleanup.h"
#include "fake_monitor.h"
#include "machine/machine.h"

#define LONG_MS  600000
#define SHORT_MS 50

/* ---- A QEMU that listens ---- */

static char folder[] = "/tmp/test_machine.XXXXXX";
static char path[sizeof folder + 8];

static struct {
    int listener;
    pthread_t thread;
    pthread_mutex_t lock; /* protects what follows */
    char status[64];
    bool is_silent;
    int fd; /* of the client that is there; -1: none */
    unsigned clients;
    char commands[4096]; /* that were heard, but for questions */
} qemu = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1};

static void answer(struct monitor *monitor)
{
    char body[256];
    pthread_mutex_lock(&qemu.lock);
    bool silent = qemu.is_silent;
    snprintf(body, sizeof body, "\"return\": {}");
    if (strstr(monitor->heard, "query-status"))
        snprintf(body, sizeof body, "\"return\": {\"status\": \"%s\", \"running\": %s}", qemu.status,
                 strcmp(qemu.status, "running") == 0 ? "true" : "false");
    else if (!strstr(monitor->heard, "query-") && strlen(qemu.commands) < sizeof qemu.commands - 64)
        snprintf(qemu.commands + strlen(qemu.commands), 64, "%.62s\n", strchr(monitor->heard, ':') + 1);
    if (!silent)
        monitor_answer(monitor, body);
    pthread_mutex_unlock(&qemu.lock);
}

static void *listen_run(void *opaque)
{
    for (;;) {
        int fd = accept(qemu.listener, NULL, NULL);
        if (fd < 0)
            return NULL;
        struct monitor *monitor = calloc(1, sizeof *monitor);
        monitor->fd = fd;
        pthread_mutex_lock(&qemu.lock);
        bool silent = qemu.is_silent;
        qemu.fd = fd;
        qemu.clients++;
        pthread_mutex_unlock(&qemu.lock);
        if (!silent)
            monitor_say(monitor, MONITOR_GREETING);
        while (monitor_hear(monitor))
            answer(monitor);
        pthread_mutex_lock(&qemu.lock);
        qemu.fd = -1;
        close(fd);
        pthread_mutex_unlock(&qemu.lock);
        free(monitor);
    }
}

static void qemu_start(const char *status, bool silent)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    unlink(path);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    qemu.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(qemu.status, sizeof qemu.status, "%s", status);
    qemu.is_silent = silent;
    qemu.clients = 0;
    *qemu.commands = '\0';
    assert_int_equal(bind(qemu.listener, (const struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(qemu.listener, 8), 0);
    assert_int_equal(pthread_create(&qemu.thread, NULL, listen_run, NULL), 0);
}

static void qemu_hang_up(void)
{
    pthread_mutex_lock(&qemu.lock);
    if (qemu.fd >= 0)
        shutdown(qemu.fd, SHUT_RDWR);
    pthread_mutex_unlock(&qemu.lock);
}

/* `in_order`: it takes its socket away, as one does that was told to quit. */
static void qemu_end(bool in_order)
{
    shutdown(qemu.listener, SHUT_RDWR);
    if (in_order)
        unlink(path);
    qemu_hang_up();
    pthread_join(qemu.thread, NULL);
    close(qemu.listener);
}

static void qemu_becomes(const char *status, const char *event)
{
    char line[256];
    snprintf(line, sizeof line,
             "{\"event\": \"%s\", \"timestamp\": {\"seconds\": 1, \"microseconds\": 2}}\r\n", event);
    pthread_mutex_lock(&qemu.lock);
    snprintf(qemu.status, sizeof qemu.status, "%s", status);
    struct monitor monitor = {.fd = qemu.fd};
    if (qemu.fd >= 0)
        monitor_say(&monitor, line);
    pthread_mutex_unlock(&qemu.lock);
}

/* ---- A machine ---- */

static pthread_mutex_t told_lock = PTHREAD_MUTEX_INITIALIZER;
static char told[8192]; /* lines; protected by told_lock */

static void take_line(void *opaque, uint64_t domain, const char *line)
{
    assert_int_equal(domain, 7);
    pthread_mutex_lock(&told_lock);
    if (line)
        snprintf(told + strlen(told), sizeof told - strlen(told), "%s\n", line);
    pthread_mutex_unlock(&told_lock);
}

static struct machine *new_machine(void)
{
    const struct machine_options options = {.domain = 7, .name = "web1", .changed = take_line};
    *told = '\0';
    struct machine *machine = machine_new(&options);
    assert_non_null(machine);
    assert_int_equal(machine_set_monitor(machine, path), 0);
    return machine;
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* It is told after it can be seen. */
static void await_told(const char *lines)
{
    for (bool found = false; !found; nap()) {
        pthread_mutex_lock(&told_lock);
        found = strstr(told, lines);
        pthread_mutex_unlock(&told_lock);
    }
}

static struct machine_report await(struct machine *machine, enum machine_contact contact,
                                   enum run_state state)
{
    struct machine_report report;
    for (;;) {
        machine_report(machine, &report);
        if (report.contact == contact && report.state == state)
            return report;
        nap();
    }
}

static void test_life(void **unused)
{
    struct machine *machine = new_machine();
    struct machine_report report;
    machine_report(machine, &report);
    assert_int_equal(report.contact, MACHINE_UNKNOWN);
    machine_visit(machine);
    await(machine, MACHINE_OFF, RUN_STATE_SHUTOFF);
    qemu_start("running", false);
    machine_visit(machine);
    await(machine, MACHINE_CONNECTED, RUN_STATE_RUNNING);
    qemu_becomes("paused", "STOP");
    await(machine, MACHINE_CONNECTED, RUN_STATE_PAUSED);
    qemu_becomes("running", "RESUME");
    await(machine, MACHINE_CONNECTED, RUN_STATE_RUNNING);
    qemu_becomes("running", "SHUTDOWN");
    await(machine, MACHINE_CONNECTED, RUN_STATE_SHUTTING_DOWN);
    qemu_end(true);
    report = await(machine, MACHINE_OFF, RUN_STATE_SHUTOFF);
    assert_string_equal(report.problem, "");
    await_told("state: running\nstate: paused\nstate: running\nstate: shutting-down\nstate: shutoff\n");
    machine_unref(machine);
}

/* What was missed while there was no connection is asked for, and not what was known before. */
static void test_lost_connection(void **unused)
{
    struct machine *machine = new_machine();
    qemu_start("running", false);
    machine_visit(machine);
    await(machine, MACHINE_CONNECTED, RUN_STATE_RUNNING);
    for (unsigned turn = 0; turn < 5; turn++) {
        pthread_mutex_lock(&qemu.lock);
        snprintf(qemu.status, sizeof qemu.status, "%s", turn % 2 ? "running" : "paused");
        pthread_mutex_unlock(&qemu.lock);
        qemu_hang_up();
        await(machine, MACHINE_CONNECTED, turn % 2 ? RUN_STATE_RUNNING : RUN_STATE_PAUSED);
    }
    qemu_end(false);
    struct machine_report report = await(machine, MACHINE_OFF, RUN_STATE_CRASHED);
    assert_string_not_equal(report.problem, "");
    qemu_start("prelaunch", false);
    for (machine_visit(machine); report.contact != MACHINE_CONNECTED; machine_visit(machine)) {
        nap(); /* what followed the other one may be on its way out */
        machine_report(machine, &report);
    }
    await(machine, MACHINE_CONNECTED, RUN_STATE_PAUSED);
    machine_unref(machine);
    qemu_end(true);
}

/* It is told of, borrowing fails at once, and letting go does not wait for it. */
static void test_silence(void **unused)
{
    struct machine *machine = new_machine();
    struct qmp *qmp;
    struct error err = {0};
    qemu_start("running", true);
    machine_visit(machine);
    struct machine_report report = await(machine, MACHINE_SILENT, RUN_STATE_SHUTOFF);
    assert_non_null(strstr(report.problem, "no greeting"));
    await_told("does not answer");
    assert_int_equal(machine_borrow(machine, LONG_MS, &qmp, NULL, &err), -ETIMEDOUT);
    assert_non_null(strstr(err.text, "no greeting"));
    machine_unref(machine); /* while it waits for a greeting */
    qemu_end(true);
}

/* A question that is not answered ends the connection, and a later one finds the state. */
static void test_unanswered_question(void **unused)
{
    struct machine *machine = new_machine();
    qemu_start("running", false);
    machine_visit(machine);
    await(machine, MACHINE_CONNECTED, RUN_STATE_RUNNING);
    pthread_mutex_lock(&qemu.lock);
    qemu.is_silent = true;
    pthread_mutex_unlock(&qemu.lock);
    qemu_becomes("paused", "STOP");
    await(machine, MACHINE_SILENT, RUN_STATE_SHUTOFF);
    pthread_mutex_lock(&qemu.lock);
    qemu.is_silent = false;
    pthread_mutex_unlock(&qemu.lock);
    qemu_hang_up();
    await(machine, MACHINE_CONNECTED, RUN_STATE_PAUSED);
    machine_unref(machine);
    qemu_end(true);
}

/* ---- Borrowing ---- */

static struct machine *shared;
static atomic_int inside;

static void *borrow_often(void *opaque)
{
    for (unsigned turn = 0; turn < 50; turn++) {
        struct qmp *qmp;
        struct error err = {0};
        if (machine_borrow(shared, LONG_MS, &qmp, NULL, &err) < 0)
            fail_msg("%s", err.text);
        assert_int_equal(atomic_fetch_add(&inside, 1), 0);
        assert_int_equal(qmp_command(qmp, "stop", NULL, LONG_MS, NULL, NULL), 0);
        atomic_fetch_sub(&inside, 1);
        machine_return(shared, qmp);
    }
    return NULL;
}

static void test_borrowed_by_one_at_a_time(void **unused)
{
    pthread_t threads[4];
    shared = new_machine();
    qemu_start("running", false);
    machine_visit(shared);
    await(shared, MACHINE_CONNECTED, RUN_STATE_RUNNING);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, borrow_often, NULL), 0);
    for (unsigned turn = 0; turn < 100; turn++)
        qemu_becomes(turn % 2 ? "running" : "paused", turn % 2 ? "RESUME" : "STOP");
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    qemu_becomes("paused", "STOP");
    await(shared, MACHINE_CONNECTED, RUN_STATE_PAUSED);
    machine_unref(shared);
    qemu_end(true);
}

static void test_borrowing(void **unused)
{
    struct machine *machine = new_machine();
    struct qmp *qmp, *other;
    enum run_state state;
    struct error err = {0};
    machine_visit(machine);
    assert_int_equal(machine_borrow(machine, LONG_MS, &qmp, NULL, &err), -ESRCH);
    qemu_start("running", false);
    machine_visit(machine); /* borrowing waits for the connection */
    assert_int_equal(machine_borrow(machine, LONG_MS, &qmp, &state, &err), 0);
    assert_int_equal(state, RUN_STATE_RUNNING);
    assert_int_equal(machine_borrow(machine, SHORT_MS, &other, NULL, &err), -ETIMEDOUT);
    /* The state that a borrower is told is the present one, whatever was heard. */
    pthread_mutex_lock(&qemu.lock);
    snprintf(qemu.status, sizeof qemu.status, "paused");
    pthread_mutex_unlock(&qemu.lock);
    assert_int_equal(machine_look(machine, qmp, &state, &err), 0);
    assert_int_equal(state, RUN_STATE_PAUSED);
    await(machine, MACHINE_CONNECTED, RUN_STATE_PAUSED);
    assert_int_equal(machine_await_off(machine, SHORT_MS, &err), -ETIMEDOUT);
    machine_expect_end(machine);
    qemu_end(false); /* under a borrower */
    assert_true(qmp_command(qmp, "stop", NULL, LONG_MS, NULL, &err) < 0);
    machine_return(machine, qmp);
    assert_int_equal(machine_await_off(machine, LONG_MS, &err), 0);
    await(machine, MACHINE_OFF, RUN_STATE_SHUTOFF); /* no crash: it was expected */
    assert_int_equal(machine_kill(machine, &err), -EOPNOTSUPP);
    machine_unref(machine);
}

/* A migration that ends while it is borrowed: who waited for that has heard what told of it, and a paused
 * guest tells nothing else. */
static void test_a_migration_that_ends_at_a_borrower(void **unused)
{
    struct machine *machine = new_machine();
    struct qmp *qmp;
    enum run_state state;
    struct error err = {0};
    qemu_start("save-vm", false);
    machine_visit(machine);
    assert_int_equal(machine_borrow(machine, LONG_MS, &qmp, &state, &err), 0);
    assert_int_equal(state, RUN_STATE_MIGRATING);
    qemu_becomes("paused", "MIGRATION");
    assert_int_equal(qmp_event_wait(qmp, NULL, NULL, LONG_MS, NULL, &err), 0);
    machine_return(machine, qmp);
    await(machine, MACHINE_CONNECTED, RUN_STATE_PAUSED);
    machine_unref(machine);
    qemu_end(true);
}

/* Other events come, and more than are kept: the state is right in the end. */
static void test_flood(void **unused)
{
    struct machine *machine = new_machine();
    qemu_start("running", false);
    machine_visit(machine);
    await(machine, MACHINE_CONNECTED, RUN_STATE_RUNNING);
    for (unsigned turn = 0; turn < 3 * QMP_EVENTS_MAX; turn++)
        qemu_becomes(turn % 2 ? "running" : "paused", "RTC_CHANGE");
    qemu_becomes("paused", "STOP");
    for (unsigned turn = 0; turn < 3 * QMP_EVENTS_MAX; turn++)
        qemu_becomes("paused", "RTC_CHANGE");
    await(machine, MACHINE_CONNECTED, RUN_STATE_PAUSED);
    machine_unref(machine);
    qemu_end(true);
}

static int set_up(void **unused)
{
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/qmp", folder);
    return 0;
}

static int tear_down(void **unused)
{
    unlink(path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life),
        cmocka_unit_test(test_lost_connection),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_unanswered_question),
        cmocka_unit_test(test_borrowed_by_one_at_a_time),
        cmocka_unit_test(test_borrowing),
        cmocka_unit_test(test_a_migration_that_ends_at_a_borrower),
        cmocka_unit_test(test_flood),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
