// SPDX-License-Identifier: LGPL-2.1-or-later
/* The small parts of fs/: streams, text handles, the slow lane, last_error, lines, generations. */
#include "unit.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "generations.h"
#include "last_error.h"
#include "line.h"
#include "slow_lane.h"
#include "stream.h"
#include "text_handles.h"

/* --- streams --- */

static void a_long_sequential_read_is_a_stream_and_is_dropped_behind(void **state)
{
    struct stream stream = {0};
    uint64_t offset, length, dropped = 0;
    bool once = false;
    for (uint64_t at = 0; at < GIB; at += MIB) {
        once = stream_note(&stream, at, MIB, false, &offset, &length);
        assert_true(once == (at + MIB >= 64 * MIB));
        if (length) {
            assert_int_equal(offset, dropped); /* one piece after the other, without gaps */
            dropped = offset + length;
            assert_true(dropped <= at + MIB - 8 * MIB); /* what is near the reader is kept */
        }
    }
    assert_true(dropped > GIB - 64 * MIB);
}

static void requests_a_little_out_of_order_are_one_stream(void **state)
{
    struct stream stream = {0};
    uint64_t offset, length;
    bool once = false;
    for (uint64_t at = 0; at < 128 * MIB; at += 2 * MIB) {
        once = stream_note(&stream, at + MIB, MIB, false, &offset, &length);
        once = stream_note(&stream, at, MIB, false, &offset, &length);
    }
    assert_true(once);
}

static void who_skips_holes_still_reads_in_order(void **state)
{
    struct stream stream = {0};
    uint64_t offset, length, dropped = 0;
    bool once = false;
    for (uint64_t at = 0; at < 1024 * GIB; at += 8 * GIB) {
        once = stream_note(&stream, at, MIB, true, &offset, &length);
        if (length) {
            assert_int_equal(offset, dropped);
            dropped = offset + length;
            assert_true(dropped <= at);
        }
    }
    assert_true(once);
    assert_true(dropped > 512 * GIB);
    stream_note(&stream, 0, MIB, true, &offset, &length); /* back again: another stream */
    assert_int_equal(length, 0);
    assert_false(stream_note(&stream, 32 * GIB, MIB, true, &offset, &length));
    stream_add(&stream, 64 * MIB);
    assert_true(stream_note(&stream, 40 * GIB, MIB, true, &offset, &length));
    assert_int_equal(offset, 0);
    assert_true(length > 32 * GIB);
}

static void random_reads_are_no_stream(void **state)
{
    struct stream stream = {0};
    uint64_t offset, length, at = 1;
    for (int i = 0; i < 100000; i++) {
        at = at * UINT64_C(6364136223846793005) + 1442695040888963407u;
        assert_false(
            stream_note(&stream, (at >> 8 << 12) & ((UINT64_C(1) << 50) - 1), 4096, false, &offset, &length));
        assert_int_equal(length, 0);
    }
}

static void a_read_at_the_end_of_the_numbers_does_not_overflow(void **state)
{
    struct stream stream = {0};
    uint64_t offset, length;
    assert_false(stream_note(&stream, INT64_MAX - MIB, MIB, false, &offset, &length));
    assert_false(stream_note(&stream, 0, MIB, false, &offset, &length));
}

/* --- text handles --- */

static void each_handle_keeps_its_own_text(void **state)
{
    struct text_handles *handles = text_handles_new();
    uint64_t ids[100];
    for (int i = 0; i < 100; i++) {
        struct text text = {0};
        text_printf(&text, "text %d", i);
        ids[i] = text_handles_add(handles, &text);
        assert_int_not_equal(ids[i], 0);
    }
    char buffer[16] = {0};
    assert_int_equal(text_handles_read(handles, ids[42], 5, buffer, sizeof buffer), 2);
    assert_memory_equal(buffer, "42", 2);
    assert_int_equal(text_handles_read(handles, ids[42], 7, buffer, sizeof buffer), 0);
    text_handles_remove(handles, ids[42]);
    assert_int_equal(text_handles_read(handles, ids[42], 0, buffer, sizeof buffer), -EBADF);
    struct text again = {0};
    text_append_string(&again, "again");
    assert_int_equal(text_handles_add(handles, &again), ids[42]); /* numbers are used again */
    struct text other = {0};
    text_append_string(&other, "other");
    text_handles_replace(handles, ids[42], &other);
    assert_int_equal(text_handles_read(handles, ids[42], 0, buffer, sizeof buffer), 5);
    assert_memory_equal(buffer, "other", 5);
    text_handles_free(handles);
}

