// SPDX-License-Identifier: LGPL-2.1-or-later
/* One mount, from the options to the end: everything that the handlers need is made here and taken down here.
 */
#pragma once

#include "base/error.h"
#include "options.h"

/* Called once, when the mount can be used. */
typedef void (*session_ready)(void *opaque);

/*
 * Mounts and serves until it is unmounted, or SIGTERM, SIGINT or SIGHUP comes. Call it from the main thread
 * of a process that has no other, after its last fork. Errors come before `ready`, never after; the text says
 * why.
 */
int session_run(const struct options *options, session_ready ready, void *opaque, struct error *err);
