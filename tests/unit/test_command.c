// SPDX-License-Identifier: LGPL-2.1-or-later
/* What is written to control files: what is understood, and what is refused with which words. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "operation/command_text.h"

static struct create_command create(const char *text)
{
    struct create_command command;
    struct error err = {0};
    if (command_parse_create(text, strlen(text), &command, &err) < 0)
        fail_msg("%s: %s", text, err.text);
    return command;
}

static void create_takes_every_option(void **state)
{
    struct create_command c =
        create("upgrade live disk-only memory=external memory-file=/m/ram compress=zstd disk=vda:no "
               "disk=vdb:external:/d/x:y disk=vdc:internal reuse-external mirror=vdb:/m/b quiesce=require "
               "paused description=\"before \\\"the\\\" up\\\\grade\nto 13\"\n");
    assert_string_equal(c.name, "upgrade");
    assert_string_equal(c.description, "before \"the\" up\\grade\nto 13");
    assert_true(c.live && c.disk_only && c.reuse_external && c.paused);
    assert_int_equal(c.memory, MEMORY_EXTERNAL);
    assert_string_equal(c.memory_file, "/m/ram");
    assert_int_equal(c.compression, COMPRESS_ZSTD);
    assert_int_equal(c.quiesce, QUIESCE_REQUIRE);
    assert_int_equal(c.disk_count, 3);
    assert_string_equal(c.disks[0].target, "vda");
    assert_int_equal(c.disks[0].choice, DISK_NO);
    assert_string_equal(c.disks[1].target, "vdb");
    assert_int_equal(c.disks[1].choice, DISK_EXTERNAL);
    assert_string_equal(c.disks[1].path, "/d/x:y");
    assert_string_equal(c.disks[1].mirror, "/m/b");
    assert_int_equal(c.disks[2].choice, DISK_INTERNAL);
    create_command_done(&c);

    c = create("n memory=no compress=gzip quiesce=try mirror=a:b:/x");
    assert_int_equal(c.memory, MEMORY_NO);
    assert_int_equal(c.compression, COMPRESS_GZIP);
    assert_int_equal(c.quiesce, QUIESCE_TRY);
    assert_string_equal(c.disks[0].target, "a:b");
    assert_string_equal(c.disks[0].mirror, "/x");
    assert_int_equal(c.disks[0].choice, DISK_OMITTED);
    create_command_done(&c);
    c = create("n memory=internal disk=a:b:external:/p disk=c:no:no");
    assert_int_equal(c.memory, MEMORY_INTERNAL);
    assert_string_equal(c.disks[0].target, "a:b");
    assert_string_equal(c.disks[0].path, "/p");
    assert_string_equal(c.disks[1].target, "c:no");
    create_command_done(&c);
}

static void a_name_is_the_first_word_unless_it_is_an_option(void **state)
{
    static const struct {
        const char *text, *name;
    } table[] = {
        {"", NULL},
        {" \n", NULL},
        {"disk-only", NULL},
        {"description=x", NULL},
        {"live live", NULL}, /* the same option twice: see below */
        {"a", "a"},
        {"  a\n", "a"},
        {"\"live\" disk-only", "live"},
        {"\"my snapshot\"", "my snapshot"},
        {"my\" \"snapshot", "my snapshot"},
        {"\"a=b\"", "a=b"},
        {"\"memory=no\"", "memory=no"},
        {"disk_only", "disk_only"},
        {"back\\slash", "back\\slash"},
        {"\xc3\xa4", "\xc3\xa4"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct create_command c;
        int rc = command_parse_create(table[i].text, strlen(table[i].text), &c, NULL);
        if (strcmp(table[i].text, "live live") == 0) {
            assert_int_equal(rc, -EINVAL);
            continue;
        }
        assert_int_equal(rc, 0);
        if (table[i].name)
            assert_string_equal(c.name, table[i].name);
        else
            assert_null(c.name);
        create_command_done(&c);
    }
}

