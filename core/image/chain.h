// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The layers of a frozen disk, open for reading, top first. Immutable once opened; any thread may use it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "domain/domain.h"
#include "image/frozen_disk.h"
#include "image/layer_reader.h"

struct chain {
    struct layer_reader **layers; /* owned; at least one */
    size_t count;                 /* at most CHAIN_DEPTH_MAX */
};

/* Which layers of a chain; start with zeros. */
struct layer_set {
    uint64_t bits[CHAIN_DEPTH_MAX / 64];
};

static inline void layer_set_add(struct layer_set *set, size_t layer)
{
    set->bits[layer / 64] |= UINT64_C(1) << layer % 64;
}

/* Opens the chain of `frozen`; see frozen_disk_open, also for `locks`. */
int chain_open(const struct locate *locate, bool locks, const struct domain *domain,
               const struct frozen *frozen, struct chain *chain, struct error *err);

/* Takes a chain that is half built or all zeros. */
void chain_done(struct chain *chain);

/*
 * Asks the top layer, and those in `used`, whether what was read from them before this call was right. 0, or
 * what the first one that says no says: -ESTALE, -EIO.
 */
int chain_check(const struct chain *chain, const struct layer_set *used);
