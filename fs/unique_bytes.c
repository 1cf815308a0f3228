// SPDX-License-Identifier: LGPL-2.1-or-later
/* The content of unique_bytes; see unique_bytes.h. */
#include "unique_bytes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "content.h"
#include "image/unique.h"

/* The one layer of any domain that stands on `layer`; NULL where there are none or several. */
static const struct layer *only_overlay(const struct catalog *catalog, const struct layer *layer)
{
    const struct layer *only = NULL;
    for (size_t i = 0; i < catalog->domain_count; i++) {
        const struct domain *domain = catalog->domains[i];
        for (size_t j = 0; j < domain->layer_count; j++) {
            const struct layer *above = domain->layers[j];
            if (!above->backing || strcmp(above->backing->path, layer->path) != 0)
                continue;
            if (only && strcmp(only->path, above->path) != 0)
                return NULL;
            only = above;
        }
    }
    return only;
}

int unique_bytes_render(const struct locate *locate, const struct catalog *catalog, const struct place *place,
                        const struct unique_stop *stop, struct text *text, struct error *err)
{
    const struct snapshot *snapshot = place->snapshot;
    cleanup_free const struct layer **overlays = calloc(snapshot->frozen_count + 1, sizeof *overlays);
    if (!overlays)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < snapshot->frozen_count; i++)
        if (!snapshot->frozen[i].internal)
            overlays[i] = only_overlay(catalog, snapshot->frozen[i].layer);
    uint64_t bytes;
    int result = unique_bytes_count(locate, place->domain, snapshot, overlays, stop, &bytes, err);
    if (result == 0 && snapshot->memory)
        bytes += snapshot->memory->layer.size;
    if (result == 0)
        text_printf(text, "%*llu\n", UNIQUE_BYTES_DIGITS, (unsigned long long)bytes);
    return result;
}
