// SPDX-License-Identifier: LGPL-2.1-or-later
/* What a qcow2 file says of itself; see image_info.h. */
#include "catalog/image_info.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "image/qcow2_header.h"
#include "image/qcow2_snapshot.h"
#include "io/byte_source.h"

#define HEAD_BYTES                                                                                           \
    4096        /* the header and, in all but odd images, its extensions and the backing file's name */
#define TRIES 8 /* the header moved while it was read */

/* Places in the header (QEMU docs/interop/qcow2.txt, "Header"). */
#define AT_BACKING_OFFSET   8
#define AT_BACKING_SIZE     16
#define AT_SNAPSHOTS_OFFSET 64
#define HEADER_V2_BYTES     72
#define BACKING_NAME_MAX    1023

struct digest {
    uint64_t hash;
    uint8_t head[HEAD_BYTES];
    size_t head_length;
};

/* FNV-1a by words: a busy guest has its table hashed every second. */
static uint64_t hash_bytes(uint64_t hash, const uint8_t *bytes, size_t length)
{
    for (; length >= 8; bytes += 8, length -= 8)
        hash = (hash ^ load_be64(bytes)) * UINT64_C(0x100000001b3), hash ^= hash >> 29;
    for (; length; bytes++, length--)
        hash = (hash ^ *bytes) * UINT64_C(0x100000001b3);
    return hash;
}

static int hash_range(const struct byte_source *source, uint64_t offset, uint64_t length, uint64_t *hash)
{
    uint8_t piece[16384];
    while (length) {
        size_t part = length < sizeof piece ? (size_t)length : sizeof piece;
        int r = byte_source_read(source, offset, piece, part);
        if (r < 0)
            return r;
        *hash = hash_bytes(*hash, piece, part);
        offset += part;
        length -= part;
    }
    return 0;
}

/* Whatever can't be read changes the digest too. */
static void digest_take(struct digest *digest, const struct byte_source *source, uint64_t table_bytes)
{
    ssize_t length = pread(source->fd, digest->head, HEAD_BYTES, 0);
    digest->head_length = length > 0 ? (size_t)length : 0;
    uint64_t hash = UINT64_C(0xcbf29ce484222325) ^ table_bytes;
    if (digest->head_length < HEADER_V2_BYTES || memcmp(digest->head, "QFI\xfb", 4) != 0) {
        /* No qcow2: what follows the magic may be anything, and change at any time. */
        size_t magic = digest->head_length < 4 ? digest->head_length : 4;
        digest->hash = hash_bytes(hash, digest->head, magic) + (digest->head_length >= HEADER_V2_BYTES);
        return;
    }
    hash = hash_bytes(hash, digest->head, digest->head_length);
    uint64_t name = load_be64(digest->head + AT_BACKING_OFFSET);
    uint32_t name_bytes = load_be32(digest->head + AT_BACKING_SIZE);
    int r = 0;
    if (name && name_bytes <= BACKING_NAME_MAX && name + name_bytes > HEAD_BYTES)
        r = hash_range(source, name, name_bytes, &hash);
    if (r == 0 && table_bytes)
        r = hash_range(source, load_be64(digest->head + AT_SNAPSHOTS_OFFSET), table_bytes, &hash);
    digest->hash = hash ^ (uint64_t)-r;
}

bool image_info_is_right(const struct image_info *info, int fd)
{
    struct digest now;
    struct byte_source source = byte_source_fd(fd);
    if (info->is_unread)
        return false;
    digest_take(&now, &source, info->table_bytes);
    return now.hash == info->digest;
}

static void info_clear(struct image_info *info)
{
    for (size_t i = 0; i < info->snapshot_count; i++)
        internal_snapshot_free(info->snapshots[i]);
    free(info->snapshots);
    free(info->problem);
    free(info->backing_name);
    free(info->backing_format);
    free(info->data_name);
    *info = (struct image_info){.references = info->references};
}

/* Reads header and table into the empty `info`. -ENOMEM; what is wrong with the image is kept in `info`. */
static int info_fill(struct image_info *info, const struct byte_source *source, const char *path)
{
    cleanup(qcow2_header_done) struct qcow2_header header = {0};
    struct error why = {0};
    int r = qcow2_header_read(source, &header, &why);
    if (r == -ENOMEM)
        return r;
    if (r < 0) {
        info->error = r;
        info->is_unread = error_may_pass(r);
        return asprintf(&info->problem, "%s: %s", path, why.text) < 0 ? (info->problem = NULL, -ENOMEM) : 0;
    }
    info->size = header.size;
    info->encrypted = header.encrypted;
    info->l1_table_offset = header.l1_table_offset;
    info->l1_size = header.l1_size;
    info->backing_name = steal_pointer(header.backing_name);
    info->backing_format = steal_pointer(header.backing_format);
    if (header.external_data)
        info->data_name = steal_pointer(header.data_name);

    struct qcow2_snapshots snapshots = {0};
    int damage = 0;
    r = qcow2_snapshots_read(source, &header, &snapshots, &damage, &why);
    if (r == -ENOMEM)
        return r;
    info->is_unread = error_may_pass(r);
    if (r == 0) {
        info->snapshots = steal_pointer(snapshots.entries);
        info->snapshot_count = snapshots.count;
        info->table_bytes = snapshots.table_bytes;
    }
    if ((r < 0 || damage) && asprintf(&info->problem, "%s: %s", path, why.text) < 0)
        return info->problem = NULL, -ENOMEM;
    return 0;
}

const struct image_info *image_info_read(int fd, const char *path, const struct image_info *before)
{
    if (before && image_info_is_right(before, fd))
        return image_info_ref(before);
    struct image_info *info = calloc(1, sizeof *info);
    if (!info)
        return NULL;
    info->references = 1;
    struct byte_source source = byte_source_fd(fd);
    struct digest first, second;
    for (int tries = 0; tries < TRIES; tries++) {
        info_clear(info);
        digest_take(&first, &source, 0);
        if (info_fill(info, &source, path) < 0) {
            image_info_unref(info);
            return NULL;
        }
        digest_take(&second, &source, info->table_bytes);
        info->digest = second.hash;
        if (first.head_length == second.head_length &&
            memcmp(first.head, second.head, first.head_length) == 0)
            break;
    }
    return info;
}

int image_info_is_empty(const struct image_info *info, int fd)
{
    uint64_t entries[1024];
    struct byte_source source = byte_source_fd(fd);
    for (uint32_t at = 0; at < info->l1_size;) {
        uint32_t part = info->l1_size - at < 1024 ? info->l1_size - at : 1024;
        int r = byte_source_read(&source, info->l1_table_offset + UINT64_C(8) * at, entries, part * 8);
        if (r < 0)
            return r;
        for (uint32_t i = 0; i < part; i++)
            if (entries[i])
                return 0;
        at += part;
    }
    return 1;
}

const struct image_info *image_info_failed(int error, const char *problem)
{
    struct image_info *info = calloc(1, sizeof *info);
    if (!info)
        return NULL;
    info->references = 1;
    info->error = error;
    info->is_unread = error_may_pass(error);
    info->problem = strdup(problem);
    if (!info->problem) {
        image_info_unref(info);
        return NULL;
    }
    return info;
}

const struct image_info *image_info_ref(const struct image_info *info)
{
    struct image_info *mine = (struct image_info *)info;
    if (mine)
        mine->references++;
    return info;
}

void image_info_unref(const struct image_info *info)
{
    struct image_info *mine = (struct image_info *)info;
    if (!mine || --mine->references)
        return;
    info_clear(mine);
    free(mine);
}
