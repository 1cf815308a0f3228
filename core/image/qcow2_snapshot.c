// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The qcow2 snapshot table; see qcow2_snapshot.h.
 *
 * A running QEMU never changes a table in place. It writes a new one elsewhere, flushes, makes the header
 * point to it with one write, and only then frees the old one, whose clusters can be used for anything
 * afterwards. So what was read from a table counts if the header pointed there before and points there after;
 * if not, it is read again from where the header points by then.
 *
 * While a reader sleeps, the table can move away and come back to the same place, and the header looks as if
 * nothing had been. So a list, and that a snapshot is gone, is believed when two readings in a row agree.
 * That it is still there is believed at once: its entry was found in the table that the header pointed to
 * when the reading began, or in one written since, and either means that it was there after that moment.
 */
#include "image/qcow2_snapshot.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "image/qcow2_format.h"
#include "image/table_window.h"

#define WINDOW_BYTES 16384

/* QEMU flushes between two moves of the table, which takes longer than to read it. */
#define TRIES_MAX 64

/* What the header says of the table. */
struct table_place {
    uint32_t magic;
    uint32_t cluster_bits;
    uint32_t count;
    uint64_t offset;
};

/* An entry as it lies in the file; its strings are still there. */
struct table_entry {
    struct internal_snapshot fields; /* without id and name */
    bool has_disk_size;
    uint64_t id_offset;
    uint16_t id_bytes;
    uint64_t name_offset;
    uint16_t name_bytes;
    uint64_t end;
};

static int read_place(const struct byte_source *source, struct table_place *place)
{
    uint8_t raw[QCOW2_V2_HEADER_BYTES];
    int ret = byte_source_read(source, 0, raw, sizeof raw);
    if (ret < 0)
        return ret;
    *place = (struct table_place){
        .magic = load_be32(raw + QCOW2_AT_MAGIC),
        .cluster_bits = load_be32(raw + QCOW2_AT_CLUSTER_BITS),
        .count = load_be32(raw + QCOW2_AT_SNAPSHOT_COUNT),
        .offset = load_be64(raw + QCOW2_AT_SNAPSHOTS_OFFSET),
    };
    return 0;
}

static bool place_equal(const struct table_place *a, const struct table_place *b)
{
    return a->magic == b->magic && a->cluster_bits == b->cluster_bits && a->count == b->count &&
           a->offset == b->offset;
}

/* Can there be a table at all? -EINVAL with a text. */
static int place_check(const struct table_place *place, struct error *err)
{
    if (place->magic != QCOW2_MAGIC || place->cluster_bits < QCOW2_CLUSTER_BITS_MIN ||
        place->cluster_bits > QCOW2_CLUSTER_BITS_MAX)
        return error_set(err, EINVAL, "is no qcow2 image any more");
    if (place->count > QCOW2_SNAPSHOTS_MAX)
        return error_set(err, EINVAL, "counts %" PRIu32 " internal snapshots; %d can be read", place->count,
                         QCOW2_SNAPSHOTS_MAX);
    uint64_t cluster_size = UINT64_C(1) << place->cluster_bits;
    if (place->count &&
        (place->offset % cluster_size || place->offset > INT64_MAX - QCOW2_SNAPSHOT_TABLE_MAX))
        return error_set(err, EINVAL, "has its snapshot table at %#" PRIx64 ", where none can be",
                         place->offset);
    return 0;
}

/*
 * The entry that begins at `offset`, or after the padding there. -EINVAL where its lengths lie, -ENODATA
 * where the file ends in it, errors of reading.
 */
