// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A raw image as a layer: its bytes are the disk's, and its holes are zeros.
 *
 * QEMU counts disks in sectors: a file of 1000 bytes is a disk of 1024, with zeros at the end.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "image/layer_reader.h"
#include "io/byte_source.h"

#define SECTOR_BYTES 512

struct raw_reader {
    struct layer_reader base;
    struct file_identity identity; /* what the file must go on to be */
    uint64_t file_size;            /* exact, bytes; base.size is rounded up */
    bool has_holes;                /* block devices have none that could be asked for */
};

static struct raw_reader *raw_reader_of(struct layer_reader *base)
{
    return (struct raw_reader *)base;
}

/*
 * [begin, end) of the file. lseek moves the descriptor's position, which nobody uses: everything is read by
 * pread. A file system that can't tell holes says that all is data, and so do we; also where the answers
 * contradict each other because the file changes under us, which raw_reader_check then finds out.
 */
static int walk_file(struct raw_reader *raw, uint64_t begin, uint64_t end, extent_visitor visitor,
                     void *opaque)
{
    while (begin < end) {
        uint64_t data = begin, hole = end;
        if (raw->has_holes) {
            off_t found = lseek(raw->base.data_fd, (off_t)begin, SEEK_DATA);
            if (found >= 0 && (uint64_t)found > begin)
                data = min_u64((uint64_t)found, end);
            else if (found < 0 && errno == ENXIO)
                data = end;
            if (data < end) {
                found = lseek(raw->base.data_fd, (off_t)data, SEEK_HOLE);
                if (found > 0 && (uint64_t)found > data)
                    hole = min_u64((uint64_t)found, end);
            }
        }
        int ret = 0;
        if (data > begin)
            ret = visitor(opaque,
                          &(struct extent){.guest = begin, .length = data - begin, .kind = EXTENT_ZERO});
        if (ret == 0 && hole > data)
            ret = visitor(
                opaque,
                &(struct extent){.guest = data, .length = hole - data, .kind = EXTENT_DATA, .offset = data});
        if (ret)
            return ret;
        begin = hole;
    }
    return 0;
}

static int raw_reader_walk(struct layer_reader *base, uint64_t offset, uint64_t length,
                           extent_visitor visitor, void *opaque)
{
    struct raw_reader *raw = raw_reader_of(base);
    if (offset >= base->size)
        return 0;
    uint64_t end = offset + min_u64(length, base->size - offset);
    /* ENXIO from lseek means a hole up to the end only if the end is still where it was. */
    struct stat stat;
    if (raw->has_holes && fstat(base->data_fd, &stat) < 0)
        return -errno;
    uint64_t file_end = raw->has_holes ? min_u64(raw->file_size, (uint64_t)stat.st_size) : raw->file_size;
    int ret = walk_file(raw, offset, min_u64(end, file_end), visitor, opaque);
    if (ret == 0 && file_end < raw->file_size && end > file_end) {
        uint64_t from = max_u64(offset, file_end), to = min_u64(end, raw->file_size);
        if (from < to)
            ret =
                visitor(opaque, &(struct extent){.guest = from, .length = to - from, .kind = EXTENT_DAMAGED});
    }
    if (ret == 0 && end > raw->file_size) {
        uint64_t from = max_u64(offset, raw->file_size);
        ret = visitor(opaque, &(struct extent){.guest = from, .length = end - from, .kind = EXTENT_ZERO});
    }
    return ret;
}

static int raw_reader_check(struct layer_reader *base)
{
    struct raw_reader *raw = raw_reader_of(base);
    struct stat stat;
    if (fstat(base->data_fd, &stat) < 0)
        return -errno;
    struct file_identity now = file_identity_of(&stat);
    return file_identity_same_content(&now, &raw->identity) ? 0 : -EIO;
}

static void raw_reader_free(struct layer_reader *base)
{
    if (base->data_fd >= 0)
        close(base->data_fd);
    free(base->path);
    free(base);
}

static const struct layer_reader_ops raw_reader_ops = {
    .name = "raw",
    .walk = raw_reader_walk,
    .check = raw_reader_check,
    .free = raw_reader_free,
};

int raw_reader_open(const struct layer_request *request, int fd, struct layer_reader **reader,
                    struct error *err)
{
    struct stat stat;
    struct byte_source source = byte_source_fd(fd);
    uint64_t file_size, size;
    int ret = fstat(fd, &stat) < 0 ? -errno : byte_source_size(&source, &file_size);
    if (ret < 0)
        return error_set(err, -ret, "%s: can't find out its size: %s", request->path, strerror(-ret));
    if (!align_up_checked(file_size, SECTOR_BYTES, &size) || size > INT64_MAX)
        return error_set(err, EFBIG, "%s: is too large", request->path);

    struct raw_reader *raw = calloc(1, sizeof *raw);
    char *path = strdup(request->path);
    if (!raw || !path) {
        free(raw);
        free(path);
        return error_set(err, ENOMEM, "%s: out of memory", request->path);
    }
    *raw = (struct raw_reader){
        .base = {.ops = &raw_reader_ops, .path = path, .size = size, .data_fd = fd},
        .identity = request->expected ? *request->expected : file_identity_of(&stat),
        .file_size = file_size,
        .has_holes = S_ISREG(stat.st_mode),
    };
    *reader = &raw->base;
    return 0;
}
