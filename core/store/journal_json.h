// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * One operation as the JSON text of its journal file, and back:
 *
 *     {"version": 1, "domain": 17, "uuid": "…", "serial": 99, "kind": "create",
 *      "request": {"mount": …, "id": …},
 *      "commit": 1, "next": 0,
 *      "steps": [{"type": "overlay", "arguments": ["/srv/web1.upgrade", 4096]}, …],
 *      "outcome": {"code": 0, "value": 100},        once it is known
 *      "checksum": "…"}                             FNV-1a of all bytes before its comma; the last member
 *
 * Files rot, and what is read here decides what is undone, so everything is checked, and what is not exactly
 * an operation is refused whole. Strings of any bytes are kept as in state_json.h.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/text.h"
#include "store/journal.h"

#define JOURNAL_BYTES_MAX     (16 * 1024 * 1024)
#define JOURNAL_STEPS_MAX     4096 /* the file is written anew for each: a few dozen are meant */
#define JOURNAL_ARGUMENTS_MAX 16   /* of one step */
#define JOURNAL_STRING_MAX    65536
#define JOURNAL_WORD_MAX      64
#define JOURNAL_CODE_MAX      4095 /* as the kernel has it */

/* Appends the document. `text->failed` tells where memory ran out. */
void journal_json_write(struct text *text, const struct journal_record *record);

/*
 * Errors: EINVAL with a text that says what is wrong, E2BIG, ENOMEM, ENOTSUP for a newer version. The caller
 * gives `*record`, with everything that it points to, to journal_record_done.
 */
int journal_json_read(const char *bytes, size_t length, struct journal_record *record, struct error *err);

void journal_record_done(struct journal_record *record);