static int entry_read(struct table_window *window, const struct table_place *place, uint64_t offset,
                      struct table_entry *entry)
{
    const uint8_t *raw;
    offset = (offset + 7) & ~UINT64_C(7);
    int ret = table_window_get(window, offset, QCOW2_SNAPSHOT_FIXED_BYTES, &raw);
    if (ret < 0)
        return ret;
    struct table_entry read = {
        .fields =
            {
                .l1_table_offset = load_be64(raw + QCOW2_SNAPSHOT_AT_L1_TABLE_OFFSET),
                .l1_size = load_be32(raw + QCOW2_SNAPSHOT_AT_L1_SIZE),
                .date_sec = load_be32(raw + QCOW2_SNAPSHOT_AT_DATE_SEC),
                .date_nsec = load_be32(raw + QCOW2_SNAPSHOT_AT_DATE_NSEC),
                .vm_clock_nsec = load_be64(raw + QCOW2_SNAPSHOT_AT_VM_CLOCK),
                .vm_state_size = load_be32(raw + QCOW2_SNAPSHOT_AT_VM_STATE_SIZE32),
            },
        .id_bytes = load_be16(raw + QCOW2_SNAPSHOT_AT_ID_BYTES),
        .name_bytes = load_be16(raw + QCOW2_SNAPSHOT_AT_NAME_BYTES),
    };
    uint32_t extra_bytes = load_be32(raw + QCOW2_SNAPSHOT_AT_EXTRA_BYTES);
    if (extra_bytes > QCOW2_SNAPSHOT_EXTRA_MAX)
        return -EINVAL;
    offset += QCOW2_SNAPSHOT_FIXED_BYTES;
    ret = table_window_get(window, offset, extra_bytes, &raw);
    if (ret < 0)
        return ret;
    if (extra_bytes >= QCOW2_EXTRA_AT_VM_STATE_SIZE + sizeof(uint64_t))
        read.fields.vm_state_size = load_be64(raw + QCOW2_EXTRA_AT_VM_STATE_SIZE);
    if (extra_bytes >= QCOW2_EXTRA_AT_DISK_SIZE + sizeof(uint64_t)) {
        read.fields.disk_size = align_down(load_be64(raw + QCOW2_EXTRA_AT_DISK_SIZE), QCOW2_SECTOR_BYTES);
        read.has_disk_size = true;
    }
    read.id_offset = offset + extra_bytes;
    read.name_offset = read.id_offset + read.id_bytes;
    read.end = read.name_offset + read.name_bytes;
    if (read.end > window->file_size)
        return -ENODATA;
    if (read.end - place->offset > QCOW2_SNAPSHOT_TABLE_MAX)
        return -EINVAL;
    *entry = read;
    return 0;
}

static int string_load(struct table_window *window, uint64_t offset, size_t length, char **string)
{
    cleanup_free char *loaded = malloc(length + 1);
    if (!loaded)
        return -ENOMEM;
    for (size_t done = 0, piece; done < length; done += piece) {
        const uint8_t *bytes;
        piece = (size_t)min_u64(length - done, WINDOW_BYTES);
        int ret = table_window_get(window, offset + done, piece, &bytes);
        if (ret < 0)
            return ret;
        memcpy(loaded + done, bytes, piece);
    }
    loaded[length] = '\0';
    /* Zero bytes end it, and what follows need not be kept: 64 KiB of them for each name would add up. */
    char *shorter = strlen(loaded) < length ? realloc(loaded, strlen(loaded) + 1) : NULL;
    if (shorter)
        loaded = shorter;
    *string = steal_pointer(loaded);
    return 0;
}

/* Like strcmp with the string that string_load would make: a zero byte ends it. 1, 0 or a negative errno. */
static int string_is(struct table_window *window, uint64_t offset, size_t length, const char *wanted)
{
    size_t wanted_length = strlen(wanted);
    if (wanted_length > length)
        return 0;
    /* One byte more, where there is one: it must be the zero byte. */
    size_t compare = wanted_length < length ? wanted_length + 1 : length;
    for (size_t done = 0, piece; done < compare; done += piece) {
        const uint8_t *bytes;
        piece = (size_t)min_u64(compare - done, WINDOW_BYTES);
        int ret = table_window_get(window, offset + done, piece, &bytes);
        if (ret < 0)
            return ret;
        if (memcmp(bytes, wanted + done, piece) != 0)
            return 0;
    }
    return 1;
}

