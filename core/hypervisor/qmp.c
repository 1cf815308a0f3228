// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * See qmp.h. All waiting is in step(), which reads, writes, or runs into the caller's deadline; all that was
 * read goes through take_line(). The socket's own flags stay as they are: each call says MSG_DONTWAIT.
 */
#include "hypervisor/qmp.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "base/utf8.h"
#include "format/json_parse.h"
#include "hypervisor/deadline.h"
#include "hypervisor/qmp_message.h"
#include "hypervisor/unix_socket.h"

#define READ_BYTES (32U << 10)
#define KEEP_BYTES (1U << 20) /* a larger empty buffer is given back */
#define ID_BYTES   40
#define FIRST_ID   "1" /* of the command that qmp_begin sends */

struct queued_event {
    struct qmp_message message;
    size_t bytes;
    struct queued_event *next;
};

struct qmp {
    int fd;
    char *name;
    bool dead;
    struct error why; /* it is dead */
    struct qmp_version version;
    qmp_explain *explain;
    void *explain_opaque;

    struct text input; /* what was read and is no whole line yet */
    size_t searched;   /* bytes of it that hold no line end */

    /* Random, so that what was meant for an earlier client of the monitor is known; 0: there was none. */
    uint64_t session;
    uint64_t commands;
    char waiting_id[ID_BYTES]; /* of the command under way; empty: none */
    bool greeted, answered;
    struct qmp_message answer;

    struct queued_event *first_event, **last_event;
    size_t event_count, event_bytes;
    uint64_t events_lost;
};

/* ---- death ---- */

/* The client is dead from now on; returns -code. */
static int die(struct qmp *client, int code, const char *text)
{
    if (client->dead)
        return -client->why.code;
    client->dead = true;
    shutdown(client->fd, SHUT_RDWR);
    char more[ERROR_TEXT_MAX / 2] = "";
    if (client->explain && (code == ECONNRESET || code == EPIPE))
        client->explain(client->explain_opaque, more, sizeof more);
    return error_set(&client->why, code, "%s: %s%s%s", client->name, text, *more ? ": " : "", more);
}

static int report_death(const struct qmp *client, struct error *err)
{
    return error_set(err, client->why.code, "%s", client->why.text);
}

int qmp_give_up(struct qmp *client, int code, const char *text, struct error *err)
{
    die(client, code, text);
    return report_death(client, err);
}

/* ---- events ---- */

static void drop_oldest_event(struct qmp *client)
{
    struct queued_event *event = client->first_event;
    client->first_event = event->next;
    if (!client->first_event)
        client->last_event = &client->first_event;
    client->event_count--;
    client->event_bytes -= event->bytes;
    qmp_message_done(&event->message);
    free(event);
}

/* Takes over the message. */
static int queue_event(struct qmp *client, struct qmp_message *message, size_t bytes)
{
    struct queued_event *event = bytes <= QMP_EVENTS_BYTES_MAX ? malloc(sizeof *event) : NULL;
    if (!event) {
        client->events_lost++;
        qmp_message_done(message);
        return 0;
    }
    *event = (struct queued_event){.message = *message, .bytes = bytes};
    *client->last_event = event;
    client->last_event = &event->next;
    client->event_count++;
    client->event_bytes += bytes;
    while (client->event_count > QMP_EVENTS_MAX || client->event_bytes > QMP_EVENTS_BYTES_MAX) {
        drop_oldest_event(client);
        client->events_lost++;
    }
    return 0;
}

void qmp_events_clear(struct qmp *client)
{
    while (client->first_event)
        drop_oldest_event(client);
}

uint64_t qmp_events_lost(const struct qmp *client)
{
    return client->events_lost;
}

/* ---- reading ---- */

static int take_answer(struct qmp *client, struct qmp_message *message)
{
    if (!message->id) {
        /* Only what could not be parsed as a command is answered without its id. */
        char text[ERROR_TEXT_MAX / 2];
        qmp_clean_text(message->kind == QMP_ERROR ? message->text : "an answer that belongs to no command",
                       text, sizeof text);
        qmp_message_done(message);
        return die(client, EPROTO, text);
    }
    if (client->answered || !*client->waiting_id || strcmp(message->id, client->waiting_id) != 0) {
        qmp_message_done(message);
        return 0;
    }
    client->answer = *message;
    client->answered = true;
    return 0;
}

