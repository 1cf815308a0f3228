// SPDX-License-Identifier: LGPL-2.1-or-later
/* Names for snapshots that nobody has given one. Inside of administration/. */
#pragma once

#include "domain/domain.h"

/* `prefix` and the time, to the second, in UTC; with ~ and a number where the domain has that one already.
 * The caller frees; NULL: out of memory. */
char *made_up_name(const struct domain *domain, const char *prefix);