typedef int parser(const char *text, size_t length, struct error *err);

/* Nothing is stored where it fails: each gets a struct full of bytes that must be the same afterwards. */
#define PARSER(name, type)                                                                                   \
    static int parse_##name(const char *text, size_t length, struct error *err)                              \
    {                                                                                                        \
        __typeof__(type) result, before;                                                                     \
        memset(&result, 0x5a, sizeof result);                                                                \
        before = result;                                                                                     \
        int rc = command_parse_##name(text, length, &result, err);                                           \
        assert_true(rc < 0);                                                                                 \
        assert_memory_equal(&result, &before, sizeof result);                                                \
        return rc;                                                                                           \
    }
PARSER(create, struct create_command)
PARSER(defaults, struct create_command)
PARSER(revert, struct revert_command)
PARSER(delete, enum delete_kind)
PARSER(clone, struct clone_command)
PARSER(description, char *)

static int parse_power(const char *text, size_t length, struct error *err)
{
    struct power_command result;
    return command_parse_power(text, length, &result, err);
}

static int parse_protected(const char *text, size_t length, struct error *err)
{
    bool result = false;
    return command_parse_protected(text, length, &result, err);
}

static int parse_copy(const char *text, size_t length, struct error *err)
{
    struct copy_command result = {0};
    int rc = command_parse_copy(text, length, &result, err);
    copy_command_done(&result);
    return rc;
}

static int parse_trigger(const char *text, size_t length, struct error *err)
{
    return command_parse_trigger(text, length, err);
}

struct refusal {
    parser *parse;
    const char *text;
    int code;
    const char *says;
};

static void check_refusals(const struct refusal *table, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct error err = {0};
        int rc = table[i].parse(table[i].text, strlen(table[i].text), &err);
        print_message("%.60s: %s\n", table[i].text, err.text);
        assert_int_equal(rc, -table[i].code);
        assert_int_equal(err.code, table[i].code);
        if (!strstr(err.text, table[i].says))
            fail_msg("says nothing of \"%s\"", table[i].says);
        assert_int_equal(table[i].parse(table[i].text, strlen(table[i].text), NULL), rc);
    }
}

