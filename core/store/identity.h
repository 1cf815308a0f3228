// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A number that tells a store from all others, for names of files in directories that several use. Inside of
 * store/.
 */
#pragma once

#include <stdint.h>

/*
 * That of the store in the directory `top`, from its file "identity", which is made where there is none, and
 * where it is that of another store, which this one is a copy of (its directory has another inode). Where it
 * can't be written the number is new each time. Never 0.
 */
uint64_t identity_find(int top);
