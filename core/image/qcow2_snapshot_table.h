// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Which snapshot table a qcow2 file's header leads to, remembered from before QEMU replaces it.
 *
 * QEMU writes a new table, lets the header lead there, and flushes. Where that flush fails it gives up the
 * new table, as if the header had not been written: its clusters are freed, and punched out of the file, and
 * the header leads to them. The old table is still there, and so the old header is right. Without it all of
 * the image's snapshots are lost, and it can't be opened any more when something else is written there.
 *
 * One thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define QCOW2_TABLE_UNKNOWN UINT64_MAX

struct qcow2_table_mark {
    uint64_t count; /* of snapshots; QCOW2_TABLE_UNKNOWN: there is no mark */
    uint64_t offset;
};

/* Where it leads now; no mark where that can't be told. */
struct qcow2_table_mark qcow2_table_mark(int fd);

/* Does the header lead to a table that was given up, and is the one of the mark still there? False in doubt.
 */
bool qcow2_table_is_lost(int fd, const struct qcow2_table_mark *mark);

/*
 * Lets the header lead to the table of the mark again, durably. qcow2_table_is_lost said so, and nobody else
 * has the image open for writing. `fd` is open for writing. What pwrite and fsync give.
 */
int qcow2_table_bring_back(int fd, const struct qcow2_table_mark *mark);
