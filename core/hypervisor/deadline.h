// SPDX-License-Identifier: LGPL-2.1-or-later
/* A point in time until which something is waited for, on the clock that nobody sets. */
#pragma once

#include <limits.h>
#include <stdint.h>

#include "base/monotonic.h"

static inline int64_t deadline_in(int timeout_ms)
{
    return monotonic_ms() + timeout_ms;
}

/* Milliseconds that are left, never less than 0: as poll and qmp_command take them. */
static inline int deadline_left_ms(int64_t deadline)
{
    int64_t left = deadline - monotonic_ms();
    return left < 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left;
}
