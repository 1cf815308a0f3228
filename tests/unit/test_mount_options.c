// SPDX-License-Identifier: LGPL-2.1-or-later
/* mount_options.h and mount_arguments.h: what a mount helper is given, and what of it vmsnapfs gets. */
#include "unit.h"

#include <errno.h>
#include <string.h>

#include "mount_arguments.h"
#include "mount_options.h"

static void assert_passed(const char *list, bool sloppy, const char *expected)
{
    struct text passed = {0};
    struct error err = {0};
    int rc = mount_options_parse(list, sloppy, &passed, &err);
    if (rc)
        fail_msg("%s: %s", list, err.text);
    assert_string_equal(passed.data ? passed.data : "", expected);
    text_done(&passed);
}

static void assert_refused(const char *list, bool sloppy, const char *reason)
{
    struct text passed = {0};
    struct error err = {0};
    text_append_string(&passed, "ro");
    assert_int_equal(mount_options_parse(list, sloppy, &passed, &err), -EINVAL);
    if (!strstr(err.text, reason))
        fail_msg("'%s' is not in: %s", reason, err.text);
    assert_string_equal(passed.data, "ro");
    text_done(&passed);
}

static void own_options_are_passed_in_order(void **state)
{
    assert_passed("rw,allow=/a:/b,cache=128M,uid=3,gid=backup,disk-mode=0440,allow_other,ro", false,
                  "rw,allow=/a:/b,cache=128M,uid=3,gid=backup,disk-mode=0440,allow_other,ro");
    assert_passed("nosuid,nodev,noexec,suid,noatime", false, "nosuid,nodev,noexec,suid,noatime");
    assert_passed("", false, "");
    assert_passed(",,ro,,", false, "ro");
}

static void options_of_mount_and_systemd_are_dropped(void **state)
{
    assert_passed("defaults,auto,noauto,nofail,_netdev,user,users,nouser,owner,group,ro", false, "ro");
    assert_passed("user=alice,owner=3,comment=a=b,x-systemd.automount,X-mount.mkdir=0700", false, "");
    assert_passed("x-systemd.requires=/srv,silent,lazytime,relatime,sync,iversion", false, "");
}

/* As mount(8) hands it on: with the quotes. */
static void a_value_may_hold_commas_and_backslashes(void **state)
{
    assert_passed("allow=\"/a,b\":/c,ro", false, "allow=/a\\,b:/c,ro");
    assert_passed("allow=/a\\,b,ro", false, "allow=/a\\,b,ro");
    assert_passed("allow=\"/a\\\\b\"", false, "allow=/a\\\\b");
    assert_passed("allow=/a\\b", false, "allow=/a\\\\b");
    assert_passed("allow=/a\\\"b", false, "allow=/a\"b");
    assert_passed("comment=\"one,ro\"", false, "");
    assert_refused("ro,allow=\"/a,b", false, "double quote");
}

static void unknown_options_are_refused_unless_sloppy(void **state)
{
    assert_refused("ro,nonsense", false, "unknown option 'nonsense'");
    assert_refused("allowed=/a", false, "unknown option 'allowed'");
    assert_refused("allo=/a", false, "unknown option 'allo'");
    assert_refused("=", false, "unknown option ''");
    assert_passed("ro,nonsense=3,allowed,debug", true, "ro,debug");
}

static void a_known_option_needs_its_value_also_when_sloppy(void **state)
{
    assert_refused("uid", true, "'uid' needs a value");
    assert_refused("uid=", true, "'uid' needs a value");
    assert_refused("ro=1", true, "'ro' takes no value");
}

static void remount_is_refused_also_when_sloppy(void **state)
{
    assert_refused("remount,ro", true, "remount is not supported");
}

static void options_are_added_to_what_is_there(void **state)
{
    struct text passed = {0};
    assert_int_equal(mount_options_parse("ro", false, &passed, NULL), 0);
    assert_int_equal(mount_options_parse("auto", false, &passed, NULL), 0);
    assert_int_equal(mount_options_parse("debug", false, &passed, NULL), 0);
    assert_string_equal(passed.data, "ro,debug");
    text_done(&passed);
}

static void the_names_that_are_passed_are_listed(void **state)
{
    struct text names = {0};
    mount_options_names(&names, " ");
    assert_non_null(strstr(names.data, "ro rw allow= backing-format="));
    assert_null(strstr(names.data, "nofail"));
    text_done(&names);
}

/* Up to 15 arguments, a NULL after the last; they are constants, so that what is borrowed of them lives on.
 */