static int take_line(struct qmp *client, const char *line, size_t length)
{
    struct qmp_message message;
    struct error problem;
    int rc = qmp_message_parse(line, length, &message, &problem);
    if (rc < 0)
        return die(client, -rc, problem.text);
    if (message.kind == QMP_GREETING) {
        bool expected = !client->greeted;
        client->greeted = true;
        client->version = (struct qmp_version){message.version[0], message.version[1], message.version[2]};
        qmp_message_done(&message);
        return expected ? 0 : die(client, EPROTO, "it greeted twice");
    }
    if (!client->greeted) {
        qmp_message_done(&message);
        return die(client, EPROTO, "it speaks before it greets: no QMP monitor");
    }
    return message.kind == QMP_EVENT ? queue_event(client, &message, length) : take_answer(client, &message);
}

static int take_lines(struct qmp *client)
{
    struct text *input = &client->input;
    size_t begin = 0;
    int rc = 0;
    while (rc == 0 && client->searched < input->length) {
        char *end = memchr(input->data + client->searched, '\n', input->length - client->searched);
        if (!end) {
            client->searched = input->length;
            break;
        }
        size_t length = (size_t)(end - input->data) - begin;
        client->searched = (size_t)(end - input->data) + 1;
        if (length > QMP_LINE_BYTES_MAX)
            break;
        /* An empty line says nothing. */
        if (length > 1 || (length == 1 && input->data[begin] != '\r'))
            rc = take_line(client, input->data + begin, length);
        begin = client->searched;
    }
    if (rc < 0)
        return rc;
    if (input->length - begin > QMP_LINE_BYTES_MAX)
        return die(client, EPROTO, "it sent a line that is too long");
    memmove(input->data, input->data + begin, input->length - begin);
    input->length -= begin;
    client->searched -= begin;
    if (input->length == 0 && input->capacity > KEEP_BYTES)
        text_done(input);
    return 0;
}

static int receive(struct qmp *client)
{
    char bytes[READ_BYTES];
    ssize_t got = recv(client->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return 0;
    if (got <= 0)
        return die(client, ECONNRESET, "the connection was closed");
    text_append(&client->input, bytes, (size_t)got);
    if (client->input.failed)
        return die(client, ENOMEM, "out of memory");
    return take_lines(client);
}

/* ---- writing ---- */

struct output {
    const char *bytes;
    size_t length;
    int fd; /* goes along with the first byte; -1: none */
};

static int transmit(struct qmp *client, struct output *output)
{
    struct iovec vector = {.iov_base = (void *)output->bytes, .iov_len = output->length};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    if (output->fd >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &output->fd, sizeof(int));
    }
    ssize_t sent = sendmsg(client->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
            return 0;
        return die(client, errno == EPIPE ? EPIPE : ECONNRESET, "the connection was closed");
    }
    output->bytes += sent;
    output->length -= (size_t)sent;
    if (sent > 0)
        output->fd = -1;
    return 0;
}

/*
 * Waits until something can be read, or written where there is output, and does so. -ETIMEDOUT when the
 * deadline is over, of which the client does not die here.
 */
static int step(struct qmp *client, struct output *output, int64_t deadline)
{
    bool writing = output && output->length > 0;
    struct pollfd poll_fd = {.fd = client->fd, .events = (short)(POLLIN | (writing ? POLLOUT : 0))};
    int ready = poll(&poll_fd, 1, deadline_left_ms(deadline));
    if (ready < 0)
        return errno == EINTR ? 0 : die(client, errno, "it can't be waited for");
    if (ready == 0)
        return -ETIMEDOUT;
    int rc = 0;
    if (poll_fd.revents & (POLLIN | POLLHUP | POLLERR | POLLNVAL))
        rc = receive(client);
    if (rc == 0 && writing && (poll_fd.revents & POLLOUT))
        rc = transmit(client, output);
    /* A peer that never stops talking must not keep us beyond the deadline. */
    return rc == 0 && deadline_left_ms(deadline) == 0 ? -ETIMEDOUT : rc;
}

/* ---- commands ---- */

static int add_member(struct json_object *object, const char *key, struct json_object *value)
{
    if (value && json_object_object_add(object, key, value) == 0)
        return 0;
    json_object_put(value);
    return -ENOMEM;
}

/* The line to be sent, in `line`; without an id where no answer is waited for. */
static int make_line(const struct qmp *client, const char *command, struct json_object *arguments,
                     struct text *line, struct error *err)
{
    cleanup_json struct json_object *object = json_object_new_object();
    if (!object || add_member(object, "execute", json_object_new_string(command)) < 0 ||
        (arguments && add_member(object, "arguments", json_object_get(arguments)) < 0) ||
        (*client->waiting_id && add_member(object, "id", json_object_new_string(client->waiting_id)) < 0))
        return error_set(err, ENOMEM, "out of memory");
    size_t length;
    const char *plain = json_object_to_json_string_length(
        object, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &length);
    if (!plain)
        return error_set(err, ENOMEM, "out of memory");
    if (!utf8_is_valid(plain, length))
        return error_set(err, EINVAL, "%s: %s: a name in it is no UTF-8, which QEMU needs", client->name,
                         command);
    text_append(line, plain, length);
    text_append_string(line, "\n");
    return line->failed ? error_set(err, ENOMEM, "out of memory") : 0;
}

