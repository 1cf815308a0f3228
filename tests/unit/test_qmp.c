// SPDX-License-Identifier: LGPL-2.1-or-later
/* qmp.h, qmp_job.h and qmp_message.h against servers that are slow, wrong, hostile or silent. Where a call is
 * to run into its time, the time is short; where it is to succeed, it is so long that it plays no part. */
#include "unit.h"

#include <fcntl.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "fake_monitor.h"
#include "format/json_parse.h"
#include "hypervisor/qmp.h"
#include "hypervisor/qmp_arguments.h"
#include "hypervisor/qmp_job.h"
#include "hypervisor/qmp_message.h"

#define LONG_MS  600000
#define SHORT_MS 50

static struct monitor_thread server;

static struct qmp *connect_to(monitor_script *script)
{
    int fd = monitor_start(&server, script);
    struct qmp *client = NULL;
    struct error err = {0};
    if (qmp_take(&fd, "fake", LONG_MS, &client, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(fd, -1);
    return client;
}

static void disconnect(struct qmp *client)
{
    qmp_free(client);
    monitor_join(&server);
}

/* A server that does not get as far as a client. */
static int refused(monitor_script *script, int timeout_ms, struct error *err)
{
    int fd = monitor_start(&server, script);
    struct qmp *client = NULL;
    int rc = qmp_take(&fd, "fake", timeout_ms, &client, err);
    assert_null(client);
    assert_int_equal(fd, -1);
    monitor_join(&server);
    assert_int_equal(rc, -err->code);
    return rc;
}

static bool contains(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

/* ---- greeting ---- */

static void serve_answer(struct monitor *monitor)
{
    monitor_greet(monitor);
    if (monitor_hear(monitor))
        monitor_answer(monitor, contains(monitor->heard, "\"execute\":\"query-status\"") &&
                                        contains(monitor->heard, "\"arguments\":{\"a\":\"b/c\"}")
                                    ? "\"return\": {\"status\": \"running\"}"
                                    : "\"return\": {}");
}

static void test_command_and_answer(void **state)
{
    struct qmp *client = connect_to(serve_answer);
    struct qmp_version version = qmp_version(client);
    assert_int_equal(version.major, 7);
    assert_int_equal(version.minor, 2);
    assert_int_equal(version.micro, 22);
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&arguments, "a", "b/c");
    cleanup_json struct json_object *reply = NULL;
    struct error err = {0};
    assert_int_equal(qmp_command(client, "query-status", arguments, LONG_MS, &reply, &err), 0);
    assert_string_equal(json_object_get_string(json_object_object_get(reply, "status")), "running");
    disconnect(client);
}

static void serve_silence(struct monitor *monitor)
{
    monitor_await_hangup(monitor);
}

static void serve_half_greeting(struct monitor *monitor)
{
    monitor_say(monitor, "{\"QMP\": {\"version\"");
    monitor_await_hangup(monitor);
}

static void serve_greeting_only(struct monitor *monitor)
{
    monitor_say(monitor, MONITOR_GREETING);
    monitor_await_hangup(monitor);
}

static void serve_goodbye(struct monitor *monitor) {}

static void serve_event_first(struct monitor *monitor)
{
    monitor_say(monitor, "{\"event\": \"STOP\"}\n" MONITOR_GREETING);
    monitor_await_hangup(monitor);
}

static void serve_http(struct monitor *monitor)
{
    monitor_say(monitor, "HTTP/1.1 400 Bad Request\r\n\r\n");
    monitor_await_hangup(monitor);
}

static void serve_bad_version(struct monitor *monitor)
{
    monitor_say(monitor,
                "{\"QMP\": {\"version\": {\"qemu\": {\"major\": \"7\", \"minor\": 2, \"micro\": 0}}}}\n");
    monitor_await_hangup(monitor);
}

static void serve_two_greetings(struct monitor *monitor)
{
    monitor_say(monitor, MONITOR_GREETING MONITOR_GREETING);
    monitor_await_hangup(monitor);
}

static void test_what_does_not_greet(void **state)
{
    struct error err;
    assert_int_equal(refused(serve_silence, SHORT_MS, &err), -ETIMEDOUT);
    assert_true(contains(err.text, "another client"));
    assert_int_equal(refused(serve_half_greeting, SHORT_MS, &err), -ETIMEDOUT);
    *err.text = '\0';
    for (int ms = SHORT_MS; ms < LONG_MS && !contains(err.text, "qmp_capabilities");
         ms *= 2) /* greeted in time */
        assert_int_equal(refused(serve_greeting_only, ms, &err), -ETIMEDOUT);
    assert_true(contains(err.text, "qmp_capabilities"));
    assert_int_equal(refused(serve_goodbye, LONG_MS, &err), -ECONNRESET);
    assert_int_equal(refused(serve_event_first, LONG_MS, &err), -EPROTO);
    assert_int_equal(refused(serve_http, LONG_MS, &err), -EPROTO);
    assert_int_equal(refused(serve_bad_version, LONG_MS, &err), -EPROTO);
    assert_int_equal(refused(serve_two_greetings, LONG_MS, &err), -EPROTO);
}

/* A monitor that comes up after it was spoken to. */

static pthread_barrier_t spoken_to;

static void serve_late(struct monitor *monitor)
{
    pthread_barrier_wait(&spoken_to);
    char waiting[512];
    ssize_t length = recv(monitor->fd, waiting, sizeof waiting - 1, MSG_PEEK | MSG_DONTWAIT);
    waiting[length < 0 ? 0 : length] = '\0';
    if (!contains(waiting, "\"execute\":\"qmp_capabilities\"") || !contains(waiting, "\n"))
        return;
    serve_answer(monitor);
    monitor_await_hangup(monitor);
}

static void serve_late_silence(struct monitor *monitor)
{
    pthread_barrier_wait(&spoken_to);
    monitor_say(monitor, MONITOR_GREETING);
    monitor_await_hangup(monitor);
}

static void serve_late_refusal(struct monitor *monitor)
{
    pthread_barrier_wait(&spoken_to);
    monitor_say(monitor, MONITOR_GREETING);
    monitor_hear(monitor);
    monitor_answer(monitor, "\"error\": {\"class\": \"GenericError\", \"desc\": \"not today\"}");
    monitor_await_hangup(monitor);
}

static void serve_late_goodbye(struct monitor *monitor)
{
    pthread_barrier_wait(&spoken_to);
}

static int begin(monitor_script *script, int timeout_ms, struct qmp **client, struct error *err)
{
    pthread_barrier_init(&spoken_to, NULL, 2);
    int fd = monitor_start(&server, script);
    assert_int_equal(qmp_begin(fd, err), 0);
    pthread_barrier_wait(&spoken_to);
    int rc = qmp_take_begun(&fd, "fake", timeout_ms, client, err);
    assert_int_equal(fd, -1);
    if (rc < 0)
        monitor_join(&server);
    return rc;
}

static void test_spoken_to_before_it_runs(void **state)
{
    struct qmp *client = NULL;
    struct error err = {0};
    if (begin(serve_late, LONG_MS, &client, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(qmp_version(client).major, 7);
    assert_int_equal(qmp_command(client, "x", NULL, LONG_MS, NULL, &err), 0);
    disconnect(client);
    client = NULL;
    *err.text = '\0';
    for (int ms = SHORT_MS; ms < LONG_MS && !contains(err.text, "qmp_capabilities"); ms *= 2)
        assert_int_equal(begin(serve_late_silence, ms, &client, &err), -ETIMEDOUT);
    assert_true(contains(err.text, "qmp_capabilities"));
    assert_int_equal(begin(serve_late_refusal, LONG_MS, &client, &err), -EIO);
    assert_true(contains(err.text, "not today"));
    assert_int_equal(begin(serve_late_goodbye, LONG_MS, &client, &err), -ECONNRESET);
    assert_null(client);
    int ends[2];
    assert_return_code(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), errno);
    close(ends[1]);
    assert_int_equal(qmp_begin(ends[0], &err), -EPIPE);
    close(ends[0]);
}

/* ---- answers ---- */

static void serve_pieces(struct monitor *monitor)
{
    monitor_stutter(monitor, MONITOR_GREETING);
    monitor_hear(monitor);
    char line[512];
    snprintf(line, sizeof line, "\r\n{\"return\": {}, \"id\": \"%s\"}\n", monitor->id);
    monitor_stutter(monitor, line);
    monitor_hear(monitor);
    snprintf(line, sizeof line,
             "{\"event\": \"A\", \"data\": {\"n\": 1}}\r\n{\"return\": [1], \"id\": \"%s\"}\r\n{\"event\": "
             "\"B\"}\r\n{\"event\": \"A\", \"da",
             monitor->id);
    monitor_say(monitor, line);
    monitor_hear(monitor);
    snprintf(line, sizeof line, "ta\": {\"n\": 2}}\n{\"return\": null, \"id\": \"%s\"}\n", monitor->id);
    monitor_stutter(monitor, line);
    monitor_await_hangup(monitor);
}

static bool is_named(const char *name, struct json_object *data, void *opaque)
{
    return strcmp(name, opaque) == 0;
}

static int event_number(struct qmp *client, char *name)
{
    cleanup_json struct json_object *event = NULL;
    struct error err = {0};
    assert_int_equal(qmp_event_wait(client, is_named, name, LONG_MS, &event, &err), 0);
    struct json_object *data = json_object_object_get(event, "data");
    return data ? json_object_get_int(json_object_object_get(data, "n")) : -1;
}

static void test_pieces_and_events(void **state)
{
    struct qmp *client = connect_to(serve_pieces);
    struct error err = {0};
    cleanup_json struct json_object *reply = NULL;
    assert_int_equal(qmp_command(client, "one", NULL, LONG_MS, &reply, &err), 0);
    assert_int_equal(json_object_array_length(reply), 1);
    cleanup_json struct json_object *none = json_object_new_object();
    json_object_put(none);
    assert_int_equal(qmp_command(client, "two", NULL, LONG_MS, &none, &err), 0);
    assert_null(none);
    /* Taken by name, and in order within a name. */
    assert_int_equal(event_number(client, (char *)"B"), -1);
    assert_int_equal(event_number(client, (char *)"A"), 1);
    assert_int_equal(event_number(client, (char *)"A"), 2);
    assert_int_equal(qmp_event_wait(client, NULL, NULL, 0, NULL, &err), -ETIMEDOUT);
    assert_int_equal(qmp_event_wait(client, NULL, NULL, SHORT_MS, NULL, &err), -ETIMEDOUT);
    assert_false(qmp_is_dead(client));
    assert_int_equal(qmp_events_lost(client), 0);
    disconnect(client);
}

static void serve_wrong_ids(struct monitor *monitor)
{
    monitor_greet(monitor);
    monitor_hear(monitor);
    monitor_say(monitor, "{\"return\": 1, \"id\": \"libvirt-3\"}\n{\"error\": {\"class\": \"GenericError\", "
                         "\"desc\": \"of another\"}, \"id\": \"0-1\"}\n");
    monitor_answer(monitor, "\"return\": 2");
    monitor_answer(monitor, "\"return\": 3"); /* once more for the same */
    monitor_hear(monitor);
    monitor_answer(monitor, "\"return\": 4");
    monitor_hear(monitor);
    monitor_say(monitor, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\n");
    monitor_await_hangup(monitor);
}

static void test_ids(void **state)
{
    struct qmp *client = connect_to(serve_wrong_ids);
    struct error err = {0};
    struct json_object *reply = NULL;
    assert_int_equal(qmp_command(client, "one", NULL, LONG_MS, &reply, &err), 0);
    assert_int_equal(json_object_get_int(reply), 2);
    json_object_put(reply);
    assert_int_equal(qmp_command(client, "two", NULL, LONG_MS, &reply, &err), 0);
    assert_int_equal(json_object_get_int(reply), 4);
    json_object_put(reply);
    assert_int_equal(qmp_command(client, "three", NULL, LONG_MS, NULL, &err), -EPROTO);
    assert_true(contains(err.text, "JSON parse error"));
    assert_true(qmp_is_dead(client));
    disconnect(client);
}

static void serve_refusals(struct monitor *monitor)
{
    static const char *const errors[] = {
        "\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command x has not been found\"}",
        "\"error\": {\"class\": \"GenericError\", \"desc\": \"Snapshot with name 'No space left' already "
        "exists on "
        "device 'n-1-0'\"}",
        "\"error\": {\"class\": \"GenericError\", \"desc\": \"one\\ntwo\\u001b[31m\\u0007three\\n\"}",
    };
    monitor_greet(monitor);
    for (size_t i = 0; i < sizeof errors / sizeof *errors && monitor_hear(monitor); i++)
        monitor_answer(monitor, errors[i]);
    monitor_await_hangup(monitor);
}

static void test_refusals_have_an_errno_and_a_text(void **state)
{
    struct qmp *client = connect_to(serve_refusals);
    struct error err = {0};
    struct json_object *untouched = NULL;
    assert_int_equal(qmp_command(client, "x", NULL, LONG_MS, &untouched, &err), -EOPNOTSUPP);
    assert_null(untouched);
    assert_int_equal(qmp_command(client, "y", NULL, LONG_MS, NULL, &err), -EEXIST);
    assert_string_equal(err.text,
                        "fake: y: Snapshot with name 'No space left' already exists on device 'n-1-0'");
    assert_int_equal(qmp_command(client, "z", NULL, LONG_MS, NULL, &err), -EIO);
    assert_string_equal(err.text, "fake: z: one; two?[31m?three");
    assert_false(qmp_is_dead(client));
    /* Never sent, so the client lives. */
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&arguments, "filename", "/images/\xff");
    assert_int_equal(qmp_command(client, "w", arguments, LONG_MS, NULL, &err), -EINVAL);
    assert_false(qmp_is_dead(client));
    disconnect(client);
}

static void test_errno_of_texts(void **state)
{
    static const struct {
        const char *text;
        int code;
    } rows[] = {
        {"Failed to get \"write\" lock", EBUSY},
        {"Failed to get shared \"consistent read\" lock", EBUSY},
        {"Node 'n-0-2' is busy: node is used as backing hd of 'n-0-3'", EBUSY},
        {"The overlay is already in use", EBUSY},
        {"There's a migration process in progress", EBUSY},
        {"Could not create '/p/nodir/d1': No such file or directory", ENOENT},
        {"Could not write: No space left on device", ENOSPC},
        {"Snapshot with id 'null' and name 'a' does not exist on device 'b'", ENOENT},
        {"Could not delete snapshot 'already exists': snapshot not found", ENOENT},
        {"Cannot find device='d0' nor node-name=''", ENODEV},
        {"Block format 'raw' used by device 'r' does not support internal snapshots", EOPNOTSUPP},
        {"Could not create snapshot 'x': -95 (Operation not supported)", EOPNOTSUPP},
        {"Could not open '/x': Permission denied", EACCES},
        {"Block node is read-only", EROFS},
        {"Parameter 'type' does not accept value 'blockdev-mirror'", EINVAL},
        {"Operation canceled", ECANCELED},
        {"Image is corrupt", EIO},
        {"", EIO},
        {"' No space left", ENOSPC}, /* a quotation that does not end is none */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int code = qmp_errno("GenericError", rows[i].text);
        if (code != rows[i].code)
            fail_msg("%s: %d, not %d", rows[i].text, code, rows[i].code);
    }
    assert_int_equal(qmp_errno("DeviceNotFound", "x"), ENODEV);
    assert_int_equal(qmp_errno(NULL, NULL), EIO);
}

/* ---- hostile and silent peers ---- */

static const char *nonsense;

static void serve_nonsense(struct monitor *monitor)
{
    monitor_greet(monitor);
    monitor_hear(monitor);
    monitor_say(monitor, nonsense);
    monitor_answer(monitor, "\"return\": {}");
    monitor_await_hangup(monitor);
}

static void test_nonsense_is_deadly(void **state)
{
    static const char *const lines[] = {
        "garbage\n",
        "[1, 2]\n",
        "{}\n",
        "{\"id\": \"x\"}\n",
        "{\"return\": {}, \"error\": {}}\n",
        "{\"event\": 5}\n",
        "{\"event\": \"A\\u0000B\"}\n",
        "{\"event\": \"A\", \"data\": []}\n",
        "{\"error\": \"text\", \"id\": \"x\"}\n",
        "{\"error\": {\"class\": 1, \"desc\": \"x\"}, \"id\": \"x\"}\n",
        "{\"return\": {}}\n",
        "{\"event\": \"\xc3\x28\"}\n",
        "{'event': 'A'}\n",
        MONITOR_GREETING,
        "{\"return\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]"
        "]]]]"
        "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]],\"id\":\"x\"}\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        nonsense = lines[i];
        struct qmp *client = connect_to(serve_nonsense);
        struct error err = {0};
        int rc = qmp_command(client, "x", NULL, LONG_MS, NULL, &err);
        if (rc != -EPROTO || !*err.text)
            fail_msg("%s gave %d %s", lines[i], rc, err.text);
        assert_true(qmp_is_dead(client));
        struct error again = {0};
        assert_int_equal(qmp_command(client, "x", NULL, LONG_MS, NULL, &again), -EPROTO);
        assert_string_equal(again.text, err.text);
        assert_int_equal(qmp_event_wait(client, NULL, NULL, LONG_MS, NULL, &again), -EPROTO);
        disconnect(client);
    }
}

static void serve_endless_line(struct monitor *monitor)
{
    static char spaces[65536];
    memset(spaces, ' ', sizeof spaces - 1);
    monitor_greet(monitor);
    monitor_hear(monitor);
    for (size_t sent = 0; sent < 4 * (size_t)QMP_LINE_BYTES_MAX; sent += sizeof spaces - 1)
        monitor_say(monitor, spaces);
    monitor_await_hangup(monitor);
}

static void test_endless_line(void **state)
{
    struct qmp *client = connect_to(serve_endless_line);
    struct error err = {0};
    assert_int_equal(qmp_command(client, "x", NULL, LONG_MS, NULL, &err), -EPROTO);
    assert_true(contains(err.text, "too long"));
    disconnect(client);
}

static void serve_long_answer(struct monitor *monitor)
{
    monitor_greet(monitor);
    monitor_hear(monitor);
    size_t length = 3U << 20;
    char *body = malloc(length + 32);
    assert_non_null(body);
    strcpy(body, "\"return\": \"");
    memset(body + 11, 'x', length);
    strcpy(body + 11 + length, "\"");
    monitor_answer(monitor, body);
    free(body);
    monitor_await_hangup(monitor);
}

static void test_long_answer(void **state)
{
    struct qmp *client = connect_to(serve_long_answer);
    cleanup_json struct json_object *reply = NULL;
    struct error err = {0};
    assert_int_equal(qmp_command(client, "x", NULL, LONG_MS, &reply, &err), 0);
    assert_int_equal(json_object_get_string_len(reply), 3U << 20);
    disconnect(client);
}

static void serve_no_answer(struct monitor *monitor)
{
    monitor_greet(monitor);
    monitor_await_hangup(monitor);
}

/* So many at once that there is always something to be read. */
static void serve_events_for_ever(struct monitor *monitor)
{
    static const char event[] = "{\"event\": \"NOISE\"}\n";
    size_t length = 2000 * (sizeof event - 1);
    char *events = malloc(length + 1);
    assert_non_null(events);
    for (size_t at = 0; at < length; at += sizeof event - 1)
        memcpy(events + at, event, sizeof event);
    monitor_greet(monitor);
    monitor_hear(monitor);
    while (send(monitor->fd, events, length, MSG_NOSIGNAL) > 0)
        continue;
    free(events);
}

static void test_hangs_give_timeouts_and_a_dead_client(void **state)
{
    monitor_script *const scripts[] = {serve_no_answer, serve_events_for_ever};
    for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++) {
        struct qmp *client = connect_to(scripts[i]);
        struct error err = {0};
        assert_int_equal(qmp_command(client, "quit", NULL, SHORT_MS, NULL, &err), -ETIMEDOUT);
        assert_true(contains(err.text, "quit was not answered"));
        assert_true(qmp_is_dead(client));
        assert_int_equal(qmp_command(client, "x", NULL, LONG_MS, NULL, &err), -ETIMEDOUT);
        disconnect(client);
    }
}

static void serve_deafness(struct monitor *monitor)
{
    monitor_greet(monitor);
    /* Reads nothing, so that the command does not fit into the socket; until the client hangs up. */
    struct pollfd poll_fd = {.fd = monitor->fd, .events = POLLRDHUP};
    poll(&poll_fd, 1, -1);
}

static void test_a_peer_that_does_not_read(void **state)
{
    struct qmp *client = connect_to(serve_deafness);
    size_t length = 8U << 20;
    cleanup_free char *text = malloc(length + 1);
    assert_non_null(text);
    memset(text, 'x', length);
    text[length] = '\0';
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&arguments, "a", text);
    struct error err = {0};
    assert_int_equal(qmp_command(client, "x", arguments, SHORT_MS, NULL, &err), -ETIMEDOUT);
    assert_true(qmp_is_dead(client));
    disconnect(client);
}

static void serve_close_in_the_middle(struct monitor *monitor)
{
    monitor_greet(monitor);
    monitor_hear(monitor);
    monitor_say(monitor, "{\"return\": {");
}

static void explain(void *opaque, char *text, size_t size)
{
    ++*(int *)opaque;
    snprintf(text, size, "it burnt");
}

static void test_close_in_the_middle(void **state)
{
    struct qmp *client = connect_to(serve_close_in_the_middle);
    int asked = 0;
    qmp_set_explain(client, explain, &asked);
    struct error err = {0};
    assert_int_equal(qmp_command(client, "x", NULL, LONG_MS, NULL, &err), -ECONNRESET);
    assert_true(contains(err.text, "it burnt"));
    assert_int_equal(qmp_command(client, "x", NULL, LONG_MS, NULL, &err), -ECONNRESET);
    assert_true(contains(err.text, "it burnt"));
    assert_int_equal(asked, 1);
    disconnect(client);
}

static void serve_and_leave(struct monitor *monitor)
{
    monitor_greet(monitor);
}

static void test_write_to_a_closed_peer(void **state)
{
    struct qmp *client = connect_to(serve_and_leave);
    struct error err = {0};
    int rc = qmp_event_wait(client, NULL, NULL, LONG_MS, NULL, &err);
    assert_int_equal(rc, -ECONNRESET);
    rc = qmp_command(client, "x", NULL, LONG_MS, NULL, &err);
    assert_int_equal(rc, -ECONNRESET);
    disconnect(client);
}

static void *cut(void *opaque)
{
    qmp_cut(opaque);
    return NULL;
}

static void test_cut_from_another_thread(void **state)
{
    struct qmp *client = connect_to(serve_no_answer);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, cut, client), 0);
    struct error err = {0};
    int rc = qmp_command(client, "x", NULL, LONG_MS, NULL, &err);
    assert_true(rc == -ECONNRESET || rc == -EPIPE);
    pthread_join(thread, NULL);
    disconnect(client);
}

