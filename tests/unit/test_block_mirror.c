// SPDX-License-Identifier: LGPL-2.1-or-later
/* block_mirror.h with a real QEMU, whose monitor writes to the disk as a guest would, and with a monitor that
 * fails at each command. */
#include "qemu_process.h"

#include "fake_monitor.h"
#include "hypervisor/block_mirror.h"

#define SHORT_MS 50

static const struct qmp_job_watch patient = {.timeout_ms = LONG_MS};

static struct qemu_process qemu;

static void add_node(const char *name, const char *file, const char *more)
{
    json_object_put(qemu_process_do(
        &qemu, "blockdev-add",
        "{'node-name': '%s', 'driver': 'qcow2', 'file': {'driver': 'file', 'filename': '%s/%s'} %s}", name,
        folder, file, more));
}

/* A disk of 4 MiB over a base, with a device of a guest's on it. */
static void start(void)
{
    run("rm -f *.qcow2 *.raw && qemu-img create -q -f qcow2 base.qcow2 4M && "
        "qemu-io -f qcow2 -c 'write -P 1 0 2M' base.qcow2 && "
        "qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 disk.qcow2 && "
        "qemu-io -f qcow2 -c 'write -P 2 1M 2M' disk.qcow2 && "
        "qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2 && "
        "qemu-img create -q -f qcow2 copy.qcow2 4M && qemu-img create -q -f qcow2 small.qcow2 1M && qemu-img "
        "create -q -f qcow2 other.qcow2 1M");
    qemu_process_start(&qemu, NULL);
    add_node("base", "base.qcow2", ", 'read-only': true");
    add_node("disk", "disk.qcow2", ", 'backing': 'base'");
    json_object_put(
        qemu_process_do(&qemu, "device_add", "{'driver': 'virtio-blk-pci', 'drive': 'disk', 'id': 'd0'}"));
}

static int start_mirror(const char *target, enum block_mirror_sync sync, uint64_t speed, struct error *err)
{
    const struct block_mirror mirror = {.job_id = "m",
                                        .device = "disk",
                                        .target = target,
                                        .sync = sync,
                                        .speed = speed,
                                        .write_through = speed == 0};
    return block_mirror_start(&qemu.engine, &mirror, err);
}

static void assert_no_jobs(void)
{
    cleanup_json struct json_object *jobs = qemu_process_do(&qemu, "query-jobs", "{}");
    assert_int_equal(json_object_array_length(jobs), 0);
}

/* What the guest's device is on. */
static void assert_on(const char *node)
{
    cleanup_json struct json_object *list = qemu_process_do(&qemu, "query-block", "{}");
    assert_int_equal(json_object_array_length(list), 1);
    struct json_object *inserted = json_object_object_get(json_object_array_get_idx(list, 0), "inserted");
    assert_string_equal(json_object_get_string(json_object_object_get(inserted, "node-name")), node);
}

/* What the disk reads as: 1 MiB each of these patterns. Killed, not quit: what is durable is durable. */
static void assert_holds(const char *image, int first, int second, int third, int fourth)
{
    const int patterns[] = {first, second, third, fourth};
    for (int i = 0; i < 4; i++)
        run("qemu-io -r -U -f qcow2 -c 'read -P %d %dM 1M' %s > out && ! grep -q failed out", patterns[i], i,
            image);
}

static void test_pivot(void **state)
{
    start();
    add_node("copy", "copy.qcow2", "");
    must(start_mirror("copy", BLOCK_MIRROR_FULL, 0, &why));
    must(block_mirror_await(&qemu.engine, "m", &patient, &why));
    qemu_process_write(&qemu, "-d /machine/peripheral/d0/virtio-backend", 3, 0, 1 << 20);
    must(block_mirror_pivot(&qemu.engine, "m", "copy", &patient, &why));
    assert_no_jobs();
    assert_on("copy");
    qemu_process_kill(&qemu);
    assert_holds("copy.qcow2", 3, 2, 2, 0);
    assert_undamaged("copy.qcow2");
    assert_undamaged("disk.qcow2");
}

static void test_detach(void **state)
{
    start();
    add_node("copy", "copy.qcow2", "");
    must(start_mirror("copy", BLOCK_MIRROR_FULL, 0, &why));
    must(block_mirror_await(&qemu.engine, "m", &patient, &why));
    qemu_process_write(&qemu, "-d /machine/peripheral/d0/virtio-backend", 3, 0, 1 << 20);
    must(block_mirror_detach(&qemu.engine, "m", "copy", &patient, &why));
    assert_no_jobs();
    assert_on("disk");
    qemu_process_write(&qemu, "-d /machine/peripheral/d0/virtio-backend", 4, 1 << 20, 1 << 20);
    json_object_put(qemu_process_do(&qemu, "blockdev-del", "{'node-name': 'copy'}"));
    must(block_flush(&qemu.engine, "disk", "base", &why));
    qemu_process_kill(&qemu);
    assert_holds("copy.qcow2", 3, 2, 2, 0);
    assert_holds("disk.qcow2", 3, 4, 2, 0);
}

