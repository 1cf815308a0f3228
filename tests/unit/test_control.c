// SPDX-License-Identifier: LGPL-2.1-or-later
/* control_files.h and control_command.h. */
#include "unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "control_command.h"
#include "control_files.h"

/* --- the gate --- */

struct visitor {
    struct control_waiter waiter;
    int calls, result;
    unsigned order;
};

static unsigned called;

static void let_in(struct control_waiter *waiter, int result)
{
    struct visitor *visitor = (struct visitor *)waiter;
    visitor->calls++;
    visitor->result = result;
    visitor->order = called++;
}

static void finish(struct control_files *files, uint64_t node, const char *result)
{
    struct text text = {0};
    text_append_string(&text, result);
    control_files_finish(files, node, &text);
}

static void a_second_opener_waits_until_the_last_command_is_over(void **state)
{
    struct control_files *files = control_files_new();
    struct visitor one = {.waiter.ready = let_in}, two = one, elsewhere = one;
    called = 0;
    assert_int_equal(control_files_enter(files, 5, &one.waiter), 0); /* nothing runs: nobody waits */
    control_files_begin(files, 5);
    control_files_begin(files, 5);
    assert_int_equal(control_files_enter(files, 5, &one.waiter), -EINPROGRESS);
    assert_int_equal(control_files_enter(files, 5, &two.waiter), -EINPROGRESS);
    assert_int_equal(control_files_enter(files, 5, NULL), -EBUSY);
    assert_int_equal(control_files_enter(files, 6, &elsewhere.waiter), 0);
    finish(files, 5, "first\n");
    assert_int_equal(one.calls + two.calls, 0);
    finish(files, 5, "second\n");
    assert_true(one.calls == 1 && one.result == 0 && one.order == 0);
    assert_true(two.calls == 1 && two.result == 0 && two.order == 1);
    assert_int_equal(elsewhere.calls, 0);
    assert_int_equal(control_files_enter(files, 5, NULL), 0);
    control_files_free(files);
}

static void who_gives_up_is_not_called(void **state)
{
    struct control_files *files = control_files_new();
    struct visitor one = {.waiter.ready = let_in}, two = one;
    control_files_begin(files, 5);
    control_files_enter(files, 5, &one.waiter);
    control_files_enter(files, 5, &two.waiter);
    assert_true(control_files_give_up(files, &one.waiter));
    assert_false(control_files_give_up(files, &one.waiter));
    finish(files, 5, "");
    assert_int_equal(one.calls, 0);
    assert_int_equal(two.calls, 1);
    assert_false(control_files_give_up(files, &two.waiter));
    control_files_free(files);
}

static void at_the_end_everybody_is_sent_away(void **state)
{
    struct control_files *files = control_files_new();
    struct visitor one = {.waiter.ready = let_in};
    control_files_begin(files, 5);
    control_files_enter(files, 5, &one.waiter);
    control_files_end(files);
    assert_true(one.calls == 1 && one.result == -ECANCELED);
    assert_int_equal(control_files_enter(files, 6, &one.waiter), -ECANCELED);
    finish(files, 5, "");
    control_files_free(files);
}

static void each_file_keeps_its_last_result(void **state)
{
    struct control_files *files = control_files_new();
    struct text text = {0};
    control_files_last_result(files, 5, &text);
    assert_int_equal(text.length, 0);
    control_files_begin(files, 5);
    finish(files, 5, "old\n");
    control_files_begin(files, 5);
    finish(files, 5, "new\n");
    control_files_last_result(files, 5, &text);
    assert_string_equal(text.data, "new\n");
    text_done(&text);
    for (uint64_t node = 100; node < 1100; node++)
        finish(files, node, "many\n");
    control_files_last_result(files, 5, &text);
    assert_int_equal(text.length, 0);
    control_files_last_result(files, 1099, &text);
    assert_string_equal(text.data, "many\n");
    text_done(&text);
    control_files_free(files);
}

/* --- open files --- */

static uint64_t open_with(struct control_files *files, const char *usage)
{
    struct text text = {0};
    text_append_string(&text, usage);
    return control_files_open(files, &text);
}

static void reads(struct control_files *files, uint64_t handle, uint64_t offset, const char *expected)
{
    char buffer[100] = {0};
    assert_int_equal(control_files_read(files, handle, offset, buffer, sizeof buffer - 1), strlen(expected));
    assert_string_equal(buffer, expected);
}

static void the_answer_is_read_from_its_beginning(void **state)
{
    struct control_files *files = control_files_new();
    uint64_t handle = open_with(files, "usage\n"), other = open_with(files, "usage\n");
    const char *missing;
    reads(files, handle, 0, "usage\n");
    reads(files, handle, 6, "");
    for (int round = 0; round < 2; round++) {
        struct text text = {0};
        text_append_string(&text, "a longer answer\n");
        control_files_answer(files, handle, &text, 4);
        if (round == 0) { /* at the place where the write ended */
            reads(files, handle, 4, "a longer answer\n");
            reads(files, handle, 6, "longer answer\n");
            reads(files, handle, 20, "");
        }
        reads(files, handle, 0, "a longer answer\n"); /* or from the beginning */
        reads(files, handle, 2, "longer answer\n");
        reads(files, handle, 4, "nger answer\n");
        reads(files, handle, 16, "");
        reads(files, handle, UINT64_MAX, "");
    }
    reads(files, other, 0, "usage\n");
    control_files_close(files, handle, &missing);
    assert_null(missing);
    char byte;
    assert_int_equal(control_files_read(files, handle, 0, &byte, 1), -EBADF);
    control_files_free(files);
}

