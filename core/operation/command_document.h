// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A whole document instead of words, written to `create`: one JSON object. Every key may be left out:
 *
 *     name            of the new snapshot
 *     description
 *     memory          "no", "internal", "external"
 *     memory_file     absolute path
 *     compress        "none", "gzip", "zstd"
 *     quiesce         "try", "require"
 *     live, disk_only, reuse_external, paused
 *                     true or false
 *     disks           a list; a disk that is not in it is left to its preset:
 *         target      "vda"; this one must be there
 *         snapshot    "no", "internal", "external"
 *         path        of the new overlay, absolute
 *         mirror      of a second copy of it, absolute
 *
 * Pure functions; any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "operation/command.h"

#define COMMAND_DOCUMENT_BYTES_MAX (256 * 1024)

/* What was written to `create`, by how it begins. Only the first of these documents is read. */
enum command_document_kind { COMMAND_WORDS, COMMAND_JSON, COMMAND_XML, COMMAND_XL };

enum command_document_kind command_document_kind(const char *bytes, size_t length);

/* Finds out where a JSON object ends, while it comes in pieces. Zeros at the beginning. */
struct command_document_end {
    unsigned depth;
    bool in_string, escaped;
};

/* Goes on over the next piece. True if the object is complete with it. What it is is not checked. */
bool command_document_ends(struct command_document_end *end, const char *bytes, size_t length);

/* The document as a command, which is the caller's. Errors: EINVAL, ENAMETOOLONG, E2BIG, ENOMEM, with a
 * sentence; then the command is untouched. */
int command_document_parse(const char *bytes, size_t length, struct create_command *command,
                           struct error *err);
