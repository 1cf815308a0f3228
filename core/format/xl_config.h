// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The configuration syntax of xl, untrusted: `key = value` on lines of their own or with semicolons between
 * them, and comments that begin with #. A value is a text in single or double quotes, in one line, with
 * backslashes as in C; a number; or a list of these in brackets, over as many lines as it takes, with a comma
 * after the last one or without. A key that comes again replaces what it was (as for xl, to which lines are
 * added that way). See xl.cfg(5).
 *
 * A line with the word `end` alone ends it, which is not xl's. Pure functions; any thread.
 */
#pragma once

#include <stddef.h>

#include "base/error.h"

struct xl_limits {
    size_t bytes;
    unsigned values; /* of all keys together, also of those that are replaced */
};

enum xl_kind { XL_TEXT, XL_NUMBER, XL_LIST };

struct xl_setting {
    char *key;
    enum xl_kind kind;
    char **values; /* one, or those of the list; a number as it was written. UTF-8, without zero bytes */
    size_t count;
    unsigned line; /* that it begins in */
};

struct xl_config {
    struct xl_setting *settings; /* each key once */
    size_t count;
};

/* EINVAL with the line, E2BIG, ENOMEM; then `*config` is untouched. */
int xl_config_parse(const char *bytes, size_t length, const struct xl_limits *limits,
                    struct xl_config *config, struct error *err);
void xl_config_done(struct xl_config *config);
