// SPDX-License-Identifier: LGPL-2.1-or-later
/* command_document.h: which format a document has, and where it ends. command_json.h: JSON. */
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
        {"name='x'", COMMAND_XL},
        {"memory_path=", COMMAND_XL},
        {"disks=[", COMMAND_XL},
        {"#", COMMAND_XL},
        {"description=\"x\"", COMMAND_WORDS},
        {"names=x", COMMAND_WORDS},
        {"= x", COMMAND_WORDS},
        {"\"a\" = b", COMMAND_WORDS},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(command_document_kind(cases[i].text, strlen(cases[i].text)), cases[i].kind);
}

/* Cut into pieces of every length, the document ends with its last byte, and never before. */
static void ends_with_its_last_byte(const char *document)
{
    size_t length = strlen(document);
    for (size_t piece = 1; piece <= length; piece++) {
        struct command_document_end end = {.kind = command_document_kind(document, length)};
        for (size_t at = 0; at < length; at += piece) {
            size_t rest = length - at < piece ? length - at : piece;
            int rc = command_document_ends(&end, document + at, rest, NULL);
            if (rc != (at + rest == length ? 0 : -EAGAIN))
                fail_msg("%s: %d at %zu, cut by %zu", document, rc, at, piece);
        }
    }
}

static void its_end_is_found_however_it_is_cut(void **state)
{
    ends_with_its_last_byte("\n{\"a\": \"}\\\"}\", \"b\": [{}, {\"c\\\\\": \"{\"}]}");
    ends_with_its_last_byte("<a/>");
    ends_with_its_last_byte(
        "<?xml version='1.0'?><!-- <a></a> - -- --><a b='/>' c=\"'</a>\"><b/><?p </a> ? ?>"
        "<![CDATA[</a> ]] ]>]]]><c></c ></a>");
    ends_with_its_last_byte("# a comment\nname = 'x#y\\'end'; live = 1\ndisks = [ # [\n'a',\nend\n]\n"
                            "x = 'end'; end\nend x\n\n\tend # it is\n");
    struct command_document_end end = {.kind = COMMAND_JSON};
    assert_int_equal(command_document_ends(&end, "]}", 2, NULL), -EAGAIN); /* nothing was begun */
    assert_int_equal(command_document_ends(&end, "{} x", 4, NULL),
                     0); /* what follows is the parser's to refuse */
}

static void what_follows_the_root_element_belongs_to_it(void **state)
{
    struct command_document_end end = {.kind = COMMAND_XML};
    assert_int_equal(command_document_ends(&end, "<a></a>\n<!-- not", 16, NULL), -EAGAIN);
    assert_int_equal(command_document_ends(&end, " over --><?x", 12, NULL), -EAGAIN);
    assert_int_equal(command_document_ends(&end, " ?>\n", 4, NULL), 0);
}

static void what_can_never_become_right_is_refused_early(void **state)
{
    static const struct {
        const char *text;
        size_t length;
        int code;
    } cases[] = {
        {"<!D", 3, -EINVAL},    {"<?xml version='1.0'?>\n<!DOCTYPE a [", 34, -EINVAL},
        {"<a><!E", 6, -EINVAL}, {"<![CDATE", 8, -EINVAL},
        {"<\0d\0", 4, -EINVAL}, {"<a b='\0", 7, -EINVAL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct command_document_end end = {.kind = COMMAND_XML};
        struct error err = {0};
        assert_int_equal(command_document_ends(&end, cases[i].text, cases[i].length, &err), cases[i].code);
        assert_non_null(strstr(err.text, "the document: "));
    }
    struct command_document_end end = {.kind = COMMAND_XML};
    int rc = 0;
    unsigned depth = 0;
    for (; depth < 100 && rc != -E2BIG; depth++)
        rc = command_document_ends(&end, "<a b=''>", 8, NULL);
    assert_int_equal(depth, 33);
    end = (struct command_document_end){.kind = COMMAND_XML};
    for (depth = 0; depth < 100000 && rc != -E2BIG; depth++)
        rc = command_document_ends(&end, depth ? "<a/>" : "<a>", depth ? 4 : 3, NULL);
    assert_int_equal(rc, -E2BIG);
}

static bool at_close(const char *text)
{
    struct command_document_end end = {.kind = COMMAND_XL};
    assert_int_equal(command_document_ends(&end, text, strlen(text), NULL), -EAGAIN);
    return command_document_ends_at_close(&end);
}

static void a_configuration_may_end_where_the_file_is_closed(void **state)
{
    assert_true(at_close("name = 'x'"));
    assert_true(at_close("name = 'x'\n"));
    assert_true(at_close("name = 'x'; # y"));
    assert_true(at_close("disks = [ ',,a' ]"));
    assert_true(at_close("disks = [\n',,a'\n]"));
    assert_true(at_close("live = 1\nend"));
    assert_true(at_close("name = \n"));   /* the parser's to refuse */
    assert_true(at_close("name = 'x\n")); /* the same */
    assert_false(at_close("name = "));
    assert_false(at_close("name = 'x"));
    assert_false(at_close("live = 1\nname"));
    assert_false(at_close("live = 1; en"));
    assert_false(at_close("disks = [ ',,a',\n"));
    assert_false(at_close("# nothing\n\n"));
    assert_false(at_close(""));
}

static void what_is_missing_is_said(void **state)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"{\"a\": 1", "last brace"},    {"<a>", "root element"},  {"<!-- a -->", "only comments"},
        {"disks = [", "end of a list"}, {"# a", "only comments"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t length = strlen(cases[i].text);
        struct command_document_end end = {.kind = command_document_kind(cases[i].text, length)};
        command_document_ends(&end, cases[i].text, length, NULL);
        assert_non_null(strstr(command_document_missing(&end), cases[i].says));
        assert_int_equal(command_document_is_empty(&end), strstr(cases[i].says, "comments") != NULL);
    }
}

static void a_byte_order_mark_is_passed_over(void **state)
{
    static const char *const texts[] = {"\xef\xbb\xbf{}", "\xef\xbb\xbf<domainsnapshot/>",
                                        "\xef\xbb\xbf# x\nend\n"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_int_not_equal(command_document_kind(texts[i], strlen(texts[i])), COMMAND_WORDS);
        struct create_command c = parse(texts[i]);
        assert_null(c.name);
        create_command_done(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_key_is_read),
        cmocka_unit_test(everything_can_be_left_out),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(kinds_are_told_by_how_they_begin),
        cmocka_unit_test(its_end_is_found_however_it_is_cut),
        cmocka_unit_test(what_follows_the_root_element_belongs_to_it),
        cmocka_unit_test(what_can_never_become_right_is_refused_early),
        cmocka_unit_test(a_configuration_may_end_where_the_file_is_closed),
        cmocka_unit_test(what_is_missing_is_said),
        cmocka_unit_test(a_byte_order_mark_is_passed_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
