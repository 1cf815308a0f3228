// SPDX-License-Identifier: LGPL-2.1-or-later
/* The one function that a fuzz target has, called by libFuzzer or by replay_main.c. Returns 0. */
#pragma once

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What must hold, whatever the input; as assert, but never compiled out. */
#define fuzz_check(condition)                                                                                \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            __builtin_trap();                                                                                \
    } while (0)
