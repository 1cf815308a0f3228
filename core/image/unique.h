// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What deleting a snapshot would free, at the least.
 *
 * Of an internal snapshot: the data that nothing else in its file refers to, its saved memory included. Of a
 * frozen layer: what the one layer on top of it has written anew, since deleting merges the two; nothing
 * while several layers stand on it, or while an internal snapshot lives in it. Tables are not counted: they
 * are a thousandth of the data at most, but for tiny clusters.
 */
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "domain/domain.h"
#include "image/locate.h"

/* Asked all the while; true ends the counting. */
struct unique_stop {
    bool (*wanted)(void *opaque);
    void *opaque;
};

/*
 * Sums over the snapshot's disks. `overlays[i]` is the one layer on top of frozen[i].layer, or NULL where
 * there are none or several. Opens images and reads their tables, for a minute at most: an image can be made
 * whose tables take hours to walk. Errors: those of layer_reader_open; ECANCELED if `stop` (NULL: never) says
 * so; EIO where the tables are too long.
 */
int unique_bytes_count(const struct locate *locate, const struct domain *domain,
                       const struct snapshot *snapshot, const struct layer *const *overlays,
                       const struct unique_stop *stop, uint64_t *bytes, struct error *err);
