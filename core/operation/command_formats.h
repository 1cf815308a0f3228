// SPDX-License-Identifier: LGPL-2.1-or-later
/* What the parsers of documents for `create` share. Pure; any thread. */
#pragma once

#include <stddef.h>

#include "base/error.h"
#include "operation/command.h"

/* The words for where memory and disks go, up to a NULL: from MEMORY_NO and DISK_NO on. */
extern const char *const command_places[];

/* Those of compress, from COMPRESS_NONE on, and of quiesce, from QUIESCE_TRY on. */
extern const char *const command_compressions[], *const command_quiesces[];

/* The index of the word; -1: it is none of them. */
int command_word_index(const char *word, const char *const *words);

/* What the document calls a thing, as it may stand on a terminal. */
const char *command_shown(const char *text);

/* Appends a disk with that target, of `length` bytes, of which nothing else is known: EINVAL where there are
 * too many; ENOMEM. */
int command_add_disk(struct create_command *command, const char *target, size_t length, struct error *err);
