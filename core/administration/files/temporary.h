// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The names of files that are not what they are to be yet, or that nobody is to see. They may lie in a
 * directory that several mounts use, so the names tell whose they are: the identity of the store, and the
 * operation.
 *
 *     .vmsnapfs-STORE-OPERATION-INDEX
 *     .vmsnapfs-memory-STORE-OPERATION        the memory of a guest, put aside
 *
 * One of the first kind is in a journal before anything depends on it, or not needed any more as soon as its
 * maker is gone. One of the second is known to the store before it is there, and may be kept for a person
 * (resume.h): it is never a leftover.
 *
 * Any thread. Inside of administration/.
 */
#pragma once

#include "administration/inside.h"
#include "image/overlay_name.h"

/* The INDEX of what is not one of a change's new files, which are counted from 0. */
#define TEMPORARY_OVERLAYS 100000 /* of disks that are not persistent; and the disk's position */
#define TEMPORARY_STATE    200000 /* memory that is copied out of an image */

void temporary_name(const struct administration *administration, uint64_t operation, size_t index,
                    char name[OVERLAY_NAME_SIZE]);
void temporary_memory_name(const struct administration *administration, uint64_t operation,
                           char name[OVERLAY_NAME_SIZE]);

/* Is the name of the first kind, and made by this mount or one before it? `*operation` tells by which. */
bool temporary_is_ours(const struct administration *administration, const char *name, uint64_t *operation);
