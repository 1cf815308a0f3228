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

#define SERIAL_MAX ((UINT64_C(1) << SERIAL_BITS) - 1)

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

static void write_frozen_list(struct text *text, const struct state_frozen *list, size_t count)
{
    text_append_string(text, "[");
    for (size_t i = 0; i < count; i++) {
        text_append_string(text, i ? "," : "");
        write_frozen(text, &list[i]);
    }
    text_append_string(text, "]");
}

static void write_paths(struct text *text, const char *key, char *const *paths)
{
    text_printf(text, "\"%s\":[", key);
    for (size_t i = 0; paths && paths[i]; i++) {
        text_append_string(text, i ? "," : "");
        json_bytes_write(text, paths[i]);
    }
    text_append_string(text, "]");
}

static void write_string(struct text *text, const char *key, const char *string)
{
    if (!string)
        return;
    text_printf(text, ",\"%s\":", key);
    json_bytes_write(text, string);
}

static void write_disk(struct text *text, const struct state_disk *disk)
{
    text_printf(text, "{\"position\":%u,\"target\":", disk->position);
    json_bytes_write(text, disk->target);
    write_string(text, "active", disk->active);
    write_string(text, "original", disk->original);
    text_append_string(text, "}");
}

static void write_memory(struct text *text, const struct state_memory *memory)
{
    text_append_string(text, "{\"path\":");
    json_bytes_write(text, memory->path);
    write_string(text, "compression", memory_compression_name(memory->compression));
    write_identity(text, "identity", &memory->identity);
    text_append_string(text, "}");
}

static void write_snapshot(struct text *text, const struct state_snapshot *snapshot, bool is_administered)
{
    text_printf(text, "\n  {\"serial\":%" PRIu64 ",\"name\":", snapshot->serial);
    json_bytes_write(text, snapshot->name);
    if (is_administered) {
        text_printf(text,
                    ",\"parent\":%" PRIu64 ",\"created_sec\":%" PRId64 ",\"created_nsec\":%" PRIu32
                    ",\"state\":\"%s\",\"consistency\":\"%s\"",
                    snapshot->parent, snapshot->created_sec, snapshot->created_nsec,
                    snapshot_state_name(snapshot->state), consistency_name(snapshot->consistency));
        text_append_string(text, snapshot->is_protected ? ",\"protected\":true" : "");
        write_string(text, "description", snapshot->description);
        if (snapshot->memory.path) {
            text_append_string(text, ",\n   \"memory\":");
            write_memory(text, &snapshot->memory);
        }
        if (snapshot->launch) {
            text_append_string(text, ",\n   ");
            write_paths(text, "launch", snapshot->launch);
        }
    }
    text_append_string(text, ",\"frozen\":");
    write_frozen_list(text, snapshot->frozen, snapshot->frozen_count);
    text_append_string(text, "}");
}

static const char *phase_word(unsigned word)
{
    static const char *const words[] = {[MIRROR_COPIES] = "copies",
                                        [MIRROR_PIVOTS] = "pivots",
                                        [MIRROR_PIVOTED] = "pivoted",
                                        [MIRROR_ENDS] = "ends"};
    return words[word];
}

static void write_mirrors(struct text *text, const struct state_domain *state)
{
    text_append_string(text, ",\"mirrors\":[");
    for (size_t i = 0; i < state->mirror_count; i++) {
        const struct state_mirror *mirror = &state->mirrors[i];
        text_printf(text, "%s\n    {\"position\":%u,\"path\":", i ? "," : "", mirror->position);
        json_bytes_write(text, mirror->path);
        text_printf(text,
                    ",\"format\":\"%s\",\"operation\":%" PRIu64 ",\"device\":%" PRIu64 ",\"inode\":%" PRIu64
                    ",\"phase\":\"%s\",\"made\":%s,\"shallow\":%s,\"resumes\":%s}",
                    image_format_name(mirror->format), mirror->operation, mirror->device, mirror->inode,
                    phase_word(mirror->phase), mirror->is_made ? "true" : "false",
                    mirror->is_shallow ? "true" : "false", mirror->resumes ? "true" : "false");
    }
    text_append_string(text, "]");
}

static void write_optional_paths(struct text *text, const char *key, char *const *paths)
{
    if (!paths || !*paths)
        return;
    text_append_string(text, ",");
    write_paths(text, key, paths);
}

