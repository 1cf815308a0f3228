// SPDX-License-Identifier: LGPL-2.1-or-later
/* Calls that give a negative errno and a struct error: which must succeed, and which must fail, and how. */
#pragma once

#include "unit.h"

#include "base/error.h"

static struct error why; /* the last argument of what must succeed */

#define must(call)                                                                                           \
    do {                                                                                                     \
        why = (struct error){0};                                                                             \
        int rc_ = (call);                                                                                    \
        if (rc_ < 0)                                                                                         \
            fail_msg("%s: %d %s", #call, rc_, why.text);                                                     \
    } while (0)

/* What must fail, with this errno and a text. */
#define must_fail(call, wanted)                                                                              \
    do {                                                                                                     \
        why = (struct error){0};                                                                             \
        int rc_ = (call);                                                                                    \
        if (rc_ != -(wanted) || why.code != (wanted) || !*why.text)                                          \
            fail_msg("%s: %d, not %d: %s", #call, rc_, -(wanted), why.text);                                 \
    } while (0)
