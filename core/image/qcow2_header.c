// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The qcow2 header; see qcow2_header.h.
 *
 * Accepts and refuses what QEMU's block/qcow2.c does, but for what a reader has no use for: the refcounts,
 * the bitmaps, and the places of the snapshot table and of the L1 table, which are checked by whoever follows
 * them (qcow2_snapshot.c, qcow2_map.c), so that damage there costs nothing else.
 */
#include "image/qcow2_header.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/text.h"
#include "image/qcow2_format.h"
#include "image/table_window.h"

#define WINDOW_BYTES         8192
#define BACKING_NAME_MAX     1023 /* specification, "backing_file_size" */
#define BACKING_FORMAT_MAX   15   /* QEMU's bs->backing_format */
#define DATA_NAME_MAX        4095 /* PATH_MAX without its zero byte; the specification has no limit */
#define FEATURE_ENTRY_BYTES  48
#define FEATURE_NAME_BYTES   46
#define FEATURE_INCOMPATIBLE 0
#define FEATURES_TEXT_MAX    256 /* of names from the image in an error's text */
#define REFCOUNT_ORDER_MAX   6
#define EXTENDED_L2_BITS_MIN 14 /* subclusters are 512 bytes at least */
#define CRYPT_METHOD_NONE    0

void qcow2_header_done(struct qcow2_header *header)
{
    free(header->backing_name);
    free(header->backing_format);
    free(header->data_name);
    *header = (struct qcow2_header){0};
}

static int read_failed(int ret, struct error *err)
{
    if (ret == -ENODATA)
        return error_set(err, EINVAL, "the qcow2 header is cut off");
    return error_set(err, -ret, "can't read the qcow2 header: %s", strerror(-ret));
}

/* A string of the header, which has no zero byte at its end in the file. An empty one is none: NULL. */
static int read_string(struct table_window *window, uint64_t offset, size_t length, char **string,
                       struct error *err)
{
    const uint8_t *bytes;
    int ret = table_window_get(window, offset, length, &bytes);
    if (ret < 0)
        return read_failed(ret, err);
    free(*string);
    *string = NULL;
    if (length == 0 || bytes[0] == '\0')
        return 0;
    *string = strndup((const char *)bytes, length);
    return *string ? 0 : error_set(err, ENOMEM, "out of memory");
}

/* Appends the names that a feature name table has for the bits in `*unknown`, and takes these bits out. */
static int name_features(struct table_window *window, uint64_t offset, uint32_t length, uint64_t *unknown,
                         struct text *names)
{
    for (; length >= FEATURE_ENTRY_BYTES && *unknown && names->length < FEATURES_TEXT_MAX;
         offset += FEATURE_ENTRY_BYTES, length -= FEATURE_ENTRY_BYTES) {
        const uint8_t *entry;
        int ret = table_window_get(window, offset, FEATURE_ENTRY_BYTES, &entry);
        if (ret < 0)
            return ret;
        if (entry[0] != FEATURE_INCOMPATIBLE || entry[1] > 63 || !(*unknown >> entry[1] & 1) ||
            entry[2] == '\0')
            continue;
        *unknown &= ~(UINT64_C(1) << entry[1]);
        text_append_string(names, names->length ? ", \"" : "\"");
        for (const uint8_t *c = entry + 2; c < entry + FEATURE_ENTRY_BYTES && *c; c++) {
            char shown = *c >= ' ' && *c < 0x7f ? (char)*c : '?';
            text_append(names, &shown, 1);
        }
        text_append_string(names, "\"");
    }
    return 0;
}

/*
 * Specification, "Header extensions". An area that the file's end cuts off ends there: QEMU reads zeros
 * beyond the end, and zeros end the area. `names` takes the names of unknown features; NULL if there are
 * none.
 */
static int read_extensions(struct table_window *window, uint64_t begin, uint64_t end,
                           struct qcow2_header *header, uint64_t *unknown, struct text *names,
                           struct error *err)
{
    uint64_t next;
    for (uint64_t offset = begin; offset < end; offset = next) {
        const uint8_t *head;
        int ret = table_window_get(window, offset, 8, &head);
        if (ret == -ENODATA)
            return 0;
        if (ret < 0)
            return read_failed(ret, err);
        uint32_t type = load_be32(head), length = load_be32(head + 4);
        offset += 8;
        if (offset > end || length > end - offset)
            return error_set(err, EINVAL,
                             "header extension %#" PRIx32 " at %" PRIu64 " is longer than its area", type,
                             offset - 8);
        next = offset + ((uint64_t)length + 7) / 8 * 8;

        switch (type) {
        case QCOW2_EXTENSION_END:
            return 0;
        case QCOW2_EXTENSION_BACKING_FORMAT:
            if (length > BACKING_FORMAT_MAX)
                return error_set(err, EINVAL,
                                 "the name of the backing file's format is %" PRIu32 " bytes long", length);
            ret = read_string(window, offset, length, &header->backing_format, err);
            break;
        case QCOW2_EXTENSION_DATA_NAME:
            if (length > DATA_NAME_MAX)
                return error_set(err, EINVAL, "the name of the data file is %" PRIu32 " bytes long", length);
            ret = read_string(window, offset, length, &header->data_name, err);
            break;
        case QCOW2_EXTENSION_FEATURE_NAMES:
            ret = names ? name_features(window, offset, length, unknown, names) : 0;
            if (ret < 0)
                ret = read_failed(ret, err);
            break;
        default: /* bitmaps, the encryption header and what is unknown mean nothing to a reader */
            break;
        }
        if (ret < 0)
            return ret;
    }
    return 0;
}

