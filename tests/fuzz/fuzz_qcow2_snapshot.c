// SPDX-License-Identifier: LGPL-2.1-or-later
/* Any bytes as a qcow2 file: what its snapshot table lists is within the limits, and is found again. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "image/qcow2_snapshot.h"

#define CHECKS_MAX 64 /* of one input: each walks the table */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct byte_source source = byte_source_memory(data, size);
    struct qcow2_header header;
    struct qcow2_snapshots snapshots;
    struct error err = {0};
    int damage = 1;
    if (qcow2_header_read(&source, &header, NULL) < 0)
        return 0;
    /* Memory does not move: nothing but damage can be in the way. */
    fuzz_check(qcow2_snapshots_read(&source, &header, &snapshots, &damage, &err) == 0);
    fuzz_check(damage == 0 || damage == -EINVAL);
    fuzz_check(err.code == -damage && !err.text[0] == !damage);
    fuzz_check(snapshots.count <= header.snapshot_count && snapshots.count <= QCOW2_SNAPSHOTS_MAX);
    fuzz_check(damage || snapshots.count == header.snapshot_count);
    fuzz_check(snapshots.table_bytes <= size);
    for (size_t i = 0; i < snapshots.count; i++) {
        const struct internal_snapshot *snapshot = snapshots.entries[i];
        fuzz_check(snapshot->disk_size <= UINT64_C(1) << 61 && snapshot->disk_size % 512 == 0);
        fuzz_check(strlen(snapshot->id) + strlen(snapshot->name) < size);
        if (i < CHECKS_MAX)
            fuzz_check(qcow2_snapshot_check(&source, snapshot) == 0);
    }
    /* A name that is longer than the file is in no table. */
    char *name = malloc(size + 1);
    if (snapshots.count && name) {
        memset(name, 'x', size);
        name[size] = '\0';
        struct internal_snapshot other = *snapshots.entries[0];
        other.name = name;
        int found = qcow2_snapshot_check(&source, &other);
        fuzz_check(found == -ESTALE || (damage && found == -EIO));
    }
    free(name);
    qcow2_snapshots_done(&snapshots);
    qcow2_header_done(&header);
    return 0;
}
