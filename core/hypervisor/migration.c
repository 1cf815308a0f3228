// SPDX-License-Identifier: LGPL-2.1-or-later
/* See migration.h. */
#include "hypervisor/migration.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "hypervisor/qmp_arguments.h"
#include "hypervisor/qmp_message.h"

#define ASK_AGAIN_MS 200

#define FD_NAME "vmsnapfs-memory"

static const char EVENTS[] = "events", PAUSE[] = "pause-before-switchover";

static enum migration_phase phase_of(const char *word)
{
    static const struct {
        const char *word;
        enum migration_phase phase;
    } words[] = {
        {"none", MIGRATION_NONE},           {"pre-switchover", MIGRATION_PRE_SWITCHOVER},
        {"device", MIGRATION_SWITCHING},    {"cancelling", MIGRATION_CANCELLING},
        {"completed", MIGRATION_COMPLETED}, {"failed", MIGRATION_FAILED},
        {"cancelled", MIGRATION_CANCELLED},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(word, words[i].word) == 0)
            return words[i].phase;
    return MIGRATION_ACTIVE;
}

int migration_query(struct qmp *qmp, int timeout_ms, struct migration_status *status, struct error *err)
{
    cleanup_json struct json_object *reply = NULL;
    int rc = qmp_command(qmp, "query-migrate", NULL, timeout_ms, &reply, err);
    if (rc < 0)
        return rc;
    if (!json_object_is_type(reply, json_type_object))
        return error_set(err, EPROTO, "query-migrate gave no status");
    struct migration_status made = {.phase = MIGRATION_NONE};
    struct json_object *word = NULL, *memory = NULL, *problem = NULL;
    if (json_object_object_get_ex(reply, "status", &word)) {
        if (!json_string_of(word))
            return error_set(err, EPROTO, "query-migrate gave no status");
        made.phase = phase_of(json_string_of(word));
    }
    if (json_object_object_get_ex(reply, "ram", &memory) && json_object_is_type(memory, json_type_object)) {
        made.done_bytes = json_number_in(memory, "transferred");
        if (__builtin_add_overflow(made.done_bytes, json_number_in(memory, "remaining"), &made.total_bytes))
            made.total_bytes = made.done_bytes;
        made.passes = json_number_in(memory, "dirty-sync-count");
    }
    if (json_object_object_get_ex(reply, "error-desc", &problem) && json_string_of(problem))
        qmp_clean_text(json_string_of(problem), made.problem, sizeof made.problem);
    *status = made;
    return 0;
}

bool migration_is_under_way(const struct migration_status *status)
{
    switch (status->phase) {
    case MIGRATION_ACTIVE:
    case MIGRATION_PRE_SWITCHOVER:
    case MIGRATION_SWITCHING:
    case MIGRATION_CANCELLING:
        return true;
    default:
        return false;
    }
}

static bool is_about_migration(const char *name, struct json_object *data, void *opaque)
{
    return strcmp(name, "MIGRATION") == 0 || strcmp(name, "MIGRATION_PASS") == 0;
}

void migration_await_change(struct qmp *qmp)
{
    int rc = qmp_event_wait(qmp, is_about_migration, NULL, ASK_AGAIN_MS, NULL, NULL);
    while (rc == 0)
        rc = qmp_event_wait(qmp, is_about_migration, NULL, 0, NULL, NULL);
}

int migration_failure(const struct migration_status *status, struct error *err)
{
    const char *why = *status->problem ? status->problem : "QEMU does not say why";
    return error_set(err, qmp_errno(NULL, why), "the transfer of the memory failed: %s", why);
}

/* Of query-migrate-capabilities: sets `*state`, true where that one is there. */
static bool find_capability(struct json_object *list, const char *wanted, bool *state)
{
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *one = json_object_array_get_idx(list, i), *name, *value;
        if (!json_object_is_type(one, json_type_object) ||
            !json_object_object_get_ex(one, "capability", &name) || !json_string_of(name) ||
            strcmp(json_string_of(name), wanted) != 0)
            continue;
        if (!json_object_object_get_ex(one, "state", &value) ||
            !json_object_is_type(value, json_type_boolean))
            return false;
        *state = json_object_get_boolean(value);
        return true;
    }
    return false;
}

