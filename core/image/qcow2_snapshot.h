// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The snapshot table of a qcow2 file (QEMU docs/interop/qcow2.txt, "Snapshots"), also of one that a running
 * QEMU writes to: the table moves with every change, and the header says where it is (shared reading: no
 * locks are taken).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "domain/domain.h"
#include "image/qcow2_header.h"

struct qcow2_snapshots {
    struct internal_snapshot **entries;
    size_t count;
    uint64_t table_bytes; /* length of the table in the file */
};

/*
 * Reads the table that `header` points to; if it moved meanwhile, the table that the header in the file
 * points to now. Damage never fails the call: `*damage` becomes -EINVAL (else 0) with a text in `err`, and
 * what is sound is kept. An entry whose lengths lie ends the list; one with an impossible disk size is left
 * out. Entries without a disk size (version 2) get the header's. Errors: ENOMEM, EIO.
 */
int qcow2_snapshots_read(const struct byte_source *source, const struct qcow2_header *header,
                         struct qcow2_snapshots *snapshots, int *damage, struct error *err);
void qcow2_snapshots_done(struct qcow2_snapshots *snapshots);

/*
 * Is `wanted` still in the table, now? Reads the header's fields and the table anew. 0 if it is, -ESTALE if
 * it is not, -EIO and others where that can't be read. What was read from the image before this call began
 * was right if it returns 0, since QEMU takes a snapshot out of the table before it frees its clusters. Any
 * thread.
 *
 * The table is walked from its start each time: where an entry was found once, its bytes can still lie behind
 * the end of a newer and shorter table in the same place, and say nothing.
 */
int qcow2_snapshot_check(const struct byte_source *source, const struct internal_snapshot *wanted);
