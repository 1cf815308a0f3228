// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Files under temporary names that a killed process left before they came into its journal. Only those of
 * this store are removed (temporary.h), and none that an operation needs which could not be settled yet.
 * Inside of administration/.
 */
#pragma once

#include "administration/inside.h"

/* Removes them from the directories that images lie in. To be called when nothing runs, and before the next.
 * What can't be removed is left. */
void leftovers_remove(struct administration *administration);

/*
 * Removes them from everywhere else where they may lie, below the source and the allowed directories, beside
 * whatever runs; for the reclaimer, which takes them for overlays of others.
 */
void leftovers_remove_below(struct administration *administration);
