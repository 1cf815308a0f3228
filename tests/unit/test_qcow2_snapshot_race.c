// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The snapshot table of an image that a running QEMU writes to, at every instant that can matter: the byte
 * source is a stand-in here that lets the image change between any two reads, and each way to spread a
 * sequence of changes over the reads of one call is tried.
 */
#include "unit.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "image/qcow2_snapshot.h"
#include "qcow2_image.h"

#define CLUSTER_BITS 16
#define TABLE_X      0x100000
#define TABLE_Y      0x200000
#define FILE_BYTES   0x300000
#define STATES       6
#define READS_MAX    24 /* of one call, over which the changes are spread */

/*
 * The image through time. `stays` is in every table, `goes` is deleted by the first change, `comes` is
 * created later, and the table is back in its old place by then, with as many entries.
 */
static struct qcow2_image states[STATES];
static unsigned changes_at[STATES]; /* before which read each state begins; [0] is 0 */
static unsigned reads;              /* so far */
static unsigned state_first, state_last;

static char long_name[40001]; /* so that a table is read in several pieces */
static struct image_snapshot stays = {.id = "1", .name = long_name, .l1_size = 1, .extra_bytes = 16};
static struct image_snapshot goes = {.id = "2", .name = "goes", .l1_size = 1, .extra_bytes = 16};
static struct image_snapshot comes = {.id = "2", .name = "comes", .l1_size = 1, .extra_bytes = 16};

static const struct qcow2_image *image_now(void)
{
    unsigned state = 0;
    while (state + 1 < STATES && changes_at[state + 1] <= reads)
        state++;
    return &states[state];
}

int byte_source_read(const struct byte_source *source, uint64_t offset, void *buffer, size_t length)
{
    const struct qcow2_image *image = image_now();
    if (reads++ == 0)
        state_first = (unsigned)(image - states);
    state_last = (unsigned)(image - states);
    if (offset > image->size || length > image->size - offset)
        return -ENODATA;
    memcpy(buffer, image->bytes + offset, length);
    return 0;
}

int byte_source_size(const struct byte_source *source, uint64_t *size)
{
    *size = FILE_BYTES;
    return 0;
}

static void copy_state(unsigned to)
{
    states[to] = (struct qcow2_image){.cluster_bits = CLUSTER_BITS};
    image_put(&states[to], 0, states[to - 1].bytes, states[to - 1].size);
}

static int make_states(void **state)
{
    uint8_t junk[TABLE_Y - TABLE_X];
    memset(junk, 0x11, sizeof junk);
    memset(long_name, 'n', sizeof long_name - 1);
    image_start(&states[0], 3, CLUSTER_BITS, 1 << 20, 0);
    image_grow(&states[0], FILE_BYTES);
    image_put_snapshot(&states[0], image_put_snapshot(&states[0], TABLE_X, &stays), &goes);
    image_set_snapshots(&states[0], TABLE_X, 2);
    copy_state(1); /* `goes` is deleted */
    image_put_snapshot(&states[1], TABLE_Y, &stays);
    image_set_snapshots(&states[1], TABLE_Y, 1);
    copy_state(2); /* the old table's clusters are the guest's */
    image_put(&states[2], TABLE_X, junk, sizeof junk);
    copy_state(3); /* `comes` is being created: the table is written, in the old place */
    image_put_snapshot(&states[3], image_put_snapshot(&states[3], TABLE_X, &comes), &stays);
    copy_state(4); /* and is the table */
    image_set_snapshots(&states[4], TABLE_X, 2);
    copy_state(5); /* what was in between is the guest's */
    image_put(&states[5], TABLE_Y, junk, sizeof junk);
    return 0;
}

static int free_states(void **state)
{
    for (unsigned i = 0; i < STATES; i++)
        image_done(&states[i]);
    return 0;
}

static void start_call(void)
{
    reads = 0;
}

/* The next way to spread the changes over the reads; false after the last. */
static bool next_schedule(void)
{
    unsigned i = STATES - 1;
    while (i > 0 && changes_at[i] == READS_MAX)
        i--;
    if (i == 0)
        return false;
    unsigned at = changes_at[i] + 1;
    for (; i < STATES; i++)
        changes_at[i] = at;
    return true;
}

static void first_schedule(void)
{
    memset(changes_at, 0, sizeof changes_at);
}

static bool is_listed(const struct image_snapshot *snapshot, unsigned state)
{
    return snapshot == &stays || (snapshot == &goes && state == 0) || (snapshot == &comes && state >= 4);
}

/* Was it in the table in one of the states that the call went through? */
static bool was_listed(const struct image_snapshot *snapshot, bool listed)
{
    for (unsigned state = state_first; state <= state_last; state++)
        if (is_listed(snapshot, state) == listed)
            return true;
    return false;
}

static void a_check_tells_what_was_so_during_the_call(void **state)
{
    const struct image_snapshot *const snapshots[] = {&stays, &goes, &comes};
    struct byte_source source = {.fd = -1};
    unsigned found = 0, gone = 0;
    for (size_t i = 0; i < 3; i++) {
        struct internal_snapshot wanted = {
            .id = (char *)snapshots[i]->id, .name = (char *)snapshots[i]->name, .l1_size = 1};
        first_schedule();
        do {
            start_call();
            int ret = qcow2_snapshot_check(&source, &wanted);
            assert_true(ret == 0 || ret == -ESTALE);
            assert_true(was_listed(snapshots[i], ret == 0));
            found += ret == 0;
            gone += ret != 0;
        } while (next_schedule());
    }
    assert_true(found > 1000 && gone > 1000);
}

static void a_list_is_one_that_was_so_during_the_call(void **state)
{
    struct byte_source source = {.fd = -1};
    unsigned lists[3] = {0};
    first_schedule();
    do {
        struct qcow2_header header = {
            .version = 3, .cluster_bits = CLUSTER_BITS, .snapshot_count = 2, .snapshots_offset = TABLE_X};
        struct qcow2_snapshots snapshots;
        int damage;
        start_call();
        assert_int_equal(qcow2_snapshots_read(&source, &header, &snapshots, &damage, NULL), 0);
        assert_int_equal(damage, 0);
        unsigned kind;
        if (snapshots.count == 1)
            kind = 1;
        else if (strcmp(snapshots.entries[0]->name, "comes") == 0)
            kind = 2;
        else
            kind = 0;
        static const unsigned kind_of_state[STATES] = {0, 1, 1, 1, 2, 2};
        bool right = false;
        for (unsigned at = state_first; at <= state_last; at++)
            right |= kind_of_state[at] == kind;
        assert_true(right);
        lists[kind]++;
        bool has[3] = {false};
        for (size_t i = 0; i < snapshots.count; i++) {
            has[0] |= strcmp(snapshots.entries[i]->name, long_name) == 0;
            has[1] |= strcmp(snapshots.entries[i]->name, "goes") == 0;
            has[2] |= strcmp(snapshots.entries[i]->name, "comes") == 0;
        }
        assert_true(has[0] && has[1] == (kind == 0) && has[2] == (kind == 2));
        qcow2_snapshots_done(&snapshots);
    } while (next_schedule());
    assert_true(lists[0] > 100 && lists[1] > 100 && lists[2] > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_check_tells_what_was_so_during_the_call),
        cmocka_unit_test(a_list_is_one_that_was_so_during_the_call),
    };
    return cmocka_run_group_tests(tests, make_states, free_states);
}
