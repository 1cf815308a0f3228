// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * See guest_agent.h. Lines go out whole or break the connection. A line that comes in counts only while one
 * is waited for, and is thrown away before; 0xff begins a line anew on either side.
 */
#include "hypervisor/guest_agent.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "format/json_parse.h"
#include "hypervisor/deadline.h"
#include "hypervisor/qmp_message.h"
#include "hypervisor/unix_socket.h"

#define DEPTH_MAX  16
#define VALUES_MAX 4096
#define RESTART    '\xff'
#define THAW_PART  4 /* of a freeze's time this part is kept for the thaw where it fails */
#define SYNC_BYTES 128

struct guest_agent {
    int fd;
    char *name;
    int broken;        /* the errno that the connection ended with; 0: it has not */
    struct text input; /* what was read, and was not looked at yet */
    size_t garbage;    /* bytes that were thrown away in this call */
};

/* ---- bytes ---- */

static int report(const struct guest_agent *agent, int code, const char *text, struct error *err)
{
    return error_set(err, code, "%s: %s", agent->name, text);
}

static int broken(struct guest_agent *agent, int code, const char *text, struct error *err)
{
    agent->broken = code;
    shutdown(agent->fd, SHUT_RDWR);
    return report(agent, code, text, err);
}

/* Waits for `events`. -ETIMEDOUT without a text. */
static int await(const struct guest_agent *agent, short events, int64_t deadline)
{
    struct pollfd poll_fd = {.fd = agent->fd, .events = events};
    int ready = poll(&poll_fd, 1, deadline_left_ms(deadline));
    if (ready < 0)
        return errno == EINTR ? 0 : -errno;
    return ready == 0 ? -ETIMEDOUT : 0;
}

static int silent(const struct guest_agent *agent, struct error *err)
{
    return report(agent, ETIMEDOUT,
                  "no guest agent answers: it is not running in the guest, hangs, or has another client",
                  err);
}

