// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * One JSON object as a command of `create`. Every key may be left out:
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
 * Pure; any thread.
 */
#pragma once

#include <stddef.h>

#include "base/error.h"
#include "operation/command.h"

/* As command_document_parse. */
int command_json_parse(const char *bytes, size_t length, struct create_command *command, struct error *err);