static void create_refuses_with_the_way_out(void **state)
{
    static const struct refusal table[] = {
        {parse_create, "a b", EINVAL, "\"b\" is no option; these are: live"},
        {parse_create, "a=b", EINVAL, "double quotes"},
        {parse_create, "memroy=no", EINVAL, "\"memroy=no\" is no option"},
        {parse_create, "n Live", EINVAL, "no option"},
        {parse_create, "n \"live\"", EINVAL, "no option"},
        {parse_create, "n live=1", EINVAL, "no option"},
        {parse_create, "n \"memory-file=/a b\"", EINVAL, "quote only what needs it: memory-file=\"...\""},
        {parse_create, "n \"live\"", EINVAL, "all of it is in quotes"},
        {parse_create, "n \"none of them\"", EINVAL, "these are"},
        {parse_create, "n memory", EINVAL, "no option"},
        {parse_create, "n live live", EINVAL, "\"live\" is given twice"},
        {parse_create, "n memory=no memory=no", EINVAL, "twice"},
        {parse_create, "n memory=", EINVAL, "no, internal and external"},
        {parse_create, "n memory=none", EINVAL, "no, internal and external"},
        {parse_create, "n compress=lzo", EINVAL, "none, gzip and zstd"},
        {parse_create, "n quiesce=no", EINVAL, "try and require"},
        {parse_create, "n memory-file=/a", EINVAL, "memory=external"},
        {parse_create, "n memory=internal memory-file=/a", EINVAL, "memory=external"},
        {parse_create, "n memory=external memory-file=a", EINVAL, "absolute"},
        {parse_create, "n memory=external memory-file=", EINVAL, "absolute"},
        {parse_create, "n memory=external memory-file=/a/", EINVAL, "slash"},
        {parse_create, "n memory=external memory-file=/a/..", EINVAL, "directory"},
        {parse_create, "n disk=", EINVAL, "disk=TARGET:no|internal|external"},
        {parse_create, "n disk=vda", EINVAL, "disk=TARGET"},
        {parse_create, "n disk=:no", EINVAL, "disk=TARGET"},
        {parse_create, "n disk=vda:", EINVAL, "disk=TARGET"},
        {parse_create, "n disk=vda:yes", EINVAL, "disk=TARGET"},
        {parse_create, "n disk=vda:external:relative", EINVAL, "absolute path"},
        {parse_create, "n disk=vda:external:", EINVAL, "disk=TARGET"},
        {parse_create, "n disk=/x", EINVAL, "disk=TARGET"},
        {parse_create, "n disk=:/x", EINVAL, "disk=TARGET"},
        {parse_create, "n disk=vda:external/x", EINVAL, "disk=TARGET"},
        {parse_create, "n disk=.a:no", EINVAL, "begins with a dot"},
        {parse_create, "n disk=vda:internal:/x", EINVAL, "disk=vda:external:PATH"},
        {parse_create, "n disk=vda:no:/x", EINVAL, "only an external"},
        {parse_create, "n disk=vda:no disk=vda:internal", EINVAL, "vda is named twice"},
        {parse_create, "n disk=a:external:/x disk=b:external:/x", EINVAL, "/x is named twice"},
        {parse_create, "n disk=a:external:/x mirror=a:/x", EINVAL, "/x is named twice"},
        {parse_create, "n disk=a:external:/x mirror=b:/x", EINVAL, "/x is named twice"},
        {parse_create, "n memory=external memory-file=/x disk=a:external:/x", EINVAL, "/x is named twice"},
        {parse_create, "n mirror=a:/x mirror=a:/y", EINVAL, "two mirrors"},
        {parse_create, "n mirror=a:x", EINVAL, "mirror=TARGET:PATH"},
        {parse_create, "n mirror=:/x", EINVAL, "mirror=TARGET:PATH"},
        {parse_create, "n mirror=", EINVAL, "mirror=TARGET:PATH"},
        {parse_create, "n mirror=a:/x disk=a:internal", EINVAL, "disk=a:external"},
        {parse_create, "n description=\"open", EINVAL, "not closed"},
        {parse_create, "n description=\"open\\\"", EINVAL, "not closed"},
        {parse_create, "\"", EINVAL, "not closed"},
        {parse_create, "\"\"", EINVAL, "is empty"},
        {parse_create, ".a", EINVAL, "begins with a dot"},
        {parse_create, "-a", EINVAL, "begins with a hyphen"},
        {parse_create, "a/b", EINVAL, "holds a slash"},
        {parse_create, "\"a\nb\"", EINVAL, "control character"},
        {parse_create, "a \"live\n\"", EINVAL, "only a description"},
        {parse_create, "a \x01", EINVAL, "byte 3 of the command is a control character"},
        {parse_create, "a \xc2\x80", EINVAL, "control character"},
        {parse_create, "a \xff", EINVAL, "not UTF-8, from byte 3 on"},
    };
    check_refusals(table, sizeof table / sizeof *table);
    char *longest = calloc(1, COMMAND_BYTES_MAX + 2);
    struct error err;
    memset(longest, 'n', 256);
    assert_int_equal(parse_create(longest, 256, &err), -ENAMETOOLONG);
    assert_non_null(strstr(err.text, "at most 255"));
    int used = sprintf(longest, "n memory=external memory-file=/");
    memset(longest + used, 'p', 4095);
    assert_int_equal(parse_create(longest, (size_t)used + 4095, &err), -ENAMETOOLONG);
    struct create_command c;
    assert_int_equal(command_parse_create(longest, (size_t)used + 4094, &c, NULL), 0);
    create_command_done(&c);
    used = sprintf(longest, "n description=");
    memset(longest + used, 'd', DESCRIPTION_BYTES_MAX + 1);
    assert_int_equal(parse_create(longest, (size_t)used + DESCRIPTION_BYTES_MAX + 1, &err), -EINVAL);
    assert_int_equal(command_parse_create(longest, (size_t)used + DESCRIPTION_BYTES_MAX, &c, NULL), 0);
    create_command_done(&c);
    memset(longest, ' ', COMMAND_BYTES_MAX + 1);
    assert_int_equal(parse_create(longest, COMMAND_BYTES_MAX + 1, &err), -EINVAL);
    assert_int_equal(command_parse_create(longest, COMMAND_BYTES_MAX, &c, NULL), 0);
    create_command_done(&c);
    assert_int_equal(parse_create("a\0b", 3, &err), -EINVAL);
    free(longest);

    /* So many disks and no more. */
    struct text {
        char *bytes;
        size_t length;
    } text = {calloc(1, 32 * 1100), 0};
    for (int i = 0; i <= 1024; i++)
        text.length += (size_t)sprintf(text.bytes + text.length, " disk=d%d:no", i);
    assert_int_equal(parse_create(text.bytes, text.length, &err), -EINVAL);
    assert_non_null(strstr(err.text, "more than 1024 disks"));
    assert_int_equal(parse_create(text.bytes, text.length, NULL), -EINVAL);
    free(text.bytes);
}

