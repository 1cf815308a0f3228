// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * An overlay that a user has laid on a domain's active image, to be taken by a snapshot that is about to be
 * asked for, looks like another program's snapshot until then. This takes back what a look has made of it.
 */
#pragma once

#include "domain/domain.h"
#include "store/store.h"

/*
 * Changes the state of an administered domain, so that none of the overlays at the absolute paths `planned`
 * is active, and what was taken for a snapshot below it is none. What the domain itself has made or taken as
 * overlay is left alone, and so is a snapshot that somebody has described, or protects no more. -ENOMEM,
 * after which the state is partly changed.
 */
int step_back(const struct domain *domain, const char *source, char *const *planned,
              struct state_domain *state);
