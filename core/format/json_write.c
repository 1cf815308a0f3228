// SPDX-License-Identifier: LGPL-2.1-or-later
/* JSON written into a text; see json_write.h. */
#include "format/json_write.h"

#include <string.h>

#include "base/utf8.h"

static void begin_line(struct json_writer *writer)
{
    text_append_string(writer->text, "\n");
    for (unsigned i = 0; i < writer->depth; i++)
        text_append_string(writer->text, "  ");
}

static void begin_value(struct json_writer *writer, const char *key)
{
    if (writer->filled)
        text_append_string(writer->text, ",");
    if (writer->depth)
        begin_line(writer);
    if (key)
        text_printf(writer->text, "\"%s\": ", key);
    writer->filled = true;
}

static void begin_nested(struct json_writer *writer, const char *key, const char *bracket)
{
    begin_value(writer, key);
    text_append_string(writer->text, bracket);
    writer->depth++;
    writer->filled = false;
}

static void end_nested(struct json_writer *writer, const char *bracket)
{
    writer->depth--;
    if (writer->filled)
        begin_line(writer);
    text_append_string(writer->text, bracket);
    writer->filled = true;
}

void json_begin_object(struct json_writer *writer, const char *key)
{
    begin_nested(writer, key, "{");
}

void json_end_object(struct json_writer *writer)
{
    end_nested(writer, "}");
}

void json_begin_array(struct json_writer *writer, const char *key)
{
    begin_nested(writer, key, "[");
}

void json_end_array(struct json_writer *writer)
{
    end_nested(writer, "]");
}

void json_string(struct json_writer *writer, const char *key, const char *string)
{
    if (!string) {
        json_null(writer, key);
        return;
    }
    begin_value(writer, key);
    text_append_string(writer->text, "\"");
    for (size_t left = strlen(string), step; left; string += step, left -= step) {
        uint32_t code;
        step = utf8_decode(string, left, &code);
        if (!step) {
            text_append_string(writer->text, "\\ufffd");
            step = 1;
        } else if (code == '"' || code == '\\') {
            text_printf(writer->text, "\\%c", (int)code);
        } else if (code < 0x20 || (code >= 0x7f && code < 0xa0)) {
            text_printf(writer->text, "\\u%04x", code);
        } else {
            text_append(writer->text, string, step);
        }
    }
    text_append_string(writer->text, "\"");
}

void json_number(struct json_writer *writer, const char *key, uint64_t number)
{
    begin_value(writer, key);
    text_printf(writer->text, "%llu", (unsigned long long)number);
}

void json_bool(struct json_writer *writer, const char *key, bool value)
{
    begin_value(writer, key);
    text_append_string(writer->text, value ? "true" : "false");
}

void json_null(struct json_writer *writer, const char *key)
{
    begin_value(writer, key);
    text_append_string(writer->text, "null");
}
