// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Reading members of a document that the store keeps, each checked: the first thing that is wrong is kept,
 * and what comes after it falls through with NULL or 0, so that a reader checks once, at the end. And writing
 * strings of any bytes.
 */
#pragma once

#include <json-c/json.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/text.h"

struct json_fields {
    int failed; /* 0 or a negative errno */
    struct error *err;
};

/* Notes that the member `key` `what` ("is missing"), with EINVAL, if nothing was wrong before. */
void json_fields_refuse(struct json_fields *fields, const char *key, const char *what);

/* The member, borrowed from `object`, which may be anything. */
struct json_object *json_fields_member(struct json_fields *fields, struct json_object *object,
                                       const char *key, json_type type);

/* An integer from 0 to `max`. */
uint64_t json_fields_number(struct json_fields *fields, struct json_object *object, const char *key,
                            uint64_t max);

/* The string that `value`, written by json_bytes_write, stands for; the caller frees it. */
char *json_fields_string(struct json_fields *fields, struct json_object *value, const char *key);
char *json_fields_string_member(struct json_fields *fields, struct json_object *object, const char *key);

/* An array of `size` zero bytes for each element of the list, which the caller frees; NULL, and `*count` 0,
 * where it is empty. */
void *json_fields_array_member(struct json_fields *fields, struct json_object *object, const char *key,
                               size_t size, struct json_object **list, size_t *count);

/* Appends the string in quotes, or as {"hex":"..."} where it is no UTF-8. */
void json_bytes_write(struct text *text, const char *string);
