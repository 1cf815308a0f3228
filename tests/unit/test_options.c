// SPDX-License-Identifier: LGPL-2.1-or-later
/* options.h: what the command line may say. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "options.h"

/* Parses "vmsnapfs" and up to five more words, ended by NULL. */
static int parse(struct options *options, struct error *err, const char *a, const char *b, const char *c,
                 const char *d, const char *e)
{
    char *arguments[7] = {(char *)(uintptr_t) "vmsnapfs",
                          (char *)(uintptr_t)a,
                          (char *)(uintptr_t)b,
                          (char *)(uintptr_t)c,
                          (char *)(uintptr_t)d,
                          (char *)(uintptr_t)e,
                          NULL};
    int count = 1;
    while (arguments[count])
        count++;
    return options_parse(count, arguments, options, err);
}

static void two_words_are_source_and_mountpoint(void **state)
{
    struct options options;
    struct error err = {0};
    assert_int_equal(parse(&options, &err, "/src", "/mnt", NULL, NULL, NULL), 0);
    assert_string_equal(options.source, "/src");
    assert_string_equal(options.mountpoint, "/mnt");
    assert_int_equal(options.cache_bytes, 64 << 20);
    assert_int_equal(options.disk_mode, 0400);
    assert_false(options.read_only);
    assert_string_equal(options.mount_flags, "");
    options_done(&options);
}

static void options_may_follow_the_words(void **state)
{
    struct options options;
    struct error err = {0};
    assert_int_equal(parse(&options, &err, "/src", "/mnt", "-o",
                           "ro,cache=1M,uid=7,gid=8,disk-mode=440,nosuid,nodev", NULL),
                     0);
    assert_true(options.read_only);
    assert_int_equal(options.cache_bytes, 1 << 20);
    assert_int_equal(options.uid, 7);
    assert_int_equal(options.gid, 8);
    assert_int_equal(options.disk_mode, 0440);
    assert_string_equal(options.mount_flags, "nosuid,nodev");
    options_done(&options);
}

static void allowed_directories_are_split_at_colons(void **state)
{
    struct options options;
    struct error err = {0};
    assert_int_equal(parse(&options, &err, "-o", "allow=/a:/b\\,c,allow=/d", "/src", "/mnt", NULL), 0);
    assert_int_equal(options.allow_count, 3);
    assert_string_equal(options.allow[0], "/a");
    assert_string_equal(options.allow[1], "/b,c");
    assert_string_equal(options.allow[2], "/d");
    options_done(&options);
}

static void users_and_groups_have_names(void **state)
{
    struct options options;
    struct error err = {0};
    assert_int_equal(parse(&options, &err, "-o", "uid=root,gid=daemon", "/src", "/mnt", NULL), 0);
    assert_int_equal(options.uid, 0);
    assert_int_equal(options.gid, 1);
    options_done(&options);
}

static void wrong_values_are_named(void **state)
{
    static const char *const wrong[] = {
        "cache=",
        "cache=1",
        "cache=12X",
        "cache=-1M",
        "cache=99999999999999999999",
        "cache=18446744073709551615G",
        "uid=no-such-user",
        "uid=-1",
        "uid=4294967295",
        "gid=1x",
        "disk-mode=999",
        "disk-mode=7777",
        "threads=0",
        "threads=100000",
        "allow=",
        "allow=:",
        "allow=/a:",
        "backing-format=vmdk",
        "backing-format=",
        "nonsense",
        "nonsense=1",
        "ro=1",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct options options;
        struct error err = {0};
        assert_int_equal(parse(&options, &err, "-o", wrong[i], "/src", "/mnt", NULL), -EINVAL);
        char name[32];
        snprintf(name, sizeof name, "'%.*s'", (int)strcspn(wrong[i], "="), wrong[i]);
        if (!strstr(err.text, name))
            fail_msg("%s: the error does not name it: %s", wrong[i], err.text);
    }
}

static void too_few_or_many_words_are_refused(void **state)
{
    struct options options;
    struct error err = {0};
    assert_int_equal(parse(&options, &err, NULL, NULL, NULL, NULL, NULL), -EINVAL);
    assert_int_equal(parse(&options, &err, "/src", NULL, NULL, NULL, NULL), -EINVAL);
    assert_int_equal(parse(&options, &err, "/src", "/mnt", "/more", NULL, NULL), -EINVAL);
    assert_int_equal(parse(&options, &err, "-o", NULL, NULL, NULL, NULL), -EINVAL);
    assert_int_equal(parse(&options, &err, "-x", "/src", "/mnt", NULL, NULL), -EINVAL);
    assert_non_null(strstr(err.text, "-x"));
}

static void help_needs_nothing_else(void **state)
{
    struct options options;
    struct error err = {0};
    assert_int_equal(parse(&options, &err, "-h", NULL, NULL, NULL, NULL), 0);
    assert_true(options.help);
    options_done(&options);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_words_are_source_and_mountpoint),
        cmocka_unit_test(options_may_follow_the_words),
        cmocka_unit_test(allowed_directories_are_split_at_colons),
        cmocka_unit_test(users_and_groups_have_names),
        cmocka_unit_test(wrong_values_are_named),
        cmocka_unit_test(too_few_or_many_words_are_refused),
        cmocka_unit_test(help_needs_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
