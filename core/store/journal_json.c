// SPDX-License-Identifier: LGPL-2.1-or-later
/* An operation as JSON; see journal_json.h. */
#include "store/journal_json.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "format/json_parse.h"
#include "store/json_fields.h"
#include "store/store.h"

#define VERSION 1

/* Each step takes an object, a list and two for each argument that is no UTF-8, counted generously. */
#define VALUES_MAX (JOURNAL_STEPS_MAX * (3 * JOURNAL_ARGUMENTS_MAX + 8) + 64)

#define CHECKSUM_FORMAT ",\n \"checksum\": \"%016" PRIx64 "\"}\n"
#define CHECKSUM_LENGTH (sizeof ",\n \"checksum\": \"0123456789abcdef\"}\n" - 1)

/* ---- Writing ---- */

static void write_step(struct text *text, const struct journal_step *step)
{
    text_append_string(text, "\n  {\"type\": ");
    json_bytes_write(text, step->type);
    text_append_string(text, ", \"arguments\": [");
    for (size_t i = 0; i < step->argument_count; i++) {
        text_append_string(text, i ? ", " : "");
        if (step->arguments[i].string)
            json_bytes_write(text, step->arguments[i].string);
        else
            text_printf(text, "%" PRIu64, step->arguments[i].number);
    }
    text_append_string(text, "]}");
}

void journal_json_write(struct text *text, const struct journal_record *record)
{
    size_t start = text->length;
    text_printf(text, "{\"version\": %d,\n \"domain\": %" PRIu64 ",\n", VERSION, record->domain);
    if (record->uuid) {
        text_append_string(text, " \"uuid\": ");
        json_bytes_write(text, record->uuid);
        text_append_string(text, ",\n");
    }
    text_printf(text, " \"serial\": %" PRIu64 ",\n \"kind\": ", record->serial);
    json_bytes_write(text, record->kind);
    text_printf(text, ",\n \"request\": {\"mount\": %" PRIu64 ", \"id\": %" PRIu64 "},\n",
                record->request.mount, record->request.id);
    text_printf(text, " \"commit\": %zu,\n \"next\": %zu,\n \"steps\": [", record->commit, record->next);
    for (size_t i = 0; i < record->step_count; i++) {
        text_append_string(text, i ? "," : "");
        write_step(text, &record->steps[i]);
    }
    text_append_string(text, "]");
    if (record->is_concluded)
        text_printf(text, ",\n \"outcome\": {\"code\": %d, \"value\": %" PRIu64 "}", record->code,
                    record->value);
    if (!text->failed)
        text_printf(text, CHECKSUM_FORMAT, hash_bytes(HASH_START, text->data + start, text->length - start));
}

/* ---- Reading ---- */

static char *word_member(struct json_fields *fields, struct json_object *object, const char *key)
{
    cleanup_free char *word = json_fields_string_member(fields, object, key);
    if (!word)
        return NULL;
    size_t length = strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789-");
    if (word[length] || length == 0 || length > JOURNAL_WORD_MAX) {
        json_fields_refuse(fields, key, "is no word of lower-case letters, digits and hyphens");
        return NULL;
    }
    return steal_pointer(word);
}

static void read_argument(struct json_fields *fields, struct json_object *from,
                          struct journal_argument *argument)
{
    if (json_object_is_type(from, json_type_int)) {
        if (json_object_get_int64(from) < 0)
            json_fields_refuse(fields, "arguments", "holds a negative number");
        argument->number = json_object_get_uint64(from);
        return;
    }
    argument->string = json_fields_string(fields, from, "arguments");
    if (argument->string && strlen(argument->string) > JOURNAL_STRING_MAX)
        json_fields_refuse(fields, "arguments", "holds a string that is too long");
}

static void read_step(struct json_fields *fields, struct json_object *from, struct journal_step *step)
{
    struct json_object *list;
    step->type = word_member(fields, from, "type");
    step->arguments = json_fields_array_member(fields, from, "arguments", sizeof *step->arguments, &list,
                                               &step->argument_count);
    if (step->argument_count > JOURNAL_ARGUMENTS_MAX)
        json_fields_refuse(fields, "arguments", "is too long");
    for (size_t i = 0; i < step->argument_count && !fields->failed; i++)
        read_argument(fields, json_object_array_get_idx(list, i), &step->arguments[i]);
}

