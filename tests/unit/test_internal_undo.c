// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * internal_undo.h: several images go back as they were, whatever was done to them, and whenever what does it
 * is killed. Skips (77) where there is no QEMU.
 */
#include "qemu_folder.h"

#include <signal.h>

#include "hypervisor/block_snapshot.h"
#include "hypervisor/internal_undo.h"
#include "hypervisor/qemu_img.h"

#define DISKS 3
#define KILLS 15

static const char *const names[] = {"d0", "d1", "d2"};

static struct stopped_image images[DISKS];
static struct internal_undo undo = {.images = images, .count = DISKS, .tag = "undo-7", .timeout_ms = LONG_MS};

/* With the snapshot "old" (id 1), after which the disk was resized and written to. */
static void make_disks(void)
{
    run("rm -f d? want? old? sums");
    for (int i = 0; i < DISKS; i++)
        run("qemu-img create -q -f qcow2 d%d 16M && qemu-io -c 'write -P %llu 0 5M' d%d && "
            "qemu-img convert -O raw d%d old%d && qemu-img snapshot -c old d%d && qemu-img resize -q d%d 24M "
            "&& "
            "qemu-io -c 'write -P %llu 1M 20M' d%d && qemu-img convert -O raw d%d want%d",
            i, (unsigned long long)(1 + random_below(250)), i, i, i, i, i,
            (unsigned long long)(1 + random_below(250)), i, i, i);
    for (int i = 0; i < DISKS; i++)
        images[i] = (struct stopped_image){.name = names[i],
                                           .fd = open_image_file(names[i], O_RDONLY),
                                           .format = IMAGE_FORMAT_QCOW2,
                                           .writable = true,
                                           .backing = -1,
                                           .data_fd = -1};
}

static void close_disks(void)
{
    for (int i = 0; i < DISKS; i++)
        close(images[i].fd);
}

static bool has_tag(const char *image)
{
    return status_of("qemu-img snapshot -l %s | grep -qw undo-7", image) == 0;
}

/* All is as it was, the old snapshot too. */
static void assert_back(void)
{
    for (int i = 0; i < DISKS; i++) {
        char want[] = {'w', 'a', 'n', 't', (char)('0' + i), '\0'};
        assert_false(has_tag(names[i]));
        assert_reads_as(names[i], "qcow2", want);
        run("qemu-img check -q d%d", i);
        run("cp d%d c && qemu-img snapshot -a old c && qemu-img convert -O raw c got && cmp got old%d", i, i);
    }
}

static int apply_old(int disk, struct error *err)
{
    const struct qemu_img image = {.path = names[disk], .fd = images[disk].fd, .timeout_ms = LONG_MS};
    return qemu_img_apply(&image, "1", err);
}

static void test_back(void **state)
{
    for (int applied = 0; applied <= DISKS; applied++) {
        make_disks();
        must(internal_undo_make(&undo, &why));
        for (int i = 0; i < applied; i++)
            must(apply_old(i, &why));
        must(internal_undo_back(&undo, &why));
        assert_back();
        must(internal_undo_back(&undo, &why)); /* there is nothing left to do */
        assert_back();
        close_disks();
    }
}

static void test_forget(void **state)
{
    make_disks();
    must(internal_undo_make(&undo, &why));
    for (int i = 0; i < DISKS; i++)
        must(apply_old(i, &why));
    must(internal_undo_forget(&undo, &why));
    must(internal_undo_forget(&undo, &why));
    for (int i = 0; i < DISKS; i++) {
        char old[] = {'o', 'l', 'd', (char)('0' + i), '\0'};
        assert_false(has_tag(names[i]));
        assert_reads_as(names[i], "qcow2", old);
        run("qemu-img check -q d%d", i);
    }
    close_disks();
}

