// SPDX-License-Identifier: LGPL-2.1-or-later
/* What stat shows for each entry of the tree. Opens no image. */
#pragma once

#include <sys/stat.h>

#include "content.h"
#include "tree.h"

/* How long the kernel may keep what it was told; what an operation changes is invalidated by us
 * (invalidator.h). */
#define KEEP_LONG_SEC 86400.0

struct attribute_options {
    uid_t uid;
    gid_t gid;
    mode_t directory_mode;
    mode_t disk_mode;
    mode_t control_mode;
    struct timespec started; /* what has no time of its own shows this one */
};

/*
 * Fills `attributes`, and returns for how many seconds they hold: 0 for texts that are different each time.
 * st_blocks of a frozen disk is what is allocated through its chain; until that was counted, a little less
 * than the length, so that cp and tar look for holes.
 */
double attributes_of(const struct attribute_options *options, const struct content_source *content,
                     const struct place *place, struct stat *attributes);
