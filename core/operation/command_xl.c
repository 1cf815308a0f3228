// SPDX-License-Identifier: LGPL-2.1-or-later
/* xl's configuration of a snapshot to a command; see command_xl.h. Each key is one row of a table. */
#include "operation/command_xl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "domain/domain.h"
#include "format/xl_config.h"
#include "operation/command_document.h"
#include "operation/command_formats.h"

static const struct xl_limits limits = {.bytes = COMMAND_DOCUMENT_BYTES_MAX, .values = 2 * DOMAIN_DISKS_MAX};

static int read_string(const struct xl_setting *setting, char **string, struct error *err)
{
    if (setting->kind != XL_TEXT)
        return error_set(err, EINVAL, "line %u: %s must be a text in quotes", setting->line, setting->key);
    if (!*setting->values[0])
        return 0;
    *string = strdup(setting->values[0]);
    return *string ? 0 : error_set(err, ENOMEM, "out of memory");
}

/* The index among the words, of which `known` tells; untouched for an empty text. */
static int read_choice(const struct xl_setting *setting, const char *const *words, const char *known,
                       int *index, struct error *err)
{
    const char *value = setting->kind == XL_TEXT ? setting->values[0] : NULL;
    if (value && !*value)
        return 0;
    int found = value ? command_word_index(value, words) : -1;
    if (found < 0)
        return error_set(err, EINVAL, "line %u: %s must be %s", setting->line, setting->key, known);
    *index = found;
    return 0;
}

static int read_flag(const struct xl_setting *setting, bool *flag, struct error *err)
{
    const char *value = setting->kind == XL_NUMBER ? setting->values[0] : "";
    if (strcmp(value, "0") != 0 && strcmp(value, "1") != 0)
        return error_set(err, EINVAL, "line %u: %s must be 0 or 1", setting->line, setting->key);
    *flag = *value == '1';
    return 0;
}

static int read_name(const struct xl_setting *setting, struct create_command *command, struct error *err)
{
    return read_string(setting, &command->name, err);
}

static int read_description(const struct xl_setting *setting, struct create_command *command,
                            struct error *err)
{
    return read_string(setting, &command->description, err);
}

/* It may come before the key `memory`, which must then say the same. */
static int read_memory_path(const struct xl_setting *setting, struct create_command *command,
                            struct error *err)
{
    int rc = read_string(setting, &command->memory_file, err);
    if (rc == 0 && command->memory_file && command->memory == MEMORY_OMITTED)
        command->memory = MEMORY_EXTERNAL;
    return rc;
}

static int read_memory(const struct xl_setting *setting, struct create_command *command, struct error *err)
{
    int index = -1;
    int rc = read_choice(setting, command_places, "'no', 'internal' or 'external'", &index, err);
    if (index >= 0)
        command->memory = (enum memory_choice)(MEMORY_NO + index);
    return rc;
}

static int read_compress(const struct xl_setting *setting, struct create_command *command, struct error *err)
{
    int index = COMPRESS_NONE;
    int rc = read_choice(setting, command_compressions, "'none', 'gzip' or 'zstd'", &index, err);
    command->compression = (enum memory_compression)index;
    return rc;
}

static int read_quiesce(const struct xl_setting *setting, struct create_command *command, struct error *err)
{
    int index = -1;
    int rc = read_choice(setting, command_quiesces, "'try' or 'require'", &index, err);
    if (index >= 0)
        command->quiesce = (enum quiesce)(QUIESCE_TRY + index);
    return rc;
}

static int read_live(const struct xl_setting *setting, struct create_command *command, struct error *err)
{
    return read_flag(setting, &command->live, err);
}

static int read_disk_only(const struct xl_setting *setting, struct create_command *command, struct error *err)
{
    return read_flag(setting, &command->disk_only, err);
}

static int read_reuse(const struct xl_setting *setting, struct create_command *command, struct error *err)
{
    return read_flag(setting, &command->reuse_external, err);
}

static int read_paused(const struct xl_setting *setting, struct create_command *command, struct error *err)
{
    return read_flag(setting, &command->paused, err);
}

