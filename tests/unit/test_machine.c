// SPDX-License-Identifier: LGPL-2.1-or-later
/* machine.h, machine_state.h and machine_disks.h against monitors that behave, lose connections, are silent
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
#include "machine/machine_disks.h"

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

static bool was_told(const char *line)
{
    pthread_mutex_lock(&told_lock);
    bool found = strstr(told, line);
    pthread_mutex_unlock(&told_lock);
    return found;
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

static struct machine_report await(struct machine *machine, enum machine_contact contact,
                                   enum machine_state state)
{
    struct machine_report report;
    for (;;) {
        machine_report(machine, &report);
        if (report.contact == contact && report.state == state)
            return report;
        nap();
    }
}

static void test_words(void **unused)
{
    static const struct {
        const char *status;
        bool runs;
        const char *migration;
        enum machine_state state;
    } cases[] = {
        {"running", true, NULL, MACHINE_RUNNING},
        {"running", true, "none", MACHINE_RUNNING},
        {"running", true, "completed", MACHINE_RUNNING},
        {"running", true, "active", MACHINE_MIGRATING},
        {"running", true, "a new word", MACHINE_MIGRATING},
        {"paused", false, NULL, MACHINE_PAUSED},
        {"prelaunch", false, NULL, MACHINE_PAUSED},
        {"io-error", false, NULL, MACHINE_PAUSED},
        {"postmigrate", false, "completed", MACHINE_PAUSED},
        {"finish-migrate", false, "pre-switchover", MACHINE_MIGRATING},
        {"finish-migrate", false, "completed", MACHINE_PAUSED},
        {"inmigrate", false, NULL, MACHINE_MIGRATING},
        {"save-vm", false, NULL, MACHINE_MIGRATING},
        {"restore-vm", false, NULL, MACHINE_PAUSED},
        {"shutdown", false, NULL, MACHINE_SHUTTING_DOWN},
        {"guest-panicked", false, NULL, MACHINE_CRASHED},
        {"guest-panicked", false, "active", MACHINE_CRASHED},
        {"a new word", true, NULL, MACHINE_RUNNING},
        {"a new word", false, NULL, MACHINE_PAUSED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (machine_state_of(cases[i].status, cases[i].runs, cases[i].migration) != cases[i].state)
            fail_msg("%s, %s", cases[i].status, cases[i].migration ? cases[i].migration : "no migration");
}

static void test_life(void **unused)
{
    struct machine *machine = new_machine();
    struct machine_report report;
    machine_report(machine, &report);
    assert_int_equal(report.contact, MACHINE_UNKNOWN);
    machine_visit(machine);
    await(machine, MACHINE_OFF, MACHINE_SHUTOFF);
    qemu_start("running", false);
    machine_visit(machine);
    await(machine, MACHINE_CONNECTED, MACHINE_RUNNING);
    qemu_becomes("paused", "STOP");
    await(machine, MACHINE_CONNECTED, MACHINE_PAUSED);
    qemu_becomes("running", "RESUME");
    await(machine, MACHINE_CONNECTED, MACHINE_RUNNING);
    qemu_becomes("running", "SHUTDOWN");
    await(machine, MACHINE_CONNECTED, MACHINE_SHUTTING_DOWN);
    qemu_end(true);
    report = await(machine, MACHINE_OFF, MACHINE_SHUTOFF);
    assert_string_equal(report.problem, "");
    assert_true(
        was_told("state: running\nstate: paused\nstate: running\nstate: shutting-down\nstate: shutoff\n"));
    machine_unref(machine);
}

/* What was missed while there was no connection is asked for, and not what was known before. */
static void test_lost_connection(void **unused)
{
    struct machine *machine = new_machine();
    qemu_start("running", false);
    machine_visit(machine);
    await(machine, MACHINE_CONNECTED, MACHINE_RUNNING);
    for (unsigned turn = 0; turn < 5; turn++) {
        pthread_mutex_lock(&qemu.lock);
        snprintf(qemu.status, sizeof qemu.status, "%s", turn % 2 ? "running" : "paused");
        pthread_mutex_unlock(&qemu.lock);
        qemu_hang_up();
        await(machine, MACHINE_CONNECTED, turn % 2 ? MACHINE_RUNNING : MACHINE_PAUSED);
    }
    qemu_end(false);
    struct machine_report report = await(machine, MACHINE_OFF, MACHINE_CRASHED);
    assert_string_not_equal(report.problem, "");
    qemu_start("prelaunch", false);
    machine_visit(machine);
    await(machine, MACHINE_CONNECTED, MACHINE_PAUSED);
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
    struct machine_report report = await(machine, MACHINE_SILENT, MACHINE_SHUTOFF);
    assert_non_null(strstr(report.problem, "no greeting"));
    assert_true(was_told("does not answer"));
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
    await(machine, MACHINE_CONNECTED, MACHINE_RUNNING);
    pthread_mutex_lock(&qemu.lock);
    qemu.is_silent = true;
    pthread_mutex_unlock(&qemu.lock);
    qemu_becomes("paused", "STOP");
    await(machine, MACHINE_SILENT, MACHINE_SHUTOFF);
    pthread_mutex_lock(&qemu.lock);
    qemu.is_silent = false;
    pthread_mutex_unlock(&qemu.lock);
    qemu_hang_up();
    await(machine, MACHINE_CONNECTED, MACHINE_PAUSED);
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
    await(shared, MACHINE_CONNECTED, MACHINE_RUNNING);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, borrow_often, NULL), 0);
    for (unsigned turn = 0; turn < 100; turn++)
        qemu_becomes(turn % 2 ? "running" : "paused", turn % 2 ? "RESUME" : "STOP");
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    qemu_becomes("paused", "STOP");
    await(shared, MACHINE_CONNECTED, MACHINE_PAUSED);
    machine_unref(shared);
    qemu_end(true);
}

