// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * qcow2_snapshot_table.h: the table that a header led to before is brought back where the one that it leads
 * to was given up, and in no other case. Skips (77) where there is no QEMU.
 */
#include "qemu_folder.h"

#include "base/bytes.h"
#include "image/qcow2_snapshot_table.h"

#define AT_TABLE 60 /* in the header: how many snapshots, and where their table is */

static struct qcow2_table_mark make_image(void)
{
    run("rm -f image && qemu-img create -q -f qcow2 image 8M && qemu-io -c 'write -P 7 0 1M' image && "
        "qemu-img snapshot -c one image && qemu-img snapshot -c two image");
    cleanup_close int fd = open_image_file("image", O_RDONLY);
    return qcow2_table_mark(fd);
}

/* As QEMU leaves it: the header leads behind the end, where a hole is. */
static void lose_table(int fd)
{
    uint8_t bytes[12];
    off_t end = (lseek(fd, 0, SEEK_END) + 65535) / 65536 * 65536;
    assert_int_equal(ftruncate(fd, end + 65536), 0);
    store_be32(bytes, 3);
    store_be64(bytes + 4, (uint64_t)end);
    assert_int_equal(pwrite(fd, bytes, sizeof bytes, AT_TABLE), sizeof bytes);
}

static void test_brought_back(void **state)
{
    struct qcow2_table_mark mark = make_image();
    cleanup_close int fd = open_image_file("image", O_RDWR);
    assert_int_equal(mark.count, 2);
    assert_false(qcow2_table_is_lost(fd, &mark));
    lose_table(fd);
    assert_int_not_equal(status_of("qemu-img check image"), 0);
    assert_true(qcow2_table_is_lost(fd, &mark));
    must(qcow2_table_bring_back(fd, &mark));
    assert_false(qcow2_table_is_lost(fd, &mark));
    run("qemu-img check image && qemu-img snapshot -l image | grep -qw one && qemu-img snapshot -l image | "
        "grep -qw two");
}

static void test_there_was_none(void **state)
{
    run("rm -f image && qemu-img create -q -f qcow2 image 8M");
    cleanup_close int fd = open_image_file("image", O_RDWR);
    struct qcow2_table_mark mark = qcow2_table_mark(fd);
    assert_int_equal(mark.count, 0);
    lose_table(fd);
    assert_true(qcow2_table_is_lost(fd, &mark));
    must(qcow2_table_bring_back(fd, &mark));
    run("qemu-img check image");
}

/* Whoever changed it since has freed the marked one: that would be the wrong one. */
static void test_changed_since(void **state)
{
    struct qcow2_table_mark mark = make_image();
    run("qemu-img snapshot -c three image");
    cleanup_close int fd = open_image_file("image", O_RDWR);
    assert_false(qcow2_table_is_lost(fd, &mark));
    struct qcow2_table_mark now = qcow2_table_mark(fd);
    lose_table(fd);
    assert_false(qcow2_table_is_lost(fd, &mark));
    assert_true(qcow2_table_is_lost(fd, &now));
}

static void test_no_mark(void **state)
{
    make_image();
    cleanup_close int fd = open_image_file("image", O_RDWR), none = open_image_file("log", O_RDONLY);
    lose_table(fd);
    struct qcow2_table_mark mark = qcow2_table_mark(none);
    assert_true(mark.count == QCOW2_TABLE_UNKNOWN);
    assert_false(qcow2_table_is_lost(fd, &mark));
}

int main(void)
{
    int rc = folder_make();
    if (rc)
        return rc;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_brought_back),
        cmocka_unit_test(test_there_was_none),
        cmocka_unit_test(test_changed_since),
        cmocka_unit_test(test_no_mark),
    };
    return cmocka_run_group_tests(tests, NULL, folder_remove);
}
