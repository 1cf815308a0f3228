// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * stopped_images.h and image_claim.h against the real programs: a daemon has exactly the files that it was
 * given, who holds an image is named, and a claim keeps other programs from writing. Skips (77) where there
 * is no QEMU.
 */
#include "qemu_folder.h"

#include <signal.h>
#include <sys/stat.h>

#include "hypervisor/block_nodes.h"
#include "hypervisor/block_snapshot.h"
#include "hypervisor/image_claim.h"
#include "hypervisor/image_locks.h"
#include "hypervisor/stopped_images.h"

#define IMAGES_MAX 4

/* qcow2 images of the folder, each with the one before it as backing. */
static struct stopped_images_spec chain_of(struct stopped_image images[IMAGES_MAX], const char *const *names,
                                           size_t count, bool writable)
{
    for (size_t i = 0; i < count; i++)
        images[i] = (struct stopped_image){.name = names[i],
                                           .fd = open_image_file(names[i], O_RDONLY),
                                           .format = IMAGE_FORMAT_QCOW2,
                                           .writable = writable,
                                           .backing = (int)i - 1,
                                           .data_fd = -1};
    return (struct stopped_images_spec){.images = images, .count = count, .timeout_ms = LONG_MS};
}

static void close_all(struct stopped_image *images, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        close(images[i].fd);
        if (images[i].data_fd >= 0)
            close(images[i].data_fd);
    }
}

static struct stopped_images *begin(const struct stopped_images_spec *spec)
{
    struct stopped_images *images = NULL;
    must(stopped_images_begin(spec, &images, &why));
    return images;
}

static void refuse(const struct stopped_images_spec *spec, int wanted)
{
    struct stopped_images *images = NULL;
    must_fail(stopped_images_begin(spec, &images, &why), wanted);
    assert_null(images);
}

static void make_chain(void)
{
    run("rm -f base a b; truncate -s 1M wrong; qemu-img create -q -f qcow2 base 16M && qemu-img create -q -f "
        "qcow2 -b $PWD/base -F "
        "qcow2 a && qemu-img create -q -f qcow2 -b $PWD/wrong -F raw -u b 16M");
}

/* ---- images ---- */

/* Given in any order; what the images' headers say about backing files does not matter. */
static void test_a_chain_is_as_it_is_given(void **state)
{
    make_chain();
    struct stopped_image images[IMAGES_MAX];
    static const char *const names[] = {"b", "base", "a"};
    struct stopped_images_spec spec = chain_of(images, names, 3, false);
    images[0].backing = 2;
    images[0].writable = true;
    images[1].backing = -1;
    images[2].backing = 1;
    run("mv b moved && echo garbage >b"); /* the file counts, not its name */
    struct stopped_images *daemon = begin(&spec);
    const struct block_engine *engine = stopped_images_engine(daemon);
    assert_string_equal(stopped_images_node(daemon, 0), "n0");
    assert_string_equal(stopped_images_backing_node(daemon, 0), "n2");
    assert_null(stopped_images_backing_node(daemon, 1));
    cleanup(block_nodes_done) struct block_nodes nodes = {0};
    must(block_nodes_query(engine, &nodes, &why));
    assert_int_equal(nodes.count, 6);
    assert_false(block_nodes_find(&nodes, "n0")->read_only);
    assert_true(block_nodes_find(&nodes, "n1")->read_only);
    assert_true(block_nodes_find(&nodes, "n2")->read_only);
    const char *const top[] = {"n0"}, *const below[] = {"n1"};
    must(block_snapshot_internal(engine, top, 1, "tag", &why));
    struct error err = {0};
    assert_true(block_snapshot_internal(engine, below, 1, "tag", &err) < 0);
    must(stopped_images_end(daemon, &why));
    run("qemu-img info moved | grep -qw tag && mv moved b");
    close_all(images, 3);
    assert_undamaged("b");
}