static void defaults_hold_what_is_good_for_every_snapshot(void **state)
{
    struct create_command c;
    static const char shipped[] = "disk-only quiesce=try\n";
    assert_int_equal(command_parse_defaults(shipped, strlen(shipped), &c, NULL), 0);
    assert_true(c.disk_only && c.quiesce == QUIESCE_TRY && !c.name);
    create_command_done(&c);
    static const char lines[] = "memory=external\ncompress=gzip\r\ndisk=vda:no\ndescription=\"by night\"\n";
    assert_int_equal(command_parse_defaults(lines, strlen(lines), &c, NULL), 0);
    assert_string_equal(c.description, "by night");
    assert_int_equal(c.compression, COMPRESS_GZIP);
    create_command_done(&c);
    assert_int_equal(command_parse_defaults("", 0, &c, NULL), 0);
    create_command_done(&c);
    static const struct refusal table[] = {
        {parse_defaults, "name", EINVAL, "\"name\" is no option"},
        {parse_defaults, "memory=external memory-file=/m", EINVAL,
         "memory-file= can't stand in the defaults"},
        {parse_defaults, "disk=vda:external:/p", EINVAL, "a path in disk="},
        {parse_defaults, "mirror=vda:/p", EINVAL, "mirror="},
        {parse_defaults, "reuse-external", EINVAL, "reuse-external"},
        {parse_defaults, "memory=no\nmemory=no", EINVAL, "twice"},
    };
    check_refusals(table, sizeof table / sizeof *table);
}

static void revert_takes_a_state_and_two_flags(void **state)
{
    static const struct {
        const char *text;
        struct revert_command expected;
    } table[] = {
        {"", {REVERT_AS_SAVED, false, false}},
        {"\n", {REVERT_AS_SAVED, false, false}},
        {"1\n", {REVERT_AS_SAVED, false, false}},
        {"running", {REVERT_RUNNING, false, false}},
        {"paused", {REVERT_PAUSED, false, false}},
        {"shutoff\n", {REVERT_SHUTOFF, false, false}},
        {"guard", {REVERT_AS_SAVED, true, false}},
        {"force 1", {REVERT_AS_SAVED, false, true}},
        {"guard running force", {REVERT_RUNNING, true, true}},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct revert_command command;
        assert_int_equal(command_parse_revert(table[i].text, strlen(table[i].text), &command, NULL), 0);
        assert_int_equal(command.state, table[i].expected.state);
        assert_int_equal(command.guard, table[i].expected.guard);
        assert_int_equal(command.force, table[i].expected.force);
    }
    static const struct refusal refused[] = {
        {parse_revert, "0", EINVAL, "1, running, paused, shutoff, guard, force"},
        {parse_revert, "yes", EINVAL, "1, running, paused"},
        {parse_revert, "running paused", EINVAL, "two states"},
        {parse_revert, "1 1", EINVAL, "two states"},
        {parse_revert, "guard guard", EINVAL, "twice"},
        {parse_revert, "force force", EINVAL, "twice"},
        {parse_revert, "\"run\nning\"", EINVAL, "quotes"},
    };
    check_refusals(refused, sizeof refused / sizeof *refused);
}

