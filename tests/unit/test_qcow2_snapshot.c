// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * qcow2_snapshot.h: the table as it should be, as it should not be, and as it moves while a QEMU writes to
 * the image.
 */
#include "unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/qcow2_snapshot.h"
#include "qcow2_image.h"

#define CLUSTER_BITS 12
#define SIZE         (UINT64_C(1) << 20)

static const struct image_snapshot first = {
    .id = "1",
    .name = "clean install",
    .l1_table_offset = 0x10000,
    .l1_size = 1,
    .date_sec = 1700000000,
    .date_nsec = 999999999,
    .vm_clock_nsec = UINT64_C(0x123456789abcdef),
    .vm_state_size = UINT64_C(0x123456789),
    .disk_size = 0x80000,
    .extra_bytes = 24,
};
static const struct image_snapshot second = {
    .id = "22",
    .name = "b",
    .l1_table_offset = 0x11000,
    .l1_size = 2,
    .date_sec = 1700000001,
    .disk_size = SIZE,
    .extra_bytes = 16,
};

static void open_header(const struct qcow2_image *image, struct qcow2_header *header)
{
    struct byte_source source = image_source(image);
    assert_int_equal(qcow2_header_read(&source, header, NULL), 0);
}

/* Reads the table; what it says of damage must hold together. */
static int read_table(const struct qcow2_image *image, struct qcow2_snapshots *snapshots, struct error *err)
{
    struct byte_source source = image_source(image);
    struct qcow2_header header;
    int damage = 1;
    *err = (struct error){0};
    open_header(image, &header);
    assert_int_equal(qcow2_snapshots_read(&source, &header, snapshots, &damage, err), 0);
    qcow2_header_done(&header);
    assert_true(damage == 0 || damage == -EINVAL);
    assert_int_equal(err->code, -damage);
    assert_int_equal(strlen(err->text) > 0, damage != 0);
    return damage;
}

/* What qcow2_snapshots_read should make of an entry. The strings are borrowed. */
static struct internal_snapshot wanted_of(const struct image_snapshot *snapshot)
{
    return (struct internal_snapshot){
        .id = (char *)snapshot->id,
        .name = (char *)snapshot->name,
        .l1_table_offset = snapshot->l1_table_offset,
        .l1_size = snapshot->l1_size,
        .date_sec = snapshot->date_sec,
        .date_nsec = snapshot->date_nsec,
        .vm_clock_nsec = snapshot->vm_clock_nsec,
        .vm_state_size =
            snapshot->extra_bytes >= 8 ? snapshot->vm_state_size : (uint32_t)snapshot->vm_state_size,
        .disk_size = snapshot->extra_bytes >= 16 ? snapshot->disk_size : SIZE,
    };
}

static int check(const struct qcow2_image *image, const struct image_snapshot *snapshot)
{
    struct byte_source source = image_source(image);
    struct internal_snapshot wanted = wanted_of(snapshot);
    return qcow2_snapshot_check(&source, &wanted);
}

/* An image with a table of these two; returns where the table is. */
static uint64_t two_snapshots(struct qcow2_image *image)
{
    image_start(image, 3, CLUSTER_BITS, SIZE, 0);
    uint64_t table = image_add_clusters(image, 1);
    image_put_snapshot(image, image_put_snapshot(image, table, &first), &second);
    image_set_snapshots(image, table, 2);
    return table;
}

static void no_table_is_an_empty_one(void **state)
{
    struct qcow2_image image;
    struct qcow2_snapshots snapshots;
    struct error err;
    image_start(&image, 3, CLUSTER_BITS, SIZE, 0);
    assert_int_equal(read_table(&image, &snapshots, &err), 0);
    assert_int_equal(snapshots.count, 0);
    assert_int_equal(snapshots.table_bytes, 0);
    qcow2_snapshots_done(&snapshots);
    assert_int_equal(check(&image, &first), -ESTALE);
    image_done(&image);
}

