// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Of a disk that was to go on in the layer that it stood on (reclaim_pivot.h), what was interrupted. The
 * state tells, as of every operation: it was saved while the disk was held, with both files reading the same.
 * So where it was not, the disk has to stay where it is; where it was, it has to switch over, or has already,
 * or its QEMU is gone. Inside of undo.h.
 */
#pragma once

#include "administration/undo/undo_running.h"

/*
 * It is to go on in the lower layer: has a QEMU that holds it do so. 0 also where there is no QEMU any more,
 * or the operation has no such step. One that goes on in the upper all the same (somebody else has ended our
 * job) is followed: the state says so again, and EBUSY is returned only where that fails, or neither is so.
 */
int undo_pivot_conclude(struct administration *administration, const struct undo_running *running,
                        const struct journal_record *record, struct error *err);

/* It is to go on where it is. `step` is of the type "pivot". */
int undo_pivot_back(const struct undo_running *running, struct error *err);
