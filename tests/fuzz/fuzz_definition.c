// SPDX-License-Identifier: LGPL-2.1-or-later
/* Any bytes as a definition: refused with a text, or what comes out is as definition.h promises it. */
#include <stdlib.h>
#include <string.h>

#include "domain/name.h"
#include "format/definition.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct definition definition = {0};
    struct error err = {0};
    int rc = definition_parse((const char *)data, size, "domain", &definition, &err);
    if (rc < 0) {
        fuzz_check(err.code == -rc && err.text[0]);
        fuzz_check(!definition.name && !definition.disks && !definition.launch);
        return 0;
    }
    fuzz_check(rc == 0 && name_is_legal(definition.name, strlen(definition.name), NULL));
    fuzz_check(!definition.uuid || strlen(definition.uuid) == 36);
    fuzz_check(!definition.qmp || definition.qmp[0] == '/');
    fuzz_check(!definition.agent || definition.agent[0] == '/');
    fuzz_check(!definition.launch || (definition.launch[0] && *definition.launch[0]));
    fuzz_check(definition.disk_count <= DOMAIN_DISKS_MAX);
    for (size_t i = 0; i < definition.disk_count; i++) {
        const struct definition_disk *disk = &definition.disks[i];
        fuzz_check(name_is_legal(disk->target, strlen(disk->target), NULL) && *disk->source);
        fuzz_check(disk->format > IMAGE_FORMAT_UNKNOWN && disk->format < IMAGE_FORMAT_COUNT);
        fuzz_check(i == 0 || strcmp(disk->target, definition.disks[i - 1].target) != 0);
    }
    definition_done(&definition);
    return 0;
}
