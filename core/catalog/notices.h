// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Lines for the log that a scan gives each time anew, as long as they are true: each is logged when it
 * becomes true, and not again while it stays so. One thread.
 */
#pragma once

#include <stddef.h>

#include "base/log.h"

struct notice {
    enum log_level level;
    char *text;
};

struct notices {
    struct notice *list;
    size_t count;
};

/* Where memory runs out, the line is dropped. */
void notices_add(struct notices *notices, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Logs those of `notices` that are not in `before`. */
void notices_log(const struct notices *notices, const struct notices *before);
void notices_done(struct notices *notices);