/* Only the top layer is copied, and the backing stays as the caller has it. */
static void test_of_the_top_layer(void **state)
{
    start();
    add_node("same", "base.qcow2", ", 'read-only': true");
    add_node("over", "overlay.qcow2", ", 'backing': null");
    must(start_mirror("over", BLOCK_MIRROR_TOP, 0, &why));
    must(block_mirror_await(&qemu.engine, "m", &patient, &why));
    json_object_put(qemu_process_do(&qemu, "blockdev-snapshot", "{'node': 'same', 'overlay': 'over'}"));
    must(block_mirror_pivot(&qemu.engine, "m", "over", &patient, &why));
    assert_on("over");
    qemu_process_write(&qemu, "-d /machine/peripheral/d0/virtio-backend", 5, 3 << 20, 1 << 20);
    must(block_flush(&qemu.engine, "over", "base", &why));
    qemu_process_kill(&qemu);
    assert_holds("overlay.qcow2", 1, 2, 2, 5);
    run("qemu-img map --output=json overlay.qcow2 | head -1 | grep '\"start\": 0, \"length\": 1048576, "
        "\"depth\": 1'");
}

static void test_of_nothing_but_what_is_written(void **state)
{
    start();
    add_node("copy", "copy.qcow2", "");
    must(start_mirror("copy", BLOCK_MIRROR_NONE, 0, &why));
    must(block_mirror_await(&qemu.engine, "m", &patient, &why));
    qemu_process_write(&qemu, "-d /machine/peripheral/d0/virtio-backend", 3, 3 << 20, 1 << 20);
    must(block_mirror_detach(&qemu.engine, "m", "copy", &patient, &why));
    qemu_process_kill(&qemu);
    assert_holds("copy.qcow2", 0, 0, 0, 3);
}

static void test_drop(void **state)
{
    start();
    add_node("copy", "copy.qcow2", "");
    must(start_mirror("copy", BLOCK_MIRROR_FULL, 65536, &why)); /* far from its end */
    must(block_mirror_drop(&qemu.engine, "m", &why));
    assert_no_jobs();
    assert_on("disk");
    must(start_mirror("copy", BLOCK_MIRROR_FULL, 0, &why)); /* nothing is in use */
    must(block_mirror_await(&qemu.engine, "m", &patient, &why));
    must(block_mirror_drop(&qemu.engine, "m", &why)); /* also when it is in step */
    must(block_mirror_drop(&qemu.engine, "m", &why)); /* and when it is gone */
    assert_no_jobs();
    qemu_process_write(&qemu, "-d /machine/peripheral/d0/virtio-backend", 3, 0, 1 << 20);
    must(block_flush(&qemu.engine, "disk", "base", &why));
    qemu_process_kill(&qemu);
    assert_holds("disk.qcow2", 3, 2, 2, 0);
}

static bool stop_when_it_moves(void *opaque, uint64_t current, uint64_t total)
{
    return current == 0;
}

static void test_cancelled_by_its_watch(void **state)
{
    const struct qmp_job_watch impatient = {.progress = stop_when_it_moves, .timeout_ms = LONG_MS};
    start();
    add_node("copy", "copy.qcow2", "");
    must(start_mirror("copy", BLOCK_MIRROR_FULL, 65536, &why));
    must_fail(block_mirror_await(&qemu.engine, "m", &impatient, &why), ECANCELED);
    assert_no_jobs();
    must(start_mirror("copy", BLOCK_MIRROR_FULL, 65536, &why));
    must_fail(block_mirror_pivot(&qemu.engine, "m", "copy", &impatient, &why), ECANCELED);
    assert_no_jobs();
    assert_on("disk");
    qemu_process_kill(&qemu);
}

static void test_what_can_not_be(void **state)
{
    start();
    add_node("copy", "copy.qcow2", "");
    add_node("small", "small.qcow2", "");
    add_node("other", "other.qcow2", "");
    struct block_mirror mirror = {.job_id = "m", .device = "nosuch", .target = "copy"};
    must_fail(block_mirror_start(&qemu.engine, &mirror, &why), ENODEV);
    mirror.device = "disk";
    mirror.speed = UINT64_MAX;
    must_fail(block_mirror_start(&qemu.engine, &mirror, &why), EINVAL);
    must_fail(start_mirror("nosuch", BLOCK_MIRROR_FULL, 0, &why), ENODEV);
    must(start_mirror("small", BLOCK_MIRROR_FULL, 0, &why));
    must_fail(block_mirror_await(&qemu.engine, "m", &patient, &why), EINVAL);
    must_fail(start_mirror("base", BLOCK_MIRROR_FULL, 0, &why), EBUSY);
    must(start_mirror("copy", BLOCK_MIRROR_FULL, 65536, &why));
    must_fail(start_mirror("small", BLOCK_MIRROR_FULL, 0, &why), EBUSY); /* mirrored already */
    mirror = (struct block_mirror){.job_id = "m", .device = "small", .target = "other"};
    must_fail(block_mirror_start(&qemu.engine, &mirror, &why), EBUSY); /* a job of that id */
    must(block_mirror_drop(&qemu.engine, "m", &why));
    must_fail(block_mirror_await(&qemu.engine, "m", &patient, &why), ENOENT);
    must_fail(block_mirror_pivot(&qemu.engine, "m", "copy", &patient, &why), ENOENT);
    must_fail(block_mirror_detach(&qemu.engine, "m", "copy", &patient, &why), ENOENT);
    assert_no_jobs();
    assert_on("disk");
    qemu_process_kill(&qemu);
}