static void copy_takes_a_path_and_its_words_in_any_order(void **state)
{
    static const struct {
        const char *text;
        struct copy_command expected;
    } table[] = {
        {"/p", {.path = (char *)"/p"}},
        {"\"/a b\" reuse shallow\n", {.path = (char *)"/a b", .shallow = true, .reuse = true}},
        {"/p bandwidth=50M raw", {.path = (char *)"/p", .format = IMAGE_FORMAT_RAW, .bandwidth = 50 << 20}},
        {"/p format=qcow2 base=/b",
         {.path = (char *)"/p", .base = (char *)"/b", .format = IMAGE_FORMAT_QCOW2}},
        {"/p bandwidth=1000", {.path = (char *)"/p", .bandwidth = 1000}},
        {"/p bandwidth=2K", {.path = (char *)"/p", .bandwidth = 2048}},
        {"/p bandwidth=1G", {.path = (char *)"/p", .bandwidth = 1 << 30}},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const struct copy_command *expected = &table[i].expected;
        struct copy_command found;
        assert_int_equal(command_parse_copy(table[i].text, strlen(table[i].text), &found, NULL), 0);
        assert_string_equal(found.path, expected->path);
        assert_int_equal(found.base != NULL, expected->base != NULL);
        if (found.base)
            assert_string_equal(found.base, expected->base);
        assert_int_equal(found.format, expected->format);
        assert_int_equal(found.shallow, expected->shallow);
        assert_int_equal(found.reuse, expected->reuse);
        assert_int_equal(found.bandwidth, expected->bandwidth);
        copy_command_done(&found);
    }
    static const struct refusal refused[] = {
        {parse_copy, "", EINVAL, "PATH [shallow"},
        {parse_copy, "shallow", EINVAL, "absolute path"},
        {parse_copy, "\"\"", EINVAL, "absolute path"},
        {parse_copy, "/d/", EINVAL, "absolute path"},
        {parse_copy, "\"/a\nb\"", EINVAL, "absolute path"},
        {parse_copy, "/p shallow shallow", EINVAL, "twice"},
        {parse_copy, "/p raw format=raw", EINVAL, "twice"},
        {parse_copy, "/p format=vmdk", EINVAL, "raw and qcow2"},
        {parse_copy, "/p shallow base=/b", EINVAL, "one of them"},
        {parse_copy, "/p shallow raw", EINVAL, "lies on no other"},
        {parse_copy, "/p base=b", EINVAL, "absolute path"},
        {parse_copy, "/p bandwidth=", EINVAL, "bytes a second"},
        {parse_copy, "/p bandwidth=0", EINVAL, "as slow"},
        {parse_copy, "/p bandwidth=-1", EINVAL, "bytes a second"},
        {parse_copy, "/p bandwidth=5T", EINVAL, "bytes a second"},
        {parse_copy, "/p bandwidth=5MB", EINVAL, "bytes a second"},
        {parse_copy, "/p bandwidth=99999999999G", EINVAL, "as fast"},
        {parse_copy, "/p bandwidth=99999999999999999999", EINVAL, "as fast"},
        {parse_copy, "/p more", EINVAL, "not known"},
        {parse_trigger, "0", EINVAL, "1 or nothing"},
        {parse_trigger, "1 1", EINVAL, "1 or nothing"},
    };
    check_refusals(refused, sizeof refused / sizeof *refused);
    assert_int_equal(command_parse_trigger("1\n", 2, NULL), 0);
    assert_int_equal(command_parse_trigger("\n", 1, NULL), 0);
}

