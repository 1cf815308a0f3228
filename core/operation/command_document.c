// SPDX-License-Identifier: LGPL-2.1-or-later
/* Documents of three formats; see command_document.h. */
#include "operation/command_document.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "operation/command_json.h"
#include "operation/command_xl.h"
#include "operation/command_xml.h"

static const char byte_order_mark[] = "\xef\xbb\xbf";

static bool is_blank(char byte)
{
    return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
}

bool command_document_is_blank(const char *bytes, size_t length)
{
    while (length && is_blank(bytes[length - 1]))
        length--;
    return length == 0;
}

static size_t mark_length(const char *bytes, size_t length)
{
    size_t mark = sizeof byte_order_mark - 1;
    return length > mark && memcmp(bytes, byte_order_mark, mark) == 0 ? mark : 0;
}

/* "key = value": with a blank before the sign, as no option is written, or with a key that is no option. */
static bool is_assignment(const char *bytes, size_t length)
{
    static const char *const keys[] = {"name", "memory_path", "disks", NULL};
    size_t at = 0;
    while (at < length && (isalnum((unsigned char)bytes[at]) || bytes[at] == '_'))
        at++;
    size_t blank = at;
    while (at < length && (bytes[at] == ' ' || bytes[at] == '\t'))
        at++;
    if (blank == 0 || at == length || bytes[at] != '=')
        return false;
    bool is_key = at > blank;
    for (size_t i = 0; keys[i] && !is_key; i++)
        is_key = strlen(keys[i]) == blank && memcmp(keys[i], bytes, blank) == 0;
    return is_key;
}

enum command_document_kind command_document_kind(const char *bytes, size_t length)
{
    size_t mark = mark_length(bytes, length);
    bytes += mark;
    length -= mark;
    while (length && is_blank(*bytes)) {
        bytes++;
        length--;
    }
    if (length && *bytes == '{')
        return COMMAND_JSON;
    if (length && *bytes == '<')
        return COMMAND_XML;
    if (length && *bytes == '#')
        return COMMAND_XL;
    return is_assignment(bytes, length) ? COMMAND_XL : COMMAND_WORDS;
}

static int json_ends(struct command_document_end *end, const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        char byte = bytes[i];
        if (end->json.in_string) {
            if (end->json.escaped)
                end->json.escaped = false;
            else if (byte == '\\')
                end->json.escaped = true;
            else if (byte == '"')
                end->json.in_string = false;
        } else if (byte == '"') {
            end->json.in_string = true;
        } else if (byte == '{' || byte == '[') {
            end->json.depth++;
        } else if ((byte == '}' || byte == ']') && end->json.depth > 0 && --end->json.depth == 0) {
            end->json.closed = true;
        }
    }
    return end->json.closed ? 0 : -EAGAIN;
}

int command_document_ends(struct command_document_end *end, const char *bytes, size_t length,
                          struct error *err)
{
    int rc = -EAGAIN;
    switch (end->kind) {
    case COMMAND_JSON:
        return json_ends(end, bytes, length);
    case COMMAND_XML:
        rc = xml_scan(&end->xml, bytes, length, &command_xml_limits, err);
        if (rc < 0 && rc != -EAGAIN)
            error_prefix(err, "the document");
        return rc;
    case COMMAND_XL:
        return xl_scan(&end->xl, bytes, length) ? 0 : -EAGAIN;
    case COMMAND_WORDS:
        break;
    }
    return 0;
}

bool command_document_ends_at_close(const struct command_document_end *end)
{
    return end->kind == COMMAND_XL && end->xl.has_content && xl_scan_is_whole(&end->xl);
}

bool command_document_is_empty(const struct command_document_end *end)
{
    return (end->kind == COMMAND_XML && end->xml.state == XML_TEXT && end->xml.elements == 0) ||
           (end->kind == COMMAND_XL && !end->xl.has_content);
}

const char *command_document_missing(const struct command_document_end *end)
{
    if (command_document_is_empty(end))
        return "there were only comments in what was written to the file, which is closed now; nothing was "
               "done";
    switch (end->kind) {
    case COMMAND_XML:
        return "the file was closed before the end of the document's root element; nothing was done";
    case COMMAND_XL:
        return "the file was closed before the end of a list, a text or a line `key = value`; nothing was "
               "done";
    default:
        return "the file was closed before the document's last brace; nothing was done";
    }
}

int command_document_parse(const char *bytes, size_t length, struct create_command *command,
                           struct error *err)
{
    enum command_document_kind kind = command_document_kind(bytes, length);
    size_t mark = mark_length(bytes, length);
    bytes += mark;
    length -= mark;
    return kind == COMMAND_XML  ? command_xml_parse(bytes, length, command, err)
           : kind == COMMAND_XL ? command_xl_parse(bytes, length, command, err)
                                : command_json_parse(bytes, length, command, err);
}
