// SPDX-License-Identifier: LGPL-2.1-or-later
/* Where lines of xl configuration end; see xl_scan.h. */
#include "format/xl_scan.h"

static const char end_word[] = "end";

static bool is_blank(char byte)
{
    return byte == ' ' || byte == '\t' || byte == '\r';
}

static bool is_end_line(const struct xl_scan *scan)
{
    return scan->matched == sizeof end_word - 1 && !scan->is_other && scan->depth == 0;
}

static void end_line(struct xl_scan *scan)
{
    scan->has_end_line |= is_end_line(scan);
    scan->in_comment = scan->escaped = scan->is_other = false;
    if (scan->depth == 0)
        scan->in_statement = scan->has_equals = scan->wants_value = false;
    scan->quote = '\0'; /* a text can't go on in the next line, which the parser says */
    scan->matched = 0;
}

static void in_text(struct xl_scan *scan, char byte)
{
    if (scan->escaped)
        scan->escaped = false;
    else if (byte == '\\')
        scan->escaped = true;
    else if (byte == scan->quote)
        scan->quote = '\0';
}

/* `end` and then blanks, with nothing before it. */
static void match_end(struct xl_scan *scan, char byte)
{
    bool can_match = !scan->is_other && scan->matched < sizeof end_word - 1;
    if (can_match && byte == end_word[scan->matched])
        scan->matched++;
    else if (!is_blank(byte) || (scan->matched > 0 && scan->matched < sizeof end_word - 1))
        scan->is_other = true;
}

bool xl_scan(struct xl_scan *scan, const char *bytes, size_t length)
{
    for (size_t i = 0; i < length && !scan->has_end_line; i++) {
        char byte = bytes[i];
        if (byte == '\n') {
            end_line(scan);
            continue;
        }
        if (scan->in_comment)
            continue;
        if (scan->quote) {
            in_text(scan, byte);
            continue;
        }
        if (byte == '#') {
            scan->in_comment = true;
            continue;
        }
        match_end(scan, byte);
        if (is_blank(byte))
            continue;
        scan->has_content = true;
        scan->in_statement = byte != ';';
        scan->has_equals = (scan->has_equals || byte == '=') && scan->in_statement;
        scan->wants_value = byte == '=';
        if (byte == '\'' || byte == '"')
            scan->quote = byte;
        else if (byte == '[')
            scan->depth++;
        else if (byte == ']' && scan->depth > 0)
            scan->depth--;
    }
    return scan->has_end_line;
}

bool xl_scan_is_whole(const struct xl_scan *scan)
{
    bool statement_is_whole =
        !scan->in_statement || is_end_line(scan) || (scan->has_equals && !scan->wants_value);
    return scan->depth == 0 && !scan->quote && statement_is_whole;
}
