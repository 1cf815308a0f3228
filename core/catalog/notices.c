// SPDX-License-Identifier: LGPL-2.1-or-later
/* Log lines that are given once; see notices.h. */
#include "catalog/notices.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void notices_add(struct notices *notices, enum log_level level, const char *format, ...)
{
    char *text;
    va_list args;
    va_start(args, format);
    int length = vasprintf(&text, format, args);
    va_end(args);
    if (length < 0)
        return;
    for (char *at = text; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = '?'; /* from the name of a file: a line of the log stays one */
    struct notice *grown = realloc(notices->list, (notices->count + 1) * sizeof *grown);
    if (!grown) {
        free(text);
        return;
    }
    notices->list = grown;
    notices->list[notices->count++] = (struct notice){level, text};
}

static bool has(const struct notices *notices, const char *text)
{
    for (size_t i = 0; i < notices->count; i++)
        if (strcmp(notices->list[i].text, text) == 0)
            return true;
    return false;
}

void notices_log(const struct notices *notices, const struct notices *before)
{
    for (size_t i = 0; i < notices->count; i++)
        if (!has(before, notices->list[i].text))
            log_message(notices->list[i].level, "%s", notices->list[i].text);
}

void notices_done(struct notices *notices)
{
    for (size_t i = 0; i < notices->count; i++)
        free(notices->list[i].text);
    free(notices->list);
    *notices = (struct notices){0};
}
