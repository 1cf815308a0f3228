// SPDX-License-Identifier: LGPL-2.1-or-later
/* A domain's state as JSON; see state_json.h. */
#include "store/state_json.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "domain/name.h"
#include "format/json_parse.h"

/* A few disks of 65536 snapshots, with all that is kept of each. */
#define VALUES_MAX (16 * 1024 * 1024)

/* ---- Writing ---- */

static bool is_utf8(const char *string)
{
    uint32_t code;
    for (size_t left = strlen(string), step; left; left -= step, string += step) {
        step = utf8_decode(string, left, &code);
        if (step == 0)
            return false;
    }
    return true;
}

static void write_string(struct text *text, const char *string)
{
    if (!is_utf8(string)) {
        text_append_string(text, "{\"hex\":\"");
        for (const char *at = string; *at; at++)
            text_printf(text, "%02x", (unsigned char)*at);
        text_append_string(text, "\"}");
        return;
    }
    text_append_string(text, "\"");
    for (const char *at = string; *at; at++) {
        if (*at == '"' || *at == '\\')
            text_printf(text, "\\%c", *at);
        else if ((unsigned char)*at < 0x20)
            text_printf(text, "\\u%04x", (unsigned char)*at);
        else
            text_append(text, at, 1);
    }
    text_append_string(text, "\"");
}

static void write_identity(struct text *text, const char *key, const struct file_identity *identity)
{
    text_printf(text,
                ",\n     \"%s\":{\"device\":%" PRIu64 ",\"inode\":%" PRIu64 ",\"size\":%" PRIu64
                ",\"mtime_sec\":%" PRId64 ",\"mtime_nsec\":%" PRIu32 "}",
                key, identity->device, identity->inode, identity->size, identity->mtime_sec,
                identity->mtime_nsec);
}

static void write_frozen(struct text *text, const struct state_frozen *frozen)
{
    text_append_string(text, "\n    {\"target\":");
    write_string(text, frozen->target);
    text_printf(text, ",\"position\":%u,\"layer\":", frozen->position);
    write_string(text, frozen->layer);
    if (frozen->allocated != ALLOCATED_UNKNOWN)
        text_printf(text, ",\"allocated\":%" PRIu64, frozen->allocated);
    if (frozen->internal) {
        text_append_string(text, ",\"internal\":{\"id\":");
        write_string(text, frozen->internal_id);
        text_printf(text,
                    ",\"l1_table_offset\":%" PRIu64 ",\"date_sec\":%" PRIu32 ",\"date_nsec\":%" PRIu32 "}",
                    frozen->l1_table_offset, frozen->date_sec, frozen->date_nsec);
    } else {
        write_identity(text, "layer_identity", &frozen->layer_identity);
        if (frozen->data_identity.inode)
            write_identity(text, "data_identity", &frozen->data_identity);
        write_identity(text, "overlay_identity", &frozen->overlay_identity);
        text_append_string(text, frozen->is_settled ? ",\"settled\":true" : "");
    }
    text_append_string(text, "}");
}

void state_json_write(struct text *text, const struct state_domain *state)
{
    text_printf(text, "{\"serial\":%" PRIu64 ",\n \"name\":", state->serial);
    write_string(text, state->name);
    if (state->uuid) {
        text_append_string(text, ",\n \"uuid\":");
        write_string(text, state->uuid);
    }
    text_append_string(text, ",\n \"files\":[");
    for (size_t i = 0; state->files && state->files[i]; i++) {
        text_append_string(text, i ? "," : "");
        write_string(text, state->files[i]);
    }
    text_append_string(text, "],\n \"disks\":[");
    for (size_t i = 0; i < state->disk_count; i++) {
        text_printf(text, "%s{\"position\":%u,\"target\":", i ? "," : "", state->disks[i].position);
        write_string(text, state->disks[i].target);
        text_append_string(text, "}");
    }
    text_append_string(text, "],\n \"snapshots\":[");
    for (size_t i = 0; i < state->snapshot_count; i++) {
        const struct state_snapshot *snapshot = &state->snapshots[i];
        text_printf(text, "%s\n  {\"serial\":%" PRIu64 ",\"name\":", i ? "," : "", snapshot->serial);
        write_string(text, snapshot->name);
        text_append_string(text, ",\"frozen\":[");
        for (size_t j = 0; j < snapshot->frozen_count; j++) {
            text_append_string(text, j ? "," : "");
            write_frozen(text, &snapshot->frozen[j]);
        }
        text_append_string(text, "]}");
    }
    text_append_string(text, "]}\n");
}

/* ---- Reading ---- */

/* Where reading stands: the first thing that was wrong is kept, and the rest falls through. */
struct reading {
    int failed; /* 0 or a negative errno */
    struct error *err;
};