static int refuse_features(struct table_window *window, uint64_t begin, uint64_t end, uint64_t unknown,
                           struct error *err)
{
    cleanup(qcow2_header_done) struct qcow2_header ignored = {0};
    cleanup_text struct text names = {0};
    /* A damaged area only means that there are fewer names. */
    (void)read_extensions(window, begin, end, &ignored, &unknown, &names, NULL);
    for (unsigned bit = 0; bit < 64 && names.length < FEATURES_TEXT_MAX; bit++)
        if (unknown >> bit & 1)
            text_printf(&names, "%sbit %u", names.length ? ", " : "", bit);
    return error_set(err, EOPNOTSUPP, "needs qcow2 features that are unknown here: %s",
                     names.failed ? "?" : names.data);
}

/* Takes the fixed fields apart and checks those that need nothing else. */
static int parse_fields(const uint8_t *raw, struct qcow2_header *header, uint32_t *header_bytes,
                        struct error *err)
{
    if (load_be32(raw + QCOW2_AT_MAGIC) != QCOW2_MAGIC)
        return error_set(err, EINVAL, "is no qcow2 image");
    header->version = load_be32(raw + QCOW2_AT_VERSION);
    if (header->version != 2 && header->version != 3)
        return error_set(err, EOPNOTSUPP, "is qcow2 of version %" PRIu32 "; 2 and 3 can be read",
                         header->version);
    header->cluster_bits = load_be32(raw + QCOW2_AT_CLUSTER_BITS);
    if (header->cluster_bits < QCOW2_CLUSTER_BITS_MIN || header->cluster_bits > QCOW2_CLUSTER_BITS_MAX)
        return error_set(err, EINVAL, "has clusters of 2^%" PRIu32 " bytes; 2^%d to 2^%d can be read",
                         header->cluster_bits, QCOW2_CLUSTER_BITS_MIN, QCOW2_CLUSTER_BITS_MAX);
    header->size = load_be64(raw + QCOW2_AT_SIZE);
    header->encrypted = load_be32(raw + QCOW2_AT_CRYPT_METHOD) != CRYPT_METHOD_NONE;
    header->l1_size = load_be32(raw + QCOW2_AT_L1_SIZE);
    header->l1_table_offset = load_be64(raw + QCOW2_AT_L1_TABLE_OFFSET);
    header->refcount_table_offset = load_be64(raw + QCOW2_AT_REFCOUNT_TABLE_OFFSET);
    header->refcount_table_clusters = load_be32(raw + QCOW2_AT_REFCOUNT_TABLE_CLUSTERS);
    header->snapshot_count = load_be32(raw + QCOW2_AT_SNAPSHOT_COUNT);
    header->snapshots_offset = load_be64(raw + QCOW2_AT_SNAPSHOTS_OFFSET);
    header->refcount_order = 4;
    header->compression = COMPRESSION_DEFLATE;
    *header_bytes = QCOW2_V2_HEADER_BYTES;
    if (header->version == 2)
        return 0;

    header->incompatible_features = load_be64(raw + QCOW2_AT_INCOMPATIBLE);
    header->refcount_order = load_be32(raw + QCOW2_AT_REFCOUNT_ORDER);
    *header_bytes = load_be32(raw + QCOW2_AT_HEADER_BYTES);
    if (*header_bytes < QCOW2_V3_HEADER_BYTES_MIN || *header_bytes > UINT32_C(1) << header->cluster_bits)
        return error_set(err, EINVAL, "has a header of %" PRIu32 " bytes", *header_bytes);
    if (header->refcount_order > REFCOUNT_ORDER_MAX)
        return error_set(err, EINVAL, "has refcounts of 2^%" PRIu32 " bits", header->refcount_order);
    header->dirty = header->incompatible_features & QCOW2_INCOMPATIBLE_DIRTY;
    header->corrupt = header->incompatible_features & QCOW2_INCOMPATIBLE_CORRUPT;
    header->external_data = header->incompatible_features & QCOW2_INCOMPATIBLE_EXTERNAL_DATA;
    header->external_data_raw =
        header->external_data && load_be64(raw + QCOW2_AT_AUTOCLEAR) & QCOW2_AUTOCLEAR_RAW_EXTERNAL;
    header->extended_l2 = header->incompatible_features & QCOW2_INCOMPATIBLE_EXTENDED_L2;
    return 0;
}