static void serve_many_events(struct monitor *monitor)
{
    monitor_greet(monitor);
    monitor_hear(monitor);
    char line[64];
    for (int i = 0; i < QMP_EVENTS_MAX + 10; i++) {
        snprintf(line, sizeof line, "{\"event\": \"E\", \"data\": {\"n\": %d}}\n", i);
        monitor_say(monitor, line);
    }
    monitor_answer(monitor, "\"return\": {}");
    monitor_hear(monitor);
    size_t length = QMP_EVENTS_BYTES_MAX;
    char *large = malloc(length + 64);
    assert_non_null(large);
    strcpy(large, "{\"event\": \"");
    memset(large + 11, 'L', length);
    strcpy(large + 11 + length, "\"}\n");
    monitor_say(monitor, large);
    free(large);
    monitor_answer(monitor, "\"return\": {}");
    monitor_await_hangup(monitor);
}

static void test_events_are_bounded(void **state)
{
    struct qmp *client = connect_to(serve_many_events);
    struct error err = {0};
    assert_int_equal(qmp_command(client, "x", NULL, LONG_MS, NULL, &err), 0);
    assert_int_equal(qmp_events_lost(client), 10);
    assert_int_equal(event_number(client, (char *)"E"), 10); /* the oldest went */
    assert_int_equal(qmp_command(client, "y", NULL, LONG_MS, NULL, &err), 0);
    assert_int_equal(qmp_events_lost(client), 11);
    qmp_events_clear(client);
    assert_int_equal(qmp_event_wait(client, NULL, NULL, 0, NULL, &err), -ETIMEDOUT);
    disconnect(client);
}