static void test_all_or_none_has_the_point(void **state)
{
    make_disks();
    run("qemu-img snapshot -c undo-7 d2");
    must_fail(internal_undo_make(&undo, &why), EEXIST);
    assert_false(has_tag("d0") || has_tag("d1"));
    /* Nobody else may have one open: it is said which, and nothing is done. */
    struct stopped_images *daemon = NULL;
    const struct stopped_images_spec spec = {.images = images + 1, .count = 1, .timeout_ms = LONG_MS};
    must(stopped_images_begin(&spec, &daemon, &why));
    must_fail(internal_undo_make(&undo, &why), EBUSY);
    assert_non_null(strstr(why.text, "d1"));
    must_fail(internal_undo_back(&undo, &why), EBUSY);
    must_fail(internal_undo_forget(&undo, &why), EBUSY);
    must_fail(apply_old(1, &why), EBUSY);
    assert_non_null(strstr(why.text, "d1 is in use by qemu-storage-daemon (process "));
    must(stopped_images_end(daemon, &why));
    close_disks();
}

static void test_leaks_and_real_damage(void **state)
{
    make_disks();
    const struct qemu_img image = {.path = "web1", .fd = images[0].fd, .timeout_ms = LONG_MS};
    must(qemu_img_free_leaks(&image, &why));
    assert_reads_as("d0", "qcow2", "want0");
    /* No cluster is counted any more: in the first refcount block, which QEMU puts into the third cluster. */
    run("dd if=/dev/zero of=d0 bs=64k seek=2 count=1 conv=notrunc status=none");
    must_fail(qemu_img_free_leaks(&image, &why), EIO);
    assert_non_null(strstr(why.text, "web1"));
    close_disks();
}

static void test_finding_a_snapshot(void **state)
{
    make_disks();
    struct stopped_images *daemon = NULL;
    const struct stopped_images_spec spec = {.images = images, .count = 1, .timeout_ms = LONG_MS};
    must(stopped_images_begin(&spec, &daemon, &why));
    const struct block_engine *engine = stopped_images_engine(daemon);
    cleanup_free char *id = NULL;
    must_fail(block_snapshot_find(engine, "n0", "1", &id, &why), ENOENT); /* an id is no tag */
    must_fail(block_snapshot_find(engine, "n1", "old", &id, &why), ENODEV);
    assert_null(id);
    must(block_snapshot_find(engine, "n0", "old", &id, &why));
    assert_string_equal(id, "1");
    must(stopped_images_end(daemon, &why));
    close_disks();
}

/* The whole, in a process that is killed at any moment, with the helpers that it has just then. */
static void operate_and_end(bool back)
{
    struct error err = {0};
    int rc = internal_undo_make(&undo, &err);
    for (int i = 0; i < DISKS && rc == 0; i++)
        rc = apply_old(i, &err);
    if (rc == 0 && back)
        rc = internal_undo_back(&undo, &err);
    if (rc < 0)
        fprintf(stderr, "%s\n", err.text);
    _exit(rc < 0);
}

/* Helpers end with their parent, but not before it: until they have, they hold their locks. */
static void await_helpers(void)
{
    for (int i = 0; i < DISKS; i++)
        while (status_of("qemu-io -c 'read 0 1' %s", names[i]) != 0)
            usleep(1000);
}

static void test_killed_at_any_moment(void **state)
{
    unsigned killed = 0;
    for (int i = 0; i < KILLS; i++) {
        make_disks();
        bool back = random_below(2);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
            operate_and_end(back);
        usleep((useconds_t)random_below(90000));
        kill(pid, SIGKILL);
        int status = 0;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
        killed += WIFSIGNALED(status);
        await_helpers();
        must(internal_undo_back(&undo, &why));
        for (int j = 0; j < DISKS; j++) {
            const struct qemu_img image = {.path = names[j], .fd = images[j].fd, .timeout_ms = LONG_MS};
            must(qemu_img_free_leaks(&image, &why));
        }
        assert_back();
        close_disks();
    }
    print_message("%u of %u killed\n", killed, KILLS);
    assert_true(killed > 0);
}

int main(void)
{
    int rc = folder_make();
    if (rc)
        return rc;
    random_begin();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_back),
        cmocka_unit_test(test_forget),
        cmocka_unit_test(test_all_or_none_has_the_point),
        cmocka_unit_test(test_leaks_and_real_damage),
        cmocka_unit_test(test_finding_a_snapshot),
#ifndef __SANITIZE_THREAD__ /* it ends a process that forks while it has threads */
        cmocka_unit_test(test_killed_at_any_moment),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, folder_remove);
}
