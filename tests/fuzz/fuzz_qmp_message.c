// SPDX-License-Identifier: LGPL-2.1-or-later
/* Any bytes as a line of QMP: refused with a text, or what comes out is as qmp_message.h promises it. */
#include <errno.h>
#include <string.h>

#include "fuzz.h"
#include "hypervisor/qmp_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct qmp_message message = {0};
    struct error err = {0};
    int rc = qmp_message_parse((const char *)data, size, &message, &err);
    if (rc < 0) {
        fuzz_check((rc == -EPROTO || rc == -ENOMEM) && err.code == -rc && err.text[0] && !message.root);
        return 0;
    }
    fuzz_check(rc == 0 && json_object_is_type(message.root, json_type_object));
    switch (message.kind) {
    case QMP_GREETING:
        for (int i = 0; i < 3; i++)
            fuzz_check(message.version[i] <= 9999);
        break;
    case QMP_RETURN:
        break;
    case QMP_ERROR:
        fuzz_check(message.name && message.text && qmp_errno(message.name, message.text) > 0);
        char text[64];
        qmp_clean_text(message.text, text, sizeof text);
        for (const char *at = text; *at; at++)
            fuzz_check((unsigned char)*at >= ' ' && *at != 127);
        break;
    case QMP_EVENT:
        fuzz_check(message.name && (!message.body || json_object_is_type(message.body, json_type_object)));
        break;
    }
    qmp_message_done(&message);
    fuzz_check(!message.root);
    return 0;
}
