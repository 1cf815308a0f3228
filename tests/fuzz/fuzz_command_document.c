// SPDX-License-Identifier: LGPL-2.1-or-later
/* Any bytes as a JSON document written to `create`, and as one of which the format is told by how it begins.
 * What is taken ends where command_document_ends finds its end. */
#include "fuzz_document.h"
#include "operation/command_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *bytes = (const char *)data;
    enum command_document_kind kind = command_document_kind(bytes, size);
    int ends = document_check_end(COMMAND_JSON, bytes, size);
    if (document_check(command_json_parse, bytes, size))
        fuzz_check(ends == 0 && kind == COMMAND_JSON);
    for (size_t more = 0; kind != COMMAND_WORDS && more < size; more++) /* more bytes change nothing */
        fuzz_check(command_document_kind(bytes, more) == COMMAND_WORDS ||
                   command_document_kind(bytes, more) == kind);
    if (kind != COMMAND_WORDS)
        document_check(command_document_parse, bytes, size);
    return 0;
}