static void test_borrowing(void **unused)
{
    struct machine *machine = new_machine();
    struct qmp *qmp, *other;
    enum machine_state state;
    struct error err = {0};
    machine_visit(machine);
    assert_int_equal(machine_borrow(machine, LONG_MS, &qmp, NULL, &err), -ESRCH);
    qemu_start("running", false);
    machine_visit(machine); /* borrowing waits for the connection */
    assert_int_equal(machine_borrow(machine, LONG_MS, &qmp, &state, &err), 0);
    assert_int_equal(state, MACHINE_RUNNING);
    assert_int_equal(machine_borrow(machine, SHORT_MS, &other, NULL, &err), -ETIMEDOUT);
    /* The state that a borrower is told is the present one, whatever was heard. */
    pthread_mutex_lock(&qemu.lock);
    snprintf(qemu.status, sizeof qemu.status, "paused");
    pthread_mutex_unlock(&qemu.lock);
    assert_int_equal(machine_look(machine, qmp, &state, &err), 0);
    assert_int_equal(state, MACHINE_PAUSED);
    await(machine, MACHINE_CONNECTED, MACHINE_PAUSED);
    assert_int_equal(machine_await_off(machine, SHORT_MS, &err), -ETIMEDOUT);
    machine_expect_end(machine);
    qemu_end(false); /* under a borrower */
    assert_true(qmp_command(qmp, "stop", NULL, LONG_MS, NULL, &err) < 0);
    machine_return(machine, qmp);
    assert_int_equal(machine_await_off(machine, LONG_MS, &err), 0);
    await(machine, MACHINE_OFF, MACHINE_SHUTOFF); /* no crash: it was expected */
    assert_int_equal(machine_kill(machine, &err), -EOPNOTSUPP);
    machine_unref(machine);
}

/* Other events come, and more than are kept: the state is right in the end. */
static void test_flood(void **unused)
{
    struct machine *machine = new_machine();
    qemu_start("running", false);
    machine_visit(machine);
    await(machine, MACHINE_CONNECTED, MACHINE_RUNNING);
    for (unsigned turn = 0; turn < 3 * QMP_EVENTS_MAX; turn++)
        qemu_becomes(turn % 2 ? "running" : "paused", "RTC_CHANGE");
    qemu_becomes("paused", "STOP");
    for (unsigned turn = 0; turn < 3 * QMP_EVENTS_MAX; turn++)
        qemu_becomes("paused", "RTC_CHANGE");
    await(machine, MACHINE_CONNECTED, MACHINE_PAUSED);
    machine_unref(machine);
    qemu_end(true);
}

/* ---- Which nodes are a domain's disks ---- */

static char nodes_answer[8192];

static void nodes_script(struct monitor *monitor)
{
    monitor_greet(monitor);
    if (monitor_hear(monitor))
        monitor_answer(monitor, nodes_answer);
    monitor_await_hangup(monitor);
}

#define NODE(name, driver, file, ro)                                                                         \
    "{\"node-name\": \"" name "\", \"drv\": \"" driver "\", \"file\": \"" file "\", \"ro\": " ro             \
    ", \"image\": {\"virtual-size\": 1048576, \"filename\": \"x\", \"format\": \"x\"}}"

/* One disk, whose active image is FOLDER/a, of a format. Returns what find gives, and the node in `name`. */
static int find_node(enum image_format format, const char *nodes, char name[64])
{
    char file[sizeof folder + 8];
    struct stat stat_now;
    snprintf(file, sizeof file, "%s/a", folder);
    assert_int_equal(stat(file, &stat_now), 0);
    struct layer layer = {
        .path = file, .format = format, .active = true, .identity = file_identity_of(&stat_now)};
    struct disk disk = {.target = (char *)"vda", .active = &layer};
    struct domain domain = {.disks = &disk, .disk_count = 1};
    /* @ stands for the folder. */
    size_t length = (size_t)snprintf(nodes_answer, sizeof nodes_answer, "\"return\": [");
    for (const char *at = nodes; *at; at++)
        length += (size_t)snprintf(nodes_answer + length, sizeof nodes_answer - length, "%.*s",
                                   *at == '@' ? (int)strlen(folder) : 1, *at == '@' ? folder : at);
    snprintf(nodes_answer + length, sizeof nodes_answer - length, "]");
    struct monitor_thread server;
    int fd = monitor_start(&server, nodes_script);
    struct qmp *qmp;
    char **found = NULL;
    struct error err = {0};
    assert_int_equal(qmp_take(&fd, "fake", LONG_MS, &qmp, &err), 0);
    int rc = machine_disks_find(qmp, LONG_MS, &domain, &found, &err);
    if (rc == 0) {
        snprintf(name, 64, "%s", found[0] ? found[0] : "none");
        machine_disks_free(found, &domain);
    } else {
        assert_string_not_equal(err.text, "");
    }
    qmp_free(qmp);
    monitor_join(&server);
    return rc;
}

