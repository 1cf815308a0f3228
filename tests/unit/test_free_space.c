// SPDX-License-Identifier: LGPL-2.1-or-later
/* free_space.h: what is left and taken, and the texts. */
#include "qemu_folder.h"

#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/bytes.h"
#include "hypervisor/free_space.h"

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

static void test_what_a_file_takes(void **state)
{
    run("rm -f sparse; truncate -s 64M sparse; dd if=/dev/zero of=sparse bs=1M count=3 conv=notrunc "
        "status=none; sync sparse");
    cleanup_close int fd = open(in_folder("sparse"), O_RDONLY | O_CLOEXEC);
    uint64_t bytes = free_space_taken(fd);
    assert_true(bytes >= 3 * MIB && bytes < 4 * MIB);
    assert_int_equal(free_space_taken(-1), 0);
}

int main(void)
{
    int rc = folder_make();
    if (rc)
        return rc;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_in_words),
        cmocka_unit_test(test_what_is_left),
        cmocka_unit_test(test_what_a_file_takes),
    };
    return cmocka_run_group_tests(tests, NULL, folder_remove);
}
