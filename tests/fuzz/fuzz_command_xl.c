// SPDX-License-Identifier: LGPL-2.1-or-later
/* Any bytes as xl configuration written to `create`. What is taken may end there: at a line `end`, where the
 * file is closed, or it says nothing. */
#include "fuzz_document.h"
#include "operation/command_xl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *bytes = (const char *)data;
    int ends = document_check_end(COMMAND_XL, bytes, size);
    struct command_document_end whole = {.kind = COMMAND_XL};
    command_document_ends(&whole, bytes, size, NULL);
    if (document_check(command_xl_parse, bytes, size))
        fuzz_check(ends == 0 || command_document_ends_at_close(&whole) || command_document_is_empty(&whole));
    return 0;
}
