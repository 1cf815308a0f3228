// SPDX-License-Identifier: LGPL-2.1-or-later
/* A text that grows; see text.h. */
#include "base/text.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool text_reserve(struct text *text, size_t more)
{
    if (text->failed)
        return false;
    size_t need;
    if (__builtin_add_overflow(text->length, more, &need) || __builtin_add_overflow(need, 1, &need)) {
        text->failed = true;
        return false;
    }
    if (need <= text->capacity)
        return true;
    size_t capacity = text->capacity ? text->capacity : 128;
    while (capacity < need)
        capacity = capacity > SIZE_MAX / 2 ? need : capacity * 2;
    char *data = realloc(text->data, capacity);
    if (!data) {
        text->failed = true;
        return false;
    }
    text->data = data;
    text->capacity = capacity;
    return true;
}

void text_append(struct text *text, const void *bytes, size_t length)
{
    if (!text_reserve(text, length))
        return;
    if (length)
        memcpy(text->data + text->length, bytes, length);
    text->length += length;
    text->data[text->length] = '\0';
}

void text_append_string(struct text *text, const char *string)
{
    text_append(text, string, strlen(string));
}

void text_printf(struct text *text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    va_list again;
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length >= 0 && text_reserve(text, (size_t)length)) {
        vsnprintf(text->data + text->length, (size_t)length + 1, format, again);
        text->length += (size_t)length;
    } else if (length < 0) {
        text->failed = true;
    }
    va_end(again);
}

void text_append_time(struct text *text, time_t seconds, char between)
{
    struct tm utc;
    if (gmtime_r(&seconds, &utc))
        text_printf(text, "%04lld-%02d-%02d%c%02d:%02d:%02d", utc.tm_year + 1900LL, utc.tm_mon + 1,
                    utc.tm_mday, between, utc.tm_hour, utc.tm_min, utc.tm_sec);
    else
        text_printf(text, "@%lld", (long long)seconds);
}

char *text_steal(struct text *text)
{
    char *data = NULL;
    if (!text->failed && text_reserve(text, 0)) {
        data = text->data;
        data[text->length] = '\0';
        text->data = NULL;
    }
    text_done(text);
    return data;
}

void text_done(struct text *text)
{
    free(text->data);
    *text = (struct text){0};
}
