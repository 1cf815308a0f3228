// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Readers of frozen images, and who gives their space back, when they are two mounts: one that only reads,
 * and the one that administers the same images.
 *
 * Each has a byte of the image file, beyond those that QEMU locks (block/file-posix.c: from 100 and from 200
 * on), and holds a shared OFD lock on it. Who comes takes his own first, and looks at the other's then, so
 * that of two that meet at least one sees the other; and it is never the reader who is turned away. Shared
 * locks need no descriptor that writes. No QEMU is kept from anything by these.
 *
 * Any thread.
 */
#pragma once

#include <stdbool.h>

enum layer_lock {
    LAYER_LOCK_READ = 300,   /* somebody reads it, or through it */
    LAYER_LOCK_CHANGE = 301, /* somebody writes to it, or is about to */
};

/* Takes the lock for the open file description of `fd`, which ends it by its last close. A negative errno:
 * ENOLCK and others for a file system that has none. */
int layer_lock_take(int fd, enum layer_lock which);

/* Has another open file description the lock? False also where that can't be told. */
bool layer_lock_is_taken(int fd, enum layer_lock which);