static void the_small_files_take_their_words(void **state)
{
    enum delete_kind kind;
    for (enum delete_kind each = 0; each < DELETE_KIND_COUNT; each++) {
        char line[32];
        sprintf(line, "%s\n", delete_kind_name(each));
        assert_int_equal(command_parse_delete(line, strlen(line), &kind, NULL), 0);
        assert_int_equal(kind, each);
    }
    kind = DELETE_MERGE;
    assert_int_equal(command_parse_delete("\n", 1, &kind, NULL), 0);
    assert_int_equal(kind, DELETE_ONE);
    struct clone_command clone;
    assert_int_equal(command_parse_clone("web2\n", 5, &clone, NULL), 0);
    assert_string_equal(clone.name, "web2");
    assert_false(clone.full);
    clone_command_done(&clone);
    assert_int_equal(command_parse_clone("\"web 2\" full", 12, &clone, NULL), 0);
    assert_string_equal(clone.name, "web 2");
    assert_true(clone.full);
    clone_command_done(&clone);
    bool is_protected = false;
    assert_int_equal(command_parse_protected("1\n", 2, &is_protected, NULL), 0);
    assert_true(is_protected);
    assert_int_equal(command_parse_protected("0", 1, &is_protected, NULL), 0);
    assert_false(is_protected);
    char *description;
    assert_int_equal(command_parse_description("  two\nlines\n\n", 13, &description, NULL), 0);
    assert_string_equal(description, "  two\nlines\n");
    free(description);
    assert_int_equal(command_parse_description("\n", 1, &description, NULL), 0);
    assert_string_equal(description, "");
    free(description);
    assert_int_equal(command_parse_description("", 0, &description, NULL), 0);
    free(description);

    char long_name[260];
    memset(long_name, 'n', sizeof long_name);
    long_name[251] = '\0';
    const struct refusal table[] = {
        {parse_delete, "2", EINVAL, "children-only"},
        {parse_delete, "children only", EINVAL, "one word is expected"},
        {parse_delete, "\"\"", EINVAL, "discard-force"},
        {parse_delete, "\"a\nb\"", EINVAL, "quotes"},
        {parse_clone, "", EINVAL, "name is missing"},
        {parse_clone, "web2 fully", EINVAL, "only \"full\""},
        {parse_clone, "web2 full full", EINVAL, "only \"full\""},
        {parse_clone, "a/b", EINVAL, "slash"},
        {parse_clone, long_name, ENAMETOOLONG, "at most 250"},
        {parse_power, "", EINVAL, "shutdown"},
        {parse_power, "begin", EINVAL, "shutdown"},
        {parse_power, "pause now", EINVAL, "too many"},
        {parse_power, "start a b", EINVAL, "too many"},
        {parse_power, "start .a", EINVAL, ""},
        {parse_protected, "", EINVAL, "0 or 1"},
        {parse_protected, "yes", EINVAL, "0 or 1"},
        {parse_protected, "1 1", EINVAL, "0 or 1"},
        {parse_description, "\x1b[0m", EINVAL, "control"},
        {parse_description, "\xff", EINVAL, "UTF-8"},
    };
    check_refusals(table, sizeof table / sizeof *table);
    struct error err;
    assert_int_equal(parse_description("a\0b", 3, &err), -EINVAL);
    long_name[250] = '\0';
    assert_int_equal(command_parse_clone(long_name, 250, &clone, NULL), 0);
    clone_command_done(&clone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(create_takes_every_option),
        cmocka_unit_test(a_name_is_the_first_word_unless_it_is_an_option),
        cmocka_unit_test(create_refuses_with_the_way_out),
        cmocka_unit_test(defaults_hold_what_is_good_for_every_snapshot),
        cmocka_unit_test(revert_takes_a_state_and_two_flags),
        cmocka_unit_test(copy_takes_a_path_and_its_words_in_any_order),
        cmocka_unit_test(the_small_files_take_their_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
