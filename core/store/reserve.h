// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Room that is kept for the store itself, so that a snapshot can be deleted on a full disk: replacing a state
 * file takes its room twice for a moment. A file "reserve" of the store's directory holds that much, and
 * gives it up when it is needed. Where the file system does not know how to set room aside, there is none.
 *
 * One thread at a time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct reserve {
    int directory; /* borrowed */
    size_t bytes;  /* that are set aside now */
};

void reserve_init(struct reserve *reserve, int directory);

/* Sets aside at least `bytes`, if there is so much. What fails is tried again the next time. */
void reserve_fill(struct reserve *reserve, size_t bytes);

/* Gives the room up. False: there was none. */
bool reserve_release(struct reserve *reserve);
