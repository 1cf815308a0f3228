// SPDX-License-Identifier: LGPL-2.1-or-later
/* See restart.h. */
#include "store/restart.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "store/domain_files.h"
#include "store/json_fields.h"
#include "store/replace_file.h"
#include "store/store.h"
#include "store/store_inside.h"

#define BYTES_MAX  (1024 * 1024)
#define VALUES_MAX 65536
#define ENDING     ".restart"

static const char *const state_names[RESTART_STATE_COUNT] = {
    [RESTART_SHUTOFF] = "shutoff", [RESTART_PAUSED] = "paused", [RESTART_RUNNING] = "running"};

void restart_done(struct restart *restart)
{
    for (char **word = restart->launch; word && *word; word++)
        free(*word);
    free(restart->launch);
    free(restart->memory);
    *restart = (struct restart){0};
}

/* ---- Writing ---- */

static const char *word_of(bool value)
{
    return value ? "true" : "false";
}

static void write_json(struct text *text, const struct restart *restart)
{
    text_printf(text,
                "{\"domain\":%" PRIu64 ",\"operation\":%" PRIu64 ",\n \"before\":\"%s\",\"is_saved\":%s,"
                "\"events\":%s,\"pause_before_switchover\":%s,\"bandwidth\":%" PRIu64,
                restart->domain, restart->operation, state_names[restart->before], word_of(restart->is_saved),
                word_of(restart->events), word_of(restart->pause_before_switchover), restart->bandwidth);
    if (restart->memory) {
        text_append_string(text, ",\n \"memory\":");
        json_bytes_write(text, restart->memory);
    }
    if (restart->launch) {
        text_append_string(text, ",\n \"launch\":[");
        for (char **word = restart->launch; *word; word++) {
            text_append_string(text, word == restart->launch ? "" : ",");
            json_bytes_write(text, *word);
        }
        text_append_string(text, "]");
    }
    text_printf(text, ",\n \"after\":\"%s\",\"snapshot\":%" PRIu64 ",\"has_run\":%s}\n",
                state_names[restart->after], restart->snapshot, word_of(restart->has_run));
}

int store_save_restart(struct store *store, const struct restart *restart, struct error *err)
{
    cleanup_text struct text text = {0};
    char name[DOMAIN_FILE_NAME_SIZE];
    if (store_is_read_only(store))
        return error_set(err, EROFS, "the store is only read");
    domain_file_name(name, restart->domain, ENDING);
    write_json(&text, restart);
    if (text.failed)
        return error_set(err, ENOMEM, "out of memory");
    return replace_file(store_domains_directory(store), name, text.data, text.length, err);
}

/* ---- Reading ---- */

static enum restart_state read_state(struct json_fields *fields, struct json_object *from, const char *key)
{
    cleanup_free char *word = json_fields_string_member(fields, from, key);
    for (size_t i = 0; word && i < RESTART_STATE_COUNT; i++)
        if (strcmp(word, state_names[i]) == 0)
            return (enum restart_state)i;
    json_fields_refuse(fields, key, "is no state");
    return RESTART_SHUTOFF;
}

static bool read_bool(struct json_fields *fields, struct json_object *from, const char *key)
{
    return json_object_get_boolean(json_fields_member(fields, from, key, json_type_boolean));
}

static char **read_launch(struct json_fields *fields, struct json_object *from)
{
    struct json_object *list = json_fields_member(fields, from, "launch", json_type_array);
    size_t count = list ? json_object_array_length(list) : 0;
    char **words = calloc(count + 1, sizeof *words);
    if (!words)
        json_fields_refuse(fields, "launch", "is too long");
    for (size_t i = 0; words && i < count && !fields->failed; i++)
        words[i] = json_fields_string(fields, json_object_array_get_idx(list, i), "launch");
    return words;
}

static void read_fields(struct json_fields *fields, struct json_object *from, struct restart *restart)
{
    restart->operation = json_fields_number(fields, from, "operation", SERIAL_HASHED - 1);
    restart->before = read_state(fields, from, "before");
    restart->is_saved = read_bool(fields, from, "is_saved");
    restart->events = read_bool(fields, from, "events");
    restart->pause_before_switchover = read_bool(fields, from, "pause_before_switchover");
    restart->bandwidth = json_fields_number(fields, from, "bandwidth", INT64_MAX);
    if (json_object_object_get_ex(from, "memory", NULL))
        restart->memory = json_fields_string_member(fields, from, "memory");
    if (json_object_object_get_ex(from, "launch", NULL))
        restart->launch = read_launch(fields, from);
    restart->after = read_state(fields, from, "after");
    restart->snapshot = json_fields_number(fields, from, "snapshot", SERIAL_HASHED - 1);
    restart->has_run = read_bool(fields, from, "has_run");
    if (!fields->failed && restart->memory && *restart->memory != '/')
        json_fields_refuse(fields, "memory", "is no absolute path");
}

int store_read_restart(struct store *store, uint64_t domain, struct restart *restart, struct error *err)
{
    static const struct json_limits limits = {.bytes = BYTES_MAX, .depth = 8, .values = VALUES_MAX};
    cleanup_json struct json_object *document = NULL;
    struct restart read = {.domain = domain};
    struct json_fields fields = {.err = err};
    int r = domain_file_read(store_domains_directory(store), domain, ENDING, &limits, &document, err);
    if (r == -ENOENT)
        return r;
    if (r == 0) {
        read_fields(&fields, document, &read);
        r = fields.failed;
    }
    if (r < 0) {
        restart_done(&read);
        error_prefix(err,
                     "what the domain is to go on with (.vmsnapfs/domains/%" PRIu64 ENDING ") can't be read",
                     domain);
        return r;
    }
    *restart = read;
    return 0;
}

int store_remove_restart(struct store *store, uint64_t domain, struct error *err)
{
    return domain_file_remove(store_domains_directory(store), domain, ENDING, err);
}

int store_list_restarts(struct store *store, uint64_t **domains, size_t *count)
{
    return domain_files_list(store_domains_directory(store), ENDING, domains, count);
}