int migration_settings_query(struct qmp *qmp, int timeout_ms, struct migration_settings *settings,
                             struct error *err)
{
    cleanup_json struct json_object *list = NULL, *parameters = NULL;
    int rc = qmp_command(qmp, "query-migrate-capabilities", NULL, timeout_ms, &list, err);
    if (rc == 0)
        rc = qmp_command(qmp, "query-migrate-parameters", NULL, timeout_ms, &parameters, err);
    if (rc < 0)
        return rc;
    if (!json_object_is_type(list, json_type_array) || !json_object_is_type(parameters, json_type_object))
        return error_set(err, EPROTO, "QEMU does not tell how it migrates");
    struct migration_settings made = {0};
    struct json_object *bandwidth = NULL;
    json_object_object_get_ex(parameters, "max-bandwidth", &bandwidth);
    if (!find_capability(list, EVENTS, &made.events) ||
        !find_capability(list, PAUSE, &made.pause_before_switchover) ||
        !json_object_is_type(bandwidth, json_type_int))
        return error_set(err, EOPNOTSUPP, "this QEMU can't save memory at the same instant as disks");
    made.max_bandwidth = json_object_get_int64(bandwidth);
    *settings = made;
    return 0;
}

static void append_capability(struct json_object **list, const char *name, bool state)
{
    struct json_object *one = json_object_new_object();
    qmp_add_string(&one, "capability", name);
    qmp_add_bool(&one, "state", state);
    qmp_append(list, one);
}

int migration_settings_apply(struct qmp *qmp, const struct migration_settings *settings, int timeout_ms,
                             struct error *err)
{
    struct json_object *list = json_object_new_array();
    append_capability(&list, EVENTS, settings->events);
    append_capability(&list, PAUSE, settings->pause_before_switchover);
    cleanup_json struct json_object *capabilities = json_object_new_object();
    qmp_add(&capabilities, "capabilities", list);
    cleanup_json struct json_object *parameters = json_object_new_object();
    qmp_add(&parameters, "max-bandwidth", json_object_new_int64(settings->max_bandwidth));
    if (!capabilities || !parameters)
        return error_set(err, ENOMEM, "out of memory");
    int rc = 0;
    /* While the bandwidth is ours, so is the pause: who looks after a crash sees by it that something is
     * left. */
    if (!settings->pause_before_switchover)
        rc = qmp_command(qmp, "migrate-set-parameters", parameters, timeout_ms, NULL, err);
    if (rc == 0)
        rc = qmp_command(qmp, "migrate-set-capabilities", capabilities, timeout_ms, NULL, err);
    if (rc == 0 && settings->pause_before_switchover)
        rc = qmp_command(qmp, "migrate-set-parameters", parameters, timeout_ms, NULL, err);
    return rc;
}

int migration_start(struct qmp *qmp, const char *command, int fd, int timeout_ms, struct error *err)
{
    cleanup_json struct json_object *name = json_object_new_object(), *uri = json_object_new_object();
    qmp_add_string(&name, "fdname", FD_NAME);
    qmp_add_string(&uri, "uri", "fd:" FD_NAME);
    if (!name || !uri)
        return error_set(err, ENOMEM, "out of memory");
    int rc = qmp_command_fd(qmp, "getfd", name, fd, timeout_ms, NULL, err);
    if (rc < 0)
        return rc;
    struct error why = {0};
    rc = qmp_command(qmp, command, uri, timeout_ms, NULL, &why);
    if (rc == 0)
        return 0;
    if (!qmp_is_dead(qmp))
        qmp_command(qmp, "closefd", name, timeout_ms, NULL, NULL);
    /* QEMU names the device that can't, and has no word of its own for it. */
    int code = why.code == EIO && strstr(why.text, "non-migratable") ? EOPNOTSUPP : why.code;
    return error_set(err, code, "%s", why.text);
}
