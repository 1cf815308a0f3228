// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * See qcow2_snapshot_view.h. The view's clusters, of 64 KiB: the header; a refcount table, empty, as nothing
 * is ever written; the L1 table; one L2 table, for the first half GiB; and the image's first bytes, with
 * other fields in its header. All else is not in the view, and so comes from the image's file.
 */
#include "image/qcow2_snapshot_view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "image/qcow2_format.h"
#include "image/qcow2_snapshot.h"

#define VIEW_CLUSTER_BITS 16
#define VIEW_CLUSTER      (UINT64_C(1) << VIEW_CLUSTER_BITS)
#define VIEW_L2_BITS      (VIEW_CLUSTER_BITS - 3)

enum { HEADER_CLUSTER, REFCOUNTS_CLUSTER, L1_CLUSTER };

static uint64_t divide_up(uint64_t value, unsigned bits)
{
    return (value >> bits) + ((value & ((UINT64_C(1) << bits) - 1)) != 0);
}

static int put(int view, uint64_t cluster, const void *bytes, size_t length)
{
    ssize_t written = pwrite(view, bytes, length, (off_t)(cluster << VIEW_CLUSTER_BITS));
    return written == (ssize_t)length ? 0 : written < 0 ? -errno : -EIO;
}

/* An image of `size` bytes of which the first cluster is `first`. */
static int write_view(int view, uint64_t size, const uint8_t *first)
{
    uint64_t l1_entries = divide_up(size, VIEW_CLUSTER_BITS + VIEW_L2_BITS);
    if (l1_entries * sizeof(uint64_t) > QCOW2_L1_BYTES_MAX)
        return -EFBIG;
    uint64_t l2 = L1_CLUSTER + divide_up(l1_entries * sizeof(uint64_t), VIEW_CLUSTER_BITS), data = l2 + 1;
    uint8_t header[QCOW2_V3_HEADER_BYTES_MIN] = {0}, entry[sizeof(uint64_t)];
    store_be32(header + QCOW2_AT_MAGIC, QCOW2_MAGIC);
    store_be32(header + QCOW2_AT_VERSION, 3);
    store_be32(header + QCOW2_AT_CLUSTER_BITS, VIEW_CLUSTER_BITS);
    store_be64(header + QCOW2_AT_SIZE, size);
    store_be32(header + QCOW2_AT_L1_SIZE, (uint32_t)l1_entries);
    store_be64(header + QCOW2_AT_L1_TABLE_OFFSET, (uint64_t)L1_CLUSTER << VIEW_CLUSTER_BITS);
    store_be64(header + QCOW2_AT_REFCOUNT_TABLE_OFFSET, (uint64_t)REFCOUNTS_CLUSTER << VIEW_CLUSTER_BITS);
    store_be32(header + QCOW2_AT_REFCOUNT_TABLE_CLUSTERS, 1);
    store_be32(header + QCOW2_AT_REFCOUNT_ORDER, 4);
    store_be32(header + QCOW2_AT_HEADER_BYTES, sizeof header);
    if (ftruncate(view, (off_t)((data + 1) << VIEW_CLUSTER_BITS)) < 0)
        return -errno;
    int rc = put(view, HEADER_CLUSTER, header, sizeof header);
    store_be64(entry, l2 << VIEW_CLUSTER_BITS | QCOW2_ENTRY_COPIED);
    if (rc == 0)
        rc = put(view, L1_CLUSTER, entry, sizeof entry);
    store_be64(entry, data << VIEW_CLUSTER_BITS | QCOW2_ENTRY_COPIED);
    if (rc == 0)
        rc = put(view, l2, entry, sizeof entry);
    return rc < 0 ? rc : put(view, data, first, VIEW_CLUSTER);
}

int qcow2_snapshot_view_open(int fd, const struct internal_snapshot *internal, int *view, struct error *err)
{
    const struct byte_source source = byte_source_fd(fd);
    int rc = qcow2_snapshot_check(&source, internal);
    if (rc < 0)
        return error_set(err, -rc, "the snapshot \"%s\" can't be read: %s", internal->name, strerror(-rc));
    uint64_t size, whole;
    rc = byte_source_size(&source, &size);
    if (rc < 0 || !align_up_checked(size, QCOW2_SECTOR_BYTES, &whole))
        return error_set(err, rc < 0 ? -rc : EFBIG, "an image's size can't be told");
    cleanup_free uint8_t *first = calloc(1, VIEW_CLUSTER);
    if (!first)
        return error_set(err, ENOMEM, "out of memory");
    rc = byte_source_read(&source, 0, first, min_u64(size, VIEW_CLUSTER));
    if (rc < 0)
        return error_set(err, -rc, "an image's header can't be read: %s", strerror(-rc));
    if (size < QCOW2_V2_HEADER_BYTES || load_be32(first + QCOW2_AT_MAGIC) != QCOW2_MAGIC)
        return error_set(err, EINVAL, "this is no qcow2 image");
    store_be64(first + QCOW2_AT_SIZE, internal->disk_size);
    store_be32(first + QCOW2_AT_L1_SIZE, internal->l1_size);
    store_be64(first + QCOW2_AT_L1_TABLE_OFFSET, internal->l1_table_offset);
    cleanup_close int made = memfd_create("snapshot", MFD_CLOEXEC);
    if (made < 0)
        return error_set(err, errno, "no memory for the view of a snapshot: %m");
    rc = write_view(made, whole, first);
    if (rc < 0)
        return error_set(err, -rc, "the view of a snapshot can't be made: %s", strerror(-rc));
    *view = steal_fd(&made);
    return 0;
}
