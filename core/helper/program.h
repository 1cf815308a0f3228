// SPDX-License-Identifier: LGPL-2.1-or-later
/* Where a program is that is to be started. Any thread. */
#pragma once

#include "base/error.h"

/* What PATH is where the environment has none. */
#define PROGRAM_DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/*
 * Finds `name` in PATH, or where it is, if it is absolute. `*program` is its resolved absolute path, to be
 * freed. ENOENT, with the package to install where that is known.
 */
int program_find(const char *name, char **program, struct error *err);
