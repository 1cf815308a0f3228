// SPDX-License-Identifier: LGPL-2.1-or-later
/* text.h and error.h: growing, cutting, and giving away. */
#include "unit.h"

#include <errno.h>
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_grows_and_is_given_away),
        cmocka_unit_test(an_empty_text_is_an_empty_string),
        cmocka_unit_test(a_prefix_keeps_the_end_in_bounds),
        cmocka_unit_test(an_error_may_quote_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