static void refuse(struct reading *reading, const char *key, const char *what)
{
    if (!reading->failed)
        reading->failed = error_set(reading->err, EINVAL, "\"%s\" %s", key, what);
}

static struct json_object *member(struct reading *reading, struct json_object *object, const char *key,
                                  json_type type)
{
    struct json_object *value;
    if (reading->failed)
        return NULL;
    if (!json_object_is_type(object, json_type_object) || !json_object_object_get_ex(object, key, &value)) {
        refuse(reading, key, "is missing");
        return NULL;
    }
    if (!json_object_is_type(value, type)) {
        refuse(reading, key, "has a wrong type");
        return NULL;
    }
    return value;
}

static uint64_t number(struct reading *reading, struct json_object *object, const char *key, uint64_t max)
{
    struct json_object *value = member(reading, object, key, json_type_int);
    if (!value)
        return 0;
    /* json-c gives 0 for a negative number asked for as an unsigned one. */
    if (json_object_get_int64(value) < 0 || json_object_get_uint64(value) > max) {
        refuse(reading, key, "is out of range");
        return 0;
    }
    return json_object_get_uint64(value);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The string that `value` stands for; NULL, and refused, where it is none. */
static char *read_string(struct reading *reading, struct json_object *value, const char *key)
{
    struct json_object *hex = NULL;
    bool coded =
        json_object_is_type(value, json_type_object) && json_object_object_get_ex(value, "hex", &hex);
    struct json_object *from = coded ? hex : value;
    if (!json_object_is_type(from, json_type_string)) {
        refuse(reading, key, "is no string");
        return NULL;
    }
    const char *bytes = json_object_get_string(from);
    size_t length = (size_t)json_object_get_string_len(from);
    cleanup_free char *string = calloc(length + 1, 1);
    if (!string) {
        reading->failed = error_set(reading->err, ENOMEM, "%s", strerror(ENOMEM));
        return NULL;
    }
    if (!coded)
        memcpy(string, bytes, length);
    for (size_t i = 0; coded && i < length; i += 2) {
        int high = hex_digit(bytes[i]), low = hex_digit(bytes[i + 1]); /* there is a zero byte at the end */
        if (high < 0 || low < 0) {
            refuse(reading, key, "is no pairs of hex digits");
            return NULL;
        }
        string[i / 2] = (char)(high << 4 | low);
    }
    if (strlen(string) != (coded ? length / 2 : length)) {
        refuse(reading, key, "holds a zero byte");
        return NULL;
    }
    return steal_pointer(string);
}

static char *string_member(struct reading *reading, struct json_object *object, const char *key)
{
    struct json_object *value;
    if (reading->failed)
        return NULL;
    if (!json_object_object_get_ex(object, key, &value)) {
        refuse(reading, key, "is missing");
        return NULL;
    }
    return read_string(reading, value, key);
}

static char *name_member(struct reading *reading, struct json_object *object, const char *key)
{
    cleanup_free char *name = string_member(reading, object, key);
    if (name && !name_is_legal(name, strlen(name), NULL)) {
        refuse(reading, key, "is no legal name");
        return NULL;
    }
    return steal_pointer(name);
}

/* An array of `size` bytes for each element of the list; NULL, and `*count` 0, where it is empty. */
static void *array_member(struct reading *reading, struct json_object *object, const char *key, size_t size,
                          struct json_object **list, size_t *count)
{
    *count = 0;
    *list = member(reading, object, key, json_type_array);
    size_t length = *list ? json_object_array_length(*list) : 0;
    if (length == 0)
        return NULL;
    void *array = calloc(length, size);
    if (!array) {
        reading->failed = error_set(reading->err, ENOMEM, "%s", strerror(ENOMEM));
        return NULL;
    }
    *count = length;
    return array;
}

static struct file_identity identity_member(struct reading *reading, struct json_object *object,
                                            const char *key)
{
    struct file_identity identity = {0};
    struct json_object *from = member(reading, object, key, json_type_object);
    if (!from)
        return identity;
    identity.device = number(reading, from, "device", UINT64_MAX);
    identity.inode = number(reading, from, "inode", UINT64_MAX);
    identity.size = number(reading, from, "size", UINT64_MAX);
    struct json_object *seconds = member(reading, from, "mtime_sec", json_type_int); /* may be negative */
    identity.mtime_sec = seconds ? json_object_get_int64(seconds) : 0;
    identity.mtime_nsec = (uint32_t)number(reading, from, "mtime_nsec", 999999999);
    return identity;
}

static void read_frozen(struct reading *reading, struct json_object *from, struct state_frozen *frozen)
{
    struct json_object *internal;
    frozen->allocated = ALLOCATED_UNKNOWN;
    if (!json_object_is_type(from, json_type_object)) {
        refuse(reading, "frozen", "holds what is no object");
        return;
    }
    frozen->target = name_member(reading, from, "target");
    frozen->position = (unsigned)number(reading, from, "position", DOMAIN_DISKS_MAX - 1);
    frozen->layer = string_member(reading, from, "layer");
    if (json_object_object_get_ex(from, "allocated", NULL))
        frozen->allocated = number(reading, from, "allocated", UINT64_MAX);
    if (json_object_object_get_ex(from, "internal", &internal)) {
        frozen->internal = true;
        frozen->internal_id = string_member(reading, internal, "id");
        frozen->l1_table_offset = number(reading, internal, "l1_table_offset", UINT64_MAX);
        frozen->date_sec = (uint32_t)number(reading, internal, "date_sec", UINT32_MAX);
        frozen->date_nsec = (uint32_t)number(reading, internal, "date_nsec", UINT32_MAX);
    } else {
        frozen->layer_identity = identity_member(reading, from, "layer_identity");
        if (json_object_object_get_ex(from, "data_identity", NULL))
            frozen->data_identity = identity_member(reading, from, "data_identity");
        frozen->overlay_identity = identity_member(reading, from, "overlay_identity");
        struct json_object *settled;
        frozen->is_settled =
            json_object_object_get_ex(from, "settled", &settled) && json_object_get_boolean(settled);
    }
}

static void read_snapshot(struct reading *reading, struct json_object *from, struct state_snapshot *snapshot)
{
    struct json_object *list;
    snapshot->serial = number(reading, from, "serial", (UINT64_C(1) << SERIAL_BITS) - 1);
    snapshot->name = name_member(reading, from, "name");
    snapshot->frozen =
        array_member(reading, from, "frozen", sizeof *snapshot->frozen, &list, &snapshot->frozen_count);
    for (size_t i = 0; i < snapshot->frozen_count; i++)
        read_frozen(reading, json_object_array_get_idx(list, i), &snapshot->frozen[i]);
}

static void read_disks(struct reading *reading, struct json_object *from, struct state_domain *state)
{
    struct json_object *list;
    bool used[DOMAIN_DISKS_MAX] = {false};
    state->disks = array_member(reading, from, "disks", sizeof *state->disks, &list, &state->disk_count);
    for (size_t i = 0; i < state->disk_count; i++) {
        struct json_object *disk = json_object_array_get_idx(list, i);
        state->disks[i].position = (unsigned)number(reading, disk, "position", DOMAIN_DISKS_MAX - 1);
        state->disks[i].target = name_member(reading, disk, "target");
        if (!reading->failed && used[state->disks[i].position])
            refuse(reading, "position", "is given to two disks");
        used[state->disks[i].position] = true;
    }
}

static void read_domain(struct reading *reading, struct json_object *from, struct state_domain *state)
{
    struct json_object *list;
    size_t count;
    state->serial = number(reading, from, "serial", SERIAL_HASHED - 1);
    state->name = name_member(reading, from, "name");
    if (!reading->failed && json_object_object_get_ex(from, "uuid", NULL))
        state->uuid = string_member(reading, from, "uuid");
    read_disks(reading, from, state);

    state->files = array_member(reading, from, "files", sizeof *state->files, &list, &count);
    if (count) {
        char **grown = realloc(state->files, (count + 1) * sizeof *state->files);
        if (!grown) {
            reading->failed = error_set(reading->err, ENOMEM, "%s", strerror(ENOMEM));
            return;
        }
        state->files = grown;
        state->files[count] = NULL;
        for (size_t i = 0; i < count && !reading->failed; i++)
            state->files[i] = read_string(reading, json_object_array_get_idx(list, i), "files");
    }
    state->snapshots =
        array_member(reading, from, "snapshots", sizeof *state->snapshots, &list, &state->snapshot_count);
    for (size_t i = 0; i < state->snapshot_count; i++)
        read_snapshot(reading, json_object_array_get_idx(list, i), &state->snapshots[i]);
}

static void state_free_(struct state_domain **state)
{
    state_domain_free(*state);
}

int state_json_read(const char *bytes, size_t length, struct state_domain **state, struct error *err)
{
    static const struct json_limits limits = {.bytes = STATE_BYTES_MAX, .depth = 8, .values = VALUES_MAX};
    cleanup_json struct json_object *document = NULL;
    int r = json_parse(bytes, length, &limits, JSON_STANDARD, &document, err);
    if (r < 0)
        return r;
    cleanup(state_free_) struct state_domain *made = calloc(1, sizeof *made);
    if (!made)
        return error_set(err, ENOMEM, "%s", strerror(ENOMEM));
    struct reading reading = {.err = err};
    read_domain(&reading, document, made);
    if (reading.failed)
        return reading.failed;
    *state = steal_pointer(made);
    return 0;
}
