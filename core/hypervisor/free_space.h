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

/* A layer that is copied from. */
struct free_space_layer {
    int fd;
    uint64_t cluster_bytes; /* 0: it has none (raw) */
    bool is_compressed;     /* or may be: then its file tells nothing about its content */
};

/*
 * The most that it takes to write what these layers hold, of a disk of `virtual_size` bytes, into an image
 * with clusters of `cluster_bytes` (0: raw): the upper one for a merge down, the lower one for a merge up,
 * all of a chain for a copy. It is counted from what the files take, rounded to the pieces that are written,
 * and is never much more than the disk. Errors: what fstat gives.
 */
int free_space_needed(const struct free_space_layer *layers, size_t count, uint64_t virtual_size,
                      uint64_t cluster_bytes, uint64_t *bytes, struct error *err);

/*
 * 0 where the file system of `fd`, which people know as `place`, has that many bytes left. ENOSPC: "WHAT
 * needs about 3.2 GiB, and PLACE has 1.1 GiB left". Others: what fstatvfs gives.
 */
int free_space_check(int fd, const char *place, const char *what, uint64_t bytes, struct error *err);

/* "17 bytes", "1.5 MiB", "20 GiB": three digits at most, but for bytes; rounded. `size`: 16 are enough. */
void free_space_print(uint64_t bytes, char *text, size_t size);
