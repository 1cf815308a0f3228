// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Which images another process has open for writing, as QEMU's locks tell, without opening them or taking a
 * lock.
 *
 * QEMU holds an OFD lock on byte 101 of an image file while it may write to it (block/file-posix.c:
 * RAW_LOCK_PERM_BASE + BLK_PERM_WRITE). /proc/locks shows all of them by device and inode, and not who has
 * them; it is read at most once a second, as each reading waits for all processors (some 10 ms). Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* `device` and `inode` as stat(2) gives them. False also where locks can't be seen: another host, no /proc.
 */
bool image_locks_written(uint64_t device, uint64_t inode);

/* The same, but for what a helper of ours has open: its lock keeps every other one from writing. */
bool image_locks_written_by_others(uint64_t device, uint64_t inode);

/*
 * A helper of ours is about to open an image for writing; has opened it, which is told of one that was begun;
 * and has it no more. In between the first two its lock, or another's upon which it fails, is not told apart,
 * and what was last known counts, without a reading. False where memory runs out: then the lock counts as
 * another process's, and nothing is to be disowned.
 */
bool image_locks_begin_own(uint64_t device, uint64_t inode);
void image_locks_own(uint64_t device, uint64_t inode);
void image_locks_disown(uint64_t device, uint64_t inode);

/* Somebody who had images open has ended: what is known is read anew. */
void image_locks_forget(void);