static void test_with_a_data_file(void **state)
{
    run("rm -f d d.data; qemu-img create -q -f qcow2 -o data_file=$PWD/d.data d 16M && "
        "qemu-io -c 'write -P 3 0 1M' d");
    struct stopped_image images[IMAGES_MAX];
    static const char *const names[] = {"d"};
    struct stopped_images_spec spec = chain_of(images, names, 1, true);
    images[0].data_fd = open_image_file("d.data", O_RDONLY);
    struct stopped_images *daemon = begin(&spec);
    assert_int_not_equal(status_of("qemu-io -f raw -c 'read 0 1' d"), 0);
    must(stopped_images_end(daemon, &why));
    run("qemu-io -f raw -c 'read -P 3 0 1M' d.data");
    close(images[0].data_fd);
    images[0].data_fd = -1; /* and without it there is none: what the image names is out of reach */
    refuse(&spec, EACCES);
    close_all(images, 1);
}

static void test_graphs_that_are_none(void **state)
{
    make_chain();
    struct stopped_image images[IMAGES_MAX];
    static const char *const names[] = {"base", "a"};
    struct stopped_images_spec spec = chain_of(images, names, 2, false);
    images[0].backing = 1;
    refuse(&spec, EINVAL);
    images[0].backing = 2;
    refuse(&spec, EINVAL);
    images[0].backing = -1;
    images[1].format = IMAGE_FORMAT_RAW;
    refuse(&spec, EINVAL);
    images[1].backing = -1;
    images[1].format = IMAGE_FORMAT_UNKNOWN;
    refuse(&spec, EINVAL);
    close_all(images, 2);
    images[0].fd = images[1].fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    images[1].format = IMAGE_FORMAT_QCOW2;
    refuse(&spec, EINVAL);
    close(images[0].fd);
}

/* Texts have the names that people know, and not the paths in the daemon. */
static void test_a_damaged_image_is_named(void **state)
{
    make_chain();
    run("printf XXXX | dd of=a conv=notrunc status=none");
    struct stopped_image images[IMAGES_MAX];
    static const char *const names[] = {"base", "a"};
    struct stopped_images_spec spec = chain_of(images, names, 2, true);
    images[1].name = "/srv/web1.qcow2";
    struct stopped_images *daemon = NULL;
    assert_true(stopped_images_begin(&spec, &daemon, &why) < 0);
    assert_non_null(strstr(why.text, "/srv/web1.qcow2"));
    assert_null(strstr(why.text, "/proc/"));
    images[1].format = IMAGE_FORMAT_RAW;
    images[1].backing = -1;
    daemon = begin(&spec);
    struct error err = {0};
    error_set(&err, EIO, "'/proc/self/fd/%d' and [/proc/self/fd/%d] and /proc/self/fd/999", 4, 5);
    stopped_images_clean(daemon, &err);
    assert_string_equal(err.text, "'base' and [/srv/web1.qcow2] and /proc/self/fd/999");
    must(stopped_images_end(daemon, &why));
    close_all(images, 2);
}

static void test_a_block_device(void **state)
{
    run("rm -f disk; qemu-img create -q -f qcow2 disk 16M && truncate -s 8M disk");
    if (status_of("losetup -f --show disk >device") != 0)
        skip();
    char path[64] = "";
    cleanup_fclose FILE *file = fopen(in_folder("device"), "re");
    assert_non_null(fgets(path, sizeof path, file));
    path[strcspn(path, "\n")] = '\0';
    struct stopped_image image = {.name = path,
                                  .fd = open(path, O_RDWR | O_CLOEXEC),
                                  .format = IMAGE_FORMAT_QCOW2,
                                  .writable = true,
                                  .backing = -1,
                                  .data_fd = -1};
    struct stopped_images_spec spec = {.images = &image, .count = 1, .timeout_ms = LONG_MS};
    struct stopped_images *daemon = NULL;
    int rc = stopped_images_begin(&spec, &daemon, &why), claim = 0;
    int taken = image_claim_take(path, image.fd, &claim, NULL);
    const char *const names[] = {"n0"};
    struct error err = {0};
    int snapped = rc < 0 ? rc : block_snapshot_internal(stopped_images_engine(daemon), names, 1, "tag", &err);
    stopped_images_drop(&daemon);
    close(image.fd);
    run("losetup -d %s", path);
    if (rc < 0)
        fail_msg("%s", why.text);
    assert_int_equal(snapped, 0);
    assert_int_equal(taken, 0);
    assert_int_equal(claim, -1);
    run("qemu-img snapshot -l disk | grep -qw tag");
}

