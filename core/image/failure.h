// SPDX-License-Identifier: LGPL-2.1-or-later
/* Where and why a read failed: kept until it is known whether it is to be logged (a deleted snapshot is not).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct failure {
    int error; /* a negative errno; 0: none */
    size_t layer;
    uint64_t guest;   /* offset in the disk */
    uint64_t offset;  /* in the layer's data file; UINT64_MAX where there is none to tell */
    const char *what; /* static: "reading failed" */
};

/* Keeps the first failure. Returns `error`. */
static inline int failure_note(struct failure *failure, int error, size_t layer, uint64_t guest,
                               uint64_t offset, const char *what)
{
    if (failure->error == 0)
        *failure =
            (struct failure){.error = error, .layer = layer, .guest = guest, .offset = offset, .what = what};
    return error;
}
