// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What was written to a control file, cut into words.
 *
 * Words are separated by blanks, tabs and line ends. A part of a word in double quotes keeps its blanks and
 * line ends; in it, \" is a quote and \\ a backslash, and any other backslash is itself, as in a shell. The
 * text must be UTF-8; control characters are refused, but for blanks as above.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* More than any command needs that a person writes; what is longer comes as a document. */
#define COMMAND_BYTES_MAX (64 * 1024)

struct word {
    const char *text; /* terminated */
    bool quoted;      /* it began with a quote, so it is no option */
};

struct command_words {
    struct word *words;
    size_t count;
    char *buffer; /* holds the texts */
};

/* EINVAL with a sentence, ENOMEM. On failure `*words` is untouched. */
int command_words_parse(const char *bytes, size_t length, struct command_words *words, struct error *err);
void command_words_done(struct command_words *words);