static void entries_are_read_in_full(void **state)
{
    struct qcow2_image image;
    struct qcow2_snapshots snapshots;
    struct error err;
    two_snapshots(&image);
    assert_int_equal(read_table(&image, &snapshots, &err), 0);
    assert_int_equal(snapshots.count, 2);
    struct internal_snapshot wanted[] = {wanted_of(&first), wanted_of(&second)};
    assert_true(internal_snapshot_equal(snapshots.entries[0], &wanted[0]));
    assert_true(internal_snapshot_equal(snapshots.entries[1], &wanted[1]));
    /* 40 + 24 + 1 + 13, padded to 80; 40 + 16 + 2 + 1 */
    assert_int_equal(snapshots.table_bytes, 80 + 59);
    qcow2_snapshots_done(&snapshots);
    image_done(&image);
}

static void entries_of_version_2_have_the_size_of_the_image(void **state)
{
    struct qcow2_image image;
    struct qcow2_snapshots snapshots;
    struct error err;
    struct image_snapshot old = first;
    old.extra_bytes = 0;
    image_start(&image, 2, CLUSTER_BITS, SIZE, 0);
    uint64_t table = image_add_clusters(&image, 1);
    image_put_snapshot(&image, table, &old);
    image_set_snapshots(&image, table, 1);
    assert_int_equal(read_table(&image, &snapshots, &err), 0);
    assert_int_equal(snapshots.count, 1);
    assert_int_equal(snapshots.entries[0]->disk_size, SIZE);
    assert_int_equal(snapshots.entries[0]->vm_state_size, 0x23456789);
    qcow2_snapshots_done(&snapshots);
    assert_int_equal(check(&image, &old), 0);
    /* The image is resized: the entry is the same one. */
    put64(&image, 24, SIZE / 2);
    assert_int_equal(check(&image, &old), 0);
    image_done(&image);
}

static void a_zero_byte_ends_a_name(void **state)
{
    struct qcow2_image image;
    struct qcow2_snapshots snapshots;
    struct error err;
    uint64_t table = two_snapshots(&image);
    image.bytes[table + 40 + 24 + 1 + 5] = 0;
    assert_int_equal(read_table(&image, &snapshots, &err), 0);
    assert_string_equal(snapshots.entries[0]->name, "clean");
    qcow2_snapshots_done(&snapshots);
    struct image_snapshot cut = first;
    cut.name = "clean";
    assert_int_equal(check(&image, &cut), 0);
    cut.name = "clea";
    assert_int_equal(check(&image, &cut), -ESTALE);
    assert_int_equal(check(&image, &first), -ESTALE);
    image_done(&image);
}

static void the_longest_names_are_read(void **state)
{
    struct qcow2_image image;
    struct qcow2_snapshots snapshots;
    struct error err;
    cleanup_free char *name = calloc(1, 65536), *id = calloc(1, 65536);
    memset(name, 'n', 65535);
    memset(id, 'i', 65535);
    struct image_snapshot longest = first;
    longest.name = name;
    longest.id = id;
    image_start(&image, 3, CLUSTER_BITS, SIZE, 0);
    uint64_t table = image_add_clusters(&image, 1);
    image_put_snapshot(&image, image_put_snapshot(&image, table, &longest), &second);
    image_set_snapshots(&image, table, 2);
    assert_int_equal(read_table(&image, &snapshots, &err), 0);
    assert_int_equal(snapshots.count, 2);
    assert_string_equal(snapshots.entries[0]->name, name);
    assert_string_equal(snapshots.entries[0]->id, id);
    qcow2_snapshots_done(&snapshots);
    assert_int_equal(check(&image, &longest), 0);
    assert_int_equal(check(&image, &second), 0);
    name[65534] = 'm';
    assert_int_equal(check(&image, &longest), -ESTALE);
    image_done(&image);
}

