// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Files under temporary names that a killed process left before they came into its journal. Inside of
 * administration/.
 */
#pragma once

#include "administration/inside.h"

/* Removes them. To be called when nothing runs. What can't be removed is left. */
void leftovers_remove(struct administration *administration);
