// SPDX-License-Identifier: LGPL-2.1-or-later
/* A frozen disk over layers that are open already: for frozen_disk_open, and for tests with layers of their
 * own. */
#pragma once

#include "image/chain.h"

/* Takes the chain over on success, and leaves `*chain` empty. -ENOMEM. */
int frozen_disk_new(const struct frozen_disk_env *env, struct chain *chain, struct frozen_disk **disk);
