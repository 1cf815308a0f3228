// SPDX-License-Identifier: LGPL-2.1-or-later
/* command_xl.h: lines of xl configuration written to `create`. */
#include "unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "operation/command_document.h"
#include "operation/command_xl.h"

static struct create_command parse(const char *text)
{
    struct create_command command = {0};
    struct error err = {0};
    if (command_xl_parse(text, strlen(text), &command, &err) < 0)
        fail_msg("%s: %s", text, err.text);
    return command;
}

static void refused_bytes(const char *text, size_t length, int code, const char *says)
{
    struct create_command command = {.live = true};
    struct error err = {0};
    int rc = command_xl_parse(text, length, &command, &err);
    if (rc != -code || !strstr(err.text, says))
        fail_msg("%.200s: %d \"%s\", which says nothing of \"%s\"", text, rc, err.text, says);
    assert_true(command.live && !command.name && !command.disks); /* untouched */
}

static void refused(const char *text, int code, const char *says)
{
    refused_bytes(text, strlen(text), code, says);
}

static void everything_is_read(void **state)
{
    struct create_command c = parse("# a snapshot\n"
                                    "name=\"up\xc3\xa9\" # its name\n"
                                    "\tdescription = 'it\\'s \\\"a\\\"\\n\\x41\\102\\\\' ;;\r\n"
                                    "memory_path = \"/m/r'am\"\n\n"
                                    "compress = 'gzip'; quiesce = 'try'; live = 1; paused = 1\n"
                                    "disk_only = 0; reuse_external = 1\n"
                                    "disks = [ '/d/a,b,qcow2,hda', # this one\n"
                                    "\n  \",,hdb\" , ' , qcow2 , hdc ',\n]\n"
                                    "  end # really\n\n# no more\n");
    assert_string_equal(c.name, "up\xc3\xa9");
    assert_string_equal(c.description, "it's \"a\"\nAB\\");
    assert_int_equal(c.memory, MEMORY_EXTERNAL);
    assert_string_equal(c.memory_file, "/m/r'am");
    assert_int_equal(c.compression, COMPRESS_GZIP);
    assert_int_equal(c.quiesce, QUIESCE_TRY);
    assert_true(c.live && c.paused && !c.disk_only && c.reuse_external);
    assert_int_equal(c.disk_count, 3);
    assert_string_equal(c.disks[0].target, "hda");
    assert_int_equal(c.disks[0].choice, DISK_EXTERNAL);
    assert_string_equal(c.disks[0].path, "/d/a,b");
    assert_string_equal(c.disks[1].target, "hdb");
    assert_int_equal(c.disks[1].choice, DISK_INTERNAL);
    assert_string_equal(c.disks[2].target, "hdc");
    assert_int_equal(c.disks[2].choice, DISK_EXTERNAL);
    assert_null(c.disks[2].path);
    create_command_done(&c);
}

static void nothing_given_is_nothing_asked(void **state)
{
    static const char *const texts[] = {
        "",
        "\n",
        "end",
        "# end\n",
        "name = ''\ndescription = \"\"\nmemory_path=''\ndisks=[]\nmemory=''\nquiesce=''",
        "disks = [\n]\n; ;\nend\n"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct create_command c = parse(texts[i]);
        assert_true(!c.name && !c.description && !c.memory_file && c.disk_count == 0);
        assert_int_equal(c.memory, MEMORY_OMITTED);
        create_command_done(&c);
    }
    struct create_command c = parse("memory = 'no'");
    assert_int_equal(c.memory, MEMORY_NO);
    create_command_done(&c);
}

/* X3: `key=value` lines that are added to a configuration. */
static void what_comes_later_counts(void **state)
{
    struct create_command c = parse("name = 'a'\ndisks = [',,hda', ',,hdb']\nlive = 1\n"
                                    "name = 'b'\ndisks = ['/x,,hdc']\nlive = 0\n");
    assert_string_equal(c.name, "b");
    assert_false(c.live);
    assert_int_equal(c.disk_count, 1);
    assert_string_equal(c.disks[0].target, "hdc");
    create_command_done(&c);
    c = parse("name = 'a'\nname = ''\n");
    assert_null(c.name);
    create_command_done(&c);
}

