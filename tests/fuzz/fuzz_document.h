// SPDX-License-Identifier: LGPL-2.1-or-later
/* What holds for any bytes as a document of one format, written to `create`: refused with a text, or what
 * comes out is as command.h promises. Where it ends is the same however it is cut. */
#pragma once

#include <errno.h>
#include <string.h>

#include "domain/domain.h"
#include "domain/name.h"
#include "fuzz.h"
#include "operation/command_document.h"

typedef int (*document_parser)(const char *bytes, size_t length, struct create_command *command,
                               struct error *err);

static void document_check_command(const struct create_command *command)
{
    fuzz_check(!command->name || name_is_legal(command->name, strlen(command->name), NULL));
    fuzz_check(!command->memory_file || (command->memory == MEMORY_EXTERNAL && *command->memory_file == '/'));
    fuzz_check(command->disk_count <= DOMAIN_DISKS_MAX);
    for (size_t i = 0; i < command->disk_count; i++) {
        const struct create_disk *disk = &command->disks[i];
        fuzz_check(name_is_legal(disk->target, strlen(disk->target), NULL));
        fuzz_check(!disk->path || (*disk->path == '/' && disk->choice == DISK_EXTERNAL));
        fuzz_check(!disk->mirror || *disk->mirror == '/');
    }
}

/* True if it was taken. */
static bool document_check(document_parser parse, const char *bytes, size_t size)
{
    struct create_command command = {0};
    struct error err = {0};
    int rc = parse(bytes, size, &command, &err);
    if (rc < 0) {
        fuzz_check(err.code == -rc && err.text[0]);
        for (const char *at = err.text; *at; at++)
            fuzz_check((unsigned char)*at >= 0x20); /* it stands in a log, and on a terminal */
        fuzz_check(!command.name && !command.disks && !command.description && !command.memory_file);
        return false;
    }
    document_check_command(&command);
    create_command_done(&command);
    return true;
}

/* What command_document_ends says of all of it, which is the same where it comes in two pieces. */
static int document_check_end(enum command_document_kind kind, const char *bytes, size_t size)
{
    struct command_document_end whole = {.kind = kind}, cut = {.kind = kind};
    int at_once = command_document_ends(&whole, bytes, size, NULL);
    int late = command_document_ends(&cut, bytes, size / 2, NULL);
    if (late == 0 || late == -EAGAIN)
        late = command_document_ends(&cut, bytes + size / 2, size - size / 2, NULL);
    fuzz_check(at_once == late);
    fuzz_check(command_document_ends_at_close(&whole) == command_document_ends_at_close(&cut));
    fuzz_check(command_document_missing(&whole) == command_document_missing(&cut));
    return at_once;
}
