// SPDX-License-Identifier: LGPL-2.1-or-later
/* free_space.h: what is said to be needed is enough for real merges and copies, and not much more than the
 * disk; texts. Skips (77) where there is no QEMU. */
#include "qemu_folder.h"

#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/bytes.h"
#include "hypervisor/free_space.h"
#include "hypervisor/qemu_img_copy.h"
#include "hypervisor/stopped_merge.h"

static void test_sizes_in_words(void **state)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        {0, "0 bytes"},         {1023, "1023 bytes"},    {1024, "1.0 KiB"},       {10188, "9.9 KiB"},
        {10189, "10 KiB"},      {999 * KIB, "999 KiB"},  {1000 * KIB, "1.0 MiB"}, {3435973837, "3.2 GiB"},
        {100 * GIB, "100 GiB"}, {2000 * GIB, "2.0 TiB"}, {UINT64_MAX, "16 EiB"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[16];
        free_space_print(cases[i].bytes, text, sizeof text);
        assert_string_equal(text, cases[i].text);
    }
}

static void test_what_is_left(void **state)
{
    cleanup_close int directory = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct statvfs before, after;
    uint64_t available = 0;
    assert_int_equal(fstatvfs(directory, &before), 0);
    assert_int_equal(free_space_available(directory, &available), 0);
    assert_int_equal(fstatvfs(directory, &after), 0);
    /* Others write to the file system, too. */
    uint64_t slack = 4 * GIB, low = before.f_bavail * before.f_frsize, high = after.f_bavail * after.f_frsize;
    assert_true(available + slack >= min_u64(low, high) && available <= max_u64(low, high) + slack);
    must(free_space_check(directory, "/srv", "a merge", 0, &why));
    must_fail(free_space_check(directory, "/srv", "a merge", UINT64_C(1) << 60, &why), ENOSPC);
    static const char begins[] = "a merge needs about 1.0 EiB, and /srv has ";
    assert_memory_equal(why.text, begins, sizeof begins - 1);
    assert_non_null(strstr(why.text, "iB left"));
    must_fail(free_space_check(-1, "/srv", "a merge", 0, &why), EBADF);
}

static uint64_t taken(const char *name)
{
    struct stat stat;
    assert_int_equal(lstat(in_folder(name), &stat), 0);
    return (uint64_t)stat.st_blocks * 512;
}

static const unsigned clusters[] = {512, 4096, 65536, 2 << 20};

#define DISK_BYTES (64 * MIB)

/* Many small pieces in the upper, so that each takes a large one of the lower. */
static void make_layers(unsigned upper, unsigned lower)
{
    run("rm -f lower upper target; qemu-img create -q -f qcow2 -o cluster_size=%u lower 64M && "
        "qemu-img create -q -f qcow2 -o cluster_size=%u -b $PWD/lower -F qcow2 upper 64M && "
        "for i in $(seq 24); do echo \"write -P $i $((i * 2345678 / 512 * 512)) 512\"; done | qemu-io upper",
        lower, upper);
}

static struct stopped_image image_of(const char *name, bool writable, int backing)
{
    return (struct stopped_image){.name = name,
                                  .fd = open_image_file(name, O_RDONLY),
                                  .format = IMAGE_FORMAT_QCOW2,
                                  .writable = writable,
                                  .backing = backing,
                                  .data_fd = -1};
}

static void test_a_merge_takes_no_more(void **state)
{
    for (size_t i = 0; i < 16; i++) {
        unsigned upper = clusters[i / 4], lower = clusters[i % 4];
        make_layers(upper, lower);
        const struct stopped_image images[] = {image_of("lower", true, -1), image_of("upper", false, 0)};
        const struct stopped_images_spec spec = {.images = images, .count = 2, .timeout_ms = LONG_MS};
        const struct free_space_layer layer = {.fd = images[1].fd, .cluster_bytes = upper};
        uint64_t needed = 0, before = taken("lower");
        must(free_space_needed(&layer, 1, DISK_BYTES, lower, &needed, &why));
        struct stopped_images *daemon = NULL;
        must(stopped_images_begin(&spec, &daemon, &why));
        must(stopped_merge_down(daemon, 1, NULL, &why));
        must(stopped_images_end(daemon, &why));
        if (taken("lower") - before > needed)
            fail_msg("%u into %u: %llu taken, %llu needed", upper, lower,
                     (unsigned long long)(taken("lower") - before), (unsigned long long)needed);
        assert_true(needed <= DISK_BYTES + DISK_BYTES / 32 + 8 * MIB);
        close(images[0].fd);
        close(images[1].fd);
    }
}

static void test_a_copy_takes_no_more(void **state)
{
    for (size_t i = 0; i < 4; i++) {
        make_layers(clusters[i], 65536);
        run("qemu-io -c 'write -P 9 30M 10M' lower && qemu-img convert -c -O qcow2 lower c && mv c lower && "
            "touch target");
        const struct stopped_image images[] = {image_of("lower", false, -1), image_of("upper", false, 0)};
        const struct free_space_layer layers[] = {
            {.fd = images[0].fd, .cluster_bytes = 65536},
            {.fd = images[1].fd, .cluster_bytes = clusters[i]},
        };
        struct free_space_layer honest[] = {layers[0], layers[1]};
        honest[0].is_compressed = true;
        uint64_t needed = 0, raw = 0, wrong = 0;
        must(free_space_needed(honest, 2, DISK_BYTES, 65536, &needed, &why));
        must(free_space_needed(honest, 2, DISK_BYTES, 0, &raw, &why));
        must(free_space_needed(layers, 1, DISK_BYTES, 0, &wrong, &why));
        assert_int_equal(raw, DISK_BYTES);
        int fd = open_image_file("target", O_RDWR);
        struct qemu_img_copy copy = {.images = images,
                                     .count = 2,
                                     .top = 1,
                                     .view = -1,
                                     .target_name = "target",
                                     .target_fd = fd,
                                     .target_format = IMAGE_FORMAT_QCOW2};
        must(qemu_img_copy(&copy, &why));
        assert_true(taken("target") <= needed);
        assert_true(taken("target") > wrong); /* what a compressed file takes says nothing */
        copy.target_format = IMAGE_FORMAT_RAW;
        must(qemu_img_copy(&copy, &why));
        assert_true(taken("target") <= raw);
        close(fd);
        close(images[0].fd);
        close(images[1].fd);
    }
}

static void test_small_layers_need_little(void **state)
{
    make_layers(65536, 65536);
    int fd = open_image_file("lower", O_RDONLY);
    const struct free_space_layer layer = {.fd = fd, .cluster_bytes = 65536};
    uint64_t needed = 0;
    must(free_space_needed(&layer, 1, UINT64_C(1) << 50, 65536, &needed, &why));
    assert_true(needed < 4 * MIB);
    const struct free_space_layer closed = {.fd = -1};
    must_fail(free_space_needed(&closed, 1, DISK_BYTES, 0, &needed, &why), EBADF);
    close(fd);
}

int main(void)
{
    int rc = folder_make();
    if (rc)
        return rc;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_in_words),           cmocka_unit_test(test_what_is_left),
        cmocka_unit_test(test_a_merge_takes_no_more),    cmocka_unit_test(test_a_copy_takes_no_more),
        cmocka_unit_test(test_small_layers_need_little),
    };
    return cmocka_run_group_tests(tests, NULL, folder_remove);
}