static void write_administration(struct text *text, const struct state_domain *state)
{
    text_printf(text, ",\n \"administered\":{\"current\":%" PRIu64 ",\"operation\":%" PRIu64 ",",
                state->current, state->operation);
    if (state->guard)
        text_printf(text, "\"guard\":%" PRIu64 ",", state->guard);
    write_paths(text, "made", state->made);
    text_append_string(text, ",");
    write_paths(text, "reused", state->reused);
    text_append_string(text, ",");
    write_paths(text, "touched", state->touched);
    text_append_string(text, state->unneeded_count ? ",\"unneeded\":[" : "");
    for (size_t i = 0; i < state->unneeded_count; i++) {
        text_append_string(text, i ? "," : "");
        write_memory(text, &state->unneeded[i]);
    }
    text_append_string(text, state->unneeded_count ? "]" : "");
    write_string(text, "defaults", state->defaults);
    text_append_string(text, ",\"hidden\":");
    write_frozen_list(text, state->hidden, state->hidden_count);
    write_optional_paths(text, "raw", state->raw);
    write_optional_paths(text, "left", state->left);
    if (state->mirror_count)
        write_mirrors(text, state);
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
    text_append_string(text, ",\n ");
    write_paths(text, "files", state->files);
    text_append_string(text, ",\n \"disks\":[");
    for (size_t i = 0; i < state->disk_count; i++) {
        text_append_string(text, i ? "," : "");
        write_disk(text, &state->disks[i]);
    }
    text_append_string(text, "]");
    if (state->is_administered)
        write_administration(text, state);
    text_append_string(text, ",\n \"snapshots\":[");
    for (size_t i = 0; i < state->snapshot_count; i++) {
        text_append_string(text, i ? "," : "");
        write_snapshot(text, &state->snapshots[i], state->is_administered);
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

static struct state_frozen *read_frozen_list(struct json_fields *fields, struct json_object *from,
                                             const char *key, size_t *count)
{
    struct json_object *list;
    struct state_frozen *frozen = json_fields_array_member(fields, from, key, sizeof *frozen, &list, count);
    for (size_t i = 0; i < *count; i++)
        read_frozen(fields, json_object_array_get_idx(list, i), &frozen[i]);
    return frozen;
}

static char *optional_string(struct json_fields *fields, struct json_object *from, const char *key)
{
    return !fields->failed && json_object_object_get_ex(from, key, NULL)
               ? json_fields_string_member(fields, from, key)
               : NULL;
}

/* Which of `count` words the member is. */
static unsigned read_word(struct json_fields *fields, struct json_object *from, const char *key,
                          const char *(*name)(unsigned), unsigned count)
{
    struct json_object *value = json_fields_member(fields, from, key, json_type_string);
    for (unsigned i = 0; value && i < count; i++)
        if (strcmp(json_object_get_string(value), name(i)) == 0)
            return i;
    if (value)
        json_fields_refuse(fields, key, "is a word that is not known");
    return 0;
}

static const char *state_word(unsigned word)
{
    return snapshot_state_name((enum snapshot_state)word);
}

static const char *consistency_word(unsigned word)
{
    return consistency_name((enum consistency)word);
}

static const char *compression_word(unsigned word)
{
    return memory_compression_name((enum memory_compression)word);
}

static void read_memory(struct json_fields *fields, struct json_object *from, struct state_memory *memory)
{
    if (!from || !json_object_is_type(from, json_type_object)) {
        json_fields_refuse(fields, "memory", "is no object");
        return;
    }
    memory->path = json_fields_string_member(fields, from, "path");
    memory->compression = read_word(fields, from, "compression", compression_word, COMPRESS_ZSTD + 1);
    memory->identity = identity_member(fields, from, "identity");
}

static void read_unneeded(struct json_fields *fields, struct json_object *from, struct state_domain *state)
{
    struct json_object *list;
    state->unneeded = json_fields_array_member(fields, from, "unneeded", sizeof *state->unneeded, &list,
                                               &state->unneeded_count);
    for (size_t i = 0; i < state->unneeded_count; i++)
        read_memory(fields, json_object_array_get_idx(list, i), &state->unneeded[i]);
}

/* A NULL-terminated list of strings; NULL where it is empty. */
static char **read_paths(struct json_fields *fields, struct json_object *from, const char *key)
{
    struct json_object *list;
    size_t count;
    char **paths = json_fields_array_member(fields, from, key, sizeof *paths, &list, &count);
    char **grown = count ? realloc(paths, (count + 1) * sizeof *paths) : NULL;
    if (count && !grown) {
        free(paths);
        fields->failed = error_set(fields->err, ENOMEM, "%s", strerror(ENOMEM));
        return NULL;
    }
    if (!grown)
        return paths;
    grown[count] = NULL;
    for (size_t i = 0; i < count && !fields->failed; i++)
        grown[i] = json_fields_string(fields, json_object_array_get_idx(list, i), key);
    return grown;
}

static void read_snapshot(struct json_fields *fields, struct json_object *from, bool is_administered,
                          struct state_snapshot *snapshot)
{
    snapshot->serial = json_fields_number(fields, from, "serial", SERIAL_MAX);
    snapshot->name = name_member(fields, from, "name");
    snapshot->frozen = read_frozen_list(fields, from, "frozen", &snapshot->frozen_count);
    if (!is_administered || fields->failed)
        return;
    snapshot->parent = json_fields_number(fields, from, "parent", SERIAL_MAX);
    struct json_object *seconds = json_fields_member(fields, from, "created_sec", json_type_int);
    snapshot->created_sec = seconds ? json_object_get_int64(seconds) : 0;
    snapshot->created_nsec = (uint32_t)json_fields_number(fields, from, "created_nsec", 999999999);
    snapshot->state = read_word(fields, from, "state", state_word, SNAPSHOT_STATE_SHUTOFF + 1);
    snapshot->consistency =
        read_word(fields, from, "consistency", consistency_word, CONSISTENCY_CHECKPOINT + 1);
    struct json_object *value;
    snapshot->is_protected =
        json_object_object_get_ex(from, "protected", &value) && json_object_get_boolean(value);
    snapshot->description = optional_string(fields, from, "description");
    if (!fields->failed && json_object_object_get_ex(from, "memory", &value))
        read_memory(fields, value, &snapshot->memory);
    if (!fields->failed && json_object_object_get_ex(from, "launch", NULL))
        snapshot->launch = read_paths(fields, from, "launch");
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
        state->disks[i].active = optional_string(fields, disk, "active");
        state->disks[i].original = optional_string(fields, disk, "original");
        if (!fields->failed && used[state->disks[i].position])
            json_fields_refuse(fields, "position", "is given to two disks");
        used[state->disks[i].position] = true;
    }
}

static bool flag(struct json_object *from, const char *key)
{
    struct json_object *value;
    return json_object_object_get_ex(from, key, &value) && json_object_get_boolean(value);
}

static void read_mirror(struct json_fields *fields, struct json_object *from, struct state_mirror *mirror)
{
    mirror->position = (unsigned)json_fields_number(fields, from, "position", DOMAIN_DISKS_MAX - 1);
    mirror->path = json_fields_string_member(fields, from, "path");
    struct json_object *format = json_fields_member(fields, from, "format", json_type_string);
    mirror->format = format ? image_format_from_name(json_object_get_string(format)) : IMAGE_FORMAT_UNKNOWN;
    if (format && mirror->format == IMAGE_FORMAT_UNKNOWN)
        json_fields_refuse(fields, "format", "is not known");
    mirror->operation = json_fields_number(fields, from, "operation", SERIAL_MAX);
    mirror->device = json_fields_number(fields, from, "device", UINT64_MAX);
    mirror->inode = json_fields_number(fields, from, "inode", UINT64_MAX);
    mirror->phase = read_word(fields, from, "phase", phase_word, MIRROR_ENDS + 1);
    mirror->is_made = flag(from, "made");
    mirror->is_shallow = flag(from, "shallow");
    mirror->resumes = flag(from, "resumes");
}

static void read_mirrors(struct json_fields *fields, struct json_object *from, struct state_domain *state)
{
    struct json_object *list;
    state->mirrors = json_fields_array_member(fields, from, "mirrors", sizeof *state->mirrors, &list,
                                              &state->mirror_count);
    for (size_t i = 0; i < state->mirror_count; i++)
        read_mirror(fields, json_object_array_get_idx(list, i), &state->mirrors[i]);
}

static void read_administration(struct json_fields *fields, struct json_object *from,
                                struct state_domain *state)
{
    struct json_object *told = json_fields_member(fields, from, "administered", json_type_object);
    state->is_administered = true;
    state->current = json_fields_number(fields, told, "current", SERIAL_MAX);
    state->operation = json_fields_number(fields, told, "operation", SERIAL_MAX);
    if (!fields->failed && json_object_object_get_ex(told, "guard", NULL))
        state->guard = json_fields_number(fields, told, "guard", SERIAL_MAX);
    state->made = read_paths(fields, told, "made");
    state->reused = read_paths(fields, told, "reused");
    state->touched = read_paths(fields, told, "touched");
    if (!fields->failed && json_object_object_get_ex(told, "unneeded", NULL))
        read_unneeded(fields, told, state);
    state->hidden = read_frozen_list(fields, told, "hidden", &state->hidden_count);
    state->defaults = optional_string(fields, told, "defaults");
    if (!fields->failed && json_object_object_get_ex(told, "raw", NULL))
        state->raw = read_paths(fields, told, "raw");
    if (!fields->failed && json_object_object_get_ex(told, "left", NULL))
        state->left = read_paths(fields, told, "left");
    if (!fields->failed && json_object_object_get_ex(told, "mirrors", NULL))
        read_mirrors(fields, told, state);
}

static void read_domain(struct json_fields *fields, struct json_object *from, struct state_domain *state)
{
    struct json_object *list;
    state->serial = json_fields_number(fields, from, "serial", SERIAL_HASHED - 1);
    state->name = name_member(fields, from, "name");
    state->uuid = optional_string(fields, from, "uuid");
    read_disks(fields, from, state);
    state->files = read_paths(fields, from, "files");
    if (!fields->failed && json_object_object_get_ex(from, "administered", NULL))
        read_administration(fields, from, state);
    state->snapshots = json_fields_array_member(fields, from, "snapshots", sizeof *state->snapshots, &list,
                                                &state->snapshot_count);
    for (size_t i = 0; i < state->snapshot_count; i++)
        read_snapshot(fields, json_object_array_get_idx(list, i), state->is_administered,
                      &state->snapshots[i]);
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
