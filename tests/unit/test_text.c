// SPDX-License-Identifier: LGPL-2.1-or-later
/* text.h and error.h: growing, cutting, and giving away. */
#include "unit.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text.h"

static void text_grows_and_is_given_away(void **state)
{
    struct text text = {0};
    for (int i = 0; i < 1000; i++)
        text_printf(&text, "%04d\n", i);
    assert_int_equal(text.length, 5000);
    char *data = text_steal(&text);
    assert_memory_equal(data + 4995, "0999\n", 6);
    assert_null(text.data);
    free(data);
}

static void an_empty_text_is_an_empty_string(void **state)
{
    struct text text = {0};
    char *data = text_steal(&text);
    assert_string_equal(data, "");
    free(data);
}

static void a_time_without_a_year_is_told_in_seconds(void **state)
{
    static const struct {
        time_t seconds;
        const char *told;
    } times[] = {
        {0, "1970-01-01T00:00:00"},
        {-1, "1969-12-31T23:59:59"},
        {253402300800, "10000-01-01T00:00:00"},
        {INT64_MAX, "@9223372036854775807"},
        {INT64_MIN, "@-9223372036854775808"},
    };
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        cleanup_text struct text text = {0};
        text_append_time(&text, times[i].seconds, 'T');
        assert_string_equal(text.data, times[i].told);
    }
}

static void a_prefix_keeps_the_end_in_bounds(void **state)
{
    struct error err = {0};
    char longest[ERROR_TEXT_MAX * 2];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_int_equal(error_set(&err, EINVAL, "%s", longest), -EINVAL);
    assert_int_equal(strlen(err.text), ERROR_TEXT_MAX - 1);
    assert_int_equal(error_prefix(&err, "disk %s", "vda"), -EINVAL);
    assert_int_equal(strncmp(err.text, "disk vda: xxx", 13), 0);
    assert_int_equal(strlen(err.text), ERROR_TEXT_MAX - 1);
    assert_int_equal(error_prefix(&err, "%s", longest), -EINVAL);
    assert_true(strlen(err.text) < ERROR_TEXT_MAX);
}

static void an_error_may_quote_itself(void **state)
{
    struct error err = {0};
    error_set(&err, EIO, "inner");
    error_set(&err, EIO, "outer (%s)", err.text);
    assert_string_equal(err.text, "outer (inner)");
}

static void an_error_is_one_line(void **state)
{
    struct error err = {0};
    error_set(&err, EINVAL, "\"%s\" is not known", "a\nb\x7f\tc");
    assert_string_equal(err.text, "\"a b  c\" is not known");
    error_prefix(&err, "%s", "disk\rvda");
    assert_string_equal(err.text, "disk vda: \"a b  c\" is not known");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_grows_and_is_given_away),
        cmocka_unit_test(an_empty_text_is_an_empty_string),
        cmocka_unit_test(a_time_without_a_year_is_told_in_seconds),
        cmocka_unit_test(a_prefix_keeps_the_end_in_bounds),
        cmocka_unit_test(an_error_may_quote_itself),
        cmocka_unit_test(an_error_is_one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