static struct control_files *files;
static uint64_t handle;

/* Adds a piece. What comes of it is expected to be `code`, and a document that is `whole`, or none. */
static void adds(const char *piece, int code, const char *whole)
{
    struct text document = {0};
    struct error err = {0};
    int result = control_files_add(files, handle, piece, strlen(piece), 7, &document, &err);
    if (result != code)
        fail_msg("%s: %d, %s", piece, result, err.text);
    if (whole)
        assert_string_equal(document.data, whole);
    else
        assert_int_equal(document.length, 0);
    text_done(&document);
}

static void flushes(const char *whole)
{
    struct text document = {0};
    uint64_t stop = 0;
    assert_int_equal(control_files_flush(files, handle, &document, &stop), whole != NULL);
    if (whole) {
        assert_string_equal(document.data, whole);
        assert_int_equal(stop, 7);
    }
    text_done(&document);
}

static void closes(const char *says)
{
    const char *missing;
    control_files_close(files, handle, &missing);
    assert_int_equal(missing != NULL, says != NULL);
    if (says)
        assert_non_null(strstr(missing, says));
    adds("{", -EBADF, NULL);
    handle = open_with(files, "");
}

static void a_document_is_gathered(void **state)
{
    files = control_files_new();
    handle = open_with(files, "");
    adds("words {", 0, "words {");
    adds("\n", 0, "\n");
    adds("{\"a\"", -EAGAIN, NULL);
    adds(":1}\n", 0, "{\"a\":1}\n");
    adds("\n \n", -EAGAIN, NULL); /* belongs to the document, and is no command of its own */
    adds("<a>", -EAGAIN, NULL);
    flushes(NULL);
    adds("</a>", 0, "<a></a>");
    adds("<!-- -->", -EAGAIN, NULL);
    closes(NULL);
    adds("<!-- -->", -EAGAIN, NULL);
    closes("only comments");
    adds("{", -EAGAIN, NULL);
    closes("last brace");
    adds("name =", -EAGAIN, NULL);
    flushes(NULL);
    adds(" 'x'\n", -EAGAIN, NULL);
    flushes("name = 'x'\n");
    flushes(NULL);
    adds("name = 'y'\nend\n", 0, "name = 'y'\nend\n");
    adds("\n", -EAGAIN, NULL);
    adds("up", 0, "up");
    adds("\n", 0, "\n");
    adds("disks = [", -EAGAIN, NULL);
    closes("end of a list");
    control_files_free(files);
}

/* Else what follows would be taken for words, and could be a command. */
static void after_a_refusal_in_a_document_its_rest_is_refused(void **state)
{
    cleanup_free char *large = calloc(1, COMMAND_DOCUMENT_BYTES_MAX + 1);
    memset(large, '{', COMMAND_DOCUMENT_BYTES_MAX);
    files = control_files_new();
    handle = open_with(files, "");
    adds("{\"", -EAGAIN, NULL);
    adds(large, -E2BIG, NULL);
    adds("up", -E2BIG, NULL);
    adds("{}", -E2BIG, NULL);
    closes(NULL);
    adds("{}", 0, "{}");
    adds("<!DOC", -EINVAL, NULL);
    adds("TYPE lolz [", -EINVAL, NULL);
    adds("up", -EINVAL, NULL);
    flushes(NULL);
    closes(NULL);
    adds("up", 0, "up");
    control_files_free(files);
}

/* --- commands --- */

static struct domain domain = {.serial = 10};
static struct snapshot snapshot = {.serial = 12};

static struct place at(bool of_snapshot, unsigned position)
{
    return (struct place){
        .node = {.kind = of_snapshot ? NODE_SNAPSHOT : NODE_DOMAIN, .position = position},
        .type = ENTRY_CONTROL,
        .domain = &domain,
        .snapshot = of_snapshot ? &snapshot : NULL,
    };
}

static struct request parsed(bool of_snapshot, unsigned position, const char *text)
{
    struct place place = at(of_snapshot, position);
    struct request request = {0};
    struct error err = {0};
    if (control_command_parse(&place, text, strlen(text), &request, &err) != 0)
        fail_msg("%s: %s", text, err.text);
    assert_int_equal(request.domain, 10);
    assert_int_equal(request.snapshot, of_snapshot ? 12 : 0);
    return request;
}

