// SPDX-License-Identifier: LGPL-2.1-or-later
/* Temporary names; see temporary.h. */
#include "administration/files/temporary.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "store/store.h"

void temporary_name(const struct administration *administration, uint64_t operation, size_t index,
                    char name[OVERLAY_NAME_SIZE])
{
    snprintf(name, OVERLAY_NAME_SIZE, ".vmsnapfs-%016" PRIx64 "-%" PRIu64 "-%zu",
             store_identity(administration->options.store), operation, index);
}

void temporary_memory_name(const struct administration *administration, uint64_t operation,
                           char name[OVERLAY_NAME_SIZE])
{
    snprintf(name, OVERLAY_NAME_SIZE, ".vmsnapfs-memory-%016" PRIx64 "-%" PRIu64,
             store_identity(administration->options.store), operation);
}

bool temporary_is_ours(const struct administration *administration, const char *name, uint64_t *operation)
{
    uint64_t identity, found;
    size_t index;
    char again[OVERLAY_NAME_SIZE];
    if (sscanf(name, ".vmsnapfs-%16" SCNx64 "-%15" SCNu64 "-%6zu", &identity, &found, &index) != 3)
        return false;
    temporary_name(administration, found, index, again);
    *operation = found;
    return strcmp(name, again) == 0;
}
