// SPDX-License-Identifier: LGPL-2.1-or-later
/* See run_state.h. */
#include "hypervisor/run_state.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "hypervisor/deadline.h"
#include "hypervisor/migration.h"
#include "hypervisor/qmp_arguments.h"
#include "hypervisor/qmp_message.h"

const char *run_state_name(enum run_state state)
{
    static const char *const names[] = {
        [RUN_STATE_RUNNING] = "running",     [RUN_STATE_PAUSED] = "paused",
        [RUN_STATE_SHUTOFF] = "shutoff",     [RUN_STATE_SHUTTING_DOWN] = "shutting-down",
        [RUN_STATE_MIGRATING] = "migrating", [RUN_STATE_CRASHED] = "crashed",
    };
    return names[state];
}

enum run_state run_state_of_word(const char *word, bool running)
{
    /* All others, "postmigrate" and "restore-vm" among them, are left by `cont` and stand still until then.
     */
    static const struct {
        const char *word;
        enum run_state state;
    } words[] = {
        {"shutdown", RUN_STATE_SHUTTING_DOWN},   {"inmigrate", RUN_STATE_MIGRATING},
        {"finish-migrate", RUN_STATE_MIGRATING}, {"save-vm", RUN_STATE_MIGRATING},
        {"colo", RUN_STATE_MIGRATING},           {"internal-error", RUN_STATE_CRASHED},
        {"guest-panicked", RUN_STATE_CRASHED},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(word, words[i].word) == 0)
            return words[i].state;
    return running ? RUN_STATE_RUNNING : RUN_STATE_PAUSED;
}

int run_state_query_status(struct qmp *qmp, int timeout_ms, struct run_state_answer *answer,
                           struct error *err)
{
    cleanup_json struct json_object *reply = NULL;
    int rc = qmp_command(qmp, "query-status", NULL, timeout_ms, &reply, err);
    if (rc < 0)
        return rc;
    struct json_object *status = NULL, *running = NULL;
    if (json_object_is_type(reply, json_type_object)) {
        json_object_object_get_ex(reply, "status", &status);
        json_object_object_get_ex(reply, "running", &running);
    }
    const char *word = json_string_of(status);
    if (!word)
        return error_set(err, EPROTO, "query-status gave no status");
    struct run_state_answer made = {
        .running = running ? json_object_get_boolean(running) : strcmp(word, "running") == 0,
    };
    made.state = run_state_of_word(word, made.running);
    qmp_clean_text(word, made.word, sizeof made.word);
    *answer = made;
    return 0;
}

int run_state_query(struct qmp *qmp, int timeout_ms, struct run_state_answer *answer, struct error *err)
{
    struct run_state_answer made;
    int rc = run_state_query_status(qmp, timeout_ms, &made, err);
    if (rc < 0)
        return rc;
    struct migration_status migration;
    rc = migration_query(qmp, timeout_ms, &migration, err);
    if (rc < 0)
        return rc;
    if (migration_is_under_way(&migration))
        made.state = RUN_STATE_MIGRATING;
    else if (strcmp(made.word, "finish-migrate") == 0) /* what comes after it is told by no event */
        made.state = RUN_STATE_PAUSED;
    *answer = made;
    return 0;
}

int run_state_stop(struct qmp *qmp, int timeout_ms, struct error *err)
{
    return qmp_command(qmp, "stop", NULL, timeout_ms, NULL, err);
}

int run_state_continue(struct qmp *qmp, int timeout_ms, struct error *err)
{
    int rc = qmp_command(qmp, "cont", NULL, timeout_ms, NULL, err);
    if (rc < 0)
        return rc;
    /* While memory comes in, or after a wake-up, it is accepted and does nothing yet. */
    struct run_state_answer answer;
    rc = run_state_query_status(qmp, timeout_ms, &answer, err);
    if (rc == 0 && !answer.running)
        rc = error_set(err, EIO, "it does not run after it was continued; QEMU calls its state \"%s\"",
                       answer.word);
    return rc;
}

int run_state_activate_disks(struct qmp *qmp, int timeout_ms, struct error *err)
{
    cleanup_json struct json_object *arguments = json_object_new_object();
    if (!arguments || json_object_object_add(arguments, "active", json_object_new_boolean(true)) < 0)
        return error_set(err, ENOMEM, "out of memory");
    struct error why;
    int rc = qmp_command(qmp, "blockdev-set-active", arguments, timeout_ms, NULL, &why);
    return rc == 0 || rc == -EOPNOTSUPP ? rc : error_set(err, -rc, "its disks stay inactive: %s", why.text);
}

int run_state_has_disks(struct qmp *qmp, int timeout_ms, bool *has_disks, struct error *err)
{
    cleanup_json struct json_object *arguments = json_object_new_object(), *list = NULL;
    qmp_add_bool(&arguments, "flat", true);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    int rc = qmp_command(qmp, "query-named-block-nodes", arguments, timeout_ms, &list, err);
    if (rc < 0)
        return rc;
    if (!json_object_is_type(list, json_type_array))
        return error_set(err, EPROTO, "query-named-block-nodes gave no list");
    size_t count = json_object_array_length(list);
    *has_disks = count > 0;
    for (size_t i = 0; i < count; i++) {
        struct json_object *node = json_object_array_get_idx(list, i), *active = NULL;
        if (json_object_is_type(node, json_type_object))
            json_object_object_get_ex(node, "active", &active);
        *has_disks = *has_disks && json_object_get_boolean(active);
    }
    return 0;
}

int run_state_power_down(struct qmp *qmp, int timeout_ms, struct error *err)
{
    return qmp_command(qmp, "system_powerdown", NULL, timeout_ms, NULL, err);
}

int run_state_reset(struct qmp *qmp, int timeout_ms, struct error *err)
{
    return qmp_command(qmp, "system_reset", NULL, timeout_ms, NULL, err);
}

static bool never(const char *name, struct json_object *data, void *opaque)
{
    return false;
}

int run_state_quit(struct qmp *qmp, int timeout_ms, struct error *err)
{
    int64_t deadline = deadline_in(timeout_ms);
    int rc = qmp_command(qmp, "quit", NULL, timeout_ms, NULL, err);
    if (rc == 0) {
        qmp_events_clear(qmp);
        rc = qmp_event_wait(qmp, never, NULL, deadline_left_ms(deadline), NULL, err);
    }
    if (rc == -ECONNRESET || rc == -EPIPE)
        return 0;
    if (rc == -ETIMEDOUT)
        return qmp_give_up(qmp, ETIMEDOUT, "it was told to end, and has not", err);
    return rc;
}
