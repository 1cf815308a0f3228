// SPDX-License-Identifier: LGPL-2.1-or-later
/* A lower priority for long streams; see bulk_priority.h. */
#include "bulk_priority.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <unistd.h>

#define BULK_NICE 10 /* a ninth of the cpu that a thread of the ordinary priority gets beside it */

static pthread_once_t tried = PTHREAD_ONCE_INIT;
static bool is_possible;
static int own_nice; /* of all threads: they inherit it */
static _Thread_local bool is_lowered;

/* On Linux the priority is a thread's, although POSIX makes it the process's: see setpriority(2), "C
 * library/kernel differences". 0 is the calling thread. */
static bool set_nice(int nice_value)
{
    return setpriority(PRIO_PROCESS, 0, nice_value) == 0;
}

/* Only a trial tells whether one may come back: it takes a capability or a limit, and a security module may
 * refuse. At worst this one thread stays a step lower. */
static void try_once(void)
{
    errno = 0;
    own_nice = getpriority(PRIO_PROCESS, 0);
    is_possible = errno == 0 && own_nice < BULK_NICE && set_nice(own_nice + 1) && set_nice(own_nice);
}

void bulk_priority_begin(void)
{
    pthread_once(&tried, try_once);
    if (is_possible && !is_lowered)
        is_lowered = set_nice(BULK_NICE);
}

void bulk_priority_end(void)
{
    if (is_lowered)
        is_lowered = !set_nice(own_nice);
}
