// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A qcow2 image, or an internal snapshot in one, as a layer.
 *
 * A frozen image must stay the file that it was: size and mtime are compared. An image that holds an internal
 * snapshot may be written to by a running QEMU, whose locks are not taken. QEMU never changes what a snapshot
 * in the table refers to, and takes a snapshot out of the table before it frees anything of it. So what was
 * read was right if the snapshot is in the table afterwards, and so was every table read before, for as long.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "image/layer_reader.h"
#include "image/qcow2_format.h"
#include "image/qcow2_map.h"
#include "image/qcow2_snapshot.h"
#include "io/byte_source.h"

struct qcow2_reader {
    struct layer_reader base;
    int fd; /* of the qcow2 file; the same as base.data_fd where the data is in it */
    struct qcow2_map map;
    struct internal_snapshot *internal; /* owned; NULL: the image itself */
    bool may_change;                    /* somebody may write to the image; only with `internal` */
    struct file_identity identity;      /* what it must go on to be, if not may_change */
    struct file_identity data_identity; /* the same of an external data file */
    /* The image must be longer than this, or it was cut off: where the last cluster that a walk came by
     * begins. */
    _Atomic uint64_t needed;
};

static struct qcow2_reader *qcow2_reader_of(struct layer_reader *base)
{
    return (struct qcow2_reader *)base;
}

struct walk {
    struct qcow2_reader *reader;
    extent_visitor visitor;
    void *opaque;
};

static int visit(void *opaque, const struct extent *extent)
{
    const struct walk *walk = opaque;
    if (extent->kind == EXTENT_DATA || extent->kind == EXTENT_COMPRESSED) {
        uint64_t last = extent->offset;
        if (extent->kind == EXTENT_DATA)
            last = align_down(extent->offset + extent->length - 1, walk->reader->base.cluster_size);
        uint64_t needed = atomic_load(&walk->reader->needed);
        while (needed < last && !atomic_compare_exchange_weak(&walk->reader->needed, &needed, last))
            ;
    }
    return walk->visitor(walk->opaque, extent);
}

static int qcow2_reader_walk(struct layer_reader *base, uint64_t offset, uint64_t length,
                             extent_visitor visitor, void *opaque)
{
    struct qcow2_reader *reader = qcow2_reader_of(base);
    if (offset >= base->size)
        return 0;
    length = min_u64(length, base->size - offset);
    if (!reader->may_change)
        return qcow2_map_walk(&reader->map, offset, length, visitor, opaque);
    struct walk walk = {.reader = reader, .visitor = visitor, .opaque = opaque};
    return qcow2_map_walk(&reader->map, offset, length, visit, &walk);
}

static int check_identity(int fd, const struct file_identity *identity)
{
    struct stat stat;
    if (fstat(fd, &stat) < 0)
        return -errno;
    struct file_identity now = file_identity_of(&stat);
    return file_identity_same_content(&now, identity) ? 0 : -EIO;
}

static int qcow2_reader_check(struct layer_reader *base)
{
    struct qcow2_reader *reader = qcow2_reader_of(base);
    if (!reader->may_change) {
        int ret = check_identity(reader->fd, &reader->identity);
        if (ret == 0 && reader->fd != base->data_fd)
            ret = check_identity(base->data_fd, &reader->data_identity);
        return ret;
    }
    uint64_t file_size;
    int ret = qcow2_snapshot_check(&reader->map.source, reader->internal);
    if (ret == 0)
        ret = byte_source_size(&reader->map.source, &file_size);
    if (ret == 0 && file_size <= atomic_load(&reader->needed))
        ret = -EIO;
    return ret;
}

static void qcow2_reader_free(struct layer_reader *base)
{
    struct qcow2_reader *reader = qcow2_reader_of(base);
    if (base->data_fd >= 0 && base->data_fd != reader->fd)
        close(base->data_fd);
    if (reader->fd >= 0)
        close(reader->fd);
    internal_snapshot_free(reader->internal);
    free(base->path);
    free(reader);
}

static const struct layer_reader_ops qcow2_reader_ops = {
    .name = "qcow2",
    .walk = qcow2_reader_walk,
    .check = qcow2_reader_check,
    .free = qcow2_reader_free,
};

/* Opens the external data file that the header names. */
static int open_data_file(struct qcow2_reader *reader, const struct layer_request *request,
                          const struct qcow2_header *header, uint64_t *data_size, struct error *err)
{
    if (reader->internal)
        return error_set(err, EOPNOTSUPP,
                         "%s: keeps its data in another file, where internal snapshots can't be",
                         request->path);
    if (!header->data_name)
        return error_set(err, EINVAL, "%s: keeps its data in another file, and does not say in which",
                         request->path);
    cleanup(image_reference_done) struct image_reference data = {0};
    int ret = locate_reference(request->locate, request->path, header->data_name, "raw", &data, err);
    if (ret < 0)
        return ret;
    if (data.network)
        return error_set(err, EOPNOTSUPP, "%s: its data file %s lies on the network, which is not followed",
                         request->path, data.path);
    if (data.format != IMAGE_FORMAT_RAW)
        return error_set(err, EOPNOTSUPP, "%s: its data file %s is not raw", request->path, data.path);
    ret = locate_open(request->locate, request->named, data.path, &reader->base.data_fd, err);
    if (ret < 0) {
        error_prefix(err, "%s: data file", request->path);
        return ret;
    }
    struct stat stat;
    struct byte_source source = byte_source_fd(reader->base.data_fd);
    ret = fstat(source.fd, &stat) < 0 ? -errno : byte_source_size(&source, data_size);
    if (ret < 0)
        return error_set(err, -ret, "%s: can't find out its size: %s", data.path, strerror(-ret));
    reader->data_identity = file_identity_of(&stat);
    if (request->expected_data && request->expected_data->inode &&
        !file_identity_same_content(&reader->data_identity, request->expected_data))
        return error_set(err, EIO, "%s: changed by someone else since it was frozen", data.path);
    return 0;
}

