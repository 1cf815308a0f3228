// SPDX-License-Identifier: LGPL-2.1-or-later
/* The virtual sizes of images that a helper program has to open. Inside of scan.h. */
#pragma once

#include "catalog/scan.h"

/*
 * Asks a helper for the size of every foreign image that something stands on (an active one is shown without,
 * since starting a helper for each would make a mount slow), unless the last scan knows it. What fails stands
 * in `size_problem`. -ENOMEM.
 */
int scan_foreign_sizes(struct scan *scan, const struct scan *before);
