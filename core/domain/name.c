// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Names; see name.h. A name is looked at character by character: one that is legal where it stands is kept,
 * any other byte becomes an escape.
 */
#include "domain/name.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

/* The longest that one character can become: two bytes of a C1 control character, three bytes of text each.
 */
#define UNIT_BYTES_MAX 6

/* Of a suffix: what leaves room for the `~` and for one character before it. */
#define SUFFIX_BYTES_MAX (NAME_BYTES_MAX - 1 - UNIT_BYTES_MAX)

/* Why the character can't stand there, or NULL. `at_start`: it is the first of the name. */
static const char *character_problem(uint32_t code, bool at_start)
{
    if (code == '/')
        return "holds a slash";
    if (code < 0x20 || (code >= 0x7f && code < 0xa0))
        return "holds a control character";
    if (at_start && code == '.')
        return "begins with a dot";
    if (at_start && code == '-')
        return "begins with a hyphen";
    return NULL;
}

/* Why the first character of `bytes` can't stand there, or NULL. `*length` is how many bytes it has, at
 * least 1. */
static const char *first_problem(const char *bytes, size_t left, bool at_start, size_t *length)
{
    uint32_t code;
    size_t decoded = utf8_decode(bytes, left, &code);
    *length = decoded ? decoded : 1;
    return decoded ? character_problem(code, at_start) : "is not UTF-8";
}

bool name_is_legal(const char *name, size_t length, const char **reason)
{
    const char *problem = length == 0               ? "is empty"
                          : length > NAME_BYTES_MAX ? "is longer than 255 bytes"
                                                    : NULL;
    for (size_t at = 0, step; at < length && !problem; at += step)
        problem = first_problem(name + at, length - at, at == 0, &step);
    if (problem && reason)
        *reason = problem;
    return !problem;
}

/*
 * Writes the legal spelling of `bytes` to `to`, at most `room` bytes, cut at a character, and returns its
 * length. `at_start`: it is how a name begins.
 */
static size_t spell(const char *bytes, size_t length, bool at_start, char *to, size_t room)
{
    bool encodes = false;
    for (size_t at = 0, step; at < length && !encodes; at += step)
        encodes = first_problem(bytes + at, length - at, at_start && at == 0, &step) != NULL;

    size_t used = 0;
    for (size_t at = 0, step; at < length; at += step) {
        const char *from = bytes + at;
        bool escape =
            first_problem(from, length - at, at_start && at == 0, &step) || (encodes && *from == '%');
        char unit[UNIT_BYTES_MAX];
        size_t unit_length = 0;
        for (size_t i = 0; i < step; i++) {
            static const char digits[] = "0123456789ABCDEF";
            if (!escape) {
                unit[unit_length++] = from[i];
                continue;
            }
            unit[unit_length++] = '%';
            unit[unit_length++] = digits[(unsigned char)from[i] >> 4];
            unit[unit_length++] = digits[(unsigned char)from[i] & 15];
        }
        if (used + unit_length > room)
            break;
        memcpy(to + used, unit, unit_length);
        used += unit_length;
    }
    return used;
}

char *name_make_legal(const char *bytes, size_t length)
{
    char name[NAME_BYTES_MAX];
    size_t used = spell(bytes, length, true, name, sizeof name);
    return used ? strndup(name, used) : strdup("%");
}

char *name_with_suffix(const char *name, const char *suffix)
{
    size_t suffix_length = strlen(suffix);
    if (suffix_length > SUFFIX_BYTES_MAX) {
        suffix += suffix_length - SUFFIX_BYTES_MAX;
        suffix_length = SUFFIX_BYTES_MAX;
    }
    char end[SUFFIX_BYTES_MAX * 3];
    size_t end_length = spell(suffix, suffix_length, false, end, sizeof end);
    size_t from = end_length > SUFFIX_BYTES_MAX ? end_length - SUFFIX_BYTES_MAX : 0;
    /* Not from the middle of a character or an escape on. */
    while (from > 0 && from < end_length &&
           ((end[from] & 0xc0) == 0x80 || end[from - 1] == '%' || (from > 1 && end[from - 2] == '%')))
        from++;
    end_length -= from;

    char result[NAME_BYTES_MAX];
    size_t used = spell(name, strlen(name), true, result, sizeof result - 1 - end_length);
    result[used++] = '~';
    memcpy(result + used, end + from, end_length);
    return strndup(result, used + end_length);
}
