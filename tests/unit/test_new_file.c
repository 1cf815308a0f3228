// SPDX-License-Identifier: LGPL-2.1-or-later
/* new_file.h: no file that is there is touched, and each step can be repeated after being killed in it. */
#include "qemu_folder.h"

#include <sys/stat.h>

#include "image/new_file.h"

static void test_steps(void **state)
{
    int fd = -1, untouched = -1;
    run("rm -f .t new; echo precious >there");
    must(new_file_reserve(folder_fd, ".t", &fd, &why));
    must_fail(new_file_reserve(folder_fd, ".t", &untouched, &why), EEXIST);
    assert_int_equal(untouched, -1);
    run("test $(stat -c %%a .t) = 600");
    assert_int_equal(write(fd, "content", 7), 7);
    must(new_file_flush(fd, &why));
    must_fail(new_file_publish(folder_fd, ".t", "there", &why), EEXIST);
    run("grep -q precious there && grep -q content .t");
    must(new_file_publish(folder_fd, ".t", "new", &why));
    run("grep -q content new && test ! -e .t");
    must_fail(new_file_publish(folder_fd, ".t", "new", &why), ENOENT);
    close(fd);
}

/* As after being killed between link and unlink, where there is no atomic rename. */
static void test_killed_with_both_names(void **state)
{
    run("rm -f new; echo content >.t && ln .t new");
    must(new_file_publish(folder_fd, ".t", "new", &why));
    run("grep -q content new && test ! -e .t");
}

static void test_abandoned(void **state)
{
    run("echo content >.t");
    must(new_file_abandon(folder_fd, ".t", &why));
    must(new_file_abandon(folder_fd, ".t", &why));
    run("test ! -e .t");
    run("mkdir .t");
    must_fail(new_file_abandon(folder_fd, ".t", &why), EISDIR);
    run("rmdir .t");
}

int main(void)
{
    int rc = folder_make();
    if (rc)
        return rc;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_killed_with_both_names),
        cmocka_unit_test(test_abandoned),
    };
    return cmocka_run_group_tests(tests, folder_open, folder_close_and_remove);
}
