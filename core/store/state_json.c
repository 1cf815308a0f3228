// SPDX-License-Identifier: LGPL-2.1-or-later
/* A domain's state as JSON; see state_json.h. */
#include "store/state_json.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "domain/name.h"
#include "format/json_parse.h"
#include "store/json_fields.h"

/* A few disks of 65536 snapshots, with all that is kept of each. */
#define VALUES_MAX (16 * 1024 * 1024)

/* ---- Writing ---- */

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
    json_bytes_write(text, frozen->target);
    text_printf(text, ",\"position\":%u,\"layer\":", frozen->position);
    json_bytes_write(text, frozen->layer);
    if (frozen->allocated != ALLOCATED_UNKNOWN)
        text_printf(text, ",\"allocated\":%" PRIu64, frozen->allocated);
    if (frozen->internal) {
        text_append_string(text, ",\"internal\":{\"id\":");
        json_bytes_write(text, frozen->internal_id);
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
    json_bytes_write(text, state->name);
    if (state->uuid) {
        text_append_string(text, ",\n \"uuid\":");
        json_bytes_write(text, state->uuid);
    }
    text_append_string(text, ",\n \"files\":[");
    for (size_t i = 0; state->files && state->files[i]; i++) {
        text_append_string(text, i ? "," : "");
        json_bytes_write(text, state->files[i]);
    }
    text_append_string(text, "],\n \"disks\":[");
    for (size_t i = 0; i < state->disk_count; i++) {
        text_printf(text, "%s{\"position\":%u,\"target\":", i ? "," : "", state->disks[i].position);
        json_bytes_write(text, state->disks[i].target);
        text_append_string(text, "}");
    }
    text_append_string(text, "],\n \"snapshots\":[");
    for (size_t i = 0; i < state->snapshot_count; i++) {
        const struct state_snapshot *snapshot = &state->snapshots[i];
        text_printf(text, "%s\n  {\"serial\":%" PRIu64 ",\"name\":", i ? "," : "", snapshot->serial);
        json_bytes_write(text, snapshot->name);
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

static char *name_member(struct json_fields *fields, struct json_object *object, const char *key)
{
    cleanup_free char *name = json_fields_string_member(fields, object, key);
    if (name && !name_is_legal(name, strlen(name), NULL)) {
        json_fields_refuse(fields, key, "is no legal name");
        return NULL;
    }
    return steal_pointer(name);
}

static struct file_identity identity_member(struct json_fields *fields, struct json_object *object,
                                            const char *key)
{
    struct file_identity identity = {0};
    struct json_object *from = json_fields_member(fields, object, key, json_type_object);
    if (!from)
        return identity;
    identity.device = json_fields_number(fields, from, "device", UINT64_MAX);
    identity.inode = json_fields_number(fields, from, "inode", UINT64_MAX);
    identity.size = json_fields_number(fields, from, "size", UINT64_MAX);
    struct json_object *seconds =
        json_fields_member(fields, from, "mtime_sec", json_type_int); /* may be negative */
    identity.mtime_sec = seconds ? json_object_get_int64(seconds) : 0;
    identity.mtime_nsec = (uint32_t)json_fields_number(fields, from, "mtime_nsec", 999999999);
    return identity;
}

static void read_frozen(struct json_fields *fields, struct json_object *from, struct state_frozen *frozen)
{
    struct json_object *internal;
    frozen->allocated = ALLOCATED_UNKNOWN;
    if (!json_object_is_type(from, json_type_object)) {
        json_fields_refuse(fields, "frozen", "holds what is no object");
        return;
    }
    frozen->target = name_member(fields, from, "target");
    frozen->position = (unsigned)json_fields_number(fields, from, "position", DOMAIN_DISKS_MAX - 1);
    frozen->layer = json_fields_string_member(fields, from, "layer");
    if (json_object_object_get_ex(from, "allocated", NULL))
        frozen->allocated = json_fields_number(fields, from, "allocated", UINT64_MAX);
    if (json_object_object_get_ex(from, "internal", &internal)) {
        frozen->internal = true;
        frozen->internal_id = json_fields_string_member(fields, internal, "id");
        frozen->l1_table_offset = json_fields_number(fields, internal, "l1_table_offset", UINT64_MAX);
        frozen->date_sec = (uint32_t)json_fields_number(fields, internal, "date_sec", UINT32_MAX);
        frozen->date_nsec = (uint32_t)json_fields_number(fields, internal, "date_nsec", UINT32_MAX);
    } else {
        frozen->layer_identity = identity_member(fields, from, "layer_identity");
        if (json_object_object_get_ex(from, "data_identity", NULL))
            frozen->data_identity = identity_member(fields, from, "data_identity");
        frozen->overlay_identity = identity_member(fields, from, "overlay_identity");
        struct json_object *settled;
        frozen->is_settled =
            json_object_object_get_ex(from, "settled", &settled) && json_object_get_boolean(settled);
    }
}

static void read_snapshot(struct json_fields *fields, struct json_object *from,
                          struct state_snapshot *snapshot)
{
    struct json_object *list;
    snapshot->serial = json_fields_number(fields, from, "serial", (UINT64_C(1) << SERIAL_BITS) - 1);
    snapshot->name = name_member(fields, from, "name");
    snapshot->frozen = json_fields_array_member(fields, from, "frozen", sizeof *snapshot->frozen, &list,
                                                &snapshot->frozen_count);
    for (size_t i = 0; i < snapshot->frozen_count; i++)
        read_frozen(fields, json_object_array_get_idx(list, i), &snapshot->frozen[i]);
}

static void read_disks(struct json_fields *fields, struct json_object *from, struct state_domain *state)
{
    struct json_object *list;
    bool used[DOMAIN_DISKS_MAX] = {false};
    state->disks =
        json_fields_array_member(fields, from, "disks", sizeof *state->disks, &list, &state->disk_count);
    for (size_t i = 0; i < state->disk_count; i++) {
        struct json_object *disk = json_object_array_get_idx(list, i);
        state->disks[i].position =
            (unsigned)json_fields_number(fields, disk, "position", DOMAIN_DISKS_MAX - 1);
        state->disks[i].target = name_member(fields, disk, "target");
        if (!fields->failed && used[state->disks[i].position])
            json_fields_refuse(fields, "position", "is given to two disks");
        used[state->disks[i].position] = true;
    }
}

static void read_domain(struct json_fields *fields, struct json_object *from, struct state_domain *state)
{
    struct json_object *list;
    size_t count;
    state->serial = json_fields_number(fields, from, "serial", SERIAL_HASHED - 1);
    state->name = name_member(fields, from, "name");
    if (!fields->failed && json_object_object_get_ex(from, "uuid", NULL))
        state->uuid = json_fields_string_member(fields, from, "uuid");
    read_disks(fields, from, state);

    state->files = json_fields_array_member(fields, from, "files", sizeof *state->files, &list, &count);
    if (count) {
        char **grown = realloc(state->files, (count + 1) * sizeof *state->files);
        if (!grown) {
            fields->failed = error_set(fields->err, ENOMEM, "%s", strerror(ENOMEM));
            return;
        }
        state->files = grown;
        state->files[count] = NULL;
        for (size_t i = 0; i < count && !fields->failed; i++)
            state->files[i] = json_fields_string(fields, json_object_array_get_idx(list, i), "files");
    }
    state->snapshots = json_fields_array_member(fields, from, "snapshots", sizeof *state->snapshots, &list,
                                                &state->snapshot_count);
    for (size_t i = 0; i < state->snapshot_count; i++)
        read_snapshot(fields, json_object_array_get_idx(list, i), &state->snapshots[i]);
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
    struct json_fields fields = {.err = err};
    read_domain(&fields, document, made);
    if (fields.failed)
        return fields.failed;
    *state = steal_pointer(made);
    return 0;
}