static void many_entries_are_read(void **state)
{
    struct qcow2_image image;
    struct qcow2_snapshots snapshots;
    struct error err;
    image_start(&image, 3, CLUSTER_BITS, SIZE, 0);
    uint64_t table = image_add_clusters(&image, 1), at = table;
    image_grow(&image, table + 5000 * 72);
    char name[16];
    struct image_snapshot one = second;
    for (uint32_t i = 0; i < 5000; i++) {
        snprintf(name, sizeof name, "s%u", i);
        one.id = one.name = name;
        one.date_sec = i;
        at = image_put_snapshot(&image, at, &one);
    }
    image_set_snapshots(&image, table, 5000);
    assert_int_equal(read_table(&image, &snapshots, &err), 0);
    assert_int_equal(snapshots.count, 5000);
    assert_string_equal(snapshots.entries[4321]->name, "s4321");
    assert_int_equal(snapshots.entries[4321]->date_sec, 4321);
    assert_int_equal(snapshots.table_bytes, at - table);
    qcow2_snapshots_done(&snapshots);
    assert_int_equal(check(&image, &one), 0);
    image_done(&image);
}

/* A lie, and how many entries before it are kept. */
static void damage_keeps_what_came_before_it(void **state)
{
    static const struct {
        unsigned offset, bytes; /* in the second entry, which begins 80 bytes into the table */
        uint64_t value;
        size_t kept;
    } lies[] = {
        {36, 4, 1025, 1},       /* more extra data than QEMU reads */
        {36, 4, UINT32_MAX, 1}, /* so much that sums overflow */
        {48, 8, UINT64_MAX, 1}, /* a disk that can't be */
        {48, 8, (UINT64_C(1) << 61) + 512, 1},
        {48, 8, UINT64_C(1) << 61, 2},
        {14, 2, 65535, 1}, /* a name beyond the end of the file */
        {12, 2, 65535, 1},
        {36, 4, 1024, 2}, /* still in the file: the id and the name are elsewhere */
    };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        struct qcow2_image image;
        struct qcow2_snapshots snapshots;
        struct error err;
        uint64_t table = two_snapshots(&image);
        image_put_number(&image, table + 80 + lies[i].offset, lies[i].value, lies[i].bytes);
        int damage = read_table(&image, &snapshots, &err);
        assert_int_equal(damage, lies[i].kept == 2 ? 0 : -EINVAL);
        assert_int_equal(snapshots.count, lies[i].kept);
        assert_string_equal(snapshots.entries[0]->name, first.name);
        qcow2_snapshots_done(&snapshots);
        assert_int_equal(check(&image, &first), 0);
        image_done(&image);
    }
}

static void an_impossible_disk_hides_no_other(void **state)
{
    struct qcow2_image image;
    struct qcow2_snapshots snapshots;
    struct error err;
    uint64_t table = two_snapshots(&image);
    put64(&image, table + 48, UINT64_MAX);
    assert_int_equal(read_table(&image, &snapshots, &err), -EINVAL);
    assert_int_equal(snapshots.count, 1);
    assert_string_equal(snapshots.entries[0]->name, second.name);
    qcow2_snapshots_done(&snapshots);
    image_done(&image);
}

static void a_table_that_can_not_be_is_empty(void **state)
{
    static const struct {
        uint64_t offset;
        uint32_t count;
    } places[] = {
        {0x4000, 65537},
        {0x4000, UINT32_MAX},
        {0x4008, 2}, /* not at a cluster */
        {UINT64_MAX - 0xfff, 2},
        {UINT64_C(1) << 63, 2},
        {INT64_MAX - 0xfff, 2},
        {UINT64_C(1) << 60, 2}, /* beyond the end of the file */
        {UINT64_C(1) << 60, 65536},
    };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        struct qcow2_image image;
        struct qcow2_snapshots snapshots;
        struct error err;
        two_snapshots(&image);
        image_set_snapshots(&image, places[i].offset, places[i].count);
        assert_int_equal(read_table(&image, &snapshots, &err), -EINVAL);
        assert_int_equal(snapshots.count, 0);
        qcow2_snapshots_done(&snapshots);
        assert_int_equal(check(&image, &first), -EIO);
        image_done(&image);
    }
}

