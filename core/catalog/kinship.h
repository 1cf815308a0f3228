// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Who stands on whom among the images of a scan, and to whose disk an overlay as virsh makes them belongs.
 * Pure. Inside of discover.h.
 */
#pragma once

#include "catalog/scan.h"

/* What is known of a file, whatever its names and formats. */
struct kin {
    const struct scan_image *base; /* of an overlay with a meaningless ending: whose domain it belongs to */
    const struct scan_image *overlay;     /* such an overlay stands directly on it */
    const struct scan_image *child;       /* any image that stands directly on it, but for itself */
    const struct scan_image *other_child; /* one of those that is no such overlay */
    bool is_known;                        /* as a layer of an administered domain */
    bool is_layer;                        /* of such a domain, and not what its definition names */
    bool is_seen;                         /* in the chain of some disk; for discover.c */
};

struct kinship {
    const struct scan *scan;            /* borrowed */
    struct kin *kin;                    /* by the index of a file's first image; see kin_of */
    const struct scan_image **overlays; /* all with meaningless endings */
    size_t overlay_count;
};

int kinship_init(struct kinship *kinship, const struct scan *scan); /* -ENOMEM */
void kinship_done(struct kinship *kinship);

struct kin *kin_of(const struct kinship *kinship, const struct scan_image *image);

/* A file that may be an overlay as virsh makes them: its ending says nothing, and it stands on something. */
bool kinship_is_overlay(const struct scan_image *image);

/* One that a user has made ready, under the domain's running QEMU, for a snapshot to come: nobody's as yet.
 */
bool kinship_is_prepared(const struct scan_image *image);

/* Does the overlay claim another format than the definition of what it stands on tells? Then it is none. */
bool kinship_contradicts(const struct kinship *kinship, const struct scan_image *overlay);

/*
 * The topmost overlay over `base`: one that nothing stands on, if there is any; of several, the one that was
 * written to last. NULL if there is none. `*is_free` tells whether nothing stands on it; `*tops` counts those
 * on which nothing does.
 */
const struct scan_image *kinship_topmost(const struct kinship *kinship, const struct scan_image *base,
                                         bool *is_free, size_t *tops);