static int refuse(const struct qmp *client, const char *command, const struct qmp_message *answer,
                  struct error *err)
{
    char text[ERROR_TEXT_MAX];
    qmp_clean_text(answer->text, text, sizeof text);
    return error_set(err, qmp_errno(answer->name, answer->text), "%s: %s: %s", client->name, command, text);
}

/* Sends the rest of the command whose id is waited for, and waits for its answer. */
static int finish_command(struct qmp *client, const char *command, struct output *output, int64_t deadline,
                          int timeout_ms, struct json_object **reply, struct error *err)
{
    int rc = 0;
    while (rc == 0 && !client->answered)
        rc = step(client, output, deadline);
    *client->waiting_id = '\0';
    if (!client->answered) {
        if (rc == -ETIMEDOUT && !client->dead) {
            char text[128];
            snprintf(text, sizeof text, "%.64s was not answered within %d ms", command, timeout_ms);
            die(client, ETIMEDOUT, text);
        }
        return report_death(client, err);
    }
    client->answered = false;
    struct qmp_message answer = client->answer;
    client->answer = (struct qmp_message){0};
    /* Half a command stays in the peer's way. */
    if (output->length > 0 && !client->dead)
        die(client, EPROTO, "it answered a command before it had all of it");
    if (answer.kind == QMP_ERROR)
        rc = refuse(client, command, &answer, err);
    else
        rc = 0;
    if (rc == 0 && reply)
        *reply = json_object_get(answer.body);
    qmp_message_done(&answer);
    return rc;
}

int qmp_command_fd(struct qmp *client, const char *command, struct json_object *arguments, int fd,
                   int timeout_ms, struct json_object **reply, struct error *err)
{
    if (client->dead)
        return report_death(client, err);
    int64_t deadline = deadline_in(timeout_ms);
    client->commands++;
    if (client->session)
        snprintf(client->waiting_id, sizeof client->waiting_id, "%" PRIx64 "-%" PRIu64, client->session,
                 client->commands);
    else
        snprintf(client->waiting_id, sizeof client->waiting_id, "%" PRIu64, client->commands);
    cleanup_text struct text line = {0};
    int rc = make_line(client, command, arguments, &line, err);
    if (rc < 0) {
        *client->waiting_id = '\0';
        return rc;
    }
    struct output output = {.bytes = line.data, .length = line.length, .fd = fd};
    return finish_command(client, command, &output, deadline, timeout_ms, reply, err);
}

int qmp_send_last(struct qmp *client, const char *command, int timeout_ms, struct error *err)
{
    if (client->dead)
        return report_death(client, err);
    int64_t deadline = deadline_in(timeout_ms);
    cleanup_text struct text line = {0};
    int rc = make_line(client, command, NULL, &line, err);
    struct output output = {.bytes = line.data, .length = line.length, .fd = -1};
    while (rc == 0 && output.length > 0)
        rc = step(client, &output, deadline);
    if (output.length > 0 && !client->dead)
        die(client, rc == -ETIMEDOUT ? ETIMEDOUT : ENOMEM, "its last command was not sent");
    if (client->dead)
        return report_death(client, err);
    /* Not shut down: QEMU throws away what it has not read yet of a connection that has ended (7.2). */
    client->dead = true;
    error_set(&client->why, ECONNRESET, "%s: it was told to end", client->name);
    return 0;
}

int qmp_command(struct qmp *client, const char *command, struct json_object *arguments, int timeout_ms,
                struct json_object **reply, struct error *err)
{
    return qmp_command_fd(client, command, arguments, -1, timeout_ms, reply, err);
}

static struct json_object *take_event(struct qmp *client, qmp_event_filter *filter, void *opaque)
{
    for (struct queued_event **at = &client->first_event; *at; at = &(*at)->next) {
        struct queued_event *event = *at;
        if (filter && !filter(event->message.name, event->message.body, opaque))
            continue;
        *at = event->next;
        if (!*at)
            client->last_event = at;
        client->event_count--;
        client->event_bytes -= event->bytes;
        struct json_object *root = event->message.root;
        free(event);
        return root;
    }
    return NULL;
}