/* ---- descriptors, sockets ---- */

static void serve_getfd(struct monitor *monitor)
{
    monitor_greet(monitor);
    monitor_hear(monitor);
    struct stat stat = {0};
    bool right = monitor->passed_fd >= 0 && fstat(monitor->passed_fd, &stat) == 0 && S_ISFIFO(stat.st_mode);
    if (monitor->passed_fd >= 0)
        close(monitor->passed_fd);
    monitor_answer(monitor, right ? "\"return\": true" : "\"return\": false");
    monitor_hear(monitor);
    monitor_answer(monitor, monitor->passed_fd < 0 ? "\"return\": true" : "\"return\": false");
    monitor_await_hangup(monitor);
}

static void test_descriptor_goes_along(void **state)
{
    struct qmp *client = connect_to(serve_getfd);
    int ends[2];
    assert_return_code(pipe2(ends, O_CLOEXEC), errno);
    struct error err = {0};
    struct json_object *reply = NULL;
    assert_int_equal(qmp_command_fd(client, "getfd", NULL, ends[1], LONG_MS, &reply, &err), 0);
    assert_true(json_object_get_boolean(reply));
    json_object_put(reply);
    assert_int_equal(qmp_command(client, "x", NULL, LONG_MS, &reply, &err), 0);
    assert_true(json_object_get_boolean(reply));
    json_object_put(reply);
    close(ends[0]);
    close(ends[1]);
    disconnect(client);
}

