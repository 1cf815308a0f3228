// SPDX-License-Identifier: LGPL-2.1-or-later
/* What the parsers of documents share; see command_formats.h. */
#include "operation/command_formats.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "domain/domain.h"

const char *const command_places[] = {"no", "internal", "external", NULL};
const char *const command_compressions[] = {"none", "gzip", "zstd", NULL};
const char *const command_quiesces[] = {"try", "require", NULL};

int command_word_index(const char *word, const char *const *words)
{
    for (int i = 0; words[i]; i++)
        if (strcmp(word, words[i]) == 0)
            return i;
    return -1;
}

const char *command_shown(const char *text)
{
    size_t left = strlen(text);
    for (size_t at = 0, step; at < left; at += step) {
        uint32_t code;
        step = utf8_decode(text + at, left - at, &code);
        if (!step || code < ' ' || (code >= 0x7f && code < 0xa0))
            return "(with control characters)";
    }
    return text;
}

int command_add_disk(struct create_command *command, const char *target, size_t length, struct error *err)
{
    if (command->disk_count == DOMAIN_DISKS_MAX)
        return error_set(err, EINVAL, "more than %d disks are named", DOMAIN_DISKS_MAX);
    struct create_disk *disks = reallocarray(command->disks, command->disk_count + 1, sizeof *command->disks);
    char *copy = disks ? strndup(target, length) : NULL;
    if (disks)
        command->disks = disks;
    if (!copy)
        return error_set(err, ENOMEM, "out of memory");
    disks[command->disk_count++] = (struct create_disk){.target = copy};
    return 0;
}
