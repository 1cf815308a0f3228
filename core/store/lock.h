// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The lock of a writable mount. An open file description lock: it goes with the descriptor, also over a fork,
 * ends with the last process that has it, and works between hosts on NFS.
 */
#pragma once

#include "base/error.h"

/*
 * Opens, makes and locks the file "lock" of the directory, and waits a little for a holder that ends. Errors:
 * EBUSY with host and process of the holder; EACCES, EROFS; ENOLCK and others where the file system has no
 * locks. `*fd` holds the lock until closed.
 */
int lock_take(int directory, int *fd, struct error *err);