/* The target's file system is full. */
static void test_no_room(void **state)
{
    start();
    json_object_put(qemu_process_do(
        &qemu, "blockdev-add",
        "{'node-name': 'copy', 'driver': 'qcow2', 'file': {'driver': 'blkdebug', 'image': {'driver': 'file', "
        "'filename': '%s/copy.qcow2'}, 'inject-error': [{'event': 'write_aio', 'errno': 28}]}}",
        folder));
    must(start_mirror("copy", BLOCK_MIRROR_FULL, 0, &why));
    must_fail(block_mirror_await(&qemu.engine, "m", &patient, &why), ENOSPC);
    assert_no_jobs();
    assert_on("disk");
    qemu_process_write(&qemu, "-d /machine/peripheral/d0/virtio-backend", 3, 0, 1 << 20);
    must(block_flush(&qemu.engine, "disk", "base", &why));
    qemu_process_kill(&qemu);
    assert_holds("disk.qcow2", 3, 2, 2, 0);
}

/* ---- a monitor that fails ---- */

static struct {
    int fail_at; /* the command that is not answered as it should be */
    enum { REFUSES, SILENT, GONE } how;
    const char *job; /* its status */
    bool failed;
} fake;

static void serve(struct monitor *monitor)
{
    monitor_greet(monitor);
    for (int i = 0; monitor_hear(monitor); i++) {
        const char *heard = monitor->heard;
        if (i == fake.fail_at && fake.how == GONE)
            return;
        if (i == fake.fail_at && fake.how == SILENT)
            continue;
        if (i == fake.fail_at) {
            monitor_answer(monitor, "\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}");
            continue;
        }
        if (strstr(heard, "\"job-complete\"") || strstr(heard, "cancel\""))
            fake.job = "concluded";
        if (strstr(heard, "\"human-monitor-command\"")) {
            monitor_answer(monitor, "\"return\": \"\"");
        } else if (strstr(heard, "\"query-jobs\"")) {
            char answer[256];
            snprintf(answer, sizeof answer, "\"return\": [{\"id\": \"m\", \"status\": \"%s\"%s}]", fake.job,
                     fake.failed ? ", \"error\": \"No space left on device\"" : "");
            monitor_answer(monitor, answer);
        } else {
            monitor_answer(monitor, "\"return\": {}");
        }
    }
}

typedef int ending(const struct block_engine *, const char *, const char *, const struct qmp_job_watch *,
                   struct error *);

static int end_with(ending *end, int timeout_ms)
{
    struct monitor_thread server;
    int fd = monitor_start(&server, serve);
    struct block_engine engine = {.timeout_ms = timeout_ms};
    must(qmp_take(&fd, "fake", LONG_MS, &engine.qmp, &why));
    const struct qmp_job_watch watch = {.timeout_ms = timeout_ms};
    fake.job = "ready";
    why = (struct error){0};
    int rc = end(&engine, "m", "copy", &watch, &why);
    assert_int_equal(rc, -why.code);
    qmp_free(engine.qmp);
    monitor_join(&server);
    return rc;
}

static void test_failures_at_each_command(void **state)
{
    static ending *const endings[] = {block_mirror_pivot, block_mirror_detach};
    for (size_t i = 0; i < 2; i++) {
        fake.fail_at = -1;
        fake.failed = false;
        assert_int_equal(end_with(endings[i], LONG_MS), 0);
        /* query-jobs, the ending, query-jobs, job-dismiss, the flush. */
        for (fake.fail_at = 0; fake.fail_at < 5; fake.fail_at++) {
            fake.how = REFUSES;
            assert_int_equal(end_with(endings[i], LONG_MS), -EIO);
            fake.how = SILENT;
            assert_int_equal(end_with(endings[i], SHORT_MS), -ETIMEDOUT);
            fake.how = GONE;
            int rc = end_with(endings[i], LONG_MS);
            assert_true(rc == -ECONNRESET || rc == -EPIPE);
        }
        fake.fail_at = -1;
        fake.failed = true;
        assert_int_equal(end_with(endings[i], LONG_MS), -ENOSPC);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pivot),
        cmocka_unit_test(test_detach),
        cmocka_unit_test(test_of_the_top_layer),
        cmocka_unit_test(test_of_nothing_but_what_is_written),
        cmocka_unit_test(test_drop),
        cmocka_unit_test(test_cancelled_by_its_watch),
        cmocka_unit_test(test_what_can_not_be),
        cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_failures_at_each_command),
    };
    int skip = folder_make();
    if (skip == 0)
        skip = qemu_process_need();
    return skip ? skip : cmocka_run_group_tests(tests, NULL, folder_remove);
}
