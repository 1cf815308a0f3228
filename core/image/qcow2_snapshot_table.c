// SPDX-License-Identifier: LGPL-2.1-or-later
/* See qcow2_snapshot_table.h. */
#include "image/qcow2_snapshot_table.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "image/qcow2_format.h"
#include "image/qcow2_header.h"
#include "image/qcow2_refcount.h"

struct qcow2_table_mark qcow2_table_mark(int fd)
{
    struct byte_source source = byte_source_fd(fd);
    cleanup(qcow2_header_done) struct qcow2_header header = {0};
    if (qcow2_header_read(&source, &header, NULL) < 0)
        return (struct qcow2_table_mark){QCOW2_TABLE_UNKNOWN, 0};
    return (struct qcow2_table_mark){header.snapshot_count, header.snapshots_offset};
}

/* No entry is all zeros: each has an id. A cluster that was freed has been punched out of the file. */
static bool is_zero(const struct byte_source *source, uint64_t offset)
{
    static const uint8_t zeros[QCOW2_SNAPSHOT_FIXED_BYTES];
    uint8_t entry[QCOW2_SNAPSHOT_FIXED_BYTES];
    return byte_source_read(source, offset, entry, sizeof entry) == 0 &&
           memcmp(entry, zeros, sizeof zeros) == 0;
}

bool qcow2_table_is_lost(int fd, const struct qcow2_table_mark *mark)
{
    struct byte_source source = byte_source_fd(fd);
    cleanup(qcow2_header_done) struct qcow2_header header = {0};
    struct qcow2_refcounts refcounts;
    uint64_t now, before = 1;
    if (mark->count > QCOW2_SNAPSHOTS_MAX || qcow2_header_read(&source, &header, NULL) < 0 || header.dirty ||
        header.snapshot_count == 0 || header.snapshots_offset == mark->offset ||
        qcow2_refcounts_init(&refcounts, &source, &header) < 0 ||
        qcow2_refcounts_get(&refcounts, header.snapshots_offset, &now) < 0 ||
        (mark->count > 0 && qcow2_refcounts_get(&refcounts, mark->offset, &before) < 0))
        return false;
    return (now == 0 || is_zero(&source, header.snapshots_offset)) && before > 0;
}

int qcow2_table_bring_back(int fd, const struct qcow2_table_mark *mark)
{
    uint8_t bytes[QCOW2_AT_SNAPSHOTS_OFFSET + 8 - QCOW2_AT_SNAPSHOT_COUNT];
    store_be32(bytes, (uint32_t)mark->count);
    store_be64(bytes + 4, mark->count ? mark->offset : 0);
    ssize_t written = pwrite(fd, bytes, sizeof bytes, QCOW2_AT_SNAPSHOT_COUNT);
    if (written != (ssize_t)sizeof bytes)
        return written < 0 ? -errno : -EIO;
    return fsync(fd) < 0 ? -errno : 0;
}
