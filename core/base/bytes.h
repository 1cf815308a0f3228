// SPDX-License-Identifier: LGPL-2.1-or-later
/* Integers as they lie in files, rounding, and arithmetic that says when it overflows. */
#pragma once

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static inline uint16_t load_be16(const void *from)
{
    uint16_t value;
    memcpy(&value, from, sizeof value);
    return be16toh(value);
}

static inline uint32_t load_be32(const void *from)
{
    uint32_t value;
    memcpy(&value, from, sizeof value);
    return be32toh(value);
}

static inline uint64_t load_be64(const void *from)
{
    uint64_t value;
    memcpy(&value, from, sizeof value);
    return be64toh(value);
}

static inline uint32_t load_le32(const void *from)
{
    uint32_t value;
    memcpy(&value, from, sizeof value);
    return le32toh(value);
}

static inline uint64_t load_le64(const void *from)
{
    uint64_t value;
    memcpy(&value, from, sizeof value);
    return le64toh(value);
}

static inline void store_be16(void *to, uint16_t value)
{
    value = htobe16(value);
    memcpy(to, &value, sizeof value);
}

static inline void store_be32(void *to, uint32_t value)
{
    value = htobe32(value);
    memcpy(to, &value, sizeof value);
}

static inline void store_be64(void *to, uint64_t value)
{
    value = htobe64(value);
    memcpy(to, &value, sizeof value);
}

/* `alignment` is a power of two. */
static inline uint64_t align_down(uint64_t value, uint64_t alignment)
{
    return value & ~(alignment - 1);
}

/* To a multiple of `alignment`, a power of two; of values that are known to be far from the end. */
static inline uint64_t align_up(uint64_t value, uint64_t alignment)
{
    return align_down(value + alignment - 1, alignment);
}

/* Rounds up; false, and nothing stored, where the result does not fit. `alignment` is a power of two. */
static inline bool align_up_checked(uint64_t value, uint64_t alignment, uint64_t *result)
{
    uint64_t sum;
    if (__builtin_add_overflow(value, alignment - 1, &sum))
        return false;
    *result = align_down(sum, alignment);
    return true;
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}
