// SPDX-License-Identifier: LGPL-2.1-or-later
/* The names of new overlay files, made as virsh makes them: web1.qcow2 at the snapshot "upgrade" becomes
 * web1.upgrade, beside it. Any thread. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define OVERLAY_NAME_BYTES_MAX 200 /* without "~" and the serial number */

/* A buffer for any name that is made here. */
#define OVERLAY_NAME_SIZE 256

/*
 * The name of an overlay for the file `below` (no path) of `directory`, frozen at `snapshot`. Its stem is the
 * name of `below` without an ending: a format's, or that of an earlier snapshot. It ends with "~" and
 * `serial` where that of the snapshot alone can't be taken:
 *  - it is there already, or is among `taken` (names that this operation has chosen; `taken_count` of them)
 *  - it would be longer than OVERLAY_NAME_BYTES_MAX: then it is cut
 *  - the snapshot's name has other bytes than A-Z a-z 0-9 . _ -: then "_" stands for each run of those
 *  - it ends with what means something: a snapshot named "a.json"
 * Nothing is reserved: that the file is still not there is seen when it gets the name
 * (new_file_rename). Errors: EEXIST where even those with the serial number are taken; what fstatat
 * gives.
 */
int overlay_name_choose(int directory, const char *below, const char *snapshot, uint64_t serial,
                        const char *const *taken, size_t taken_count, char name[OVERLAY_NAME_SIZE],
                        struct error *err);
