// SPDX-License-Identifier: LGPL-2.1-or-later
/* Which names are legal, and legal names made of any bytes. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "domain/name.h"

static void legal_names_are_taken_as_they_are(void **state)
{
    char longest[256] = "";
    for (int i = 0; i < 85; i++)
        strcat(longest, "\xe2\x82\xac");
    const char *const names[] = {
        "a",
        "web1",
        "web 1",
        "a.b",
        "a-b",
        "a~b",
        "%",
        "100%",
        "%41",
        "~",
        "\xc3\xa4",
        "\xc2\xa0",         /* U+00A0, the first after C1 */
        "\xef\xbf\xbf",     /* U+FFFF */
        "\xf4\x8f\xbf\xbf", /* U+10FFFF */
        "\xed\x9f\xbf",     /* U+D7FF, before the surrogates */
        "\\",
        "'",
        "\"",
        "*",
        "@",
        longest,
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *reason = "untouched";
        if (!name_is_legal(names[i], strlen(names[i]), &reason))
            fail_msg("%s %s", names[i], reason);
        assert_string_equal(reason, "untouched");
        char *same = name_make_legal(names[i], strlen(names[i]));
        assert_string_equal(same, names[i]);
        free(same);
    }
}

static void other_names_are_refused_with_the_reason_and_can_be_encoded(void **state)
{
    const struct {
        const char *bytes;
        size_t length;
        const char *reason, *encoded;
    } table[] = {
        {"", 0, "is empty", "%"},
        {".", 1, "begins with a dot", "%2E"},
        {"..", 2, "begins with a dot", "%2E."},
        {".a", 2, "begins with a dot", "%2Ea"},
        {"-a", 2, "begins with a hyphen", "%2Da"},
        {"--", 2, "begins with a hyphen", "%2D-"},
        {"a/b", 3, "holds a slash", "a%2Fb"},
        {"a\nb", 3, "holds a control character", "a%0Ab"},
        {"a\0b", 3, "holds a control character", "a%00b"},
        {"a\x7f", 2, "holds a control character", "a%7F"},
        {"a\xc2\x80", 3, "holds a control character", "a%C2%80"},
        {"a\xc2\x9f", 3, "holds a control character", "a%C2%9F"},
        {"\xe4", 1, "is not UTF-8", "%E4"},
        {"a\x80", 2, "is not UTF-8", "a%80"},
        {"\xc3", 1, "is not UTF-8", "%C3"},        /* cut off */
        {"\xc0\xaf", 2, "is not UTF-8", "%C0%AF"}, /* a slash, overlong */
        {"\xc1\xbf", 2, "is not UTF-8", "%C1%BF"}, /* overlong */
        {"\xe0\x80\xaf", 3, "is not UTF-8", "%E0%80%AF"},
        {"\xe0\x9f\xbf", 3, "is not UTF-8", "%E0%9F%BF"},
        {"\xf0\x8f\xbf\xbf", 4, "is not UTF-8", "%F0%8F%BF%BF"},
        {"\xed\xa0\x80", 3, "is not UTF-8", "%ED%A0%80"}, /* a surrogate */
        {"\xed\xbf\xbf", 3, "is not UTF-8", "%ED%BF%BF"},
        {"\xf4\x90\x80\x80", 4, "is not UTF-8", "%F4%90%80%80"}, /* beyond U+10FFFF */
        {"\xf5\x80\x80\x80", 4, "is not UTF-8", "%F5%80%80%80"},
        {"\xff", 1, "is not UTF-8", "%FF"},
        {"\xc3\xa4/", 3, "holds a slash", "\xc3\xa4%2F"},
        {"50%/a", 5, "holds a slash", "50%25%2Fa"}, /* only now, else 50%2Fa would mean two things */
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const char *reason = NULL;
        assert_false(name_is_legal(table[i].bytes, table[i].length, &reason));
        assert_string_equal(reason, table[i].reason);
        assert_false(name_is_legal(table[i].bytes, table[i].length, NULL));
        char *encoded = name_make_legal(table[i].bytes, table[i].length);
        assert_string_equal(encoded, table[i].encoded);
        assert_true(name_is_legal(encoded, strlen(encoded), NULL));
        free(encoded);
    }
}