/* Nobody has to wait for its end before the images can be opened anew. */
static void test_left_before_its_end(void **state)
{
    make_chain();
    static const char *const names[] = {"base", "a"}, *const top[] = {"n1"};
    struct stopped_image images[IMAGES_MAX];
    struct stopped_images_spec spec = chain_of(images, names, 2, true);
    for (int i = 0; i < 20; i++) {
        char tag[16];
        snprintf(tag, sizeof tag, "tag-%d", i);
        struct stopped_images *daemon = begin(&spec);
        must(block_snapshot_internal(stopped_images_engine(daemon), top, 1, tag, &why));
        stopped_images_begin_end(daemon);
        assert_true(stopped_images_leave(daemon));
        int claim = -1;
        must(image_claim_take("a", images[1].fd, &claim, &why));
        close(claim);
    }
    run("test $(qemu-img snapshot -l a | grep -c tag-) = 20 && qemu-img check -f qcow2 a | "
        "grep -q 'No errors'");
    struct stopped_images *untold = begin(&spec);
    assert_false(stopped_images_leave(untold));
    must(stopped_images_end(begin(&spec), &why));
    close_all(images, 2);
}

/* ---- who holds it ---- */

static void test_who_has_it_open(void **state)
{
    make_chain();
    struct stopped_image images[IMAGES_MAX];
    static const char *const names[] = {"base"};
    struct stopped_images_spec spec = chain_of(images, names, 1, true);
    char text[256], expected[128];
    assert_int_equal(image_claim_holders(images[0].fd, text, sizeof text), 0);
    assert_string_equal(text, "a process that can't be seen from here");
    struct stopped_images *daemon = begin(&spec);
    snprintf(expected, sizeof expected, "qemu-storage-daemon (process %d)",
             storage_daemon_pid(stopped_images_engine(daemon)->daemon));
    assert_int_equal(image_claim_holders(images[0].fd, text, sizeof text), 1);
    assert_string_equal(text, expected);
    refuse(&spec, EBUSY);
    assert_non_null(strstr(why.text, expected));
    assert_null(strstr(why.text, "other"));
    int claim = -1;
    must_fail(image_claim_take("web1.qcow2", images[0].fd, &claim, &why), EBUSY);
    assert_non_null(strstr(why.text, "web1.qcow2"));
    assert_non_null(strstr(why.text, expected));
    assert_int_equal(claim, -1);
    /* Short buffers are not overrun. */
    char cut[8];
    memset(cut, 'x', sizeof cut);
    image_claim_holders(images[0].fd, cut, 5);
    assert_string_equal(cut, "qemu");
    assert_int_equal(cut[5], 'x');
    must(stopped_images_end(daemon, &why));
    assert_int_equal(image_claim_holders(images[0].fd, text, sizeof text), 0);
    close_all(images, 1);
}

