// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The files that a step in the background changes, as mounts that only read see it (image/layer_lock.h). One
 * thread.
 */
#pragma once

#include <stdbool.h>

struct layer_claims {
    int fds[2];
    unsigned count;
};

/* Takes `fd`, open for reading in whatever file system, over. Where there are no locks nobody is told. */
void layer_claims_add(struct layer_claims *claims, int fd);

/* Does another mount read any of them? NULL: none. */
bool layer_claims_are_read(const struct layer_claims *claims);

void layer_claims_done(struct layer_claims *claims);