/* A part of a disk's text, without the blanks around it. */
struct part {
    const char *at;
    size_t length;
};

static bool part_is(const struct part *part, const char *word)
{
    return part->length == strlen(word) && memcmp(part->at, word, part->length) == 0;
}

/* The path may hold commas: the format and the target, which can't, are the last two parts. */
static bool split(const char *value, struct part parts[3])
{
    const char *end = value + strlen(value);
    for (int i = 2; i >= 0; i--) {
        const char *comma = i ? memrchr(value, ',', (size_t)(end - value)) : NULL;
        if (i && !comma)
            return false;
        const char *begin = i ? comma + 1 : value, *to = end;
        while (begin < to && (*begin == ' ' || *begin == '\t'))
            begin++;
        while (begin < to && (to[-1] == ' ' || to[-1] == '\t'))
            to--;
        parts[i] = (struct part){begin, (size_t)(to - begin)};
        end = comma ? comma : end;
    }
    return true;
}

static int read_disk(const struct xl_setting *setting, const char *value, struct create_command *command,
                     struct error *err)
{
    struct part parts[3];
    if (!split(value, parts) || !parts[2].length)
        return error_set(err, EINVAL,
                         "line %u: the disk '%.100s' is not understood; it is 'PATH,qcow2,TARGET' for an "
                         "external snapshot, and ',,TARGET' for an internal one",
                         setting->line, command_shown(value));
    if (parts[1].length && !part_is(&parts[1], "qcow2"))
        return error_set(err, EOPNOTSUPP,
                         "line %u: the disk '%.100s' has another format than qcow2, which a "
                         "new overlay is",
                         setting->line, command_shown(value));
    int rc = command_add_disk(command, parts[2].at, parts[2].length, err);
    if (rc < 0)
        return rc;
    struct create_disk *disk = &command->disks[command->disk_count - 1];
    disk->choice = parts[0].length || parts[1].length ? DISK_EXTERNAL : DISK_INTERNAL;
    if (parts[0].length && !(disk->path = strndup(parts[0].at, parts[0].length)))
        return error_set(err, ENOMEM, "out of memory");
    return 0;
}

static int read_disks(const struct xl_setting *setting, struct create_command *command, struct error *err)
{
    if (setting->kind != XL_LIST)
        return error_set(err, EINVAL, "line %u: disks must be a list: disks = ['PATH,qcow2,TARGET', …]",
                         setting->line);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < setting->count; i++)
        rc = read_disk(setting, setting->values[i], command, err);
    return rc;
}

static const struct key {
    const char *name;
    int (*read)(const struct xl_setting *setting, struct create_command *command, struct error *err);
} keys[] = {
    {"name", read_name},
    {"description", read_description},
    {"memory_path", read_memory_path},
    {"disks", read_disks},
    {"memory", read_memory},
    {"compress", read_compress},
    {"quiesce", read_quiesce},
    {"live", read_live},
    {"disk_only", read_disk_only},
    {"paused", read_paused},
    {"reuse_external", read_reuse},
};

static int read_setting(const struct xl_setting *setting, struct create_command *command, struct error *err)
{
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(keys[i].name, setting->key) == 0)
            return keys[i].read(setting, command, err);
    return error_set(err, EINVAL,
                     "line %u: %.40s is not known; a snapshot has name, description, memory_path, disks, and "
                     "memory, compress, quiesce, live, disk_only, paused, reuse_external",
                     setting->line, setting->key);
}

int command_xl_parse(const char *bytes, size_t length, struct create_command *command, struct error *err)
{
    cleanup(xl_config_done) struct xl_config config = {0};
    int rc = xl_config_parse(bytes, length, &limits, &config, err);
    if (rc < 0) {
        error_prefix(err, "the document");
        return rc;
    }
    cleanup(create_command_done) struct create_command parsed = {0};
    for (size_t i = 0; rc == 0 && i < config.count; i++)
        rc = read_setting(&config.settings[i], &parsed, err);
    if (rc == 0)
        rc = create_command_check(&parsed, err);
    if (rc < 0)
        return rc;
    *command = parsed;
    parsed = (struct create_command){0};
    return 0;
}