static void what_is_too_long_is_cut_at_a_character(void **state)
{
    char bytes[400];
    memset(bytes, 'x', sizeof bytes);
    const char *reason;
    assert_false(name_is_legal(bytes, 256, &reason));
    assert_string_equal(reason, "is longer than 255 bytes");
    assert_true(name_is_legal(bytes, 255, NULL));
    char *name = name_make_legal(bytes, 256);
    assert_int_equal(strlen(name), 255);
    free(name);

    memcpy(bytes + 254, "\xc3\xa4", 2); /* would end at 256 */
    name = name_make_legal(bytes, sizeof bytes);
    assert_int_equal(strlen(name), 254);
    free(name);

    memcpy(bytes + 253, "/x", 2); /* an escape has three bytes, or none */
    name = name_make_legal(bytes, 254);
    assert_int_equal(strlen(name), 253);
    free(name);
    name = name_make_legal(bytes + 1, 253);
    assert_int_equal(strlen(name), 255);
    assert_string_equal(name + 252, "%2F");
    free(name);
}

static void a_suffix_keeps_the_name_legal(void **state)
{
    char *name = name_with_suffix("web1", "2");
    assert_string_equal(name, "web1~2");
    free(name);
    name = name_with_suffix("web1", "");
    assert_string_equal(name, "web1~");
    free(name);
    name = name_with_suffix("100%", "a/b");
    assert_string_equal(name, "100%~a%2Fb");
    free(name);
    name = name_with_suffix("a", ".b");
    assert_string_equal(name, "a~.b");
    free(name);

    char longest[256], suffix[1000];
    memset(longest, 'x', 255);
    longest[255] = '\0';
    memset(suffix, 's', sizeof suffix - 1);
    suffix[sizeof suffix - 1] = '\0';
    name = name_with_suffix(longest, "17");
    assert_int_equal(strlen(name), 255);
    assert_string_equal(name + 250, "xx~17");
    free(name);
    memcpy(longest + 251, "\xc3\xa4xx", 4);
    name = name_with_suffix(longest, "17");
    assert_string_equal(name + 250, "x~17"); /* half a character is none */
    free(name);
    name = name_with_suffix(longest, suffix);
    assert_int_equal(strlen(name), 255);
    assert_int_equal(strncmp(name, "xxxxxx~sss", 10), 0);
    free(name);
    /* However long it is, another end makes another name: who looks for a free one finds it. */
    char *same = name_with_suffix("a", suffix);
    suffix[sizeof suffix - 2] = 't';
    name = name_with_suffix("a", suffix);
    assert_string_not_equal(same, name);
    assert_int_equal(name[strlen(name) - 1], 't');
    free(name);
    free(same);
    memset(suffix, '/', sizeof suffix - 1);
    name = name_with_suffix("\xf4\x8f\xbf\xbf", suffix);
    assert_true(name_is_legal(name, strlen(name), NULL));
    assert_int_equal(strncmp(name, "\xf4\x8f\xbf\xbf~%2F", 8), 0);
    free(name);
}

/* The same bytes give the same name; different ones can meet ("%2F" is legal as it is), which the caller
 * sees. */
static void any_bytes_become_a_legal_name(void **state)
{
    const char *given = getenv("VMSNAPFS_SEED");
    unsigned seed = given ? (unsigned)strtoul(given, NULL, 0) : (unsigned)time(NULL);
    print_message("VMSNAPFS_SEED=%u\n", seed);
    static const char alphabet[] = {'%', '2', 'F', '/', '.', '-', '\0', '\xc2', '\x80', '\xa4', '\xf4', 'x'};
    for (int round = 0; round < 100000; round++) {
        char a[2][8];
        size_t length[2];
        char *name[2];
        for (int i = 0; i < 2; i++) {
            length[i] = (size_t)rand_r(&seed) % sizeof a[i];
            for (size_t j = 0; j < length[i]; j++)
                a[i][j] = rand_r(&seed) % 4 ? alphabet[(size_t)rand_r(&seed) % sizeof alphabet]
                                            : (char)rand_r(&seed);
            name[i] = name_make_legal(a[i], length[i]);
            assert_true(name_is_legal(name[i], strlen(name[i]), NULL));
        }
        char *suffixed = name_with_suffix(name[0], name[1]);
        assert_true(name_is_legal(suffixed, strlen(suffixed), NULL));
        free(suffixed);
        bool same = length[0] == length[1] && memcmp(a[0], a[1], length[0]) == 0;
        if (same)
            assert_string_equal(name[0], name[1]);
        free(name[0]);
        free(name[1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(legal_names_are_taken_as_they_are),
        cmocka_unit_test(other_names_are_refused_with_the_reason_and_can_be_encoded),
        cmocka_unit_test(what_is_too_long_is_cut_at_a_character),
        cmocka_unit_test(a_suffix_keeps_the_name_legal),
        cmocka_unit_test(any_bytes_become_a_legal_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
