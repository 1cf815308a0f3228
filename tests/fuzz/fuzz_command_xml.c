// SPDX-License-Identifier: LGPL-2.1-or-later
/* Any bytes as a <domainsnapshot> written to `create`. What is taken ends where xml_scan finds its end, and
 * never before; and what could not become right is not taken. */
#include "fuzz_document.h"
#include "operation/command_xml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *bytes = (const char *)data;
    int ends = document_check_end(COMMAND_XML, bytes, size);
    if (document_check(command_xml_parse, bytes, size))
        fuzz_check(ends == 0);
    return 0;
}