/* 65536 entries of 128 KiB would be 8 GiB, from a sparse file that costs nothing to make. */
static void a_table_has_a_largest_size(void **state)
{
    struct qcow2_image header_only;
    struct qcow2_snapshots snapshots;
    struct qcow2_header header;
    struct error err = {0};
    int damage;
    cleanup_close int fd = memfd_create("qcow2", MFD_CLOEXEC);
    assert_true(fd >= 0);
    uint64_t l1 = image_start(&header_only, 3, CLUSTER_BITS, SIZE, 0);
    assert_true(l1 > 0);
    image_set_snapshots(&header_only, 0x10000, 65536);
    assert_int_equal(pwrite(fd, header_only.bytes, header_only.size, 0), header_only.size);
    image_done(&header_only);
    const uint8_t lengths[4] = {0xff, 0xff, 0xff, 0xff}; /* of the id and the name */
    uint64_t at = 0x10000;
    for (unsigned i = 0; i < 600; i++, at += 40 + 2 * 65535 + 2)
        assert_int_equal(pwrite(fd, lengths, sizeof lengths, (off_t)at + 12), sizeof lengths);
    assert_int_equal(ftruncate(fd, (off_t)1 << 34), 0);
    struct byte_source source = byte_source_fd(fd);
    assert_int_equal(qcow2_header_read(&source, &header, &err), 0);
    assert_int_equal(qcow2_snapshots_read(&source, &header, &snapshots, &damage, &err), 0);
    assert_int_equal(damage, -EINVAL);
    assert_int_equal(snapshots.count, (64 << 20) / (40 + 2 * 65535 + 2));
    assert_true(snapshots.table_bytes <= 64 << 20);
    qcow2_snapshots_done(&snapshots);
    qcow2_header_done(&header);
}

static void no_byte_of_the_table_does_harm(void **state)
{
    struct qcow2_image image;
    uint64_t table = two_snapshots(&image);
    for (uint64_t at = table; at < table + 144; at++) {
        uint8_t good = image.bytes[at];
        for (unsigned value = 0; value < 256; value++) {
            struct qcow2_snapshots snapshots;
            struct error err;
            image.bytes[at] = (uint8_t)value;
            int damage = read_table(&image, &snapshots, &err);
            assert_true(snapshots.count <= 2 && (snapshots.count == 2 || damage));
            qcow2_snapshots_done(&snapshots);
            int found = check(&image, &second);
            assert_true(found == 0 || found == -ESTALE || found == -EIO);
            /* Each byte of an entry tells it apart: but for the 32-bit memory size, which the extra data
             * replaces, the length of the extra data, that of the name where zeros follow it, and what is
             * less than a sector of the disk's size. */
            uint64_t in = at - table - 80;
            bool tells =
                in != 14 && in != 15 && (in < 32 || in >= 40) && in != 55 && !(in == 54 && value < 2);
            if (at >= table + 80 && in < 59 && value != good && tells)
                assert_int_not_equal(found, 0);
        }
        image.bytes[at] = good;
    }
    image_done(&image);
}

static void a_file_that_ends_anywhere_does_no_harm(void **state)
{
    struct qcow2_image image;
    uint64_t table = two_snapshots(&image);
    for (size_t size = table; size < table + 144; size++) {
        struct qcow2_snapshots snapshots;
        struct error err;
        struct qcow2_image cut = {.cluster_bits = image.cluster_bits};
        image_put(&cut, 0, image.bytes, size);
        read_table(&cut, &snapshots, &err);
        assert_int_equal(snapshots.count, size < table + 78 ? 0 : size < table + 80 + 59 ? 1 : 2);
        qcow2_snapshots_done(&snapshots);
        assert_int_equal(check(&cut, &first), size < table + 78 ? -EIO : 0);
        image_done(&cut);
    }
    image_done(&image);
}

