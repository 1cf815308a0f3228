// SPDX-License-Identifier: LGPL-2.1-or-later
/* Being killed on request; see crash_point.h. */
#include "base/crash_point.h"

#ifdef VMSNAPFS_CRASH_POINTS
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void crash_point(const char *name)
{
    static atomic_int passed;
    const char *wanted = getenv("VMSNAPFS_TEST_CRASH");
    size_t length = strlen(name);
    if (wanted && strncmp(wanted, name, length) == 0 && wanted[length] == ':' &&
        atomic_fetch_add(&passed, 1) + 1 == atoi(wanted + length + 1))
        kill(getpid(), SIGKILL);
}
#endif