static int parse(struct mount_arguments *arguments, struct error *err, ...)
{
    const char *argv[17] = {"mount.vmsnapfs"};
    int argc = 1;
    va_list list;
    va_start(list, err);
    while ((argv[argc] = va_arg(list, const char *)))
        argc++;
    va_end(list);
    return mount_arguments_parse(argc, (char **)argv, arguments, err);
}

#define PARSE(arguments, err, ...) parse(arguments, err, __VA_ARGS__, (const char *)NULL)

static void the_command_line_of_mount_is_read(void **state)
{
    struct mount_arguments arguments = {0};
    assert_int_equal(PARSE(&arguments, NULL, "/srv/vm", "/mnt", "-s", "-f", "-n", "-v", "-o", "rw,nonsense",
                           "-t", "fuse.vmsnapfs", "-N", "/proc/1/fd/4"),
                     0);
    assert_string_equal(arguments.source, "/srv/vm");
    assert_string_equal(arguments.mountpoint, "/mnt");
    assert_string_equal(arguments.namespace, "/proc/1/fd/4");
    assert_string_equal(arguments.options.data, "rw");
    assert_true(arguments.fake);
    assert_true(arguments.verbose);
    mount_arguments_done(&arguments);
}

static void options_may_stand_anywhere_and_come_twice(void **state)
{
    struct mount_arguments arguments = {0};
    assert_int_equal(PARSE(&arguments, NULL, "-o", "ro,nofail", "/srv/vm", "-vo", "uid=3", "/mnt"), 0);
    assert_string_equal(arguments.options.data, "ro,uid=3");
    assert_true(arguments.verbose);
    assert_false(arguments.fake);
    mount_arguments_done(&arguments);
}

static void without_options_nothing_is_passed(void **state)
{
    struct mount_arguments arguments = {0};
    assert_int_equal(PARSE(&arguments, NULL, "-o", "defaults", "--", "-source", "/mnt"), 0);
    assert_string_equal(arguments.source, "-source");
    assert_int_equal(arguments.options.length, 0);
    assert_null(arguments.namespace);
    mount_arguments_done(&arguments);
}

#define assert_usage_error(reason, ...)                                                                      \
    do {                                                                                                     \
        struct mount_arguments arguments_ = {0};                                                             \
        struct error err_ = {0};                                                                             \
        assert_int_equal(PARSE(&arguments_, &err_, __VA_ARGS__), -EINVAL);                                   \
        if (!strstr(err_.text, reason))                                                                      \
            fail_msg("'%s' is not in: %s", reason, err_.text);                                               \
        mount_arguments_done(&arguments_);                                                                   \
    } while (0)

static void other_command_lines_are_refused_with_a_reason(void **state)
{
    assert_usage_error("are needed", "/srv/vm");
    assert_usage_error("more than a source", "/srv/vm", "/mnt", "/mnt2");
    assert_usage_error("source is empty", "", "/mnt");
    assert_usage_error("mount point is empty", "/srv/vm", "");
    assert_usage_error("unknown option -q", "/srv/vm", "/mnt", "-q");
    assert_usage_error("unknown option --fast", "/srv/vm", "/mnt", "--fast");
    assert_usage_error("-o needs an argument", "/srv/vm", "/mnt", "-o");
    assert_usage_error("type 'nfs'", "/srv/vm", "/mnt", "-t", "nfs");
    assert_usage_error("unknown option 'nonsense'", "/srv/vm", "/mnt", "-o", "nonsense");
    assert_usage_error("remount is not supported", "/srv/vm", "/mnt", "-o", "remount");
}

static void help_and_version_need_nothing_else(void **state)
{
    struct mount_arguments arguments = {0};
    assert_int_equal(PARSE(&arguments, NULL, "--help"), 0);
    assert_true(arguments.help);
    arguments = (struct mount_arguments){0};
    assert_int_equal(PARSE(&arguments, NULL, "-V"), 0);
    assert_true(arguments.version);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_options_are_passed_in_order),
        cmocka_unit_test(options_of_mount_and_systemd_are_dropped),
        cmocka_unit_test(a_value_may_hold_commas_and_backslashes),
        cmocka_unit_test(unknown_options_are_refused_unless_sloppy),
        cmocka_unit_test(a_known_option_needs_its_value_also_when_sloppy),
        cmocka_unit_test(remount_is_refused_also_when_sloppy),
        cmocka_unit_test(options_are_added_to_what_is_there),
        cmocka_unit_test(the_names_that_are_passed_are_listed),
        cmocka_unit_test(the_command_line_of_mount_is_read),
        cmocka_unit_test(options_may_stand_anywhere_and_come_twice),
        cmocka_unit_test(without_options_nothing_is_passed),
        cmocka_unit_test(other_command_lines_are_refused_with_a_reason),
        cmocka_unit_test(help_and_version_need_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
