// SPDX-License-Identifier: LGPL-2.1-or-later
/* xl configuration; see xl_config.h. */
#include "format/xl_config.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "base/utf8.h"

struct reader {
    const char *at, *end;
    unsigned line;
    unsigned values_left;
    struct error *err;
};

static int out_of_memory(struct reader *reader)
{
    return error_set(reader->err, ENOMEM, "out of memory");
}

static void setting_done(struct xl_setting *setting)
{
    for (size_t i = 0; i < setting->count; i++)
        free(setting->values[i]);
    free(setting->values);
    free(setting->key);
    *setting = (struct xl_setting){0};
}

void xl_config_done(struct xl_config *config)
{
    for (size_t i = 0; i < config->count; i++)
        setting_done(&config->settings[i]);
    free(config->settings);
    *config = (struct xl_config){0};
}

/* ---- Bytes ---- */

static bool is_next(const struct reader *reader, char byte)
{
    return reader->at < reader->end && *reader->at == byte;
}

static bool take(struct reader *reader, char byte)
{
    bool found = is_next(reader, byte);
    if (found) {
        reader->line += byte == '\n';
        reader->at++;
    }
    return found;
}

static void skip_blanks(struct reader *reader)
{
    while (take(reader, ' ') || take(reader, '\t') || take(reader, '\r'))
        ;
}

/* Blanks, and a comment with them; not the line's end. */
static void skip_to_sign(struct reader *reader)
{
    skip_blanks(reader);
    if (is_next(reader, '#'))
        while (reader->at < reader->end && *reader->at != '\n')
            reader->at++;
}

static void skip_lines(struct reader *reader)
{
    do
        skip_to_sign(reader);
    while (take(reader, '\n'));
}

static bool is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

static bool is_letter(char byte)
{
    return byte >= 'a' && byte <= 'z';
}

static size_t word_length(const struct reader *reader)
{
    const char *at = reader->at;
    if (at < reader->end && is_letter(*at))
        while (at < reader->end && (is_letter(*at) || is_digit(*at) || *at == '_'))
            at++;
    return (size_t)(at - reader->at);
}

/* ---- Values ---- */

static int hex_digit(char byte)
{
    if (is_digit(byte))
        return byte - '0';
    if (byte >= 'a' && byte <= 'f')
        return byte - 'a' + 10;
    return byte >= 'A' && byte <= 'F' ? byte - 'A' + 10 : -1;
}

/* \xHH and \OOO: a byte, of which several can make a character. 0 for what is none. */
static char take_number(struct reader *reader)
{
    bool is_hex = take(reader, 'x');
    int number = 0, digits = is_hex ? 2 : 3;
    for (; digits > 0 && reader->at < reader->end; digits--) {
        int digit = hex_digit(*reader->at);
        if (digit < 0 || (!is_hex && digit > 7))
            return '\0';
        number = number * (is_hex ? 16 : 8) + digit;
        reader->at++;
    }
    return digits == 0 && number <= 0xff ? (char)number : '\0';
}

static int take_escape(struct reader *reader, char *byte)
{
    static const char letters[] = "abfnrtv\\'\"", meaning[] = "\a\b\f\n\r\t\v\\'\"";
    const char *letter = reader->at < reader->end && *reader->at ? strchr(letters, *reader->at) : NULL;
    if (letter) {
        reader->at++;
        *byte = meaning[letter - letters];
        return 0;
    }
    *byte = take_number(reader);
    return *byte ? 0
                 : error_set(reader->err, EINVAL,
                             "line %u: what follows a backslash in a text is one of \\ ' \" n t r a b f v, "
                             "x and two digits, or three octal digits",
                             reader->line);
}

static int take_text(struct reader *reader, char **value)
{
    cleanup_text struct text text = {0};
    char quote = *reader->at++;
    text_append(&text, "", 0);
    for (;;) {
        if (reader->at == reader->end || *reader->at == '\n')
            return error_set(reader->err, EINVAL, "line %u: a text is not closed: %c is missing",
                             reader->line, quote);
        char byte = *reader->at++;
        if (byte == quote)
            break;
        int rc = byte == '\\' ? take_escape(reader, &byte) : 0;
        if (rc < 0)
            return rc;
        text_append(&text, &byte, 1);
    }
    for (size_t at = 0, step; !text.failed && at < text.length; at += step) {
        uint32_t code;
        step = utf8_decode(text.data + at, text.length - at, &code);
        if (!step)
            return error_set(reader->err, EINVAL, "line %u: a text is not UTF-8", reader->line);
    }
    *value = text_steal(&text);
    return *value ? 0 : out_of_memory(reader);
}

static int take_atom(struct reader *reader, enum xl_kind *kind, char **value)
{
    if (reader->values_left-- == 0)
        return error_set(reader->err, E2BIG, "line %u: there are too many values", reader->line);
    if (is_next(reader, '\'') || is_next(reader, '"')) {
        *kind = XL_TEXT;
        return take_text(reader, value);
    }
    const char *begin = reader->at;
    while (reader->at < reader->end &&
           (is_digit(*reader->at) || (reader->at > begin && strchr("abcdefx", *reader->at) && *reader->at)))
        reader->at++;
    if (reader->at == begin)
        return error_set(reader->err, EINVAL,
                         "line %u: a value is missing, or not understood; it is a text in quotes, a number, "
                         "or a list of these in brackets",
                         reader->line);
    *kind = XL_NUMBER;
    *value = strndup(begin, (size_t)(reader->at - begin));
    return *value ? 0 : out_of_memory(reader);
}

