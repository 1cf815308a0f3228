// SPDX-License-Identifier: LGPL-2.1-or-later
/* From what was written to a control file to a request to the administration. Pure; any thread. */
#pragma once

#include <stddef.h>

#include "administration/administration.h"
#include "base/text.h"
#include "tree.h"

/*
 * Fills kind, domain, snapshot and the command, which request_free frees; not who asks. `place` is a control
 * file that has commands: any of a snapshot's or a disk's, and `create`, `defaults` and `power`. Errors, with
 * a sentence: EINVAL, ENAMETOOLONG, E2BIG, ENOMEM; EOPNOTSUPP for what a document's format can say and nobody
 * does. Then the request is untouched.
 */
int control_command_parse(const struct place *place, const char *bytes, size_t length,
                          struct request *request, struct error *err);

/* Appends what was done, for last_error, jobs/ and events: `write "1" to snapshots/a/delete`. */
void control_command_words(const struct place *place, const char *bytes, size_t length, struct text *text);
