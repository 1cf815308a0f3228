// SPDX-License-Identifier: LGPL-2.1-or-later
/* Definitions in JSON; see definition.h. Each key has one reader, which checks the value's type and its
 * content. */
#include "format/definition.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "domain/name.h"
#include "format/json_parse.h"
#include "format/network_name.h"

#define LAUNCH_ARGUMENTS_MAX 4096

/* Objects inside each other: the domain, its disks, one disk. More, so that what is too deep is told by its
 * key. */
static const struct json_limits limits = {.bytes = DEFINITION_BYTES_MAX, .depth = 8, .values = 32768};

static int out_of_memory(struct error *err)
{
    return error_set(err, ENOMEM, "out of memory");
}

/* Reads a string that is not empty. `where` is what the key stands in, for people: "" or "disk 2: ". */
static int read_string(struct json_object *value, const char *where, const char *key, const char *right,
                       char **string, struct error *err)
{
    const char *found = json_string_of(value);
    if (!found || !*found)
        return error_set(err, EINVAL, "%s\"%s\" must be %s", where, key, right);
    *string = strdup(found);
    return *string ? 0 : out_of_memory(err);
}

static int read_bool(struct json_object *value, const char *where, const char *key, bool *result,
                     struct error *err)
{
    if (!json_object_is_type(value, json_type_boolean))
        return error_set(err, EINVAL, "%s\"%s\" must be true or false", where, key);
    *result = json_object_get_boolean(value);
    return 0;
}

static int read_name(struct json_object *value, const char *where, const char *key, char **name,
                     struct error *err)
{
    const char *reason;
    int rc = read_string(value, where, key, "a name in quotes", name, err);
    if (rc == 0 && !name_is_legal(*name, strlen(*name), &reason))
        rc = error_set(err, EINVAL, "%s\"%s\" is no legal name: it %s", where, key, reason);
    return rc;
}

static int read_uuid(struct json_object *value, char **uuid, struct error *err)
{
    static const char right[] = "8-4-4-4-12 hexadecimal digits in quotes";
    int rc = read_string(value, "", "uuid", right, uuid, err);
    if (rc < 0)
        return rc;
    bool good = strlen(*uuid) == 36;
    for (size_t i = 0; i < 36 && good; i++) {
        bool hyphen = i == 8 || i == 13 || i == 18 || i == 23;
        good = hyphen ? (*uuid)[i] == '-' : isxdigit((unsigned char)(*uuid)[i]) != 0;
        (*uuid)[i] = (char)tolower((unsigned char)(*uuid)[i]);
    }
    return good ? 0 : error_set(err, EINVAL, "\"uuid\" must be %s", right);
}

static int read_socket(struct json_object *value, const char *key, char **path, struct error *err)
{
    int rc = read_string(value, "", key, "the absolute path of a socket", path, err);
    if (rc < 0)
        return rc;
    if (**path != '/')
        return error_set(err, EINVAL, "\"%s\" must be an absolute path", key);
    if (strlen(*path) >= sizeof((struct sockaddr_un *)NULL)->sun_path)
        return error_set(err, EINVAL, "\"%s\" is longer than the path of a socket can be", key);
    return 0;
}

static int read_launch(struct json_object *value, char ***launch, struct error *err)
{
    static const char right[] = "\"launch\" must be a list of strings, the program first";
    size_t count = json_object_is_type(value, json_type_array) ? json_object_array_length(value) : 0;
    if (count == 0)
        return error_set(err, EINVAL, "%s", right);
    if (count > LAUNCH_ARGUMENTS_MAX)
        return error_set(err, E2BIG, "\"launch\" has more than %d arguments", LAUNCH_ARGUMENTS_MAX);
    *launch = calloc(count + 1, sizeof **launch);
    if (!*launch)
        return out_of_memory(err);
    for (size_t i = 0; i < count; i++) {
        const char *argument = json_string_of(json_object_array_get_idx(value, i));
        if (!argument || (i == 0 && !*argument))
            return error_set(err, EINVAL, "%s", right);
        (*launch)[i] = strdup(argument);
        if (!(*launch)[i])
            return out_of_memory(err);
    }
    return 0;
}