static int send_line(struct guest_agent *agent, const char *line, int64_t deadline, struct error *err)
{
    size_t length = strlen(line), sent = 0;
    while (sent < length) {
        ssize_t step = send(agent->fd, line + sent, length - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (step >= 0) {
            sent += (size_t)step;
            continue;
        }
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            return broken(agent, errno == EPIPE ? EPIPE : ECONNRESET, "the connection was closed", err);
        int rc = await(agent, POLLOUT, deadline);
        if (rc == -ETIMEDOUT && sent > 0)
            return broken(agent, ETIMEDOUT, "it does not take what it is told", err);
        if (rc < 0)
            return rc == -ETIMEDOUT ? silent(agent, err) : broken(agent, -rc, "it can't be waited for", err);
    }
    return 0;
}

/* Throws away the first `length` bytes of what was read. */
static void consume(struct guest_agent *agent, size_t length)
{
    memmove(agent->input.data, agent->input.data + length, agent->input.length - length);
    agent->input.length -= length;
}

static int throw_away(struct guest_agent *agent, size_t length, struct error *err)
{
    consume(agent, length);
    agent->garbage += length;
    if (agent->garbage > GUEST_AGENT_GARBAGE_BYTES_MAX)
        return broken(agent, EPROTO, "the guest sends what is no answer, and too much of it", err);
    return 0;
}

/*
 * The next line, without its end, at the beginning of agent->input; its length with the end in `*length`, for
 * consume(). What comes before a RESTART is thrown away.
 */
static int next_line(struct guest_agent *agent, int64_t deadline, size_t *length, struct error *err)
{
    for (;;) {
        struct text *input = &agent->input;
        char *end = input->length ? memchr(input->data, '\n', input->length) : NULL;
        size_t line = end ? (size_t)(end - input->data) + 1 : input->length;
        char *restart = line ? memrchr(input->data, RESTART, line) : NULL;
        if (restart) {
            int rc = throw_away(agent, (size_t)(restart - input->data) + 1, err);
            if (rc < 0)
                return rc;
            continue;
        }
        if (line > GUEST_AGENT_LINE_BYTES_MAX)
            return broken(agent, EPROTO, "the guest sent a line that is too long", err);
        if (end) {
            *length = line;
            return 0;
        }
        int rc = deadline_left_ms(deadline) ? await(agent, POLLIN, deadline) : -ETIMEDOUT;
        if (rc < 0)
            return rc == -ETIMEDOUT ? silent(agent, err) : broken(agent, -rc, "it can't be waited for", err);
        char bytes[4096];
        ssize_t got = recv(agent->fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
            continue;
        if (got <= 0)
            return broken(agent, ECONNRESET, "the connection was closed", err);
        text_append(input, bytes, (size_t)got);
        if (input->failed)
            return broken(agent, ENOMEM, "out of memory", err);
    }
}

/* ---- answers ---- */

static int parse(const char *line, size_t length, struct json_object **root)
{
    const struct json_limits limits = {
        .bytes = GUEST_AGENT_LINE_BYTES_MAX, .depth = DEPTH_MAX, .values = VALUES_MAX};
    return json_parse(line, length, &limits, JSON_STANDARD, root, NULL);
}

/* What came before was meant for others, or for calls that had given up: throws it away until the answer to
 * this synchronization comes. */
static int sync_up(struct guest_agent *agent, int64_t deadline, struct error *err)
{
    if (agent->broken)
        return report(agent, agent->broken, "the connection was closed", err);
    int64_t number;
    if (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number)
        return error_set(err, errno, "no random number: %m");
    number &= (INT64_C(1) << 53) - 1; /* any JSON parser gives it back as it is */
    char line[SYNC_BYTES];
    snprintf(line, sizeof line,
             "%c{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%" PRId64 "}}\n", RESTART,
             number);
    agent->garbage = 0;
    int rc = send_line(agent, line, deadline, err);
    while (rc == 0) {
        size_t length;
        rc = next_line(agent, deadline, &length, err);
        if (rc < 0)
            break;
        cleanup_json struct json_object *root = NULL;
        struct json_object *value;
        if (parse(agent->input.data, length, &root) == 0 &&
            json_object_object_get_ex(root, "return", &value) && json_object_is_type(value, json_type_int) &&
            json_object_get_int64(value) == number) {
            consume(agent, length);
            return 0;
        }
        rc = throw_away(agent, length, err);
    }
    return rc;
}

static int refusal(const struct guest_agent *agent, const char *command, struct json_object *error,
                   struct error *err)
{
    struct json_object *class_name = NULL, *text = NULL;
    if (json_object_is_type(error, json_type_object)) {
        json_object_object_get_ex(error, "class", &class_name);
        json_object_object_get_ex(error, "desc", &text);
    }
    const char *said = json_string_of(text) ? json_string_of(text) : "it does not say why";
    char clean[ERROR_TEXT_MAX / 2];
    qmp_clean_text(said, clean, sizeof clean);
    int code = qmp_errno(json_string_of(class_name), said);
    if (strstr(said, "has been disabled"))
        code = EOPNOTSUPP;
    return error_set(err, code, "%s: %s: %s", agent->name, command, clean);
}

/* Sends a command and waits for its answer, in step with the agent. */
static int command(struct guest_agent *agent, const char *name, int64_t deadline, struct json_object **reply,
                   struct error *err)
{
    char line[SYNC_BYTES];
    snprintf(line, sizeof line, "{\"execute\":\"%s\"}\n", name);
    int rc = send_line(agent, line, deadline, err);
    size_t length;
    if (rc == 0)
        rc = next_line(agent, deadline, &length, err);
    if (rc < 0)
        return rc;
    cleanup_json struct json_object *root = NULL;
    rc = parse(agent->input.data, length, &root);
    consume(agent, length);
    struct json_object *value;
    if (rc == 0 && json_object_object_get_ex(root, "return", &value)) {
        *reply = json_object_get(value);
        return 0;
    }
    if (rc == 0 && json_object_object_get_ex(root, "error", &value))
        return refusal(agent, name, value, err);
    return report(agent, EPROTO, "the guest sent what is no answer", err);
}

/* ---- calls ---- */

static int make(int *socket, const char *name, struct guest_agent **agent, struct error *err)
{
    struct guest_agent *made = calloc(1, sizeof *made);
    char *copy = strdup(name);
    if (!made || !copy) {
        free(made);
        free(copy);
        return error_set(err, ENOMEM, "out of memory");
    }
    made->fd = steal_fd(socket);
    made->name = copy;
    *agent = made;
    return 0;
}

int guest_agent_take(int *socket, const char *name, struct guest_agent **agent, struct error *err)
{
    cleanup_close int fd = steal_fd(socket);
    return make(&fd, name, agent, err);
}

int guest_agent_connect(const char *path, const char *name, int timeout_ms, struct guest_agent **agent,
                        struct error *err)
{
    cleanup_close int fd = -1;
    int rc = unix_socket_connect(path, name, timeout_ms, &fd, err);
    return rc < 0 ? rc : make(&fd, name, agent, err);
}

void guest_agent_free(struct guest_agent *agent)
{
    if (!agent)
        return;
    close(agent->fd);
    text_done(&agent->input);
    free(agent->name);
    free(agent);
}

int guest_agent_ping(struct guest_agent *agent, int timeout_ms, struct error *err)
{
    return sync_up(agent, deadline_in(timeout_ms), err);
}

/* In step with the agent. */
static int ask_whether_frozen(struct guest_agent *agent, int64_t deadline, bool *frozen, struct error *err)
{
    cleanup_json struct json_object *reply = NULL;
    int rc = command(agent, "guest-fsfreeze-status", deadline, &reply, err);
    if (rc < 0)
        return rc;
    const char *word = json_string_of(reply);
    if (!word)
        return report(agent, EPROTO, "the guest does not say whether its file systems are frozen", err);
    *frozen = strcmp(word, "thawed") != 0;
    return 0;
}

int guest_agent_is_frozen(struct guest_agent *agent, int timeout_ms, bool *frozen, struct error *err)
{
    int64_t deadline = deadline_in(timeout_ms);
    int rc = sync_up(agent, deadline, err);
    return rc < 0 ? rc : ask_whether_frozen(agent, deadline, frozen, err);
}

static int count_of(const struct guest_agent *agent, struct json_object *reply, unsigned *count,
                    struct error *err)
{
    int64_t number = json_object_is_type(reply, json_type_int) ? json_object_get_int64(reply) : -1;
    if (number < 0 || number > UINT32_MAX)
        return report(agent, EPROTO, "the guest does not say how many file systems it has frozen or thawed",
                      err);
    if (count)
        *count = (unsigned)number;
    return 0;
}

int guest_agent_thaw(struct guest_agent *agent, int timeout_ms, unsigned *count, struct error *err)
{
    int64_t deadline = deadline_in(timeout_ms);
    int rc = sync_up(agent, deadline, err);
    if (rc == -ETIMEDOUT && !agent->broken) {
        /* Better late than never, and harmless where nothing is frozen. */
        send_line(agent, "{\"execute\":\"guest-fsfreeze-thaw\"}\n", deadline, NULL);
        return rc;
    }
    if (rc < 0)
        return rc;
    cleanup_json struct json_object *reply = NULL;
    rc = command(agent, "guest-fsfreeze-thaw", deadline, &reply, err);
    return rc < 0 ? rc : count_of(agent, reply, count, err);
}

int guest_agent_freeze(struct guest_agent *agent, int timeout_ms, unsigned *count, bool *owes_thaw,
                       struct error *err)
{
    *owes_thaw = false;
    int64_t deadline = deadline_in(timeout_ms), freeze_deadline = deadline - timeout_ms / THAW_PART;
    bool frozen = false;
    int rc = sync_up(agent, freeze_deadline, err);
    if (rc == 0)
        rc = ask_whether_frozen(agent, freeze_deadline, &frozen, err);
    if (rc < 0)
        return rc;
    if (frozen)
        return report(agent, EBUSY, "the guest's file systems are frozen already, by somebody else", err);
    cleanup_json struct json_object *reply = NULL;
    rc = command(agent, "guest-fsfreeze-freeze", freeze_deadline, &reply, err);
    if (rc == 0)
        rc = count_of(agent, reply, count, err);
    /* What was sent may be carried out whatever became of the answer, and of the connection. */
    *owes_thaw = rc < 0 && guest_agent_thaw(agent, deadline_left_ms(deadline), NULL, NULL) < 0;
    return rc;
}
