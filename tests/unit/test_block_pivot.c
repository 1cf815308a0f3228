// SPDX-License-Identifier: LGPL-2.1-or-later
/* block_pivot.h and layer_nodes.h with a real QEMU, whose monitor writes to the disk as a guest would. */
#include "qemu_process.h"

#include <limits.h>
#include <sys/stat.h>

#include "hypervisor/block_pivot.h"
#include "hypervisor/layer_nodes.h"

#define GUEST "-d /machine/peripheral/d0/virtio-backend"

static const struct qmp_job_watch patient = {.timeout_ms = LONG_MS};
static const struct block_pivot pivot = {.job_id = "p", .active = "disk", .base = "base"};

static struct qemu_process qemu;

static void add_node(const char *name, const char *file, const char *more)
{
    json_object_put(qemu_process_do(
        &qemu, "blockdev-add",
        "{'node-name': '%s', 'driver': 'qcow2', 'file': {'driver': 'file', 'filename': '%s/%s', "
        "'auto-read-only': true} %s}",
        name, folder, file, more));
}

/* A disk of 4 MiB over a base of `base_size`, with a device of a guest's on it. */
static void start(const char *base_size, const char *device)
{
    run("rm -f *.qcow2 && qemu-img create -q -f qcow2 base.qcow2 %s && "
        "qemu-io -f qcow2 -c 'write -P 1 0 2M' base.qcow2 && "
        "qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 disk.qcow2 4M && "
        "qemu-io -f qcow2 -c 'write -P 2 1M 2M' disk.qcow2",
        base_size);
    qemu_process_start(&qemu, NULL);
    add_node("base", "base.qcow2", ", 'read-only': true");
    add_node("disk", "disk.qcow2", ", 'backing': 'base'");
    if (device)
        json_object_put(
            qemu_process_do(&qemu, "device_add", "{'driver': '%s', 'drive': 'disk', 'id': 'd0'}", device));
}

static bool is_disk(const char *name, bool *can_wait)
{
    char path[PATH_MAX];
    struct stat file;
    bool is = false;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(stat(path, &file), 0);
    must(layer_nodes_is_disk(&qemu.engine, &file, &is, can_wait, &why));
    return is;
}

static int close_file(const char *name)
{
    char path[PATH_MAX];
    struct stat file;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(stat(path, &file), 0);
    return layer_nodes_close(&qemu.engine, &file, name, &why);
}

static void assert_holds(const char *image, int first, int second, int third, int fourth)
{
    const int patterns[] = {first, second, third, fourth};
    for (int i = 0; i < 4; i++)
        run("qemu-io -r -U -f qcow2 -c 'read -P %d %dM 1M' %s > out && ! grep -q failed out", patterns[i], i,
            image);
}

static void test_switch(void **state)
{
    bool can_wait = false;
    start("4M", "virtio-blk-pci");
    assert_true(is_disk("disk.qcow2", &can_wait));
    assert_true(can_wait);
    assert_false(is_disk("base.qcow2", NULL));
    must(block_pivot_copy(&qemu.engine, &pivot, &patient, &why));
    qemu_process_write(&qemu, GUEST, 3, 3 << 20, 1 << 20);
    must(block_pivot_hold(&qemu.engine, &pivot, &patient, &why));
    assert_holds("base.qcow2", 1, 2, 2, 3); /* both are the same now */
    must(block_pivot_switch(&qemu.engine, "p", &why));
    assert_true(is_disk("base.qcow2", NULL));
    assert_false(is_disk("disk.qcow2", NULL));
    qemu_process_write(&qemu, GUEST, 4, 0, 1 << 20);
    must(block_flush(&qemu.engine, "base", NULL, &why));
    must(close_file("disk.qcow2"));
    must(close_file("disk.qcow2")); /* nothing is left to close */
    assert_int_equal(close_file("base.qcow2"), -EBUSY);
    assert_true(is_disk("base.qcow2", NULL));
    qemu_process_kill(&qemu);
    assert_holds("base.qcow2", 4, 2, 2, 3);
    assert_undamaged("base.qcow2");
}

static void test_killed_while_it_is_held(void **state)
{
    start("4M", "virtio-blk-pci");
    must(block_pivot_copy(&qemu.engine, &pivot, &patient, &why));
    qemu_process_write(&qemu, GUEST, 3, 3 << 20, 1 << 20);
    must(block_flush(&qemu.engine, "disk", "base", &why));
    must(block_pivot_hold(&qemu.engine, &pivot, &patient, &why));
    qemu_process_kill(&qemu);
    assert_holds("base.qcow2", 1, 2, 2, 3);
    assert_holds("disk.qcow2", 1, 2, 2, 3);
}

static void test_stays(void **state)
{
    start("4M", "virtio-blk-pci");
    must(block_pivot_copy(&qemu.engine, &pivot, &patient, &why));
    must(block_pivot_hold(&qemu.engine, &pivot, &patient, &why));
    must(qmp_job_abort(qemu.engine.qmp, "p", LONG_MS, &why));
    assert_true(is_disk("disk.qcow2", NULL));
    qemu_process_write(&qemu, GUEST, 5, 0, 1 << 20);
    must(block_flush(&qemu.engine, "disk", "base", &why));
    must(block_pivot_copy(&qemu.engine, &pivot, &patient, &why)); /* and again */
    must(block_pivot_hold(&qemu.engine, &pivot, &patient, &why));
    must(block_pivot_switch(&qemu.engine, "p", &why));
    qemu_process_kill(&qemu);
    assert_holds("base.qcow2", 5, 2, 2, 0);
}

static void test_refused(void **state)
{
    static const struct block_pivot none = {.job_id = "p", .active = "disk", .base = "none"};
    bool can_wait = true;
    start("2M", "virtio-blk-pci");
    assert_int_equal(block_pivot_copy(&qemu.engine, &pivot, &patient, &why), -EOPNOTSUPP);
    assert_int_equal(block_pivot_copy(&qemu.engine, &none, &patient, &why), -ENODEV);
    assert_true(is_disk("disk.qcow2", &can_wait));
    assert_true(can_wait);
    qemu_process_kill(&qemu);
    start("4M", NULL); /* no device's: where it went on could not be asked */
    assert_false(is_disk("disk.qcow2", &can_wait));
    assert_false(can_wait);
    qemu_process_kill(&qemu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_switch),
        cmocka_unit_test(test_killed_while_it_is_held),
        cmocka_unit_test(test_stays),
        cmocka_unit_test(test_refused),
    };
    int skip = folder_make();
    if (skip == 0)
        skip = qemu_process_need();
    return skip ? skip : cmocka_run_group_tests(tests, NULL, folder_remove);
}
