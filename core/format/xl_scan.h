// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Finds out where lines of xl configuration (xl_config.h) end, while they come in pieces: at a line `end`,
 * or, where the file is closed, at the end of a whole line or value. What the lines say is not checked. Pure
 * functions; any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Zeros at the beginning. */
struct xl_scan {
    char quote; /* inside a text: the sign that closes it; else 0 */
    bool escaped, in_comment;
    unsigned depth;    /* of open lists */
    unsigned matched;  /* letters of `end`, at the beginning of the line */
    bool is_other;     /* there is something else than `end` in the line */
    bool in_statement; /* something of one stands there that is not over yet */
    bool has_equals;   /* and it has that sign */
    bool wants_value;  /* which was the last thing in it */
    bool has_content;  /* there was anything but blanks and comments */
    bool has_end_line; /* what follows is not looked at */
};

/* Goes on over the next piece. True if there was a line `end`, in it or before. */
bool xl_scan(struct xl_scan *scan, const char *bytes, size_t length);

/* May what has come be all of it? Not where a list or a text is open, or a line that has no value yet. */
bool xl_scan_is_whole(const struct xl_scan *scan);