static void handles_that_were_never_given_are_refused(void **state)
{
    struct text_handles *handles = text_handles_new();
    char buffer[1];
    assert_int_equal(text_handles_read(handles, 0, 0, buffer, 1), -EBADF);
    assert_int_equal(text_handles_read(handles, 1, 0, buffer, 1), -EBADF);
    assert_int_equal(text_handles_read(handles, UINT64_MAX, 0, buffer, 1), -EBADF);
    text_handles_remove(handles, 7);
    text_handles_free(handles);
}

/* --- the slow lane --- */

static void count_up(void *opaque)
{
    atomic_fetch_add((atomic_int *)opaque, 1);
}

static void everything_submitted_is_done(void **state)
{
    struct slow_lane *lane = slow_lane_new();
    atomic_int count = 0;
    for (int i = 0; i < 10000; i++)
        assert_int_equal(slow_lane_submit(lane, count_up, &count), 0);
    slow_lane_free(lane);
    assert_int_equal(count, 10000);
}

struct meeting {
    struct slow_lane *lane;
    atomic_int arrived;
};

static void wait_for_the_others(void *opaque)
{
    struct meeting *meeting = opaque;
    atomic_fetch_add(&meeting->arrived, 1);
    while (atomic_load(&meeting->arrived) < 8)
        continue;
}

/* Tasks that wait for each other end only if each has a thread of its own. */
static void one_slow_task_does_not_hold_up_the_next(void **state)
{
    struct meeting meeting = {.lane = slow_lane_new()};
    for (int i = 0; i < 8; i++)
        assert_int_equal(slow_lane_submit(meeting.lane, wait_for_the_others, &meeting), 0);
    slow_lane_free(meeting.lane);
    assert_int_equal(meeting.arrived, 8);
}

/* --- last_error --- */

static void the_last_twenty_failures_are_kept_newest_first(void **state)
{
    struct last_errors *errors = last_errors_new();
    for (int i = 0; i < 25; i++) {
        char command[16];
        snprintf(command, sizeof command, "mkdir n%d", i);
        last_errors_add(errors, 7, 100 + i, command, EPERM, "a\nreason");
    }
    last_errors_add(errors, 8, 1, "other domain", EIO, "x");
    struct text text = {0};
    last_errors_render(errors, 7, &text);
    int lines = 0;
    for (size_t i = 0; i < text.length; i++)
        lines += text.data[i] == '\n';
    assert_int_equal(lines, 20);
    const char *first = strchr(text.data, ' ') + 1;
    assert_int_equal(strncmp(first, "pid 124: mkdir n24: a?reason (EPERM)\n", 37), 0);
    assert_non_null(strstr(text.data, "mkdir n5:"));
    assert_null(strstr(text.data, "mkdir n4:"));
    assert_null(strstr(text.data, "other"));
    text_done(&text);
    last_errors_render(errors, 9, &text);
    assert_int_equal(text.length, 0);
    text_done(&text);
    last_errors_free(errors);
}

