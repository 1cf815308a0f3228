// SPDX-License-Identifier: LGPL-2.1-or-later
/* FNV-1a, 64 bits: the same value on every machine and in every version. Any one byte that differs gives
 * another value; against somebody who looks for two equal values it is no protection. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define HASH_START UINT64_C(0xcbf29ce484222325)

static inline uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t length)
{
    for (const unsigned char *at = bytes; length--; at++)
        hash = (hash ^ *at) * UINT64_C(0x100000001b3);
    return hash;
}
