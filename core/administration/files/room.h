// SPDX-License-Identifier: LGPL-2.1-or-later
/* Is there room for what a change is about to write? Asked before anything is touched. */
#pragma once

#include "administration/files/internals.h"
#include "administration/files/overlays.h"

/* ENOSPC with a sentence that tells where and how much. */
int room_for_snapshot(const struct overlays *overlays, const struct internals *internals, struct error *err);

/* The same for `bytes` in the file system of the open file or directory `fd`. `name` is for texts. */
int room_for_bytes(int fd, const char *name, uint64_t bytes, struct error *err);
