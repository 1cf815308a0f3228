// SPDX-License-Identifier: LGPL-2.1-or-later
/* Any bytes written to any control file: refused with a text, or what comes out is as command.h promises. The
 * first byte says which file. */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "domain/domain.h"
#include "domain/name.h"
#include "fuzz.h"
#include "operation/command_text.h"

static void check_create(const struct create_command *command, bool defaults)
{
    fuzz_check(!command->name || name_is_legal(command->name, strlen(command->name), NULL));
    fuzz_check(!command->memory_file || (command->memory == MEMORY_EXTERNAL && *command->memory_file == '/'));
    fuzz_check(command->disk_count <= DOMAIN_DISKS_MAX);
    for (size_t i = 0; i < command->disk_count; i++) {
        const struct create_disk *disk = &command->disks[i];
        fuzz_check(name_is_legal(disk->target, strlen(disk->target), NULL));
        fuzz_check(!disk->path || (*disk->path == '/' && disk->choice == DISK_EXTERNAL));
        fuzz_check(!disk->mirror || *disk->mirror == '/');
        fuzz_check(disk->choice != DISK_OMITTED || disk->mirror);
        fuzz_check(!defaults || (!disk->path && !disk->mirror));
        for (size_t j = 0; j < i; j++)
            fuzz_check(strcmp(disk->target, command->disks[j].target) != 0);
    }
    fuzz_check(!defaults || (!command->name && !command->memory_file && !command->reuse_external));
}

static void check_text(const char *text)
{
    for (size_t at = 0, length = strlen(text), step; at < length; at += step) {
        uint32_t code;
        step = utf8_decode(text + at, length - at, &code);
        fuzz_check(step > 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const char *bytes = (const char *)data + 1;
    size_t length = size - 1;
    struct error err = {0};
    struct create_command create = {0};
    struct revert_command revert = {0};
    struct clone_command clone = {0};
    struct power_command power = {0};
    struct copy_command copy = {0};
    enum delete_kind kind = DELETE_ONE;
    bool is_protected = false;
    char *description = NULL;
    int rc;
    switch (data[0]) {
    case 'c':
    case 'd':
        rc = data[0] == 'c' ? command_parse_create(bytes, length, &create, &err)
                            : command_parse_defaults(bytes, length, &create, &err);
        check_create(&create, data[0] == 'd');
        if (create.description)
            check_text(create.description);
        break;
    case 'r':
        rc = command_parse_revert(bytes, length, &revert, &err);
        fuzz_check(revert.state <= REVERT_SHUTOFF);
        break;
    case 'x':
        rc = command_parse_delete(bytes, length, &kind, &err);
        fuzz_check(kind < DELETE_KIND_COUNT);
        break;
    case 'l':
        rc = command_parse_clone(bytes, length, &clone, &err);
        fuzz_check((rc == 0) == (clone.name != NULL));
        fuzz_check(!clone.name || name_is_legal(clone.name, strlen(clone.name), NULL));
        break;
    case 'w':
        rc = command_parse_power(bytes, length, &power, &err);
        fuzz_check(power.verb < POWER_VERB_COUNT);
        fuzz_check(!power.snapshot || (power.verb == POWER_START &&
                                       name_is_legal(power.snapshot, strlen(power.snapshot), NULL)));
        break;
    case 'm':
        rc = command_parse_copy(bytes, length, &copy, &err);
        fuzz_check((rc == 0) == (copy.path != NULL));
        fuzz_check(!copy.path || *copy.path == '/');
        fuzz_check(!copy.base || (*copy.base == '/' && !copy.shallow));
        fuzz_check(copy.bandwidth <= INT64_MAX);
        break;
    case 't':
        rc = command_parse_trigger(bytes, length, &err);
        break;
    case 'p':
        rc = command_parse_protected(bytes, length, &is_protected, &err);
        break;
    default:
        rc = command_parse_description(bytes, length, &description, &err);
        fuzz_check((rc == 0) == (description != NULL));
        if (description)
            check_text(description);
        break;
    }
    fuzz_check(rc == 0 ? err.code == 0 : err.code == -rc && *err.text);
    for (const char *at = err.text; *at; at++)
        fuzz_check((unsigned char)*at >= 0x20); /* it stands in a log, and on a terminal */
    create_command_done(&create);
    clone_command_done(&clone);
    power_command_done(&power);
    copy_command_done(&copy);
    free(description);
    return 0;
}