static void a_check_tells_here_from_gone(void **state)
{
    struct qcow2_image image;
    two_snapshots(&image);
    assert_int_equal(check(&image, &first), 0);
    assert_int_equal(check(&image, &second), 0);
    /* Taken out of the table; its bytes still lie where they were. */
    image_set_snapshots(&image, 0x4000, 1);
    uint64_t moved = image_add_clusters(&image, 1);
    image_put_snapshot(&image, moved, &second);
    image_set_snapshots(&image, moved, 1);
    assert_int_equal(check(&image, &first), -ESTALE);
    assert_int_equal(check(&image, &second), 0);
    /* All of them, and the file is something else now. */
    image_set_snapshots(&image, 0, 0);
    assert_int_equal(check(&image, &second), -ESTALE);
    image.bytes[0] = 0;
    assert_int_equal(check(&image, &second), -ESTALE);
    image_done(&image);
}

/*
 * The table moves away and back: the header's fields are what they were, the snapshot's old entry is where it
 * was, but behind the end of a table that is shorter, and so is no entry any more.
 */
static void left_over_bytes_are_no_entry(void **state)
{
    struct qcow2_image image;
    struct image_snapshot lengthy = second;
    lengthy.name = "a name that is so long that two others fit in its place, with all of their fields, names "
                   "and ids, and then some";
    image_start(&image, 3, CLUSTER_BITS, SIZE, 0);
    uint64_t table = image_add_clusters(&image, 1);
    uint64_t at = image_put_snapshot(&image, table, &lengthy);
    image_put_snapshot(&image, at, &first);
    image_set_snapshots(&image, table, 2);
    assert_int_equal(check(&image, &first), 0);
    uint64_t left_over = (at + 7) / 8 * 8;

    struct image_snapshot others[] = {second, second};
    others[0].name = "x";
    others[1].name = "y";
    at = image_put_snapshot(&image, image_put_snapshot(&image, table, &others[0]), &others[1]);
    assert_true(at <= left_over);
    assert_int_equal(check(&image, &first), -ESTALE);
    assert_int_equal(check(&image, &others[1]), 0);
    image_done(&image);
}

/* A new snapshot took the id, the name and the L1 table of one that is gone. */
static void a_successor_is_not_its_predecessor(void **state)
{
    struct qcow2_image image;
    uint64_t table = two_snapshots(&image);
    struct image_snapshot successor = second;
    successor.date_nsec++;
    image_put_snapshot(&image, table + 80, &successor);
    assert_int_equal(check(&image, &second), -ESTALE);
    assert_int_equal(check(&image, &successor), 0);
    image_done(&image);
}

/*
 * Two threads: one moves the table about as QEMU does, taking a snapshot in and out, and overwrites the old
 * table; the other never loses the one that stays, and sees the other one go.
 */
struct mover {
    int fd;
    atomic_bool stop;
    atomic_uint looks;      /* of the other thread */
    atomic_uint generation; /* odd while `second` is in the table, as far as the mover has come */
};

/* Fewer moves than make a look fail: each spoils two tries of 64, and a look may have begun before them. */
#define MOVES_MAX 24

