// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Names of domains, disks and snapshots: which are legal, and legal ones made from whatever an image holds.
 *
 * A legal name is 1 to 255 bytes of UTF-8, without `/`, without control characters (C0, DEL, C1), not
 * beginning with a dot or a hyphen. Pure functions; any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define NAME_BYTES_MAX 255

/* True if legal; else false, and `*reason` (may be NULL) is a static text such as "begins with a dot". */
bool name_is_legal(const char *name, size_t length, const char **reason);

/*
 * A legal name for any `length` bytes: what is not legal is %-encoded (two upper-case hex digits; `%` itself
 * is encoded only where the name needs encoding at all), what is too long is cut at a character. An empty one
 * becomes "%". The caller frees; NULL where memory ran out.
 */
char *name_make_legal(const char *bytes, size_t length);

/*
 * The legal `name` with `~` and `suffix`, cut before the `~` so that it stays legal. A suffix may be any
 * string (an image's snapshot id): what is not legal in it is %-encoded. One that is too long is cut at its
 * beginning, so that a number at its end still makes another name of it. The caller frees; NULL: out of
 * memory.
 */
char *name_with_suffix(const char *name, const char *suffix);
