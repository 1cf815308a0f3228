// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A whole document instead of words, written to `create`, in one of three formats, which is told by how it
 * begins: a JSON object (command_json.h), libvirt's <domainsnapshot> (command_xml.h), or lines of xl
 * configuration (command_xl.h). All fill the same command, and are refused by the same rules.
 *
 * A document may come in pieces. JSON and XML end by themselves; xl configuration at a line `end`, or where
 * the file is closed.
 *
 * Pure functions; any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "format/xl_scan.h"
#include "format/xml_scan.h"
#include "operation/command.h"

#define COMMAND_DOCUMENT_BYTES_MAX (256 * 1024)

enum command_document_kind { COMMAND_WORDS, COMMAND_JSON, COMMAND_XML, COMMAND_XL };

/*
 * What was written to `create`, by how it begins: with {, with <, with # (a comment of xl), or with `key =`.
 * The blank before the sign is not needed for keys that no option is called like. More bytes after these
 * change nothing.
 */
enum command_document_kind command_document_kind(const char *bytes, size_t length);

/* Finds out where a document ends, while it comes in pieces. Zeros at the beginning. */
struct command_document_end {
    enum command_document_kind kind; /* set by the caller, with the first piece */
    struct {
        unsigned depth;
        bool in_string, escaped, closed;
    } json;
    struct xml_scan xml;
    struct xl_scan xl;
};

/*
 * Goes on over the next piece. 0: the document is complete; -EAGAIN: more is to come. What it is is not
 * checked, but for what can be refused early, and nothing that comes can mend: E2BIG, EINVAL.
 */
int command_document_ends(struct command_document_end *end, const char *bytes, size_t length,
                          struct error *err);

/* Is what has come complete if the file is closed now? */
bool command_document_ends_at_close(const struct command_document_end *end);

/* Has nothing come but blanks and comments? */
bool command_document_is_empty(const struct command_document_end *end);

/* What is missing in one that has not ended. Static. */
const char *command_document_missing(const struct command_document_end *end);

/* Are there only blanks? */
bool command_document_is_blank(const char *bytes, size_t length);

/* The document (no words) as a command, which is the caller's. Errors: EINVAL, ENAMETOOLONG, E2BIG, ENOMEM,
 * EOPNOTSUPP, with a sentence; then the command is untouched. */
int command_document_parse(const char *bytes, size_t length, struct create_command *command,
                           struct error *err);