static void *accept_one(void *opaque)
{
    struct monitor_thread *thread = opaque;
    int listener = thread->fd;
    thread->fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    return monitor_run(thread);
}

/* Also with a path that no socket address has room for. */
static void connect_by_path(const char *folder)
{
    char path[512];
    snprintf(path, sizeof path, "%s/s", folder);
    char back[] = "/tmp";
    assert_return_code(chdir(folder), errno);
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "s"};
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_return_code(bind(listener, (struct sockaddr *)&address, sizeof address), errno);
    struct qmp *client = NULL;
    struct error err = {0};
    assert_int_equal(qmp_connect(path, "vm", LONG_MS, &client, &err), -ECONNREFUSED);
    assert_true(contains(err.text, path));
    assert_return_code(listen(listener, 1), errno);
    /* Nobody accepts: connected, but no greeting. */
    assert_int_equal(qmp_connect(path, "vm", SHORT_MS, &client, &err), -ETIMEDOUT);
    close(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
    server = (struct monitor_thread){.fd = listener, .script = serve_answer};
    assert_int_equal(pthread_create(&server.thread, NULL, accept_one, &server), 0);
    if (qmp_connect(path, "vm", LONG_MS, &client, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(qmp_command(client, "x", NULL, LONG_MS, NULL, &err), 0);
    disconnect(client);
    close(listener);
    unlink(path);
    assert_int_equal(qmp_connect(path, "vm", LONG_MS, &client, &err), -ENOENT);
    assert_return_code(chdir(back), errno);
}

static void test_connecting(void **state)
{
    char folder[256] = "/tmp/test_qmp.XXXXXX";
    assert_non_null(mkdtemp(folder));
    connect_by_path(folder);
    char deep[400];
    snprintf(deep, sizeof deep, "%s/%0150d", folder, 7);
    assert_return_code(mkdir(deep, 0700), errno);
    connect_by_path(deep);
    rmdir(deep);
    rmdir(folder);
}

/* ---- jobs ---- */

#define JOB(status, more)                                                                                    \
    "\"return\": [{\"id\": \"other\", \"type\": \"backup\", \"status\": \"running\"}, {\"id\": \"j\", "      \
    "\"type\": "                                                                                             \
    "\"commit\", \"status\": \"" status "\", \"current-progress\": 3, \"total-progress\": 7" more "}]"

static const char *const *job_script; /* pairs: a word of the expected command, the answer */

static void serve_job(struct monitor *monitor)
{
    monitor_greet(monitor);
    for (const char *const *step = job_script; step[0]; step += 2) {
        if (!monitor_hear(monitor))
            return;
        if (!contains(monitor->heard, step[0])) {
            monitor_answer(monitor,
                           "\"error\": {\"class\": \"GenericError\", \"desc\": \"not in the script\"}");
            break;
        }
        monitor_say(monitor,
                    "{\"event\": \"JOB_STATUS_CHANGE\", \"data\": {\"id\": \"j\", \"status\": \"x\"}}\n");
        monitor_answer(monitor, step[1]);
    }
    monitor_await_hangup(monitor);
}

struct progress {
    uint64_t current, total;
    unsigned calls, cancel_at;
};

static bool note_progress(void *opaque, uint64_t current, uint64_t total)
{
    struct progress *progress = opaque;
    progress->current = current;
    progress->total = total;
    return ++progress->calls != progress->cancel_at;
}

static int run_job(const char *const *script, struct progress *progress, int stall_ms, struct error *err)
{
    job_script = script;
    struct qmp *client = connect_to(serve_job);
    struct qmp_job_watch watch = {
        .progress = note_progress, .opaque = progress, .timeout_ms = LONG_MS, .stall_ms = stall_ms};
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&arguments, "device", "d");
    *err = (struct error){0};
    int rc = qmp_job_run(client, "block-commit", arguments, "j", QMP_JOB_BLOCK, &watch, err);
    disconnect(client);
    return rc;
}

#define START                                                                                                \
    "\"execute\":\"block-commit\",\"arguments\":{\"device\":\"d\",\"job-id\":\"j\",\"auto-finalize\":true,"  \
    "\"auto-dismiss\":false}"

static void test_job_succeeds(void **state)
{
    static const char *const script[] = {
        START,        "\"return\": {}",     "query-jobs",  JOB("created", ""),
        "query-jobs", JOB("running", ""),   "query-jobs",  JOB("pending", ""),
        "query-jobs", JOB("concluded", ""), "job-dismiss", "\"return\": {}",
        NULL,
    };
    struct progress progress = {0};
    struct error err;
    assert_int_equal(run_job(script, &progress, 0, &err), 0);
    assert_int_equal(progress.current, 3);
    assert_int_equal(progress.total, 7);
    assert_int_equal(progress.calls, 4);
    assert_int_equal(err.code, 0);
}

static void test_job_fails(void **state)
{
    static const char *const failed[] = {
        START,         "\"return\": {}",
        "query-jobs",  JOB("concluded", ", \"error\": \"No space left on device\""),
        "job-dismiss", "\"return\": {}",
        NULL,
    };
    static const char *const vanished[] = {START, "\"return\": {}", "query-jobs", "\"return\": []", NULL};
    static const char *const refused_start[] = {
        START, "\"error\": {\"class\": \"GenericError\", \"desc\": \"Node 'd' is busy: x\"}", NULL};
    static const char *const no_list[] = {START, "\"return\": {}", "query-jobs", "\"return\": {\"a\": 1}",
                                          NULL};
    static const char *const no_status[] = {START, "\"return\": {}", "query-jobs",
                                            "\"return\": [5, {\"id\": 7}, {\"id\": \"j\", \"status\": 1}]",
                                            NULL};
    struct progress progress = {0};
    struct error err;
    assert_int_equal(run_job(failed, &progress, 0, &err), -ENOSPC);
    assert_true(contains(err.text, "No space left"));
    assert_int_equal(run_job(vanished, &progress, 0, &err), -ENOENT);
    assert_int_equal(run_job(refused_start, &progress, 0, &err), -EBUSY);
    assert_int_equal(run_job(no_list, &progress, 0, &err), -EPROTO);
    assert_int_equal(run_job(no_status, &progress, 0, &err), -EPROTO);
}

static void test_job_cancelled(void **state)
{
    static const char *const cancelled[] = {
        START,         "\"return\": {}",
        "query-jobs",  JOB("running", ""),
        "job-cancel",  "\"return\": {}",
        "query-jobs",  JOB("aborting", ""),
        "query-jobs",  JOB("concluded", ", \"error\": \"Operation canceled\""),
        "job-dismiss", "\"return\": {}",
        NULL,
    };
    static const char *const too_late[] = {
        START,         "\"return\": {}",
        "query-jobs",  JOB("running", ""),
        "job-cancel",  "\"error\": {\"class\": \"GenericError\", \"desc\": \"Job is concluded\"}",
        "query-jobs",  JOB("concluded", ""),
        "job-dismiss", "\"return\": {}",
        NULL,
    };
    struct progress progress = {.cancel_at = 1};
    struct error err;
    assert_int_equal(run_job(cancelled, &progress, 0, &err), -ECANCELED);
    progress = (struct progress){.cancel_at = 1};
    assert_int_equal(run_job(too_late, &progress, 0, &err), 0);
    assert_int_equal(err.code, 0);
}

static void serve_stalled_job(struct monitor *monitor)
{
    monitor_greet(monitor);
    bool cancelled = false;
    while (monitor_hear(monitor)) {
        cancelled |= contains(monitor->heard, "job-cancel");
        if (!contains(monitor->heard, "query-jobs"))
            monitor_answer(monitor, "\"return\": {}");
        else if (cancelled)
            monitor_answer(monitor, JOB("concluded", ", \"error\": \"Operation canceled\""));
        else
            monitor_answer(monitor, JOB("running", ""));
    }
}

static void serve_stuck_job(struct monitor *monitor)
{
    monitor_greet(monitor);
    while (monitor_hear(monitor))
        monitor_answer(monitor,
                       contains(monitor->heard, "query-jobs") ? JOB("running", "") : "\"return\": {}");
}

static void test_job_that_stands_still(void **state)
{
    struct qmp_job_watch watch = {.timeout_ms = LONG_MS, .stall_ms = SHORT_MS};
    struct qmp *client = connect_to(serve_stalled_job);
    struct error err = {0};
    assert_int_equal(qmp_job_wait(client, "j", &watch, NULL, &err), -ETIMEDOUT);
    assert_true(contains(err.text, "did not move"));
    assert_false(qmp_is_dead(client));
    disconnect(client);

    /* One that can't even be cancelled. (The server answers each question at once.) */
    client = connect_to(serve_stuck_job);
    watch.timeout_ms = 1000;
    int rc = qmp_job_wait(client, "j", &watch, NULL, &err);
    assert_int_equal(rc, -ETIMEDOUT);
    assert_true(qmp_is_dead(client));
    disconnect(client);
}

static void test_job_states_for_the_caller(void **state)
{
    static const char *const script[] = {
        "block-stream", "\"return\": {}",     "query-jobs",   JOB("pending", ""),
        "job-finalize", "\"return\": {}",     "query-jobs",   JOB("pending", ""),
        "query-jobs",   JOB("concluded", ""), "job-dismiss",  "\"return\": {}",
        "query-jobs",   JOB("ready", ""),     "job-complete", "\"return\": {}",
        "query-jobs",   JOB("ready", ""),     "query-jobs",   JOB("concluded", ""),
        NULL,
    };
    job_script = script;
    struct qmp *client = connect_to(serve_job);
    struct qmp_job_watch watch = {.timeout_ms = LONG_MS};
    struct error err = {0};
    enum qmp_job_state at = QMP_JOB_CONCLUDED;
    cleanup_json struct json_object *arguments = json_object_new_object();
    assert_int_equal(
        qmp_job_start(client, "block-stream", arguments, "j", QMP_JOB_BLOCK_PENDING, LONG_MS, &err), 0);
    assert_int_equal(qmp_job_wait(client, "j", &watch, &at, &err), 0);
    assert_int_equal(at, QMP_JOB_WAITING);
    assert_int_equal(qmp_job_finalize(client, "j", LONG_MS, &err), 0);
    assert_int_equal(qmp_job_wait(client, "j", &watch, NULL, &err), 0);
    assert_int_equal(qmp_job_dismiss(client, "j", LONG_MS, &err), 0);
    assert_int_equal(qmp_job_wait(client, "j", &watch, &at, &err), 0);
    assert_int_equal(at, QMP_JOB_READY);
    assert_int_equal(qmp_job_complete(client, "j", LONG_MS, &err), 0);
    assert_int_equal(qmp_job_wait(client, "j", &watch, NULL, &err), 0);
    disconnect(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_command_and_answer),
        cmocka_unit_test(test_what_does_not_greet),
        cmocka_unit_test(test_spoken_to_before_it_runs),
        cmocka_unit_test(test_pieces_and_events),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_refusals_have_an_errno_and_a_text),
        cmocka_unit_test(test_errno_of_texts),
        cmocka_unit_test(test_nonsense_is_deadly),
        cmocka_unit_test(test_endless_line),
        cmocka_unit_test(test_long_answer),
        cmocka_unit_test(test_hangs_give_timeouts_and_a_dead_client),
        cmocka_unit_test(test_a_peer_that_does_not_read),
        cmocka_unit_test(test_close_in_the_middle),
        cmocka_unit_test(test_write_to_a_closed_peer),
        cmocka_unit_test(test_cut_from_another_thread),
        cmocka_unit_test(test_events_are_bounded),
        cmocka_unit_test(test_descriptor_goes_along),
        cmocka_unit_test(test_connecting),
        cmocka_unit_test(test_job_succeeds),
        cmocka_unit_test(test_job_fails),
        cmocka_unit_test(test_job_cancelled),
        cmocka_unit_test(test_job_that_stands_still),
        cmocka_unit_test(test_job_states_for_the_caller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
