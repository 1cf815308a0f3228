// SPDX-License-Identifier: LGPL-2.1-or-later
/* Who stands on whom; see kinship.h. */
#include "catalog/kinship.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/endings.h"
#include "image/frozen_disk.h"

struct kin *kin_of(const struct kinship *kinship, const struct scan_image *image)
{
    return &kinship->kin[image->first->index];
}

static bool is_readable(const struct scan_image *image)
{
    return image->info && !image->info->error;
}

bool kinship_is_overlay(const struct scan_image *image)
{
    return image->is_candidate && !image->first->is_defined && !image->is_defined && is_readable(image) &&
           image->backing && ending_of(image->path) == ENDING_MEANINGLESS;
}

bool kinship_is_prepared(const struct scan_image *image)
{
    return image->is_prepared && kinship_is_overlay(image);
}

/* A file that has a domain of its own, or whose overlays belong to one. */
static bool is_base(const struct scan_image *image)
{
    return image->is_defined || (image->name && ending_of(image->name) == ENDING_QCOW2);
}

static void find_children(struct kinship *kinship)
{
    for (size_t i = 0; i < kinship->scan->image_count; i++) {
        const struct scan_image *image = kinship->scan->images[i];
        if (kinship_is_overlay(image))
            kinship->overlays[kinship->overlay_count++] = image;
        if (!image->backing || image->backing->first == image->first || kinship_is_prepared(image))
            continue;
        struct kin *below = kin_of(kinship, image->backing);
        if (!below->child)
            below->child = image;
        if (kinship_is_overlay(image) && !below->overlay)
            below->overlay = image;
        else if (!kinship_is_overlay(image) && !below->other_child)
            below->other_child = image;
    }
    /* What a definition's chain alone reaches, since only it names the place. */
    for (size_t i = 0; i < kinship->scan->definition_count; i++) {
        const struct scan_definition *definition = &kinship->scan->definitions[i];
        for (size_t j = 0; definition->is_good && j < definition->definition.disk_count; j++)
            for (size_t k = 1; k < definition->chains[j].count; k++) {
                struct kin *below = kin_of(kinship, definition->chains[j].images[k]);
                const struct scan_image *above = definition->chains[j].images[k - 1];
                if (!below->child)
                    below->child = above;
                if (!below->other_child && !kinship_is_overlay(above))
                    below->other_child = above;
            }
    }
}

static void find_bases(struct kinship *kinship)
{
    for (size_t i = 0; i < kinship->overlay_count; i++) {
        const struct scan_image *image = kinship->overlays[i], *below = image->backing;
        for (unsigned depth = 0; below && depth < CHAIN_DEPTH_MAX && !is_base(below); depth++)
            below = below->backing;
        if (below && is_base(below))
            kin_of(kinship, image)->base = below->first;
    }
}

static bool is_newer(const struct scan_image *a, const struct scan_image *b)
{
    if (a->identity.mtime_sec != b->identity.mtime_sec)
        return a->identity.mtime_sec > b->identity.mtime_sec;
    if (a->identity.mtime_nsec != b->identity.mtime_nsec)
        return a->identity.mtime_nsec > b->identity.mtime_nsec;
    return strcmp(a->path, b->path) < 0;
}

bool kinship_contradicts(const struct kinship *kinship, const struct scan_image *overlay)
{
    for (unsigned depth = 0; overlay && depth < CHAIN_DEPTH_MAX; depth++, overlay = overlay->backing) {
        if (overlay->backing_refused && overlay->backing_error == -EPERM)
            return true;
        if (overlay->backing && overlay->backing->first == kin_of(kinship, overlay)->base)
            return false;
    }
    return false;
}

const struct scan_image *kinship_topmost(const struct kinship *kinship, const struct scan_image *base,
                                         bool *is_free, size_t *tops)
{
    const struct scan_image *best = NULL;
    *is_free = false;
    *tops = 0;
    for (size_t i = 0; i < kinship->overlay_count; i++) {
        const struct scan_image *image = kinship->overlays[i];
        const struct kin *kin = kin_of(kinship, image);
        if (kin->base != base->first || kinship_is_prepared(image) || kin->overlay || kin->is_layer ||
            kinship_contradicts(kinship, image))
            continue;
        bool image_is_free = !kin->other_child;
        *tops += image_is_free;
        if (!best || (image_is_free && !*is_free) || (image_is_free == *is_free && is_newer(image, best)))
            best = image;
        *is_free |= image_is_free;
    }
    return best;
}

int kinship_init(struct kinship *kinship, const struct scan *scan)
{
    struct kinship made = {.scan = scan};
    made.kin = calloc(scan->image_count + 1, sizeof *made.kin);
    made.overlays = calloc(scan->image_count + 1, sizeof *made.overlays);
    if (!made.kin || !made.overlays) {
        kinship_done(&made);
        return -ENOMEM;
    }
    find_children(&made);
    find_bases(&made);
    *kinship = made;
    return 0;
}

void kinship_done(struct kinship *kinship)
{
    free(kinship->kin);
    free(kinship->overlays);
    *kinship = (struct kinship){0};
}
