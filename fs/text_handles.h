// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Open small files: each open sees the text as it was at that moment, whole, however slowly it is read.
 * Handles are numbers, which a daemon that takes over could be asked about without harm. Any thread.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

struct text_handles;

struct text_handles *text_handles_new(void);
void text_handles_free(struct text_handles *handles);

/* Takes the text over and gives a handle, never 0; 0 where memory ran out (the text is freed). */
uint64_t text_handles_add(struct text_handles *handles, struct text *text);

/* Copies up to `size` bytes at `offset` of the handle's text; returns how many; -EBADF. */
int64_t text_handles_read(struct text_handles *handles, uint64_t handle, uint64_t offset, void *buffer,
                          size_t size);

/* Replaces the text: what the last command on this open file came to. The text is taken over. */
void text_handles_replace(struct text_handles *handles, uint64_t handle, struct text *text);

void text_handles_remove(struct text_handles *handles, uint64_t handle);