static int snapshots_add(struct qcow2_snapshots *snapshots, size_t *capacity, struct table_window *window,
                         const struct table_entry *entry, uint64_t default_size)
{
    if (snapshots->count == *capacity) {
        size_t grown = *capacity ? *capacity * 2 : 16;
        struct internal_snapshot **entries = reallocarray(snapshots->entries, grown, sizeof *entries);
        if (!entries)
            return -ENOMEM;
        snapshots->entries = entries;
        *capacity = grown;
    }
    struct internal_snapshot *added = malloc(sizeof *added);
    if (!added)
        return -ENOMEM;
    *added = entry->fields;
    if (!entry->has_disk_size)
        added->disk_size = default_size;
    int ret = string_load(window, entry->id_offset, entry->id_bytes, &added->id);
    if (ret == 0)
        ret = string_load(window, entry->name_offset, entry->name_bytes, &added->name);
    if (ret < 0) {
        internal_snapshot_free(added);
        return ret;
    }
    snapshots->entries[snapshots->count++] = added;
    return 0;
}

/* The table at `place`, as qcow2_snapshots_read returns it. */
static int table_read(const struct byte_source *source, const struct table_place *place,
                      uint64_t default_size, struct qcow2_snapshots *snapshots, int *damage,
                      struct error *err)
{
    uint8_t buffer[WINDOW_BYTES];
    struct table_window window;
    size_t capacity = 0;
    *damage = place_check(place, err);
    if (*damage)
        return 0;
    int ret = table_window_init(&window, source, buffer, sizeof buffer);
    uint64_t offset = place->offset;
    for (uint32_t i = 0; ret == 0 && i < place->count; i++) {
        struct table_entry entry;
        ret = entry_read(&window, place, offset, &entry);
        if (ret == -EINVAL || ret == -ENODATA) {
            *damage = error_set(
                err, EINVAL, "has a damaged snapshot table: entry %" PRIu32 " of %" PRIu32 " %s", i,
                place->count, ret == -EINVAL ? "has impossible lengths" : "is beyond the end of the file");
            return 0;
        }
        if (ret < 0)
            break;
        offset = entry.end;
        snapshots->table_bytes = entry.end - place->offset;
        if (entry.fields.disk_size > QCOW2_SIZE_MAX)
            *damage =
                error_set(err, EINVAL,
                          "has a damaged snapshot table: entry %" PRIu32 " has a disk of %" PRIu64 " bytes",
                          i, entry.fields.disk_size);
        else
            ret = snapshots_add(snapshots, &capacity, &window, &entry, default_size);
    }
    if (ret < 0)
        return error_set(err, ret == -ENODATA ? EIO : -ret, "can't read the snapshot table: %s",
                         strerror(ret == -ENODATA ? EIO : -ret));
    return 0;
}

static bool snapshots_equal(const struct qcow2_snapshots *a, const struct qcow2_snapshots *b)
{
    if (a->count != b->count || a->table_bytes != b->table_bytes)
        return false;
    for (size_t i = 0; i < a->count; i++)
        if (!internal_snapshot_equal(a->entries[i], b->entries[i]))
            return false;
    return true;
}

