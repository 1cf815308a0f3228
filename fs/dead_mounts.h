// SPDX-License-Identifier: LGPL-2.1-or-later
/* Mounts of vmsnapfs whose daemon died. The kernel keeps them, one on top of the other, until somebody
 * unmounts them. */
#pragma once

#include "base/error.h"

/*
 * Unmounts what lies dead on the directory `real_path`, which has no symbolic link in it: from the top, until
 * something else comes to light. What others have mounted is left alone. Waits some seconds for a daemon that
 * does not answer.
 *
 * Errors, with a text: ETIMEDOUT where there is such a daemon, ENOTCONN where a dead mount can't be
 * unmounted. Only while no other thread runs.
 */
int dead_mounts_clear(const char *real_path, struct error *err);