/* Memory lies behind the disk, from where the next entry of the L1 table begins (QEMU's
 * docs/interop/qcow2.txt, "Snapshots": the VM state is stored at the end of the active layer). */
static bool vm_state_end(const struct qcow2_header *header, const struct internal_snapshot *internal,
                         uint64_t *end)
{
    unsigned entry_bits = header->extended_l2 ? 4 : 3;
    uint64_t begin, l1_entry = UINT64_C(1) << (2 * header->cluster_bits - entry_bits);
    return align_up_checked(internal->disk_size, l1_entry, &begin) &&
           !__builtin_add_overflow(begin, internal->vm_state_size, end) && *end <= QCOW2_SIZE_MAX;
}

/* Fills in what depends on the header. `reader` has its descriptors and `internal` already. */
static int set_up(struct qcow2_reader *reader, const struct layer_request *request,
                  const struct qcow2_header *header, struct error *err)
{
    struct layer_reader *base = &reader->base;
    struct byte_source source = byte_source_fd(reader->fd);
    const struct internal_snapshot *internal = reader->internal;
    uint64_t data_size = 0;
    int ret;
    if (header->encrypted)
        return error_set(err, EOPNOTSUPP, "%s: is encrypted, and there is no key to read it with",
                         request->path);
    if (internal) {
        ret = qcow2_snapshot_check(&source, internal);
        if (ret == -ESTALE)
            return error_set(err, ESTALE, "%s: the internal snapshot \"%s\" is gone", request->path,
                             internal->name);
        if (ret < 0)
            return error_set(err, -ret, "%s: can't find the internal snapshot \"%s\": %s", request->path,
                             internal->name, strerror(-ret));
    }
    if (header->external_data) {
        ret = open_data_file(reader, request, header, &data_size, err);
        if (ret < 0)
            return ret;
    } else {
        base->data_fd = reader->fd;
    }
    ret = qcow2_map_init(&reader->map, &source, header,
                         internal ? internal->l1_table_offset : header->l1_table_offset,
                         internal ? internal->l1_size : header->l1_size, data_size, err);
    if (ret < 0) {
        error_prefix(err, "%s", request->path);
        return ret;
    }
    base->size = internal ? internal->disk_size : header->size;
    if (request->vm_state && !vm_state_end(header, internal, &base->size))
        return error_set(err, EIO, "%s: the memory in internal snapshot \"%s\" can't be where it should",
                         request->path, internal->name);
    base->cluster_size = UINT32_C(1) << header->cluster_bits;
    base->smallest_unit = base->cluster_size / (header->extended_l2 ? 32 : 1);
    base->compressed_guest_mask = base->cluster_size - 1;
    base->compression = header->compression;
    return 0;
}

int qcow2_reader_open(const struct layer_request *request, int fd, struct layer_reader **reader,
                      struct image_reference *backing, struct error *err)
{
    cleanup(qcow2_header_done) struct qcow2_header header = {0};
    cleanup(image_reference_done) struct image_reference reference = {0};
    struct byte_source source = byte_source_fd(fd);
    struct stat stat;
    if (fstat(fd, &stat) < 0)
        return error_set(err, EIO, "%s: %s", request->path, strerror(errno));
    int ret = qcow2_header_read(&source, &header, err);
    if (ret < 0) {
        error_prefix(err, "%s", request->path);
        return ret;
    }
    if (header.backing_name) {
        ret = locate_reference(request->locate, request->path, header.backing_name, header.backing_format,
                               &reference, err);
        if (ret < 0)
            return ret;
    }

    struct qcow2_reader *opened = calloc(1, sizeof *opened);
    if (!opened)
        return error_set(err, ENOMEM, "%s: out of memory", request->path);
    opened->base.ops = &qcow2_reader_ops;
    opened->base.data_fd = -1;
    opened->fd = fd;
    opened->may_change = request->internal && !request->expected;
    opened->identity = request->expected ? *request->expected : file_identity_of(&stat);
    opened->base.path = strdup(request->path);
    opened->internal = request->internal ? internal_snapshot_copy(request->internal) : NULL;
    if (!opened->base.path || (request->internal && !opened->internal))
        ret = error_set(err, ENOMEM, "%s: out of memory", request->path);
    if (ret == 0)
        ret = set_up(opened, request, &header, err);
    if (ret < 0) {
        /* The descriptor is still the caller's. */
        if (opened->base.data_fd == fd)
            opened->base.data_fd = -1;
        opened->fd = -1;
        qcow2_reader_free(&opened->base);
        return ret;
    }
    *reader = &opened->base;
    *backing = reference;
    reference = (struct image_reference){0};
    return 0;
}
