// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Untrusted JSON, parsed with json-c behind limits: a length, a depth, and a number of values, since a value
 * of three bytes in the text takes a kilobyte in memory.
 */
#pragma once

#include <json-c/json.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct json_limits {
    size_t bytes;
    unsigned depth;  /* objects and arrays inside each other */
    unsigned values; /* of all kinds, in all objects and arrays together */
};

enum json_dialect {
    JSON_STANDARD, /* RFC 8259, in valid UTF-8 */
    JSON_LENIENT,  /* what QEMU takes too: single quotes, strings of any bytes */
};

/*
 * Parses `length` bytes that are one JSON object. `*root` is the caller's, to be put with json_object_put.
 * Errors: E2BIG for what is over a limit; EINVAL with the line, or where the text is no object; ENOMEM.
 */
int json_parse(const char *bytes, size_t length, const struct json_limits *limits, enum json_dialect dialect,
               struct json_object **root, struct error *err);

/* The string that `value` is, borrowed from it; NULL for what is no string, or one with a zero byte in it. */
const char *json_string_of(struct json_object *value);

/* The same of the object's member; NULL also where there is none, or `object` is no object. */
const char *json_string_in(struct json_object *object, const char *key);

/* The integer that the object's member is; 0 for what is none, or negative. */
uint64_t json_number_in(struct json_object *object, const char *key);

void json_put_cleanup_(struct json_object **object);
#define cleanup_json cleanup(json_put_cleanup_)
