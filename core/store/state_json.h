// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A domain's state as the JSON text of its state file, and back.
 *
 * The store is trusted not to be hostile, but files rot: everything read is checked, and what is not exactly
 * a state is refused whole. Keys that are not known are passed over, so that a newer store can be looked at.
 * Strings that are no UTF-8 (file names and snapshot ids can be any bytes) are kept as {"hex": "..."}.
 */
#pragma once

#include <stddef.h>

#include "base/text.h"
#include "store/store.h"

#define STATE_BYTES_MAX (64 * 1024 * 1024) /* 65536 snapshots of a few disks */

/* Appends the document. `text->failed` tells where memory ran out. */
void state_json_write(struct text *text, const struct state_domain *state);

/* Errors: EINVAL with a text that says what is wrong, E2BIG, ENOMEM. `*state` is the caller's. */
int state_json_read(const char *bytes, size_t length, struct state_domain **state, struct error *err);
