// SPDX-License-Identifier: LGPL-2.1-or-later
/* Members of documents that are kept; see json_fields.h. */
#include "store/json_fields.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/utf8.h"

void json_bytes_write(struct text *text, const char *string)
{
    if (!utf8_is_valid(string, strlen(string))) {
        text_append_string(text, "{\"hex\":\"");
        for (const char *at = string; *at; at++)
            text_printf(text, "%02x", (unsigned char)*at);
        text_append_string(text, "\"}");
        return;
    }
    text_append_string(text, "\"");
    for (const char *at = string; *at; at++) {
        if (*at == '"' || *at == '\\')
            text_printf(text, "\\%c", *at);
        else if ((unsigned char)*at < 0x20)
            text_printf(text, "\\u%04x", (unsigned char)*at);
        else
            text_append(text, at, 1);
    }
    text_append_string(text, "\"");
}

void json_fields_refuse(struct json_fields *fields, const char *key, const char *what)
{
    if (!fields->failed)
        fields->failed = error_set(fields->err, EINVAL, "\"%s\" %s", key, what);
}

struct json_object *json_fields_member(struct json_fields *fields, struct json_object *object,
                                       const char *key, json_type type)
{
    struct json_object *value;
    if (fields->failed)
        return NULL;
    if (!json_object_is_type(object, json_type_object) || !json_object_object_get_ex(object, key, &value)) {
        json_fields_refuse(fields, key, "is missing");
        return NULL;
    }
    if (!json_object_is_type(value, type)) {
        json_fields_refuse(fields, key, "has a wrong type");
        return NULL;
    }
    return value;
}

uint64_t json_fields_number(struct json_fields *fields, struct json_object *object, const char *key,
                            uint64_t max)
{
    struct json_object *value = json_fields_member(fields, object, key, json_type_int);
    if (!value)
        return 0;
    /* json-c gives 0 for a negative number asked for as an unsigned one. */
    if (json_object_get_int64(value) < 0 || json_object_get_uint64(value) > max) {
        json_fields_refuse(fields, key, "is out of range");
        return 0;
    }
    return json_object_get_uint64(value);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

char *json_fields_string(struct json_fields *fields, struct json_object *value, const char *key)
{
    struct json_object *hex = NULL;
    bool coded =
        json_object_is_type(value, json_type_object) && json_object_object_get_ex(value, "hex", &hex);
    struct json_object *from = coded ? hex : value;
    if (!json_object_is_type(from, json_type_string)) {
        json_fields_refuse(fields, key, "is no string");
        return NULL;
    }
    const char *bytes = json_object_get_string(from);
    size_t length = (size_t)json_object_get_string_len(from);
    cleanup_free char *string = calloc(length + 1, 1);
    if (!string) {
        fields->failed = error_set(fields->err, ENOMEM, "%s", strerror(ENOMEM));
        return NULL;
    }
    if (!coded)
        memcpy(string, bytes, length);
    for (size_t i = 0; coded && i < length; i += 2) {
        int high = hex_digit(bytes[i]), low = hex_digit(bytes[i + 1]); /* there is a zero byte at the end */
        if (high < 0 || low < 0) {
            json_fields_refuse(fields, key, "is no pairs of hex digits");
            return NULL;
        }
        string[i / 2] = (char)(high << 4 | low);
    }
    if (strlen(string) != (coded ? length / 2 : length)) {
        json_fields_refuse(fields, key, "holds a zero byte");
        return NULL;
    }
    return steal_pointer(string);
}

char *json_fields_string_member(struct json_fields *fields, struct json_object *object, const char *key)
{
    struct json_object *value;
    if (fields->failed)
        return NULL;
    if (!json_object_object_get_ex(object, key, &value)) {
        json_fields_refuse(fields, key, "is missing");
        return NULL;
    }
    return json_fields_string(fields, value, key);
}

void *json_fields_array_member(struct json_fields *fields, struct json_object *object, const char *key,
                               size_t size, struct json_object **list, size_t *count)
{
    *count = 0;
    *list = json_fields_member(fields, object, key, json_type_array);
    size_t length = *list ? json_object_array_length(*list) : 0;
    if (length == 0)
        return NULL;
    void *array = calloc(length, size);
    if (!array) {
        fields->failed = error_set(fields->err, ENOMEM, "%s", strerror(ENOMEM));
        return NULL;
    }
    *count = length;
    return array;
}