static void refused(bool of_snapshot, unsigned position, const char *text, int code, const char *says)
{
    struct place place = at(of_snapshot, position);
    struct request request = {.pid = 77};
    struct error err = {0};
    assert_int_equal(control_command_parse(&place, text, strlen(text), &request, &err), -code);
    if (!strstr(err.text, says))
        fail_msg("\"%s\" says nothing of \"%s\"", err.text, says);
    assert_int_equal(request.pid, 77);
}

static void each_control_file_has_its_command(void **state)
{
    struct request r = parsed(false, DOMAIN_CREATE, "up disk-only\n");
    assert_int_equal(r.kind, REQUEST_CREATE);
    assert_string_equal(r.create.name, "up");
    assert_false(r.use_defaults);
    create_command_done(&r.create);
    r = parsed(false, DOMAIN_CREATE, "{\"name\": \"doc\"}\n");
    assert_int_equal(r.kind, REQUEST_CREATE);
    assert_string_equal(r.create.name, "doc");
    create_command_done(&r.create);
    r = parsed(false, DOMAIN_CREATE, "<domainsnapshot><name>xml</name></domainsnapshot>\n");
    assert_string_equal(r.create.name, "xml");
    create_command_done(&r.create);
    r = parsed(false, DOMAIN_CREATE, "name = 'xl'\n");
    assert_string_equal(r.create.name, "xl");
    create_command_done(&r.create);
    r = parsed(false, DOMAIN_DEFAULTS, "disk-only\nquiesce=require\n");
    assert_int_equal(r.kind, REQUEST_DEFAULTS);
    assert_string_equal(r.defaults, "disk-only\nquiesce=require\n");
    free(r.defaults);
    r = parsed(true, SNAPSHOT_DELETE, "merge-force\n");
    assert_true(r.kind == REQUEST_DELETE && r.delete_kind == DELETE_MERGE_FORCE);
    r = parsed(true, SNAPSHOT_REVERT, "shutoff guard");
    assert_true(r.kind == REQUEST_REVERT && r.revert.guard && r.revert.state == REVERT_SHUTOFF);
    r = parsed(true, SNAPSHOT_CLONE, "web2 full");
    assert_true(r.kind == REQUEST_CLONE && r.clone.full && strcmp(r.clone.name, "web2") == 0);
    clone_command_done(&r.clone);
    r = parsed(true, SNAPSHOT_PROTECTED, "1\n");
    assert_true(r.kind == REQUEST_PROTECT && r.is_protected);
    r = parsed(true, SNAPSHOT_DESCRIPTION, "{ any <text> = it is }\n"); /* no document here */
    assert_int_equal(r.kind, REQUEST_DESCRIBE);
    assert_string_equal(r.description, "{ any <text> = it is }");
    free(r.description);
}

static void what_is_refused_says_what_is_right(void **state)
{
    refused(false, DOMAIN_CREATE, "<domain/>", EINVAL, "<domainsnapshot>");
    refused(false, DOMAIN_CREATE, "nam = \"x\"\n", EINVAL, "memory_path");
    refused(false, DOMAIN_CREATE, "a b", EINVAL, "disk-only");
    refused(false, DOMAIN_CREATE, "{\"x\": 1}", EINVAL, "\"x\"");
    refused(false, DOMAIN_DEFAULTS, "disk=vda:external:/x", EINVAL, "create");
    refused(true, SNAPSHOT_DELETE, "all", EINVAL, "children");
    refused(true, SNAPSHOT_REVERT, "2", EINVAL, "running");
    refused(true, SNAPSHOT_CLONE, "", EINVAL, "name");
    refused(true, SNAPSHOT_PROTECTED, "yes", EINVAL, "0 or 1");
}

static void the_words_are_one_command_however_long(void **state)
{
    struct place place = at(false, DOMAIN_CREATE);
    struct text text = {0};
    control_command_words(&place, "up live\n\n", 9, &text);
    assert_string_equal(text.data, "write \"up live\" to create");
    text_done(&text);
    char many[1000];
    memset(many, 'x', sizeof many);
    control_command_words(&place, many, sizeof many, &text);
    assert_true(text.length < 300);
    text_done(&text);
    control_command_words(&place, "a\0b", 3, &text);
    assert_string_equal(text.data, "write \"a\" to create");
    text_done(&text);
    place = at(true, SNAPSHOT_DELETE);
    snapshot.name = (char[]){"clean"};
    control_command_words(&place, "", 0, &text);
    assert_string_equal(text.data, "write \"\" to snapshots/clean/delete");
    text_done(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_second_opener_waits_until_the_last_command_is_over),
        cmocka_unit_test(who_gives_up_is_not_called),
        cmocka_unit_test(at_the_end_everybody_is_sent_away),
        cmocka_unit_test(each_file_keeps_its_last_result),
        cmocka_unit_test(the_answer_is_read_from_its_beginning),
        cmocka_unit_test(a_document_is_gathered),
        cmocka_unit_test(after_a_refusal_in_a_document_its_rest_is_refused),
        cmocka_unit_test(each_control_file_has_its_command),
        cmocka_unit_test(what_is_refused_says_what_is_right),
        cmocka_unit_test(the_words_are_one_command_however_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