/* From the moment on in which it opens the image: a domain that is off must not look as if it ran. */
static void test_its_locks_are_ours(void **state)
{
    make_chain();
    struct stopped_image images[IMAGES_MAX];
    static const char *const names[] = {"base"};
    struct stopped_images_spec spec = chain_of(images, names, 1, true);
    struct stat file;
    assert_int_equal(fstat(images[0].fd, &file), 0);
    struct stopped_images *daemon = NULL;
    must(stopped_images_launch(&spec, &daemon, &why));
    while (!image_locks_written(file.st_dev, file.st_ino))
        image_locks_forget();
    assert_false(image_locks_written_by_others(file.st_dev, file.st_ino));
    must(stopped_images_await(daemon, &why));
    assert_false(image_locks_written_by_others(file.st_dev, file.st_ino));
    /* Another's stay another's, also while a helper of ours tries to open the image, and afterwards. */
    assert_true(image_locks_begin_own(file.st_dev, file.st_ino)); /* a second helper of ours */
    image_locks_disown(file.st_dev, file.st_ino);
    assert_false(image_locks_written_by_others(file.st_dev, file.st_ino));
    image_locks_disown(file.st_dev, file.st_ino); /* as if it were another's */
    for (bool was_others = false; !was_others;) { /* what is known is of this second, or nothing */
        assert_true(image_locks_written_by_others(file.st_dev, file.st_ino));
        assert_true(image_locks_begin_own(file.st_dev, file.st_ino));
        was_others = image_locks_written_by_others(file.st_dev, file.st_ino);
        image_locks_disown(file.st_dev, file.st_ino);
    }
    assert_true(image_locks_written_by_others(file.st_dev, file.st_ino));
    refuse(&spec, EBUSY);
    assert_true(image_locks_written_by_others(file.st_dev, file.st_ino));
    must(stopped_images_end(daemon, &why));
    image_locks_forget();
    assert_false(image_locks_written(file.st_dev, file.st_ino));
    close_all(images, 1);
}

static void test_a_claim_keeps_writers_out(void **state)
{
    make_chain();
    struct stopped_image images[IMAGES_MAX];
    static const char *const names[] = {"base"};
    struct stopped_images_spec spec = chain_of(images, names, 1, true);
    int claim = -1, second = -1;
    must(image_claim_take("base", images[0].fd, &claim, &why));
    must(image_claim_take("base", images[0].fd, &second, &why)); /* claims don't keep claims out */
    run("qemu-io -c 'write 0 1' base 2>&1 | grep -q 'Failed to get \"write\" lock' && "
        "qemu-io -r -c 'read 0 1' base && qemu-img info base");
    refuse(&spec, EBUSY);
    spec.images = &(struct stopped_image){
        .name = "base", .fd = images[0].fd, .format = IMAGE_FORMAT_QCOW2, .backing = -1, .data_fd = -1};
    must(stopped_images_end(begin(&spec), &why)); /* a reader is let in */
    close(claim);
    assert_int_not_equal(status_of("qemu-io -c 'write 0 1' base"), 0);
    close(second);
    run("qemu-io -c 'write 0 1' base");
    close_all(images, 1);
}

/* A reader beside it is no reason to refuse: he may not write either. */
static void test_a_claim_beside_a_reader(void **state)
{
    make_chain();
    struct stopped_image images[IMAGES_MAX];
    static const char *const names[] = {"base"};
    struct stopped_images_spec spec = chain_of(images, names, 1, false);
    struct stopped_images *daemon = begin(&spec);
    int claim = -1;
    must(image_claim_take("base", images[0].fd, &claim, &why));
    must(stopped_images_end(daemon, &why));
    close(claim);
    close_all(images, 1);
}

int main(void)
{
    int rc = folder_make();
    if (rc)
        return rc;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_chain_is_as_it_is_given),
        cmocka_unit_test(test_with_a_data_file),
        cmocka_unit_test(test_graphs_that_are_none),
        cmocka_unit_test(test_a_damaged_image_is_named),
        cmocka_unit_test(test_a_block_device),
        cmocka_unit_test(test_left_before_its_end),
        cmocka_unit_test(test_who_has_it_open),
        cmocka_unit_test(test_its_locks_are_ours),
        cmocka_unit_test(test_a_claim_keeps_writers_out),
        cmocka_unit_test(test_a_claim_beside_a_reader),
    };
    return cmocka_run_group_tests(tests, NULL, folder_remove);
}
