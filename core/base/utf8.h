// SPDX-License-Identifier: LGPL-2.1-or-later
/* One character of UTF-8, decoded strictly (RFC 3629: no overlong forms, no surrogates, up to U+10FFFF), so
 * that one text has one spelling. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The length in bytes of the character that begins at `bytes`, of which `left` are there, and its code; 0
 * where that is no UTF-8 (and nothing is stored). */
static inline size_t utf8_decode(const char *bytes, size_t left, uint32_t *code)
{
    const unsigned char *b = (const unsigned char *)bytes;
    if (left == 0)
        return 0;
    if (b[0] < 0x80) {
        *code = b[0];
        return 1;
    }
    size_t length = b[0] >= 0xf0 ? 4 : b[0] >= 0xe0 ? 3 : 2;
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    if (b[0] < 0xc0 || b[0] > 0xf4 || left < length)
        return 0;
    uint32_t value = b[0] & (0xffu >> (length + 1));
    for (size_t i = 1; i < length; i++) {
        if ((b[i] & 0xc0) != 0x80)
            return 0;
        value = value << 6 | (b[i] & 0x3f);
    }
    if (value < smallest[length] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))
        return 0;
    *code = value;
    return length;
}

/* Is all of it UTF-8? */
static inline bool utf8_is_valid(const char *bytes, size_t length)
{
    uint32_t code;
    for (size_t at = 0, step; at < length; at += step) {
        step = utf8_decode(bytes + at, length - at, &code);
        if (step == 0)
            return false;
    }
    return true;
}
