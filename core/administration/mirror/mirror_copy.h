// SPDX-License-Identifier: LGPL-2.1-or-later
/* The file of a copy, for whoever begins one. Inside of mirror_copy.c and create_running.c. */
#pragma once

#include "administration/files/overlays.h"
#include "administration/mirror/mirror.h"

/* May the file that is there at `path`, open as `fd`, be written over? Errors: EPERM for the image of a
 * domain; EBUSY where somebody has it open. */
int mirror_check_stranger(const struct change *change, const char *path, int fd, struct error *err);

/* What the state is to know of the copy in that file; the caller frees its path. */
int mirror_describe(const struct change *change, const struct overlays *files, const struct overlay *file,
                    enum image_format format, struct state_mirror *mirror, struct error *err);
