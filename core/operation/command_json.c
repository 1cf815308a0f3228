// SPDX-License-Identifier: LGPL-2.1-or-later
/* JSON to a command; see command_json.h. */
#include "operation/command_json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "domain/domain.h"
#include "format/json_parse.h"
#include "operation/command_document.h"
#include "operation/command_formats.h"

static const struct json_limits limits = {
    .bytes = COMMAND_DOCUMENT_BYTES_MAX, .depth = 8, .values = 8 * DOMAIN_DISKS_MAX};

static int read_string(struct json_object *value, const char *where, const char *key, char **string,
                       struct error *err)
{
    const char *found = json_string_of(value);
    if (!found)
        return error_set(err, EINVAL, "%s\"%s\" must be a text in quotes", where, key);
    *string = strdup(found);
    return *string ? 0 : error_set(err, ENOMEM, "out of memory");
}

static int read_bool(struct json_object *value, const char *key, bool *result, struct error *err)
{
    if (!json_object_is_type(value, json_type_boolean))
        return error_set(err, EINVAL, "\"%s\" must be true or false", key);
    *result = json_object_get_boolean(value);
    return 0;
}

/* The index among `names`, up to a NULL, which `known` lists for people. */
static int read_choice(struct json_object *value, const char *where, const char *key,
                       const char *const *names, const char *known, int *index, struct error *err)
{
    const char *found = json_string_of(value);
    int i = found ? command_word_index(found, names) : -1;
    if (i >= 0) {
        *index = i;
        return 0;
    }
    return error_set(err, EINVAL, "%s\"%s\" must be %s", where, key, known);
}

static const char known_places[] = "\"no\", \"internal\" or \"external\"";

static int read_disk(struct json_object *value, size_t index, struct create_disk *disk, struct error *err)
{
    char where[32];
    snprintf(where, sizeof where, "disk %zu: ", index + 1);
    if (!json_object_is_type(value, json_type_object))
        return error_set(err, EINVAL, "%smust be an object in braces", where);
    json_object_object_foreach(value, key, member)
    {
        int rc, choice = 0;
        if (strcmp(key, "target") == 0)
            rc = read_string(member, where, key, &disk->target, err);
        else if (strcmp(key, "path") == 0)
            rc = read_string(member, where, key, &disk->path, err);
        else if (strcmp(key, "mirror") == 0)
            rc = read_string(member, where, key, &disk->mirror, err);
        else if (strcmp(key, "snapshot") == 0)
            rc = read_choice(member, where, key, command_places, known_places, &choice, err);
        else
            rc = error_set(err, EINVAL, "%s\"%.40s\" is not known; a disk has target, snapshot, path, mirror",
                           where, command_shown(key));
        if (rc < 0)
            return rc;
        if (strcmp(key, "snapshot") == 0)
            disk->choice = (enum disk_choice)(DISK_NO + choice);
    }
    return disk->target ? 0 : error_set(err, EINVAL, "%s\"target\" is missing", where);
}

static int read_disks(struct json_object *value, struct create_command *command, struct error *err)
{
    if (!json_object_is_type(value, json_type_array))
        return error_set(err, EINVAL, "\"disks\" must be a list");
    size_t count = json_object_array_length(value);
    if (count > DOMAIN_DISKS_MAX)
        return error_set(err, EINVAL, "more than %d disks are named", DOMAIN_DISKS_MAX);
    command->disks = calloc(count ? count : 1, sizeof *command->disks);
    if (!command->disks)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < count; i++) {
        command->disk_count = i + 1;
        int rc = read_disk(json_object_array_get_idx(value, i), i, &command->disks[i], err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int read_choices(struct json_object *value, const char *key, struct create_command *command,
                        struct error *err)
{
    int rc, choice = 0;
    if (strcmp(key, "memory") == 0) {
        rc = read_choice(value, "", key, command_places, known_places, &choice, err);
        if (rc == 0)
            command->memory = (enum memory_choice)(MEMORY_NO + choice);
    } else if (strcmp(key, "compress") == 0) {
        rc =
            read_choice(value, "", key, command_compressions, "\"none\", \"gzip\" or \"zstd\"", &choice, err);
        if (rc == 0)
            command->compression = (enum memory_compression)(COMPRESS_NONE + choice);
    } else if (strcmp(key, "quiesce") == 0) {
        rc = read_choice(value, "", key, command_quiesces, "\"try\" or \"require\"", &choice, err);
        if (rc == 0)
            command->quiesce = (enum quiesce)(QUIESCE_TRY + choice);
    } else {
        rc = error_set(err, EINVAL,
                       "\"%.40s\" is not known; a snapshot has name, description, memory, memory_file, "
                       "compress, quiesce, live, disk_only, reuse_external, paused, disks",
                       command_shown(key));
    }
    return rc;
}

static int read_command(struct json_object *root, struct create_command *command, struct error *err)
{
    json_object_object_foreach(root, key, value)
    {
        int rc;
        if (strcmp(key, "name") == 0)
            rc = read_string(value, "", key, &command->name, err);
        else if (strcmp(key, "description") == 0)
            rc = read_string(value, "", key, &command->description, err);
        else if (strcmp(key, "memory_file") == 0)
            rc = read_string(value, "", key, &command->memory_file, err);
        else if (strcmp(key, "disks") == 0)
            rc = read_disks(value, command, err);
        else if (strcmp(key, "live") == 0)
            rc = read_bool(value, key, &command->live, err);
        else if (strcmp(key, "disk_only") == 0)
            rc = read_bool(value, key, &command->disk_only, err);
        else if (strcmp(key, "reuse_external") == 0)
            rc = read_bool(value, key, &command->reuse_external, err);
        else if (strcmp(key, "paused") == 0)
            rc = read_bool(value, key, &command->paused, err);
        else
            rc = read_choices(value, key, command, err);
        if (rc < 0)
            return rc;
    }
    return create_command_check(command, err);
}

int command_json_parse(const char *bytes, size_t length, struct create_command *command, struct error *err)
{
    cleanup_json struct json_object *root = NULL;
    int rc = json_parse(bytes, length, &limits, JSON_STANDARD, &root, err);
    if (rc < 0) {
        error_prefix(err, "the document");
        return rc;
    }
    cleanup(create_command_done) struct create_command parsed = {0};
    rc = read_command(root, &parsed, err);
    if (rc < 0)
        return rc;
    *command = parsed;
    parsed = (struct create_command){0};
    return 0;
}