static int read_format(struct json_object *value, const char *where, enum image_format *format,
                       struct error *err)
{
    const char *name = json_string_of(value);
    if (!name)
        return error_set(err, EINVAL, "%s\"format\" must be a format's name, such as \"qcow2\"", where);
    *format = image_format_from_name(name);
    if (*format == IMAGE_FORMAT_UNKNOWN)
        return error_set(err, EINVAL,
                         "%s\"format\" is \"%.40s\", which is not known; raw, qcow2, vmdk, vhdx are", where,
                         name);
    return 0;
}

static int read_preset(struct json_object *value, const char *where, enum snapshot_preset *preset,
                       struct error *err)
{
    const char *name = json_string_of(value);
    for (enum snapshot_preset each = PRESET_NO; name && each <= PRESET_EXTERNAL; each++)
        if (strcmp(name, snapshot_preset_name(each)) == 0) {
            *preset = each;
            return 0;
        }
    return error_set(err, EINVAL, "%s\"snapshot\" must be \"no\", \"internal\" or \"external\"", where);
}

/* As in QEMU, what begins like a protocol is one; a file of such a name is written "./nbd:b". */
static int check_network(struct definition_disk *disk, const char *where, struct error *err)
{
    if (network_name_protocol(disk->source) == NETWORK_NONE)
        return 0;
    cleanup(network_name_done) struct network_name network = {0};
    struct error why = {0};
    int rc = network_name_parse(disk->source, &network, &why);
    if (rc < 0)
        return error_set(err, why.code, "%s\"source\" %s", where, why.text);
    disk->remote = true;
    if (disk->format == IMAGE_FORMAT_UNKNOWN)
        return error_set(err, EINVAL, "%s\"format\" is missing; of a disk on the network it must be told",
                         where);
    return 0;
}

static int read_disk(struct json_object *value, size_t index, struct definition_disk *disk, struct error *err)
{
    char where[32];
    snprintf(where, sizeof where, "disk %zu: ", index + 1);
    if (!json_object_is_type(value, json_type_object))
        return error_set(err, EINVAL, "%smust be an object in braces", where);
    disk->persistent = true;
    json_object_object_foreach(value, key, member)
    {
        int rc;
        if (strcmp(key, "target") == 0)
            rc = read_name(member, where, key, &disk->target, err);
        else if (strcmp(key, "source") == 0)
            rc = read_string(member, where, key, "the path of an image", &disk->source, err);
        else if (strcmp(key, "format") == 0)
            rc = read_format(member, where, &disk->format, err);
        else if (strcmp(key, "snapshot") == 0)
            rc = read_preset(member, where, &disk->snapshot, err);
        else if (strcmp(key, "persistent") == 0)
            rc = read_bool(member, where, key, &disk->persistent, err);
        else
            rc =
                error_set(err, EINVAL,
                          "%s\"%.40s\" is not known; a disk has target, source, format, snapshot, persistent",
                          where, key);
        if (rc < 0)
            return rc;
    }
    if (!disk->target || !disk->source)
        return error_set(err, EINVAL, "%s\"%s\" is missing", where, disk->target ? "source" : "target");
    /* It is the name of a file, with an ending. */
    if (strlen(disk->target) > NAME_BYTES_MAX - strlen(".raw"))
        return error_set(err, EINVAL, "%s\"target\" is too long", where);
    if (strlen(disk->source) >= PATH_MAX)
        return error_set(err, EINVAL, "%s\"source\" is longer than a path can be", where);
    int rc = check_network(disk, where, err);
    if (rc < 0)
        return rc;
    if (disk->format == IMAGE_FORMAT_UNKNOWN)
        disk->format = image_format_from_ending(disk->source);
    if (disk->format == IMAGE_FORMAT_UNKNOWN)
        return error_set(
            err, EINVAL,
            "%s\"format\" is missing, and the ending of \"source\" (.qcow2, .raw, .img) does not "
            "tell it",
            where);
    return 0;
}

