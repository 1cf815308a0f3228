// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Counts in the background, at idle I/O priority, how much each frozen disk holds, where neither the store
 * nor an earlier catalog knows: that takes reading all its tables.
 *
 * What a helper program would have to read is not counted, and what can't be read is tried once.
 */
#pragma once

#include <stddef.h>

#include "catalog/catalog.h"

struct usage;

/*
 * `counted` is called from the counting thread for each disk that became known, after `allocated` was set.
 * `env` is borrowed.
 */
int usage_new(struct catalog_service *service, const struct locate *locate, struct cache *cache,
              catalog_counted counted, void *opaque, struct usage **usage, struct error *err);

/* There is a new catalog: look for what is not counted. Any thread. */
void usage_wake(struct usage *usage);

/* Stops soon, also in the middle of a big disk, and frees. */
void usage_free(struct usage *usage);
