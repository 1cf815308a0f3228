// SPDX-License-Identifier: LGPL-2.1-or-later
/* command_document.h: JSON written to `create`. */
#include "unit.h"

#include <errno.h>
#include <string.h>

#include "operation/command_document.h"

static struct create_command parse(const char *text)
{
    struct create_command command = {0};
    struct error err = {0};
    if (command_document_parse(text, strlen(text), &command, &err) < 0)
        fail_msg("%s: %s", text, err.text);
    return command;
}

static void refused(const char *text, int code, const char *says)
{
    struct create_command command = {.live = true};
    struct error err = {0};
    int rc = command_document_parse(text, strlen(text), &command, &err);
    if (rc != -code || !strstr(err.text, says))
        fail_msg("%s: %d \"%s\", which says nothing of \"%s\"", text, rc, err.text, says);
    assert_true(command.live && !command.name && !command.disks); /* untouched */
}

static void every_key_is_read(void **state)
{
    struct create_command c =
        parse("{\"name\": \"up\\u00e9\", \"description\": \"a\\nb\", \"memory\": \"external\", "
              "\"memory_file\": \"/m/ram\","
              " \"compress\": \"gzip\", \"quiesce\": \"require\", \"live\": true, \"disk_only\": false,"
              " \"reuse_external\": true, \"paused\": true, \"disks\": [{\"target\": \"vda\", \"snapshot\": "
              "\"no\"},"
              " {\"target\": \"vdb\", \"snapshot\": \"external\", \"path\": \"/d/x\", \"mirror\": \"/d/y\"},"
              " {\"snapshot\": \"internal\", \"target\": \"vdc\"}]}");
    assert_string_equal(c.name, "upé");
    assert_string_equal(c.description, "a\nb");
    assert_int_equal(c.memory, MEMORY_EXTERNAL);
    assert_string_equal(c.memory_file, "/m/ram");
    assert_int_equal(c.compression, COMPRESS_GZIP);
    assert_int_equal(c.quiesce, QUIESCE_REQUIRE);
    assert_true(c.live && !c.disk_only && c.reuse_external && c.paused);
    assert_int_equal(c.disk_count, 3);
    assert_int_equal(c.disks[0].choice, DISK_NO);
    assert_int_equal(c.disks[1].choice, DISK_EXTERNAL);
    assert_string_equal(c.disks[1].path, "/d/x");
    assert_string_equal(c.disks[1].mirror, "/d/y");
    assert_int_equal(c.disks[2].choice, DISK_INTERNAL);
    create_command_done(&c);
}

static void everything_can_be_left_out(void **state)
{
    struct create_command c = parse(" {} \n");
    assert_null(c.name);
    assert_int_equal(c.memory, MEMORY_OMITTED);
    assert_int_equal(c.quiesce, QUIESCE_NO);
    assert_int_equal(c.disk_count, 0);
    create_command_done(&c);
    c = parse("{\"disks\": []}");
    assert_int_equal(c.disk_count, 0);
    create_command_done(&c);
}

static void what_is_wrong_is_named(void **state)
{
    refused("{", EINVAL, "line 1");
    refused("{}{}", EINVAL, "more after the end");
    refused("{\"nam\": 1}", EINVAL, "\"nam\" is not known");
    refused("{\"\\u001b\": 1}", EINVAL, "control characters");
    refused("{\"name\": 1}", EINVAL, "\"name\" must be a text");
    refused("{\"name\": \"a\\u0000b\"}", EINVAL, "\"name\" must be a text");
    refused("{\"name\": \".a\"}", EINVAL, "dot");
    refused("{\"memory\": \"yes\"}", EINVAL, "\"internal\"");
    refused("{\"compress\": null}", EINVAL, "\"zstd\"");
    refused("{\"quiesce\": \"no\"}", EINVAL, "\"require\"");
    refused("{\"live\": 1}", EINVAL, "true or false");
    refused("{\"name\": \"a\", \"disks\": {}}", EINVAL, "a list");
    refused("{\"disks\": [1]}", EINVAL, "disk 1");
    refused("{\"disks\": [{\"target\": \"vda\"}, {\"snapshot\": \"no\"}]}", EINVAL,
            "disk 2: \"target\" is missing");
    refused("{\"disks\": [{\"target\": \"vda\", \"file\": 1}]}", EINVAL, "\"file\" is not known");
    refused("{\"disks\": [{\"target\": \"vda\"}, {\"target\": \"vda\"}]}", EINVAL, "twice");
    refused("{\"disks\": [{\"target\": \"vda\", \"path\": \"/x\"}]}", EINVAL, "external");
    refused("{\"disks\": [{\"target\": \"vda\", \"snapshot\": \"external\", \"path\": \"x\"}]}", EINVAL,
            "absolute");
    refused("{\"memory_file\": \"/x\"}", EINVAL, "memory=external");
    refused("{\"a\": [[[[[[[[[1]]]]]]]]]}", E2BIG, "deeper");
    char name[300];
    memset(name, 'n', sizeof name);
    memcpy(name, "{\"name\": \"", 10);
    memcpy(name + sizeof name - 3, "\"}", 3);
    refused(name, ENAMETOOLONG, "255");
}

static void kinds_are_told_by_how_they_begin(void **state)
{
    static const struct {
        const char *text;
        enum command_document_kind kind;
    } cases[] = {
        {"", COMMAND_WORDS},
        {"upgrade live", COMMAND_WORDS},
        {"disk=vda:no", COMMAND_WORDS},
        {"1", COMMAND_WORDS},
        {"{", COMMAND_JSON},
        {" \n{}", COMMAND_JSON},
        {"<domain", COMMAND_XML},
        {"\n<", COMMAND_XML},
        {"name = \"x\"", COMMAND_XL},
        {"name\t=", COMMAND_XL},
        {"\nmemory =1", COMMAND_XL},
        {"= x", COMMAND_WORDS},
        {"\"a\" = b", COMMAND_WORDS},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(command_document_kind(cases[i].text, strlen(cases[i].text)), cases[i].kind);
}

static void its_end_is_found_however_it_is_cut(void **state)
{
    static const char document[] = "\n{\"a\": \"}\\\"}\", \"b\": [{}, {\"c\\\\\": \"{\"}]}";
    size_t length = strlen(document);
    for (size_t piece = 1; piece <= length; piece++) {
        struct command_document_end end = {0};
        for (size_t at = 0; at < length; at += piece) {
            size_t rest = length - at < piece ? length - at : piece;
            assert_int_equal(command_document_ends(&end, document + at, rest), at + rest == length);
        }
    }
    struct command_document_end end = {0};
    assert_false(command_document_ends(&end, "]}", 2));  /* nothing was begun */
    assert_true(command_document_ends(&end, "{} x", 4)); /* what follows is the parser's to refuse */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_key_is_read),
        cmocka_unit_test(everything_can_be_left_out),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(kinds_are_told_by_how_they_begin),
        cmocka_unit_test(its_end_is_found_however_it_is_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
