// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Why operations failed, in full: for each domain its last 20 failures, newest first, kept while the daemon
 * runs. Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/text.h"

struct last_errors;

struct last_errors *last_errors_new(void);
void last_errors_free(struct last_errors *errors);

/* Remembers that `command` of process `pid` in the domain failed with `code` (a positive errno) for `reason`.
 * False if that is what this process was refused last, again, or memory ran out. */
bool last_errors_add(struct last_errors *errors, uint64_t domain, pid_t pid, const char *command, int code,
                     const char *reason);

/* Appends "TIME pid PID: COMMAND: REASON (ERRNO)\n" for each. A command that was refused again and again for
 * the same reason is one line, as it was the last time, with how often; and so is what rm -r tries. */
void last_errors_render(struct last_errors *errors, uint64_t domain, struct text *text);
