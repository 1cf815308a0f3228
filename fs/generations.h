// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Directories of which the kernel believes that they were removed, although they are there: what rm -r takes
 * away before it comes to the snapshot itself. An inode that the kernel has once seen removed stays dead for
 * as long as somebody stands in it; a look-up that comes with another generation gets a new one.
 *
 * The last few hundred are remembered. Any thread.
 */
#pragma once

#include <stdint.h>

struct generations;

struct generations *generations_new(void); /* NULL where memory ran out */
void generations_free(struct generations *generations);

/* The kernel takes the node for removed from now on. */
void generations_next(struct generations *generations, uint64_t id);

/* The generation of a node: 1 if it was never taken for removed. */
uint64_t generations_of(struct generations *generations, uint64_t id);
