// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Empty images; see qcow2_create.h. In clusters:
 *
 *     0     the header, its extensions, the backing file's name
 *     1     the refcount table, whose only entry is
 *     2     the refcount block
 *     3...  the L1 table, all zeros: nothing is allocated
 */
#include "image/qcow2_create.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/utf8.h"
#include "image/qcow2_format.h"

#define CLUSTER_BITS       16
#define CLUSTER_BYTES      (UINT64_C(1) << CLUSTER_BITS)
#define REFCOUNT_ORDER     4 /* 2^4 bits */
#define REFCOUNT_BYTES     2
#define L1_ENTRY_BYTES     8
#define L1_BYTES_MAX       (32 * MIB) /* QEMU's QCOW_MAX_L1_SIZE */
#define BACKING_NAME_BYTES 1023       /* the longest, without a zero byte; docs/interop/qcow2.txt */
#define FORMAT_BYTES       15         /* of QEMU's names, the longest that it reads back */
#define EXTENSION_BYTES    8          /* of the head of one: its type and its length */

enum { HEADER, REFCOUNT_TABLE, REFCOUNT_BLOCK, L1_TABLE };

/* One refcount block has to tell of all clusters. */
_Static_assert(L1_TABLE + L1_BYTES_MAX / CLUSTER_BYTES <= CLUSTER_BYTES / REFCOUNT_BYTES, "one block");

static int check(const struct qcow2_create *what, struct error *err)
{
    if (what->size_bytes % QCOW2_SECTOR_BYTES)
        return error_set(err, EINVAL, "%llu bytes: not a disk's size", (unsigned long long)what->size_bytes);
    if (what->size_bytes > L1_BYTES_MAX / L1_ENTRY_BYTES * CLUSTER_BYTES * (CLUSTER_BYTES / L1_ENTRY_BYTES))
        return error_set(err, EFBIG, "a qcow2 image of %llu bytes would be too long for QEMU",
                         (unsigned long long)what->size_bytes);
    if (!what->backing_name)
        return 0;
    if (!*what->backing_name || !what->backing_format || !*what->backing_format ||
        strlen(what->backing_format) > FORMAT_BYTES)
        return error_set(err, EINVAL, "an overlay without the name and format of its backing file");
    if (strlen(what->backing_name) > BACKING_NAME_BYTES)
        return error_set(err, ENAMETOOLONG, "the name of its backing file has more than %d bytes",
                         BACKING_NAME_BYTES);
    /* QEMU would open such a file, but can't be told of it in JSON, and so not be told to merge it. */
    if (!utf8_is_valid(what->backing_name, strlen(what->backing_name)))
        return error_set(err, EINVAL, "the name of its backing file is no UTF-8, which QEMU needs");
    return 0;
}

/* Returns where it ends, which is a multiple of 8. */
static size_t put_extension(uint8_t *header, size_t at, uint32_t type, const char *data)
{
    size_t length = strlen(data);
    store_be32(header + at, type);
    store_be32(header + at + 4, (uint32_t)length);
    memcpy(header + at + EXTENSION_BYTES, data, length);
    return at + EXTENSION_BYTES + (size_t)align_up(length, 8);
}

static size_t put_backing(uint8_t *header, const struct qcow2_create *what)
{
    size_t length = strlen(what->backing_name);
    size_t at =
        put_extension(header, QCOW2_HEADER_BYTES_KNOWN, QCOW2_EXTENSION_BACKING_FORMAT, what->backing_format);
    at = put_extension(header, at, QCOW2_EXTENSION_END, "");
    memcpy(header + at, what->backing_name, length);
    store_be64(header + QCOW2_AT_BACKING_OFFSET, at);
    store_be32(header + QCOW2_AT_BACKING_BYTES, (uint32_t)length);
    return at + length;
}

static int put(int fd, const void *bytes, size_t length, uint64_t cluster, struct error *err)
{
    ssize_t done = pwrite(fd, bytes, length, (off_t)(cluster * CLUSTER_BYTES));
    if (done == (ssize_t)length)
        return 0;
    return done < 0 ? error_set(err, errno, "%m") : error_set(err, ENOSPC, "there is no room for its header");
}

static int put_header(int fd, const struct qcow2_create *what, uint32_t l1_entries, struct error *err)
{
    uint8_t header[QCOW2_HEADER_BYTES_KNOWN + 2 * EXTENSION_BYTES + FORMAT_BYTES + 1 + BACKING_NAME_BYTES] = {
        0};
    size_t length = QCOW2_HEADER_BYTES_KNOWN + EXTENSION_BYTES; /* the end of extensions: zeros */
    store_be32(header + QCOW2_AT_MAGIC, QCOW2_MAGIC);
    store_be32(header + QCOW2_AT_VERSION, 3);
    store_be32(header + QCOW2_AT_CLUSTER_BITS, CLUSTER_BITS);
    store_be64(header + QCOW2_AT_SIZE, what->size_bytes);
    store_be32(header + QCOW2_AT_L1_SIZE, l1_entries);
    store_be64(header + QCOW2_AT_L1_TABLE_OFFSET, L1_TABLE * CLUSTER_BYTES);
    store_be64(header + QCOW2_AT_REFCOUNT_TABLE_OFFSET, REFCOUNT_TABLE * CLUSTER_BYTES);
    store_be32(header + QCOW2_AT_REFCOUNT_TABLE_CLUSTERS, 1);
    store_be32(header + QCOW2_AT_REFCOUNT_ORDER, REFCOUNT_ORDER);
    store_be32(header + QCOW2_AT_HEADER_BYTES, QCOW2_HEADER_BYTES_KNOWN);
    if (what->backing_name)
        length = put_backing(header, what);
    return put(fd, header, length, HEADER, err);
}

/* Each cluster has one reference. */
static int put_refcounts(int fd, uint64_t clusters, struct error *err)
{
    uint8_t table[8], block[(L1_TABLE + L1_BYTES_MAX / CLUSTER_BYTES) * REFCOUNT_BYTES];
    store_be64(table, REFCOUNT_BLOCK * CLUSTER_BYTES);
    for (uint64_t i = 0; i < clusters; i++)
        store_be16(block + i * REFCOUNT_BYTES, 1);
    int rc = put(fd, table, sizeof table, REFCOUNT_TABLE, err);
    return rc < 0 ? rc : put(fd, block, clusters * REFCOUNT_BYTES, REFCOUNT_BLOCK, err);
}

int qcow2_create(int fd, const struct qcow2_create *what, struct error *err)
{
    int rc = check(what, err);
    if (rc < 0)
        return rc;
    uint64_t per_entry = CLUSTER_BYTES << qcow2_l2_bits(CLUSTER_BITS, false);
    uint64_t l1_entries = align_up(what->size_bytes, per_entry) / per_entry;
    uint64_t clusters = L1_TABLE + align_up(l1_entries * L1_ENTRY_BYTES, CLUSTER_BYTES) / CLUSTER_BYTES;
    if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)(clusters * CLUSTER_BYTES)) < 0)
        return error_set(err, errno, "%m");
    rc = put_refcounts(fd, clusters, err);
    return rc < 0 ? rc : put_header(fd, what, (uint32_t)l1_entries, err);
}
