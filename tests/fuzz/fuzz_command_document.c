// SPDX-License-Identifier: LGPL-2.1-or-later
/* Any bytes as a document written to `create`: refused with a text, or what comes out is as command.h
 * promises. What is taken ends where command_document_ends finds its end, and cut in two nothing differs. */
#include <string.h>

#include "domain/domain.h"
#include "domain/name.h"
#include "fuzz.h"
#include "operation/command_document.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *bytes = (const char *)data;
    struct create_command command = {0};
    struct error err = {0};
    int rc = command_document_parse(bytes, size, &command, &err);
    struct command_document_end whole = {0}, cut = {0};
    bool ends = command_document_ends(&whole, bytes, size);
    bool ends_early = command_document_ends(&cut, bytes, size / 2);
    bool ends_late = command_document_ends(&cut, bytes + size / 2, size - size / 2);
    fuzz_check(ends == (ends_early || ends_late));
    fuzz_check(whole.depth == cut.depth && whole.in_string == cut.in_string && whole.escaped == cut.escaped);
    command_document_kind(bytes, size);
    if (rc < 0) {
        fuzz_check(err.code == -rc && err.text[0]);
        for (const char *at = err.text; *at; at++)
            fuzz_check((unsigned char)*at >= 0x20); /* it stands in a log, and on a terminal */
        fuzz_check(!command.name && !command.disks && !command.description);
        return 0;
    }
    fuzz_check(ends && command_document_kind(bytes, size) == COMMAND_JSON);
    fuzz_check(!command.name || name_is_legal(command.name, strlen(command.name), NULL));
    fuzz_check(!command.memory_file || (command.memory == MEMORY_EXTERNAL && *command.memory_file == '/'));
    fuzz_check(command.disk_count <= DOMAIN_DISKS_MAX);
    for (size_t i = 0; i < command.disk_count; i++) {
        const struct create_disk *disk = &command.disks[i];
        fuzz_check(name_is_legal(disk->target, strlen(disk->target), NULL));
        fuzz_check(!disk->path || (*disk->path == '/' && disk->choice == DISK_EXTERNAL));
        fuzz_check(!disk->mirror || *disk->mirror == '/');
    }
    create_command_done(&command);
    return 0;
}
