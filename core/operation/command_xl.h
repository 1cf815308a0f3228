// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * xl's configuration of a snapshot (format/xl_config.h) as a command of `create`:
 *
 *     name = "…"
 *     description = "…"
 *     memory_path = "PATH"        external memory, in that file
 *     disks = ['PATH,qcow2,TARGET', ',,TARGET']
 *
 * A disk is external, with its overlay at PATH (without one, but with a format: at a place that is made up),
 * or internal if neither is given. One that is not in the list is left to its preset. An empty text is as
 * none. Besides these, keys mean what they do in JSON (command_json.h): memory, compress and quiesce, with a
 * text, and live, disk_only, reuse_external and paused, with 0 or 1.
 *
 * Pure; any thread.
 */
#pragma once

#include <stddef.h>

#include "base/error.h"
#include "operation/command.h"

/* As command_document_parse. EOPNOTSUPP is for a format that no overlay has. */
int command_xl_parse(const char *bytes, size_t length, struct create_command *command, struct error *err);
