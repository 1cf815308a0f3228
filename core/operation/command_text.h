// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * From what was written to a control file, as words, to a command. Documents have parsers of their own.
 *
 * All of these: `bytes` are `length` bytes of anything; the result is the caller's (…_done); errors are
 * EINVAL, ENAMETOOLONG and ENOMEM, with a sentence that says what is wrong and what would be right; on
 * failure the result is untouched. Pure functions; any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "operation/command.h"
#include "operation/command_words.h"

/*
 * `create`: [NAME] OPTION…  The first word is the name, unless it is an option as it stands: a snapshot that
 * is to be called "live" is written with its quotes.
 */
int command_parse_create(const char *bytes, size_t length, struct create_command *command, struct error *err);

/* `defaults`: options as in `create`, without a name and without files; none at all is right too. */
int command_parse_defaults(const char *bytes, size_t length, struct create_command *command,
                           struct error *err);

/* `revert`: 1 or nothing, running, paused, shutoff; guard; force. */
int command_parse_revert(const char *bytes, size_t length, struct revert_command *command, struct error *err);

/* `delete`: one of the words of delete_kind_name, or nothing for DELETE_ONE. */
int command_parse_delete(const char *bytes, size_t length, enum delete_kind *kind, struct error *err);

/* `clone`: NAME [full] */
int command_parse_clone(const char *bytes, size_t length, struct clone_command *command, struct error *err);

/* `power`: start [SNAPSHOT], shutdown, destroy, pause, resume or reset */
int command_parse_power(const char *bytes, size_t length, struct power_command *command, struct error *err);

/*
 * `copy`: PATH [shallow | base=PATH] [raw | format=raw|qcow2] [reuse] [bandwidth=BYTES[K|M|G]], in any order
 * after the first word.
 */
int command_parse_copy(const char *bytes, size_t length, struct copy_command *command, struct error *err);

/* `pivot`, `abort`: 1 or nothing */
int command_parse_trigger(const char *bytes, size_t length, struct error *err);

/* `protected`: 0 or 1 */
int command_parse_protected(const char *bytes, size_t length, bool *is_protected, struct error *err);

/* `description`: everything, but for one line end at the end. `*description` is the caller's. */
int command_parse_description(const char *bytes, size_t length, char **description, struct error *err);
