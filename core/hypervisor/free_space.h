// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Whether there is room for what is copied from layer to layer, asked before it begins. An answer of now: who
 * else writes to the file system can take the room meanwhile.
 *
 * Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* The bytes that the file system of an open file or directory has left for who has no privileges there, as
 * the programs that copy have none. Errors: what fstatvfs gives. */
int free_space_available(int fd, uint64_t *bytes);

/*
 * The bytes that a file takes where it lies, about what copying its data takes. It can take more: compressed
 * data grows, and small pieces are copied in larger ones. Who copies has to live with ENOSPC in any case. 0
 * for what can't be told, and for block devices.
 */
uint64_t free_space_taken(int fd);

/*
 * 0 where the file system of `fd`, which people know as `place`, has that many bytes left. ENOSPC: "WHAT
 * needs about 3.2 GiB, and PLACE has 1.1 GiB left". Others: what fstatvfs gives.
 */
int free_space_check(int fd, const char *place, const char *what, uint64_t bytes, struct error *err);

/* "17 bytes", "1.5 MiB", "20 GiB": three digits at most, but for bytes; rounded. `size`: 16 are enough. */
void free_space_print(uint64_t bytes, char *text, size_t size);
