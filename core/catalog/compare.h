// SPDX-License-Identifier: LGPL-2.1-or-later
/* Is a domain, or its state, still the same? So that what did not change stays the same object, and is not
 * written again. Pure. */
#pragma once

#include <stdbool.h>

#include "domain/domain.h"
#include "store/store.h"

/* But for what changes all the time: counts (`allocated`), and the times and the length of active images. */
bool domain_is_same(const struct domain *a, const struct domain *b);

/* Both with their snapshots sorted by serial. */
bool state_is_same(const struct state_domain *a, const struct state_domain *b);