static void *move_table(void *opaque)
{
    struct mover *mover = opaque;
    unsigned moves = 0, looks = 0;
    for (unsigned generation = 1; !mover->stop; generation++) {
        while (moves == MOVES_MAX && mover->looks == looks && !mover->stop)
            nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
        if (mover->looks != looks) {
            looks = mover->looks;
            moves = 0;
        }
        moves++;
        struct qcow2_image table = {0};
        uint64_t offset = 0x4000 + (generation & 3) * 0x1000;
        /* What is freed is used for something else at once. */
        uint8_t junk[0x1000];
        memset(junk, (int)generation, sizeof junk);
        uint64_t end = image_put_snapshot(&table, 0, &first);
        if (generation & 1)
            end = image_put_snapshot(&table, end, &second);
        assert(pwrite(mover->fd, table.bytes, end, (off_t)offset) == (ssize_t)end);
        struct qcow2_image fields = {0};
        image_put_number(&fields, 0, generation & 1 ? 2 : 1, 4);
        image_put_number(&fields, 4, offset, 8);
        assert(pwrite(mover->fd, fields.bytes, 12, 60) == 12);
        mover->generation = generation;
        uint64_t old = 0x4000 + ((generation - 1) & 3) * 0x1000;
        assert(pwrite(mover->fd, junk, sizeof junk, (off_t)old) == sizeof junk);
        image_done(&table);
        image_done(&fields);
        /* QEMU flushes here, which takes longer. */
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
    return NULL;
}

static void a_moving_table_is_read_right(void **state)
{
    struct qcow2_image image;
    struct mover mover = {.fd = memfd_create("qcow2", MFD_CLOEXEC)};
    cleanup_close int fd = mover.fd;
    assert_true(fd >= 0);
    image_start(&image, 3, CLUSTER_BITS, SIZE, 0);
    image_put_snapshot(&image, 0x4000, &first);
    image_set_snapshots(&image, 0x4000, 1);
    image_grow(&image, 0x9000);
    assert_int_equal(pwrite(fd, image.bytes, image.size, 0), image.size);
    image_done(&image);

    struct byte_source source = byte_source_fd(fd);
    struct qcow2_header header;
    assert_int_equal(qcow2_header_read(&source, &header, NULL), 0);
    struct internal_snapshot stays = wanted_of(&first), comes_and_goes = wanted_of(&second);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, move_table, &mover), 0);
    unsigned seen = 0, gone = 0;
    for (unsigned i = 0; i < 20000 || seen == 0 || gone == 0; i++) {
        assert_int_equal(qcow2_snapshot_check(&source, &stays), 0);
        mover.looks++;
        int ret = qcow2_snapshot_check(&source, &comes_and_goes);
        mover.looks++;
        assert_true(ret == 0 || ret == -ESTALE);
        seen += ret == 0;
        gone += ret != 0;
        struct qcow2_snapshots snapshots;
        int damage;
        assert_int_equal(qcow2_snapshots_read(&source, &header, &snapshots, &damage, NULL), 0);
        mover.looks++;
        assert_int_equal(damage, 0);
        assert_true(snapshots.count == 1 || snapshots.count == 2);
        assert_true(internal_snapshot_equal(snapshots.entries[0], &stays));
        if (snapshots.count == 2)
            assert_true(internal_snapshot_equal(snapshots.entries[1], &comes_and_goes));
        qcow2_snapshots_done(&snapshots);
    }
    mover.stop = true;
    pthread_join(thread, NULL);
    qcow2_header_done(&header);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_table_is_an_empty_one),
        cmocka_unit_test(entries_are_read_in_full),
        cmocka_unit_test(entries_of_version_2_have_the_size_of_the_image),
        cmocka_unit_test(a_zero_byte_ends_a_name),
        cmocka_unit_test(the_longest_names_are_read),
        cmocka_unit_test(many_entries_are_read),
        cmocka_unit_test(damage_keeps_what_came_before_it),
        cmocka_unit_test(an_impossible_disk_hides_no_other),
        cmocka_unit_test(a_table_that_can_not_be_is_empty),
        cmocka_unit_test(a_table_has_a_largest_size),
        cmocka_unit_test(no_byte_of_the_table_does_harm),
        cmocka_unit_test(a_file_that_ends_anywhere_does_no_harm),
        cmocka_unit_test(a_check_tells_here_from_gone),
        cmocka_unit_test(left_over_bytes_are_no_entry),
        cmocka_unit_test(a_successor_is_not_its_predecessor),
        cmocka_unit_test(a_moving_table_is_read_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