static void test_nodes(void **unused)
{
    static const struct {
        enum image_format format;
        const char *nodes, *wanted;
    } cases[] = {
        {IMAGE_FORMAT_QCOW2, NODE("f", "file", "@/a", "false") "," NODE("#block123", "qcow2", "@/a", "false"),
         "#block123"},
        {IMAGE_FORMAT_QCOW2, NODE("n", "qcow2", "@/link", "false"), "n"},
        {IMAGE_FORMAT_QCOW2, NODE("n", "qcow2", "@/b", "false"), "none"},
        {IMAGE_FORMAT_QCOW2, NODE("n", "qcow2", "@/gone", "false"), "none"},
        {IMAGE_FORMAT_QCOW2, NODE("n", "raw", "@/a", "false"), "none"},
        {IMAGE_FORMAT_QCOW2, "", "none"},
        {IMAGE_FORMAT_QCOW2, NODE("t", "throttle", "@/a", "false") "," NODE("n", "qcow2", "@/a", "false"),
         "n"},
        {IMAGE_FORMAT_QCOW2, NODE("export", "qcow2", "@/a", "true") "," NODE("n", "qcow2", "@/a", "false"),
         "n"},
        {IMAGE_FORMAT_QCOW2, NODE("n", "qcow2", "@/a", "false") "," NODE("export", "qcow2", "@/a", "true"),
         "n"},
        {IMAGE_FORMAT_QCOW2, NODE("n", "qcow2", "@/a", "true"), "n"},
        {IMAGE_FORMAT_QCOW2,
         NODE("n", "qcow2",
              "json:{\\\"driver\\\": \\\"qcow2\\\", \\\"backing\\\": null, \\\"file\\\": {\\\"driver\\\": "
              "\\\"file\\\", "
              "\\\"filename\\\": \\\"@/a\\\"}}",
              "false"),
         "n"},
        {IMAGE_FORMAT_QCOW2, NODE("n", "qcow2", "json:{\\\"file.filename\\\": \\\"@/a\\\"}", "false"), "n"},
        {IMAGE_FORMAT_QCOW2, NODE("n", "qcow2", "json:{", "false"), "none"},
        {IMAGE_FORMAT_QCOW2, NODE("n", "qcow2", "nbd://host/a", "false"), "none"},
        {IMAGE_FORMAT_RAW, NODE("f", "file", "@/a", "false") "," NODE("n", "raw", "@/a", "false"), "n"},
        {IMAGE_FORMAT_RAW, NODE("f", "file", "@/a", "false"), "f"},
    };
    char name[64];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(find_node(cases[i].format, cases[i].nodes, name), 0);
        if (strcmp(name, cases[i].wanted) != 0)
            fail_msg("%s where %s is right: %s", name, cases[i].wanted, cases[i].nodes);
    }
    assert_int_equal(find_node(IMAGE_FORMAT_QCOW2,
                               NODE("m", "qcow2", "@/a", "false") "," NODE("n", "qcow2", "@/a", "false"),
                               name),
                     -EINVAL);
    assert_int_equal(find_node(IMAGE_FORMAT_QCOW2, "1", name), -EPROTO);
}

static int set_up(void **unused)
{
    char file[sizeof folder + 8];
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/qmp", folder);
    for (const char *name = "ab"; *name; name++) {
        snprintf(file, sizeof file, "%s/%c", folder, *name);
        FILE *made = fopen(file, "we");
        if (!made)
            return -1;
        fclose(made);
    }
    snprintf(file, sizeof file, "%s/link", folder);
    return symlink("a", file);
}

static int tear_down(void **unused)
{
    static const char *const names[] = {"a", "b", "link", "qmp"};
    char file[sizeof folder + 8];
    for (size_t i = 0; i < 4; i++) {
        snprintf(file, sizeof file, "%s/%s", folder, names[i]);
        unlink(file);
    }
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_life),
        cmocka_unit_test(test_lost_connection),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_unanswered_question),
        cmocka_unit_test(test_borrowed_by_one_at_a_time),
        cmocka_unit_test(test_borrowing),
        cmocka_unit_test(test_flood),
        cmocka_unit_test(test_nodes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
