// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * JSON written straight into a text, indented by two spaces, in the order of the calls. The caller keeps
 * objects and arrays paired; whether memory ran out is asked of the text, at the end.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/text.h"

struct json_writer {
    struct text *text;
    unsigned depth;
    bool filled; /* the object or array that is open has a member already */
};

/* `key` is NULL inside an array and at the top. It is written as it is: a plain word. */
void json_begin_object(struct json_writer *writer, const char *key);
void json_end_object(struct json_writer *writer);
void json_begin_array(struct json_writer *writer, const char *key);
void json_end_array(struct json_writer *writer);

/* NULL is written as null. Bytes that are no UTF-8 become U+FFFD each. */
void json_string(struct json_writer *writer, const char *key, const char *string);
void json_number(struct json_writer *writer, const char *key, uint64_t number);
void json_bool(struct json_writer *writer, const char *key, bool value);
void json_null(struct json_writer *writer, const char *key);