int qcow2_snapshots_read(const struct byte_source *source, const struct qcow2_header *header,
                         struct qcow2_snapshots *snapshots, int *damage, struct error *err)
{
    cleanup(qcow2_snapshots_done) struct qcow2_snapshots last = {0};
    int last_damage = 0;
    bool have_last = false;
    struct table_place after;
    struct table_place place = {
        .magic = QCOW2_MAGIC,
        .cluster_bits = header->cluster_bits,
        .count = header->snapshot_count,
        .offset = header->snapshots_offset,
    };
    for (int tries = 0; tries < TRIES_MAX; tries++) {
        cleanup(qcow2_snapshots_done) struct qcow2_snapshots read = {0};
        struct error read_err = {0};
        int read_damage = 0;
        int ret = table_read(source, &place, header->size, &read, &read_damage, &read_err);
        int again = read_place(source, &after);
        if (again < 0)
            return error_set(err, again == -ENODATA ? EIO : -again, "can't read the qcow2 header: %s",
                             strerror(again == -ENODATA ? EIO : -again));
        bool stayed = place_equal(&place, &after);
        place = after;
        if (!stayed) {
            have_last = false;
            continue;
        }
        if (ret < 0) {
            if (err)
                *err = read_err;
            return ret;
        }
        if (have_last && read_damage == last_damage && snapshots_equal(&read, &last)) {
            if (read_damage && err)
                *err = read_err;
            *damage = read_damage;
            *snapshots = read;
            read = (struct qcow2_snapshots){0};
            return 0;
        }
        qcow2_snapshots_done(&last);
        last = read;
        read = (struct qcow2_snapshots){0};
        last_damage = read_damage;
        have_last = true;
    }
    return error_set(err, EIO, "has a snapshot table that moved each time that it was read");
}

void qcow2_snapshots_done(struct qcow2_snapshots *snapshots)
{
    for (size_t i = 0; i < snapshots->count; i++)
        internal_snapshot_free(snapshots->entries[i]);
    free(snapshots->entries);
    *snapshots = (struct qcow2_snapshots){0};
}

/* 1, 0 or a negative errno. */
static int entry_is(struct table_window *window, const struct table_entry *entry,
                    const struct internal_snapshot *wanted)
{
    const struct internal_snapshot *fields = &entry->fields;
    if (fields->l1_table_offset != wanted->l1_table_offset || fields->l1_size != wanted->l1_size ||
        fields->date_sec != wanted->date_sec || fields->date_nsec != wanted->date_nsec ||
        fields->vm_clock_nsec != wanted->vm_clock_nsec || fields->vm_state_size != wanted->vm_state_size ||
        (entry->has_disk_size && fields->disk_size != wanted->disk_size))
        return 0;
    int ret = string_is(window, entry->id_offset, entry->id_bytes, wanted->id);
    return ret == 1 ? string_is(window, entry->name_offset, entry->name_bytes, wanted->name) : ret;
}

/* 0 if it is in the table at `place`, -ESTALE if not, -EIO if the table is damaged before it. */
static int table_find(const struct byte_source *source, const struct table_place *place,
                      const struct internal_snapshot *wanted)
{
    uint8_t buffer[WINDOW_BYTES];
    struct table_window window;
    if (place->magic != QCOW2_MAGIC)
        return -ESTALE;
    if (place_check(place, NULL) < 0)
        return -EIO;
    int ret = table_window_init(&window, source, buffer, sizeof buffer);
    uint64_t offset = place->offset;
    for (uint32_t i = 0; ret == 0 && i < place->count; i++) {
        struct table_entry entry;
        ret = entry_read(&window, place, offset, &entry);
        if (ret < 0)
            break;
        ret = entry_is(&window, &entry, wanted);
        if (ret == 1)
            return 0;
        offset = entry.end;
    }
    if (ret == 0)
        return -ESTALE;
    return ret == -EINVAL || ret == -ENODATA ? -EIO : ret;
}

int qcow2_snapshot_check(const struct byte_source *source, const struct internal_snapshot *wanted)
{
    struct table_place before, after;
    int last = 0;
    int ret = read_place(source, &before);
    for (int tries = 0; ret == 0 && tries < TRIES_MAX; tries++) {
        int found = table_find(source, &before, wanted);
        ret = read_place(source, &after);
        if (ret < 0)
            break;
        bool stayed = place_equal(&before, &after);
        before = after;
        if (stayed && (found == 0 || found == last))
            return found;
        last = stayed ? found : 0;
    }
    return ret == -ENODATA || ret == 0 ? -EIO : ret;
}
