// SPDX-License-Identifier: LGPL-2.1-or-later
/* The directory to mount on, before and after. */
#pragma once

#include "base/error.h"

/*
 * Makes ready to mount on `path`: clears away mounts of ours whose daemon died (dead_mounts.h), and gives the
 * resolved path in `*resolved`, the caller's. Errors: ENOENT, ENOTDIR and others, with a text.
 */
int mountpoint_prepare(const char *path, char **resolved, struct error *err);

/* Lets the kernel read ahead further in what is mounted here, where we may; measured best for whole-disk
 * reads. */
void mountpoint_set_readahead(const char *path);
