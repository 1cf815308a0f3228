// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The arguments of a command, put together member by member, so that no text is ever spliced into JSON. What
 * fails is remembered, and asked once: an object that is NULL stays NULL, as what is added to it is freed.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>

/* Adds a member that was just made (NULL: memory had run out), which it takes over. */
static inline void qmp_add(struct json_object **object, const char *key, struct json_object *value)
{
    if (*object && value && json_object_object_add(*object, key, value) == 0)
        return;
    json_object_put(value);
    json_object_put(*object);
    *object = NULL;
}

static inline void qmp_add_string(struct json_object **object, const char *key, const char *value)
{
    qmp_add(object, key, json_object_new_string(value));
}

static inline void qmp_add_bool(struct json_object **object, const char *key, bool value)
{
    qmp_add(object, key, json_object_new_boolean(value));
}

/* Appends to an array; the same rules. */
static inline void qmp_append(struct json_object **array, struct json_object *value)
{
    if (*array && value && json_object_array_add(*array, value) == 0)
        return;
    json_object_put(value);
    json_object_put(*array);
    *array = NULL;
}
