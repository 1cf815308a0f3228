// SPDX-License-Identifier: LGPL-2.1-or-later
/* events.h and removal_guard.h. */
#include "unit.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "events.h"
#include "removal_guard.h"

/* --- events --- */

static int woken, dropped;
static char first_waiter, second_waiter;

static void wake(void *waiter, bool happened)
{
    assert_true(waiter == &first_waiter || waiter == &second_waiter);
    *(happened ? &woken : &dropped) += 1;
}

static int reset(void **state)
{
    woken = dropped = 0;
    return 0;
}

static void a_line_has_a_time_and_no_control_characters(void **state)
{
    struct events *events = events_new(wake);
    events_add(events, 7, "took\na\x1b snapshot");
    struct text text = {0};
    events_render(events, 7, &text);
    assert_int_equal(text.length, events_size(events, 7));
    assert_string_equal(text.data + strlen("2026-11-21T17:00:00"), "Z took?a? snapshot\n");
    assert_int_equal(events_size(events, 8), 0);
    text_done(&text);
    events_free(events);
}

static void reading_is_live(void **state)
{
    struct events *events = events_new(wake);
    char buffer[200];
    uint64_t handle = events_open(events, 7);
    assert_int_not_equal(handle, 0);
    assert_int_equal(events_read(events, handle, 0, buffer, sizeof buffer), 0);
    events_add(events, 7, "one");
    int64_t length = events_read(events, handle, 0, buffer, sizeof buffer);
    assert_int_equal(length, events_size(events, 7));
    events_add(events, 7, "two");
    events_add(events, 8, "of another domain");
    assert_int_equal(events_read(events, handle, (uint64_t)length, buffer, sizeof buffer), length);
    assert_memory_equal(buffer + length - 4, "two\n", 4);
    assert_int_equal(events_read(events, handle, UINT64_MAX, buffer, sizeof buffer), 0);
    events_close(events, handle);
    assert_int_equal(events_read(events, handle, 0, buffer, sizeof buffer), -EBADF);
    events_free(events);
}

static void who_polls_is_woken_once_by_the_next_event(void **state)
{
    struct events *events = events_new(wake);
    char buffer[200];
    events_add(events, 7, "before");
    uint64_t handle = events_open(events, 7), other = events_open(events, 7);
    assert_false(events_poll(events, handle, &first_waiter)); /* what was there is not new */
    events_add(events, 8, "of another domain");
    assert_int_equal(woken, 0);
    assert_false(events_poll(events, handle, &second_waiter)); /* takes the place of the first */
    assert_int_equal(dropped, 1);
    assert_false(events_poll(events, other, &first_waiter));
    events_add(events, 7, "now");
    assert_int_equal(woken, 2);
    events_add(events, 7, "again");
    assert_int_equal(woken, 2);
    assert_true(events_poll(events, handle, NULL));
    assert_true(events_poll(events, handle, NULL)); /* until it is read */
    events_read(events, handle, 0, buffer, 10);
    assert_true(events_poll(events, handle, NULL));
    events_read(events, handle, 10, buffer, sizeof buffer);
    assert_false(events_poll(events, handle, &first_waiter));
    events_close(events, handle);
    assert_int_equal(dropped, 2);
    assert_false(events_poll(events, handle, &first_waiter)); /* not kept, and given back */
    assert_int_equal(dropped, 3);
    assert_true(events_poll(events, other, &second_waiter));
    events_free(events);
    assert_int_equal(dropped, 4);
}

static void it_is_cut_at_a_line_and_only_while_nobody_looks(void **state)
{
    struct events *events = events_new(wake);
    char line[1000], buffer[64];
    memset(line, 'x', sizeof line - 1);
    line[sizeof line - 1] = '\0';
    uint64_t handle = events_open(events, 7);
    size_t before = 0;
    for (size_t total = 0; total < EVENTS_LONG * 2; total += sizeof line) {
        events_add(events, 7, line);
        assert_true(events_size(events, 7) > before);
        before = events_size(events, 7);
    }
    events_close(events, handle);
    events_add(events, 7, line);
    assert_true(events_size(events, 7) <= before / 2 + 2 * sizeof line);
    handle = events_open(events, 7);
    events_read(events, handle, 0, buffer, sizeof buffer);
    assert_memory_equal(buffer + strlen("2026-11-21T17:00:00Z "), "xxx", 3); /* a whole line */
    for (size_t total = 0; total < EVENTS_TOO_LONG * 3; total += sizeof line) {
        events_add(events, 7, line);
        assert_true(events_size(events, 7) <= EVENTS_TOO_LONG + 2 * sizeof line);
    }
    assert_true(events_poll(events, handle, NULL));
    events_free(events);
}

/* --- removal_guard --- */

static void who_is_refused_is_refused_for_a_minute_in_that_domain(void **state)
{
    struct removal_guard *guard = removal_guard_new();
    assert_false(removal_guard_refuses(guard, 7, 100, 1000));
    removal_guard_note(guard, 7, 100, 1000);
    assert_true(removal_guard_refuses(guard, 7, 100, 1000));
    assert_true(removal_guard_refuses(guard, 7, 100, 1000 + REMOVAL_GUARD_SEC - 1));
    assert_false(removal_guard_refuses(guard, 7, 100, 1000 + REMOVAL_GUARD_SEC));
    assert_false(removal_guard_refuses(guard, 8, 100, 1000));
    assert_false(removal_guard_refuses(guard, 7, 101, 1000));
    removal_guard_note(guard, 7, 100, 1030); /* the last refusal counts */
    assert_true(removal_guard_refuses(guard, 7, 100, 1080));
    removal_guard_free(guard);
}

static void who_tries_the_mount_itself_is_refused_everywhere(void **state)
{
    struct removal_guard *guard = removal_guard_new();
    removal_guard_note(guard, 0, 100, 1000);
    assert_true(removal_guard_refuses(guard, 7, 100, 1001));
    assert_false(removal_guard_refuses(guard, 7, 101, 1001));
    removal_guard_free(guard);
}

static void it_is_bounded_and_forgets_the_oldest(void **state)
{
    struct removal_guard *guard = removal_guard_new();
    for (pid_t pid = 1; pid <= 5000; pid++)
        removal_guard_note(guard, 7, pid, 1000);
    assert_true(removal_guard_refuses(guard, 7, 5000, 1000));
    assert_true(removal_guard_refuses(guard, 7, 4000, 1000));
    assert_false(removal_guard_refuses(guard, 7, 1, 1000));
    removal_guard_free(guard);
}

static void a_thread_belongs_to_its_process(void **state)
{
    assert_int_equal(removal_guard_process(getpid()), getpid());
    assert_int_equal(removal_guard_process(gettid()), getpid());
    assert_int_equal(removal_guard_process(0), 0); /* of another pid namespace: not known */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_line_has_a_time_and_no_control_characters, reset),
        cmocka_unit_test_setup(reading_is_live, reset),
        cmocka_unit_test_setup(who_polls_is_woken_once_by_the_next_event, reset),
        cmocka_unit_test_setup(it_is_cut_at_a_line_and_only_while_nobody_looks, reset),
        cmocka_unit_test(who_is_refused_is_refused_for_a_minute_in_that_domain),
        cmocka_unit_test(who_tries_the_mount_itself_is_refused_everywhere),
        cmocka_unit_test(it_is_bounded_and_forgets_the_oldest),
        cmocka_unit_test(a_thread_belongs_to_its_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
