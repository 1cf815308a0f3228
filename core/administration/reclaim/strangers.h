// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Images that no domain knows, and that stand on a file all the same: an overlay in a directory below the
 * source, or in one that is allowed. Before a frozen file is written to or unlinked, they are searched for.
 */
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "image/locate.h"

/* Is the file at this path one of the images that are known? */
typedef bool strangers_is_known(void *opaque, const char *path);

/*
 * Reads the headers of all qcow2 images in the source and the allowed directories, with all below, on the
 * same file systems. `is_known` may be NULL: no image is. 0: none stands on the file that `fd` is open on,
 * but for known ones. EBUSY: one does, with its name. E2BIG: there are too many files to be sure. Others of
 * reading directories.
 */
int strangers_search(const struct locate *locate, int fd, const char *path, strangers_is_known *is_known,
                     void *opaque, struct error *err);
