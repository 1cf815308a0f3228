// SPDX-License-Identifier: LGPL-2.1-or-later
/* Removing the files of memory that belonged to deleted snapshots. Inside of reclaimer.h. */
#pragma once

#include "administration/inside.h"

/* Does it for every domain that nobody is busy with. True where some are left for later. */
bool memory_removal_run(struct administration *administration);