int qmp_event_wait(struct qmp *client, qmp_event_filter *filter, void *opaque, int timeout_ms,
                   struct json_object **event, struct error *err)
{
    int64_t deadline = deadline_in(timeout_ms);
    int rc = 0;
    for (;;) {
        struct json_object *found = take_event(client, filter, opaque);
        if (found) {
            if (event)
                *event = found;
            else
                json_object_put(found);
            return 0;
        }
        if (client->dead)
            return report_death(client, err);
        if (rc == -ETIMEDOUT)
            return timeout_ms ? error_set(err, ETIMEDOUT, "%s: what was waited for did not come within %d ms",
                                          client->name, timeout_ms)
                              : -ETIMEDOUT;
        rc = step(client, NULL, deadline);
    }
}

/* ---- beginning and end ---- */

static struct qmp *make_client(int *socket, const char *name)
{
    struct qmp *client = calloc(1, sizeof *client);
    char *copy = strdup(name);
    uint32_t session;
    if (!client || !copy || getrandom(&session, sizeof session, 0) != (ssize_t)sizeof session) {
        free(client);
        free(copy);
        return NULL;
    }
    client->name = copy;
    client->session = session;
    client->last_event = &client->first_event;
    client->fd = steal_fd(socket);
    return client;
}

static int greet(struct qmp *client, bool begun, int timeout_ms, struct error *err)
{
    int64_t deadline = deadline_in(timeout_ms);
    int rc = 0;
    if (begun) {
        client->session = 0;
        client->commands = 1;
        snprintf(client->waiting_id, sizeof client->waiting_id, FIRST_ID);
    }
    while (rc == 0 && !client->greeted)
        rc = step(client, NULL, deadline);
    if (client->dead)
        return report_death(client, err);
    if (!client->greeted)
        return error_set(err, ETIMEDOUT,
                         "%s: no greeting within %d ms: it hangs, or another client is connected to this "
                         "monitor, which serves one at a time",
                         client->name, timeout_ms);
    struct output nothing = {.fd = -1};
    return begun ? finish_command(client, "qmp_capabilities", &nothing, deadline, timeout_ms, NULL, err)
                 : qmp_command(client, "qmp_capabilities", NULL, deadline_left_ms(deadline), NULL, err);
}

static int take(int *socket, const char *name, bool begun, int timeout_ms, struct qmp **client,
                struct error *err)
{
    struct qmp *made = make_client(socket, name);
    if (!made) {
        close(steal_fd(socket));
        return error_set(err, ENOMEM, "out of memory");
    }
    int rc = greet(made, begun, timeout_ms, err);
    if (rc < 0) {
        qmp_free(made);
        return rc;
    }
    *client = made;
    return 0;
}

int qmp_take(int *socket, const char *name, int timeout_ms, struct qmp **client, struct error *err)
{
    return take(socket, name, false, timeout_ms, client, err);
}

int qmp_begin(int socket, struct error *err)
{
    static const char line[] = "{\"execute\":\"qmp_capabilities\",\"id\":\"" FIRST_ID "\"}\n";
    ssize_t sent = send(socket, line, sizeof line - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == (ssize_t)sizeof line - 1)
        return 0;
    int code = sent < 0 ? errno : EIO;
    return error_set(err, code, "talking to a monitor that is to be: %s", strerror(code));
}

int qmp_take_begun(int *socket, const char *name, int timeout_ms, struct qmp **client, struct error *err)
{
    return take(socket, name, true, timeout_ms, client, err);
}

int qmp_connect(const char *path, const char *name, int timeout_ms, struct qmp **client, struct error *err)
{
    int64_t deadline = deadline_in(timeout_ms);
    cleanup_close int fd = -1;
    int rc = unix_socket_connect(path, name, timeout_ms, &fd, err);
    return rc < 0 ? rc : qmp_take(&fd, name, deadline_left_ms(deadline), client, err);
}

void qmp_free(struct qmp *client)
{
    if (!client)
        return;
    qmp_events_clear(client);
    qmp_message_done(&client->answer);
    text_done(&client->input);
    close(client->fd);
    free(client->name);
    free(client);
}

void qmp_cut(struct qmp *client)
{
    shutdown(client->fd, SHUT_RDWR);
}

int qmp_fd(const struct qmp *client)
{
    return client->fd;
}

pid_t qmp_peer(const struct qmp *client)
{
    struct ucred peer = {0};
    socklen_t length = sizeof peer;
    return getsockopt(client->fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.pid > 0 ? peer.pid
                                                                                                : 0;
}

bool qmp_is_dead(const struct qmp *client)
{
    return client->dead;
}

struct qmp_version qmp_version(const struct qmp *client)
{
    return client->version;
}

void qmp_set_explain(struct qmp *client, qmp_explain *explain, void *opaque)
{
    client->explain = explain;
    client->explain_opaque = opaque;
}
