// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Directories that no image is taken from and no new file is put into: where vmsnapfs keeps what must survive
 * (store/store.h), this mount's and others'. A state would be written over an image of the same name.
 *
 * A directory is known by its device and inode, whatever path leads there: `..`, links, another mount of it.
 * Those of other mounts are known by their name, ".vmsnapfs", and the version in them.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

#define KEPT_OUT_MAX 4

struct kept_out {
    struct {
        dev_t device;
        ino_t inode;
    } list[KEPT_OUT_MAX];
    size_t count;
};

/* Adds the directory; 0 also where there is none. E2BIG; what open gives. */
int kept_out_add(struct kept_out *kept_out, const char *directory, struct error *err);

/* Is the directory, or file, that `fd` is open on, or O_PATH, one of them, or below one? */
bool kept_out_holds(const struct kept_out *kept_out, int fd);
