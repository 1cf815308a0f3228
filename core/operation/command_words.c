// SPDX-License-Identifier: LGPL-2.1-or-later
/* Words with quotes; see command_words.h. */
#include "operation/command_words.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

static bool is_blank(char byte)
{
    return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
}

static int check_bytes(const char *bytes, size_t length, struct error *err)
{
    if (length > COMMAND_BYTES_MAX)
        return error_set(err, EINVAL, "the command has %zu bytes; at most %d can be", length,
                         COMMAND_BYTES_MAX);
    for (size_t at = 0, step; at < length; at += step) {
        uint32_t code;
        step = utf8_decode(bytes + at, length - at, &code);
        if (step == 0)
            return error_set(err, EINVAL, "the command is not UTF-8, from byte %zu on", at + 1);
        if ((code < 0x20 && !is_blank((char)code)) || (code >= 0x7f && code < 0xa0))
            return error_set(err, EINVAL, "byte %zu of the command is a control character", at + 1);
    }
    return 0;
}

/* Takes one word, from `*at` on, to `to`; false where its quote does not end. */
static bool take_word(const char *bytes, size_t length, size_t *at, char **to)
{
    bool inside = false;
    for (; *at < length && (inside || !is_blank(bytes[*at])); ++*at) {
        char byte = bytes[*at];
        if (byte == '"') {
            inside = !inside;
            continue;
        }
        bool escapes =
            inside && byte == '\\' && *at + 1 < length && (bytes[*at + 1] == '"' || bytes[*at + 1] == '\\');
        if (escapes)
            byte = bytes[++*at];
        *(*to)++ = byte;
    }
    *(*to)++ = '\0';
    return !inside;
}

int command_words_parse(const char *bytes, size_t length, struct command_words *words, struct error *err)
{
    int rc = check_bytes(bytes, length, err);
    if (rc < 0)
        return rc;
    /* Words are no longer than what they were written as, and what ends one leaves room for its zero byte. */
    struct command_words parsed = {
        .words = calloc(length / 2 + 1, sizeof *parsed.words),
        .buffer = malloc(length + 1),
    };
    if (!parsed.words || !parsed.buffer) {
        command_words_done(&parsed);
        return error_set(err, ENOMEM, "out of memory");
    }
    char *to = parsed.buffer;
    for (size_t at = 0;;) {
        while (at < length && is_blank(bytes[at]))
            at++;
        if (at == length)
            break;
        struct word *word = &parsed.words[parsed.count++];
        *word = (struct word){.text = to, .quoted = bytes[at] == '"'};
        if (!take_word(bytes, length, &at, &to)) {
            command_words_done(&parsed);
            return error_set(err, EINVAL, "a quote is not closed; write \\\" for one inside of quotes");
        }
    }
    *words = parsed;
    return 0;
}

void command_words_done(struct command_words *words)
{
    free(words->words);
    free(words->buffer);
    *words = (struct command_words){0};
}