static int append_atom(struct reader *reader, struct xl_setting *setting, enum xl_kind *kind)
{
    char **values = reallocarray(setting->values, setting->count + 1, sizeof *values);
    if (!values)
        return out_of_memory(reader);
    setting->values = values;
    int rc = take_atom(reader, kind, &values[setting->count]);
    setting->count += rc == 0;
    return rc;
}

static int take_list(struct reader *reader, struct xl_setting *setting)
{
    enum xl_kind kind;
    setting->kind = XL_LIST;
    for (;;) {
        skip_lines(reader);
        if (take(reader, ']'))
            return 0;
        int rc = append_atom(reader, setting, &kind);
        if (rc < 0)
            return rc;
        skip_lines(reader);
        if (!take(reader, ',') && !is_next(reader, ']'))
            return error_set(reader->err, EINVAL,
                             reader->at == reader->end
                                 ? "line %u: the list that was begun is not closed: ] is missing"
                                 : "line %u: in a list there is a comma between values, and ] at its end",
                             reader->line);
    }
}

/* ---- Statements ---- */

/* Takes the setting over, in the place of one of the same key. */
static int add_setting(struct reader *reader, struct xl_config *config, struct xl_setting *setting)
{
    for (size_t i = 0; i < config->count; i++)
        if (strcmp(config->settings[i].key, setting->key) == 0) {
            setting_done(&config->settings[i]);
            config->settings[i] = *setting;
            *setting = (struct xl_setting){0};
            return 0;
        }
    struct xl_setting *settings = reallocarray(config->settings, config->count + 1, sizeof *config->settings);
    if (!settings)
        return out_of_memory(reader);
    config->settings = settings;
    settings[config->count++] = *setting;
    *setting = (struct xl_setting){0};
    return 0;
}

static int take_setting(struct reader *reader, struct xl_config *config)
{
    cleanup(setting_done) struct xl_setting setting = {.line = reader->line};
    size_t length = word_length(reader);
    if (!length)
        return error_set(reader->err, EINVAL,
                         "line %u: not understood; a line is `key = value`, with a key in small letters",
                         reader->line);
    setting.key = strndup(reader->at, length);
    if (!setting.key)
        return out_of_memory(reader);
    reader->at += length;
    skip_blanks(reader);
    if (!take(reader, '='))
        return error_set(reader->err, EINVAL, "line %u: %.40s must be followed by = and a value",
                         reader->line, setting.key);
    skip_blanks(reader);
    int rc = take(reader, '[') ? take_list(reader, &setting) : append_atom(reader, &setting, &setting.kind);
    return rc < 0 ? rc : add_setting(reader, config, &setting);
}

/* Takes a line `end`, whose word is the next one. */
static bool take_end_line(struct reader *reader, const char *line_begin)
{
    if (word_length(reader) != 3 || memcmp(reader->at, "end", 3) != 0)
        return false;
    for (const char *at = line_begin; at < reader->at; at++)
        if (*at != ' ' && *at != '\t' && *at != '\r')
            return false;
    struct reader after = *reader;
    after.at += 3;
    skip_to_sign(&after);
    if (after.at < after.end && *after.at != '\n')
        return false;
    *reader = after;
    return true;
}

static int take_all(struct reader *reader, struct xl_config *config)
{
    const char *line_begin = reader->at;
    for (;;) {
        skip_to_sign(reader);
        if (take(reader, '\n')) {
            line_begin = reader->at;
            continue;
        }
        if (take(reader, ';'))
            continue;
        if (reader->at == reader->end)
            return 0;
        if (take_end_line(reader, line_begin)) {
            skip_lines(reader);
            return reader->at == reader->end
                       ? 0
                       : error_set(reader->err, EINVAL, "line %u: there is more after the line `end`",
                                   reader->line);
        }
        int rc = take_setting(reader, config);
        if (rc < 0)
            return rc;
        skip_to_sign(reader);
        if (reader->at < reader->end && !is_next(reader, '\n') && !is_next(reader, ';'))
            return error_set(reader->err, EINVAL, "line %u: there is more after the value", reader->line);
    }
}

static int check_bytes(const char *bytes, size_t length, struct error *err)
{
    unsigned line = 1;
    for (size_t at = 0, step; at < length; at += step) {
        uint32_t code;
        step = utf8_decode(bytes + at, length - at, &code);
        if (step == 0 || code == 0)
            return error_set(err, EINVAL, step ? "line %u: a zero byte" : "line %u: not UTF-8", line);
        line += code == '\n';
    }
    return 0;
}

int xl_config_parse(const char *bytes, size_t length, const struct xl_limits *limits,
                    struct xl_config *config, struct error *err)
{
    if (length > limits->bytes)
        return error_set(err, E2BIG, "longer than %zu bytes", limits->bytes);
    int rc = check_bytes(bytes, length, err);
    if (rc < 0)
        return rc;
    struct reader reader = {
        .at = bytes, .end = bytes + length, .line = 1, .values_left = limits->values, .err = err};
    cleanup(xl_config_done) struct xl_config parsed = {0};
    rc = take_all(&reader, &parsed);
    if (rc < 0)
        return rc;
    *config = parsed;
    parsed = (struct xl_config){0};
    return 0;
}
