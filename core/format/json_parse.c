// SPDX-License-Identifier: LGPL-2.1-or-later
/* Untrusted JSON; see json_parse.h. */
#include "format/json_parse.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/utf8.h"

void json_put_cleanup_(struct json_object **object)
{
    json_object_put(*object);
}

static void free_tokener(struct json_tokener **tokener)
{
    if (*tokener)
        json_tokener_free(*tokener);
}

/*
 * At least as many as the text has values: each but the first of an object or array follows a comma, and each
 * object or array begins with a bracket. Quotes may be of either kind; the text need not be valid.
 */
static size_t count_values(const char *bytes, size_t length)
{
    size_t count = 1;
    char quote = '\0';
    for (size_t i = 0; i < length; i++) {
        if (quote) {
            if (bytes[i] == '\\')
                i++;
            else if (bytes[i] == quote)
                quote = '\0';
        } else if (bytes[i] == '"' || bytes[i] == '\'') {
            quote = bytes[i];
        } else if (bytes[i] == ',' || bytes[i] == '{' || bytes[i] == '[') {
            count += bytes[i] == ',' ? 1 : 2; /* itself may follow no comma, nor what is first inside */
        }
    }
    return count;
}

static unsigned line_of(const char *bytes, size_t offset)
{
    unsigned line = 1;
    for (size_t i = 0; i < offset; i++)
        line += bytes[i] == '\n';
    return line;
}

/* The most that spell_in_ascii makes of a byte: a character of two bytes takes six. */
#define ASCII_GROWTH 3

/*
 * Copies the text with \u in the place of what is not ASCII, and returns its length. The strict parser of
 * json-c 0.18 takes every byte above 0x7f for a control character and refuses it (the comparison is signed).
 * Outside of strings, where such characters are wrong, what is made of them is wrong too; what is no UTF-8,
 * or follows a backslash, stays and is refused.
 */
static size_t spell_in_ascii(const char *bytes, size_t length, char *text)
{
    size_t used = 0;
    bool escaped = false;
    for (size_t at = 0, step; at < length; at += step) {
        uint32_t code;
        step = utf8_decode(bytes + at, length - at, &code);
        if (step < 2 || escaped) {
            step = 1;
            text[used++] = bytes[at];
            escaped = bytes[at] == '\\' && !escaped;
        } else if (code < 0x10000) {
            used += (size_t)sprintf(text + used, "\\u%04x", code);
        } else {
            code -= 0x10000;
            used += (size_t)sprintf(text + used, "\\u%04x\\u%04x", 0xd800 + (code >> 10),
                                    0xdc00 + (code & 0x3ff));
        }
    }
    return used;
}

int json_parse(const char *bytes, size_t length, const struct json_limits *limits, enum json_dialect dialect,
               struct json_object **root, struct error *err)
{
    if (length > limits->bytes || length >= INT32_MAX / ASCII_GROWTH)
        return error_set(err, E2BIG, "longer than %zu bytes", limits->bytes);
    if (count_values(bytes, length) > limits->values)
        return error_set(err, E2BIG, "more than %u values", limits->values);
    /* json-c takes the end of the text for the end of a number only if there is a zero byte. */
    cleanup_free char *text = malloc(length * (dialect == JSON_STANDARD ? ASCII_GROWTH : 1) + 1);
    cleanup(free_tokener) struct json_tokener *tokener = json_tokener_new_ex((int)limits->depth);
    if (!text || !tokener)
        return error_set(err, ENOMEM, "out of memory");
    if (dialect == JSON_STANDARD)
        length = spell_in_ascii(bytes, length, text);
    else if (length)
        memcpy(text, bytes, length);
    text[length] = '\0';
    if (dialect == JSON_STANDARD)
        json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_ALLOW_TRAILING_CHARS |
                                            JSON_TOKENER_VALIDATE_UTF8);
    cleanup_json struct json_object *parsed = json_tokener_parse_ex(tokener, text, (int)length + 1);
    enum json_tokener_error problem = json_tokener_get_error(tokener);
    size_t end = json_tokener_get_parse_end(tokener);
    if (problem == json_tokener_error_depth)
        return error_set(err, E2BIG, "line %u: nested deeper than %u", line_of(text, end), limits->depth);
    if (problem != json_tokener_success)
        return error_set(err, EINVAL, "line %u: %s", line_of(text, end), json_tokener_error_desc(problem));
    while (end < length && strchr(" \t\r\n", text[end]) && text[end])
        end++;
    if (end < length)
        return error_set(err, EINVAL, "line %u: there is more after the end", line_of(text, end));
    if (!json_object_is_type(parsed, json_type_object))
        return error_set(err, EINVAL, "not an object in braces");
    *root = parsed;
    parsed = NULL;
    return 0;
}

const char *json_string_of(struct json_object *value)
{
    if (!json_object_is_type(value, json_type_string))
        return NULL;
    const char *string = json_object_get_string(value);
    return strlen(string) == (size_t)json_object_get_string_len(value) ? string : NULL;
}

const char *json_string_in(struct json_object *object, const char *key)
{
    struct json_object *value;
    return json_object_object_get_ex(object, key, &value) ? json_string_of(value) : NULL;
}

uint64_t json_number_in(struct json_object *object, const char *key)
{
    struct json_object *value;
    if (!json_object_object_get_ex(object, key, &value) || !json_object_is_type(value, json_type_int))
        return 0;
    int64_t number = json_object_get_int64(value);
    return number < 0 ? 0 : (uint64_t)number;
}