/* Specification, "compression_type": the feature bit says that the field is there and not zero. */
static int parse_compression(const uint8_t *raw, uint32_t header_bytes, struct qcow2_header *header,
                             struct error *err)
{
    bool flagged = header->incompatible_features & QCOW2_INCOMPATIBLE_COMPRESSION;
    uint8_t type = header_bytes > QCOW2_AT_COMPRESSION_TYPE ? raw[QCOW2_AT_COMPRESSION_TYPE] : 0;
    if (type > COMPRESSION_ZSTD)
        return error_set(err, EOPNOTSUPP, "is compressed by method %u; zlib (0) and zstd (1) can be read",
                         type);
    if (flagged != (type != COMPRESSION_DEFLATE))
        return error_set(err, EINVAL, "has a compression method (%u) that its feature bits contradict", type);
    header->compression = (enum compression)type;
    return 0;
}

/* The L1 table must map the whole disk; with its limit this bounds the size too. */
static int check_size(struct qcow2_header *header, struct error *err)
{
    if (header->extended_l2 && header->cluster_bits < EXTENDED_L2_BITS_MIN)
        return error_set(err, EINVAL, "has extended L2 entries with clusters of 2^%" PRIu32 " bytes",
                         header->cluster_bits);
    if (header->l1_size > QCOW2_L1_BYTES_MAX / sizeof(uint64_t))
        return error_set(err, EINVAL, "has an L1 table of %" PRIu32 " entries", header->l1_size);
    unsigned shift = header->cluster_bits + qcow2_l2_bits(header->cluster_bits, header->extended_l2);
    uint64_t needed = (header->size >> shift) + ((header->size & ((UINT64_C(1) << shift) - 1)) != 0);
    if (header->l1_size < needed)
        return error_set(err, EINVAL,
                         "has an L1 table of %" PRIu32 " entries, too few for a disk of %" PRIu64 " bytes",
                         header->l1_size, header->size);
    /* QEMU counts disks in sectors and drops what is left over. */
    header->size = align_down(header->size, QCOW2_SECTOR_BYTES);
    return 0;
}

int qcow2_header_read(const struct byte_source *source, struct qcow2_header *header, struct error *err)
{
    cleanup(qcow2_header_done) struct qcow2_header read = {0};
    uint8_t raw[QCOW2_HEADER_BYTES_KNOWN] = {0};
    uint8_t buffer[WINDOW_BYTES];
    struct table_window window;
    const uint8_t *bytes;
    int ret = table_window_init(&window, source, buffer, sizeof buffer);
    if (ret < 0)
        return read_failed(ret, err);
    if (window.file_size < QCOW2_V2_HEADER_BYTES)
        return error_set(err, EINVAL, "is too short for a qcow2 image");
    size_t present = (size_t)min_u64(window.file_size, sizeof raw);
    ret = table_window_get(&window, 0, present, &bytes);
    if (ret < 0)
        return read_failed(ret, err);
    memcpy(raw, bytes, present);

    uint32_t header_bytes = 0;
    ret = parse_fields(raw, &read, &header_bytes, err);
    if (ret < 0)
        return ret;
    uint64_t cluster_size = UINT64_C(1) << read.cluster_bits;
    uint64_t backing_offset = load_be64(raw + QCOW2_AT_BACKING_OFFSET);
    if (backing_offset > cluster_size)
        return error_set(err, EINVAL, "has the name of its backing file at %" PRIu64, backing_offset);
    uint64_t extensions_end = backing_offset ? backing_offset : cluster_size;

    uint64_t unknown = read.incompatible_features & ~QCOW2_INCOMPATIBLE_KNOWN;
    if (unknown)
        return refuse_features(&window, header_bytes, extensions_end, unknown, err);
    ret = parse_compression(raw, header_bytes, &read, err);
    if (ret < 0)
        return ret;
    ret = check_size(&read, err);
    if (ret < 0)
        return ret;
    ret = read_extensions(&window, header_bytes, extensions_end, &read, NULL, NULL, err);
    if (ret < 0)
        return ret;
    if (backing_offset) {
        uint32_t length = load_be32(raw + QCOW2_AT_BACKING_BYTES);
        if (length > BACKING_NAME_MAX || length > cluster_size - backing_offset)
            return error_set(err, EINVAL, "has a name of its backing file of %" PRIu32 " bytes", length);
        ret = read_string(&window, backing_offset, length, &read.backing_name, err);
        if (ret < 0)
            return ret;
    }
    *header = read;
    read = (struct qcow2_header){0};
    return 0;
}