static void what_is_refused_again_is_one_line_that_tells_of_the_last(void **state)
{
    struct last_errors *errors = last_errors_new();
    struct text text = {0};
    assert_true(last_errors_add(errors, 9, 5, "unlink a", EPERM, "no"));
    assert_false(last_errors_add(errors, 9, 5, "unlink b", EPERM, "no"));
    assert_false(last_errors_add(errors, 9, 5, "rmdir c", EPERM, "no"));
    last_errors_render(errors, 9, &text);
    assert_non_null(strstr(text.data, "Z pid 5: rmdir c: no (EPERM), and 2 more like it\n"));
    assert_null(strstr(text.data, "unlink"));
    text_done(&text);

    assert_true(last_errors_add(errors, 7, 5, "write \"start\" to power", EBUSY, "no"));
    assert_true(last_errors_add(errors, 7, 6, "write \"start\" to power", EBUSY, "no"));
    assert_false(last_errors_add(errors, 7, 6, "write \"start\" to power", EBUSY, "no"));
    last_errors_render(errors, 7, &text);
    const char *first = strchr(text.data, ' ') + 1;
    assert_string_equal(first, "pid 6: write \"start\" to power: no (EBUSY), and 2 more like it\n");
    text_done(&text);
    last_errors_free(errors);
}

static void another_command_has_a_line_of_its_own_whatever_the_reason(void **state)
{
    static const char *const commands[] = {"mkdir snapshots/d", "write \"pause\" to power",
                                           "write \"destroy\" to power", "unlink a"};
    struct last_errors *errors = last_errors_new();
    for (int i = 0; i < 4; i++) {
        struct text text = {0};
        assert_true(last_errors_add(errors, 9, 5, commands[i], ETIMEDOUT, "no greeting"));
        last_errors_render(errors, 9, &text);
        const char *first = strstr(text.data, "pid 5: ") + strlen("pid 5: ");
        assert_int_equal(strncmp(first, commands[i], strlen(commands[i])), 0);
        assert_null(strstr(text.data, "more like it"));
        text_done(&text);
    }
    assert_true(last_errors_add(errors, 9, 6, "unlink b", ETIMEDOUT, "no greeting"));
    assert_true(last_errors_add(errors, 9, 6, "unlink b", ETIMEDOUT, "another reason"));
    last_errors_free(errors);
}

/* --- lines and generations --- */

static void a_line_is_text_whatever_was_written(void **state)
{
    struct text text = {0};
    line_append(&text, "a\nb\x7f\xc3\xa9\xff\xc3 \xc2\x85\xe2\x82");
    assert_string_equal(text.data, "a?b?\xc3\xa9?? ???");
    text_done(&text);
}

static void a_directory_that_was_taken_for_removed_has_another_generation(void **state)
{
    struct generations *generations = generations_new();
    assert_int_equal(generations_of(generations, 5), 1);
    generations_next(generations, 5);
    assert_int_equal(generations_of(generations, 5), 2);
    generations_next(generations, 6);
    generations_next(generations, 5);
    assert_int_equal(generations_of(generations, 5), 3);
    assert_int_equal(generations_of(generations, 6), 2);
    assert_int_equal(generations_of(generations, 7), 1);
    for (uint64_t id = 100; id < 10000; id++) /* many, and the last of them are remembered */
        generations_next(generations, id);
    assert_int_equal(generations_of(generations, 9999), 2);
    assert_int_equal(generations_of(generations, 9800), 2);
    generations_free(generations);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_long_sequential_read_is_a_stream_and_is_dropped_behind),
        cmocka_unit_test(requests_a_little_out_of_order_are_one_stream),
        cmocka_unit_test(who_skips_holes_still_reads_in_order),
        cmocka_unit_test(random_reads_are_no_stream),
        cmocka_unit_test(a_read_at_the_end_of_the_numbers_does_not_overflow),
        cmocka_unit_test(each_handle_keeps_its_own_text),
        cmocka_unit_test(handles_that_were_never_given_are_refused),
        cmocka_unit_test(everything_submitted_is_done),
        cmocka_unit_test(one_slow_task_does_not_hold_up_the_next),
        cmocka_unit_test(the_last_twenty_failures_are_kept_newest_first),
        cmocka_unit_test(what_is_refused_again_is_one_line_that_tells_of_the_last),
        cmocka_unit_test(another_command_has_a_line_of_its_own_whatever_the_reason),
        cmocka_unit_test(a_line_is_text_whatever_was_written),
        cmocka_unit_test(a_directory_that_was_taken_for_removed_has_another_generation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