static void what_is_wrong_is_named(void **state)
{
    refused("nam = 'x'", EINVAL, "line 1: nam is not known; a snapshot has name");
    refused("\n\nname = 1", EINVAL, "line 3: name must be a text in quotes");
    refused("name = ['x']", EINVAL, "name must be a text");
    refused("name = '.x'", EINVAL, "dot");
    refused("name = 'a\\nb'", EINVAL, "name");
    refused("description = '\\x1b'", EINVAL, "control characters");
    refused("memory = 'yes'", EINVAL, "'internal'");
    refused("memory = 1", EINVAL, "'internal'");
    refused("memory_path = 'x'", EINVAL, "absolute");
    refused("memory_path = '/x'\nmemory = 'internal'", EINVAL, "memory=external");
    refused("memory = 'no'\nmemory_path = '/x'", EINVAL, "memory=external");
    refused("compress = 'lzma'", EINVAL, "'zstd'");
    refused("quiesce = 'no'", EINVAL, "'require'");
    refused("live = 2", EINVAL, "0 or 1");
    refused("live = '1'", EINVAL, "0 or 1");
    refused("disks = ',,hda'", EINVAL, "disks must be a list");
    refused("disks = ['hda']", EINVAL, "',,TARGET'");
    refused("disks = [',hda']", EINVAL, "',,TARGET'");
    refused("disks = [1]", EINVAL, "',,TARGET'");
    refused("disks = [',,']", EINVAL, "',,TARGET'");
    refused("disks = ['/x,raw,hda']", EOPNOTSUPP, "another format than qcow2");
    refused("disks = ['x,qcow2,hda']", EINVAL, "absolute");
    refused("disks = [',,a/b']", EINVAL, "target");
    refused("disks = [',,hda', ',,hda']", EINVAL, "twice");
    refused("disks = ['/x,qcow2,hda', '/x,qcow2,hdb']", EINVAL, "twice");
}

static void what_is_not_understood_is_refused(void **state)
{
    refused("name", EINVAL, "line 1: name must be followed by =");
    refused("name 'x'", EINVAL, "followed by =");
    refused("Name = 'x'", EINVAL, "small letters");
    refused("= 'x'", EINVAL, "small letters");
    refused("name =\n'x'", EINVAL, "line 1: a value is missing");
    refused("name = x", EINVAL, "text in quotes");
    refused("name += 'x'", EINVAL, "followed by =");
    refused("name = 'x' 'y'", EINVAL, "more after the value");
    refused("name = 'x'\nname = 'y", EINVAL, "line 2: a text is not closed: '");
    refused("name = 'x\n'", EINVAL, "line 1: a text is not closed: '");
    refused("name = \"x'", EINVAL, "not closed: \"");
    refused("name = 'x\\q'", EINVAL, "backslash");
    refused("name = 'x\\", EINVAL, "backslash");
    refused("name = '\\x0'", EINVAL, "backslash");
    refused("name = '\\x00'", EINVAL, "backslash");
    refused("name = '\\777'", EINVAL, "backslash");
    refused("name = '\\xff'", EINVAL, "a text is not UTF-8");
    refused("disks = [\n',,a'\n',,b']", EINVAL, "line 3: in a list");
    refused("disks = [,]", EINVAL, "a value is missing");
    refused("disks = [',,a',,]", EINVAL, "a value is missing");
    refused("disks = [[',,a']]", EINVAL, "a value is missing");
    refused("disks = [\n',,a'\n", EINVAL, "] is missing");
    refused("disks = [',,a'", EINVAL, "] is missing");
    refused("name = 'x'\nend\nname = 'y'", EINVAL, "line 3: there is more after the line `end`");
    refused("name = 'x'; end", EINVAL, "end must be followed by =");
    refused("end x", EINVAL, "followed by =");
    refused("\n\xff", EINVAL, "line 2: not UTF-8");
    refused_bytes("name = 'x\0'", 11, EINVAL, "zero byte");
}

static void limits_hold(void **state)
{
    struct text text = {0};
    text_append_string(&text, "disks = [");
    for (int i = 0; i < 1025; i++)
        text_append_string(&text, "',,a',");
    text_append_string(&text, "]\n");
    refused(text.data, EINVAL, "more than 1024 disks");
    text.length -= 2;
    for (int i = 0; i < 1025; i++)
        text_append_string(&text, "1,");
    refused(text.data, E2BIG, "too many values");
    text.length = 0;
    for (int i = 0; i < COMMAND_DOCUMENT_BYTES_MAX + 1; i++)
        text_append(&text, " ", 1);
    refused(text.data, E2BIG, "longer than");
    text_done(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_is_read),
        cmocka_unit_test(nothing_given_is_nothing_asked),
        cmocka_unit_test(what_comes_later_counts),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(what_is_not_understood_is_refused),
        cmocka_unit_test(limits_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
