// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * qcow2_create.h against qemu-img: what is made is undamaged, is what qemu-img create makes, in qemu-img's
 * own words, and can be written to. Skips (77) where there is no QEMU.
 */
#include "qemu_folder.h"

#include <inttypes.h>

#include "base/bytes.h"
#include "image/qcow2_create.h"

#define ROUNDS       40
#define NAME_LONGEST 1023
#define PIB          (UINT64_C(1) << 50)

/* Makes `name` anew. */
static int create(const char *name, uint64_t size, const char *backing, const char *format, struct error *err)
{
    const struct qcow2_create what = {.size_bytes = size, .backing_name = backing, .backing_format = format};
    cleanup_close int fd = open(in_folder(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    return qcow2_create(fd, &what, err);
}

/* What qemu-img says of `ours` and of one of its own, but for names and what the file system counts; and
 * (QEMU 10) for the file below, which ours fills up to the end of its last cluster. */
static void assert_as_by_qemu_img(const char *ours, uint64_t size, const char *options)
{
    run("rm -f theirs; qemu-img create -q -f qcow2 %s theirs %" PRIu64, options, size);
    run("for i in %s theirs; do qemu-img info -U --output=json $i | "
        "sed '/^    \"children\": \\[/,/^    \\]/d' | "
        "grep -Ev '\"(actual-size|filename|full-backing-filename)\"' >$i.said; done; diff %s.said "
        "theirs.said",
        ours, ours);
    assert_undamaged(ours);
    run("qemu-img check -f qcow2 %s | grep -q 'No errors'", ours);
}

static void test_without_backing(void **state)
{
    static const uint64_t sizes[] = {0,
                                     512,
                                     MIB,
                                     512 * MIB,
                                     512 * MIB + 512,
                                     4 << 20,
                                     4096 * GIB,
                                     4096 * GIB + 512,
                                     64 * 1024 * GIB,
                                     2 * PIB - 512,
                                     2 * PIB};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        must(create("ours", sizes[i], NULL, NULL, &why));
        assert_as_by_qemu_img("ours", sizes[i], "");
    }
}

static void test_overlays_of_any_size(void **state)
{
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t size = (1 + random_below(UINT64_C(1) << (10 + random_below(25)))) * 512;
        uint64_t at = random_below(size / 512) * 512;
        run("rm -f base; truncate -s %" PRIu64 " base && printf %%512s x | dd of=base bs=512 seek=%" PRIu64
            " conv=notrunc",
            size, size / 512 - 1);
        must(create("ours", size, in_folder("base"), "raw", &why));
        assert_as_by_qemu_img("ours", size, "-F raw -b $PWD/base");
        run("qemu-img compare -f qcow2 -F raw ours base");
        run("qemu-io -f qcow2 -c 'write -P 7 %" PRIu64 " 512' ours && "
            "qemu-io -f raw -c 'write -P 7 %" PRIu64 " 512' base",
            at, at);
        assert_undamaged("ours");
    }
}

/* Where the refcount block that we made is full, QEMU makes more. */
static void test_it_can_be_filled(void **state)
{
    must(create("ours", 64 * MIB, NULL, NULL, &why));
    run("qemu-io -f qcow2 -c 'write -P 40 40M 8M' ours && "
        "qemu-img resize -q -f qcow2 --preallocation=metadata ours 5G && "
        "test $(stat -c %%s ours) -gt $((4 << 30)) && qemu-img snapshot -c one ours && "
        "qemu-io -f qcow2 -c 'write -P 41 4G 1M' ours");
    run("qemu-img check -f qcow2 ours | grep -q 'No errors' && "
        "qemu-io -f qcow2 -c 'read -P 40 40M 8M' -c 'read -P 41 4G 1M' ours >said && ! grep -q fail said");
    run("rm ours");
}

static void test_what_is_refused(void **state)
{
    char longest[NAME_LONGEST + 2];
    memset(longest, 'x', sizeof longest);
    longest[0] = '/';
    longest[NAME_LONGEST + 1] = '\0';
    must_fail(create("ours", MIB, longest, "raw", &why), ENAMETOOLONG);
    longest[NAME_LONGEST] = '\0';
    must(create("ours", MIB, longest, "parallels", &why));
    run("qemu-img info -U ours | grep -q 'backing file: %s' && "
        "qemu-img info -U ours | grep -q 'backing file format: parallels'",
        longest);
    must_fail(create("ours", 513, NULL, NULL, &why), EINVAL);
    must_fail(create("ours", 2 * PIB + 512, NULL, NULL, &why), EFBIG);
    must_fail(create("ours", UINT64_MAX - 511, NULL, NULL, &why), EFBIG);
    must_fail(create("ours", MIB, "", "raw", &why), EINVAL);
    must_fail(create("ours", MIB, "/b\xff/base", "raw", &why), EINVAL); /* which can't be said in JSON */
    must_fail(create("ours", MIB, "/base\xc3", "raw", &why), EINVAL);
    must_fail(create("ours", MIB, "/base", NULL, &why), EINVAL);
    must_fail(create("ours", MIB, "/base", "", &why), EINVAL);
    must_fail(create("ours", MIB, "/base", "0123456789abcdef", &why), EINVAL);

    const struct qcow2_create what = {.size_bytes = MIB};
    cleanup_close int full = open("/dev/full", O_RDWR | O_CLOEXEC), pipe = open_image_file(".", O_RDONLY);
    must_fail(qcow2_create(full, &what, &why), EINVAL); /* which can't be cut */
    must_fail(qcow2_create(pipe, &what, &why), EINVAL);
}

/* What was begun before, and not finished. */
static void test_repeated(void **state)
{
    const struct qcow2_create what = {.size_bytes = GIB};
    must(create("ours", 4096 * GIB, in_folder("base"), "raw", &why));
    run("qemu-io -f qcow2 -c 'write -P 1 0 1M' ours");
    cleanup_close int fd = open_image_file("ours", O_RDWR);
    must(qcow2_create(fd, &what, &why));
    assert_as_by_qemu_img("ours", GIB, "");
}

static int begin(void **state)
{
    random_begin();
    return 0;
}

int main(void)
{
    int rc = folder_make();
    if (rc)
        return rc;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_backing),  cmocka_unit_test(test_overlays_of_any_size),
        cmocka_unit_test(test_it_can_be_filled), cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_repeated),
    };
    return cmocka_run_group_tests(tests, begin, folder_remove);
}