static int read_disks(struct json_object *value, struct definition *definition, struct error *err)
{
    if (!json_object_is_type(value, json_type_array))
        return error_set(err, EINVAL, "\"disks\" must be a list");
    size_t count = json_object_array_length(value);
    if (count > DOMAIN_DISKS_MAX)
        return error_set(err, E2BIG, "\"disks\" has more than %d entries", DOMAIN_DISKS_MAX);
    definition->disks = calloc(count ? count : 1, sizeof *definition->disks);
    if (!definition->disks)
        return out_of_memory(err);
    for (size_t i = 0; i < count; i++) {
        definition->disk_count = i + 1;
        const struct definition_disk *disk = &definition->disks[i];
        int rc = read_disk(json_object_array_get_idx(value, i), i, &definition->disks[i], err);
        if (rc < 0)
            return rc;
        for (size_t j = 0; j < i; j++) {
            const struct definition_disk *other = &definition->disks[j];
            if (strcmp(disk->target, other->target) == 0)
                return error_set(err, EINVAL, "two disks have the target \"%s\"", disk->target);
            if (strcmp(disk->source, other->source) == 0)
                return error_set(err, EINVAL, "%s and %s have the same source", other->target, disk->target);
        }
    }
    return 0;
}

static int read_domain(struct json_object *root, struct definition *definition, struct error *err)
{
    json_object_object_foreach(root, key, value)
    {
        int rc;
        if (strcmp(key, "name") == 0)
            rc = read_name(value, "", key, &definition->name, err);
        else if (strcmp(key, "uuid") == 0)
            rc = read_uuid(value, &definition->uuid, err);
        else if (strcmp(key, "disks") == 0)
            rc = read_disks(value, definition, err);
        else if (strcmp(key, "qmp") == 0)
            rc = read_socket(value, key, &definition->qmp, err);
        else if (strcmp(key, "agent") == 0)
            rc = read_socket(value, key, &definition->agent, err);
        else if (strcmp(key, "launch") == 0)
            rc = read_launch(value, &definition->launch, err);
        else if (strcmp(key, "follows") == 0)
            rc = read_bool(value, "", key, &definition->follows, err);
        else
            rc = error_set(err, EINVAL,
                           "\"%.40s\" is not known; a definition has name, uuid, disks, qmp, agent, launch, "
                           "follows",
                           key);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int definition_parse(const char *bytes, size_t length, const char *default_name,
                     struct definition *definition, struct error *err)
{
    cleanup_json struct json_object *root = NULL;
    int rc = json_parse(bytes, length, &limits, JSON_STANDARD, &root, err);
    if (rc < 0)
        return rc;
    cleanup(definition_done) struct definition parsed = {0};
    rc = read_domain(root, &parsed, err);
    if (rc < 0)
        return rc;
    if (!parsed.name) {
        const char *reason;
        if (!name_is_legal(default_name, strlen(default_name), &reason))
            return error_set(err, EINVAL, "there is no \"name\", and the file's is no legal name: it %s",
                             reason);
        parsed.name = strdup(default_name);
        if (!parsed.name)
            return out_of_memory(err);
    }
    *definition = parsed;
    parsed = (struct definition){0};
    return 0;
}

void definition_done(struct definition *definition)
{
    for (size_t i = 0; i < definition->disk_count; i++) {
        free(definition->disks[i].target);
        free(definition->disks[i].source);
    }
    for (char **argument = definition->launch; argument && *argument; argument++)
        free(*argument);
    free(definition->launch);
    free(definition->disks);
    free(definition->name);
    free(definition->uuid);
    free(definition->qmp);
    free(definition->agent);
    *definition = (struct definition){0};
}