static void read_outcome(struct json_fields *fields, struct json_object *from, struct journal_record *record)
{
    if (!json_object_object_get_ex(from, "outcome", NULL))
        return;
    struct json_object *outcome = json_fields_member(fields, from, "outcome", json_type_object);
    record->is_concluded = true;
    record->code = (int)json_fields_number(fields, outcome, "code", JOURNAL_CODE_MAX);
    record->value = json_fields_number(fields, outcome, "value", UINT64_MAX);
    if (!fields->failed && (record->code == 0) != (record->next > record->commit))
        json_fields_refuse(fields, "outcome", "does not fit to the steps that are done");
}

static void read_record(struct json_fields *fields, struct json_object *from, struct journal_record *record)
{
    struct json_object *list;
    record->domain = json_fields_number(fields, from, "domain", SERIAL_HASHED - 1);
    if (!fields->failed && record->domain == 0)
        json_fields_refuse(fields, "domain", "is 0");
    if (!fields->failed && json_object_object_get_ex(from, "uuid", NULL))
        record->uuid = json_fields_string_member(fields, from, "uuid");
    if (record->uuid && strlen(record->uuid) > JOURNAL_WORD_MAX)
        json_fields_refuse(fields, "uuid", "is too long");
    record->serial = json_fields_number(fields, from, "serial", SERIAL_HASHED - 1);
    record->kind = word_member(fields, from, "kind");
    struct json_object *request = json_fields_member(fields, from, "request", json_type_object);
    record->request.mount = json_fields_number(fields, request, "mount", UINT64_MAX);
    record->request.id = json_fields_number(fields, request, "id", UINT64_MAX);
    record->steps =
        json_fields_array_member(fields, from, "steps", sizeof *record->steps, &list, &record->step_count);
    if (record->step_count == 0 || record->step_count > JOURNAL_STEPS_MAX)
        json_fields_refuse(fields, "steps", record->step_count ? "is too long" : "is empty");
    for (size_t i = 0; i < record->step_count && !fields->failed; i++)
        read_step(fields, json_object_array_get_idx(list, i), &record->steps[i]);
    record->commit = json_fields_number(fields, from, "commit", record->step_count - 1);
    record->next = json_fields_number(fields, from, "next", record->step_count);
    if (!fields->failed)
        read_outcome(fields, from, record);
}

static int check_version(struct json_object *document, struct error *err)
{
    struct json_fields fields = {.err = err};
    uint64_t version = json_fields_number(&fields, document, "version", UINT64_MAX);
    if (fields.failed)
        return fields.failed;
    if (version > VERSION)
        return error_set(err, ENOTSUP, "it was written by a newer vmsnapfs (format %" PRIu64 ")", version);
    return version == VERSION ? 0 : error_set(err, EINVAL, "\"version\" is 0");
}

static int check_sum(const char *bytes, size_t length, struct error *err)
{
    char expected[CHECKSUM_LENGTH + 1];
    size_t body = length < CHECKSUM_LENGTH ? 0 : length - CHECKSUM_LENGTH;
    snprintf(expected, sizeof expected, CHECKSUM_FORMAT, hash_bytes(HASH_START, bytes, body));
    if (body == 0 || memcmp(bytes + body, expected, CHECKSUM_LENGTH) != 0)
        return error_set(err, EINVAL, "its checksum is wrong");
    return 0;
}

int journal_json_read(const char *bytes, size_t length, struct journal_record *record, struct error *err)
{
    static const struct json_limits limits = {.bytes = JOURNAL_BYTES_MAX, .depth = 8, .values = VALUES_MAX};
    cleanup_json struct json_object *document = NULL;
    int r = json_parse(bytes, length, &limits, JSON_STANDARD, &document, err);
    if (r == 0)
        r = check_version(document, err);
    if (r == 0)
        r = check_sum(bytes, length, err);
    if (r < 0)
        return r;
    cleanup(journal_record_done) struct journal_record made = {0};
    struct json_fields fields = {.err = err};
    read_record(&fields, document, &made);
    if (fields.failed)
        return fields.failed;
    *record = made;
    made = (struct journal_record){0};
    return 0;
}

void journal_record_done(struct journal_record *record)
{
    for (size_t i = 0; i < record->step_count; i++) {
        struct journal_step *step = &record->steps[i];
        for (size_t j = 0; j < step->argument_count; j++)
            free((char *)step->arguments[j].string);
        free(step->arguments);
        free((char *)step->type);
    }
    free(record->steps);
    free((char *)record->uuid);
    free((char *)record->kind);
    *record = (struct journal_record){0};
}
