// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What happens when the daemon is killed. Its thread that tells the kernel of a name may wait, where no
 * signal reaches it, for the lock of a directory in which somebody waits for an answer of ours. So it could
 * not end, /dev/fuse would stay open, and both would wait for ever. A small process of ours does nothing but
 * wait for that death, and aborts the connection then (the kernel's Documentation/filesystems/fuse.rst,
 * "Aborting a filesystem connection").
 */
#pragma once

#include <sys/types.h>

/*
 * Starts it for what is mounted on `mountpoint`, to be called by the thread that lives as long as the daemon.
 * 0 where there is none: an ordinary user may not, unless fusectl is mounted.
 */
pid_t abort_guard_start(const char *mountpoint);

/* Ends it; 0 is fine. */
void abort_guard_stop(pid_t guard);
