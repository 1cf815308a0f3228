// SPDX-License-Identifier: LGPL-2.1-or-later
/* Definitions in JSON: what is read, and what each mistake is told. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/definition.h"

static int parse(const char *text, struct definition *definition, struct error *err)
{
    return definition_parse(text, strlen(text), "file-name", definition, err);
}

static void a_whole_definition_is_read(void **state)
{
    struct definition definition = {0};
    struct error err = {0};
    int rc =
        parse("{\n"
              "  \"name\": \"web1\", \"uuid\": \"7A4C0000-1111-2222-3333-0123456789ab\",\n"
              "  \"disks\": [\n"
              "    { \"target\": \"vda\", \"source\": \"web1.qcow2\", \"format\": \"qcow2\","
              "      \"snapshot\": \"internal\", \"persistent\": true },\n"
              "    { \"target\": \"vdb\", \"source\": \"/data/d.img\", \"format\": \"raw\","
              "      \"snapshot\": \"external\", \"persistent\": false },\n"
              "    { \"target\": \"vdc\", \"source\": \"x\", \"format\": \"vhd\", \"snapshot\": \"no\" }\n"
              "  ],\n"
              "  \"qmp\": \"/run/web1.qmp\", \"agent\": \"/run/web1.qga\",\n"
              "  \"launch\": [\"qemu-system-x86_64\", \"-m\", \"512\", \"\"], \"follows\": true\n"
              "}\n",
              &definition, &err);
    if (rc < 0)
        fail_msg("%s", err.text);
    assert_string_equal(definition.name, "web1");
    assert_string_equal(definition.uuid, "7a4c0000-1111-2222-3333-0123456789ab");
    assert_int_equal(definition.disk_count, 3);
    assert_string_equal(definition.disks[0].target, "vda");
    assert_string_equal(definition.disks[0].source, "web1.qcow2");
    assert_int_equal(definition.disks[0].format, IMAGE_FORMAT_QCOW2);
    assert_int_equal(definition.disks[0].snapshot, PRESET_INTERNAL);
    assert_true(definition.disks[0].persistent);
    assert_string_equal(definition.disks[1].source, "/data/d.img");
    assert_int_equal(definition.disks[1].format, IMAGE_FORMAT_RAW);
    assert_int_equal(definition.disks[1].snapshot, PRESET_EXTERNAL);
    assert_false(definition.disks[1].persistent);
    assert_int_equal(definition.disks[2].format, IMAGE_FORMAT_VPC);
    assert_int_equal(definition.disks[2].snapshot, PRESET_NO);
    assert_true(definition.disks[2].persistent);
    assert_string_equal(definition.qmp, "/run/web1.qmp");
    assert_string_equal(definition.agent, "/run/web1.qga");
    assert_string_equal(definition.launch[0], "qemu-system-x86_64");
    assert_string_equal(definition.launch[3], "");
    assert_null(definition.launch[4]);
    assert_true(definition.follows);
    definition_done(&definition);
    assert_null(definition.name);
    definition_done(&definition);
}

static void what_is_absent_has_its_default(void **state)
{
    struct definition definition = {0};
    struct error err = {0};
    assert_int_equal(parse("{\"disks\":[{\"target\":\"vda\",\"source\":\"a.qcow2\"},"
                           "{\"target\":\"vdb\",\"source\":\"b.img\"}]}",
                           &definition, &err),
                     0);
    assert_string_equal(definition.name, "file-name");
    assert_null(definition.uuid);
    assert_null(definition.qmp);
    assert_null(definition.agent);
    assert_null(definition.launch);
    assert_false(definition.follows);
    assert_int_equal(definition.disks[0].format, IMAGE_FORMAT_QCOW2); /* by the ending */
    assert_int_equal(definition.disks[1].format, IMAGE_FORMAT_RAW);
    assert_int_equal(definition.disks[0].snapshot, PRESET_DEFAULT);
    assert_true(definition.disks[0].persistent);
    definition_done(&definition);

    assert_int_equal(parse("{}", &definition, &err), 0);
    assert_int_equal(definition.disk_count, 0);
    definition_done(&definition);
    assert_int_equal(parse(" {\"disks\":[]} \r\n", &definition, &err), 0);
    definition_done(&definition);
}

#define DISK(rest) "{\"disks\":[{\"target\":\"vda\",\"source\":\"a.qcow2\"" rest "}]}"

static void mistakes_are_told(void **state)
{
    static const struct {
        const char *text;
        int rc;
        const char *said;
    } table[] = {
        {"", -EINVAL, "line 1: "},
        {"{", -EINVAL, "line 1: "},
        {"{\n\n\"name\": web1}", -EINVAL, "line 3: "},
        {"{\"name\":\"a\",}", -EINVAL, "line 1: "},
        {"{'name':'a'}", -EINVAL, "line 1: "},
        {"{\"name\":\"a\"} {}", -EINVAL, "more after the end"},
        {"{\"name\":\"a\"}\nx", -EINVAL, "line 2: there is more"},
        {"[]", -EINVAL, "not an object"},
        {"null", -EINVAL, "not an object"},
        {"\"name\"", -EINVAL, "not an object"},
        {"{\"name\":\"\xe4\"}", -EINVAL, "line 1: "},
        {"{\"nmae\":\"a\"}", -EINVAL, "\"nmae\" is not known"},
        {"{\"Name\":\"a\"}", -EINVAL, "\"Name\" is not known"},
        {"{\"\":1}", -EINVAL, "\"\" is not known"},
        {"{\"name\":1}", -EINVAL, "\"name\" must be a name"},
        {"{\"name\":null}", -EINVAL, "\"name\" must be a name"},
        {"{\"name\":\"\"}", -EINVAL, "\"name\" must be a name"},
        {"{\"name\":\".a\"}", -EINVAL, "begins with a dot"},
        {"{\"name\":\"a/b\"}", -EINVAL, "holds a slash"},
        {"{\"name\":\"a\\u0000b\"}", -EINVAL, "\"name\" must be a name"},
        {"{\"name\":\"a\\nb\"}", -EINVAL, "control character"},
        {"{\"uuid\":\"7a4c\"}", -EINVAL, "8-4-4-4-12"},
        {"{\"uuid\":\"7a4c0000-1111-2222-3333-0123456789ag\"}", -EINVAL, "8-4-4-4-12"},
        {"{\"uuid\":\"7a4c0000-1111-2222-33330-123456789ab\"}", -EINVAL, "8-4-4-4-12"},
        {"{\"uuid\":\"7a4c0000-1111-2222-3333-0123456789abc\"}", -EINVAL, "8-4-4-4-12"},
        {"{\"uuid\":12345}", -EINVAL, "8-4-4-4-12"},
        {"{\"disks\":{}}", -EINVAL, "\"disks\" must be a list"},
        {"{\"disks\":[1]}", -EINVAL, "disk 1: must be an object"},
        {"{\"disks\":[null]}", -EINVAL, "disk 1: must be an object"},
        {"{\"disks\":[{}]}", -EINVAL, "disk 1: \"target\" is missing"},
        {"{\"disks\":[{\"target\":\"vda\"}]}", -EINVAL, "disk 1: \"source\" is missing"},
        {"{\"disks\":[{\"source\":\"a\",\"target\":\"a/b\"}]}", -EINVAL, "holds a slash"},
        {"{\"disks\":[{\"source\":\"\",\"target\":\"vda\"}]}", -EINVAL, "\"source\" must be"},
        {"{\"disks\":[{\"source\":\"a\",\"target\":\"vda\"}]}", -EINVAL, "disk 1: \"format\" is missing"},
        {"{\"disks\":[{\"source\":\"a.vmdk\",\"target\":\"vda\"}]}", -EINVAL, "\"format\" is missing"},
        {DISK(",\"format\":\"qcow3\""), -EINVAL, "\"qcow3\", which is not known"},
        {DISK(",\"format\":\"unknown\""), -EINVAL, "not known"},
        {DISK(",\"format\":null"), -EINVAL, "\"format\" must be"},
        {DISK(",\"snapshot\":\"yes\""), -EINVAL, "\"no\", \"internal\" or \"external\""},
        {DISK(",\"snapshot\":\"default\""), -EINVAL, "\"no\", \"internal\" or \"external\""},
        {DISK(",\"snapshot\":false"), -EINVAL, "\"no\", \"internal\" or \"external\""},
        {DISK(",\"persistent\":\"yes\""), -EINVAL, "true or false"},
        {DISK(",\"persistent\":1"), -EINVAL, "true or false"},
        {DISK(",\"fromat\":\"raw\""), -EINVAL, "disk 1: \"fromat\" is not known"},
        {"{\"disks\":[{\"target\":\"a\",\"source\":\"a.img\"},{\"target\":\"a\",\"source\":\"b.img\"}]}",
         -EINVAL, "two disks have the target \"a\""},
        {"{\"disks\":[{\"target\":\"a\",\"source\":\"a.img\"},{\"target\":\"b\",\"source\":\"a.img\"}]}",
         -EINVAL, "a and b have the same source"},
        {"{\"qmp\":\"run/q\"}", -EINVAL, "\"qmp\" must be an absolute path"},
        {"{\"agent\":\"run/q\"}", -EINVAL, "\"agent\" must be an absolute path"},
        {"{\"qmp\":\"/12345678901234567890123456789012345678901234567890"
         "1234567890123456789012345678901234567890123456789012345678\"}",
         -EINVAL, "longer than the path of a socket"},
        {"{\"launch\":\"qemu\"}", -EINVAL, "\"launch\" must be a list of strings"},
        {"{\"launch\":[]}", -EINVAL, "\"launch\" must be a list of strings"},
        {"{\"launch\":[\"\"]}", -EINVAL, "\"launch\" must be a list of strings"},
        {"{\"launch\":[\"qemu\",512]}", -EINVAL, "\"launch\" must be a list of strings"},
        {"{\"launch\":[\"qemu\",\"a\\u0000b\"]}", -EINVAL, "\"launch\" must be a list of strings"},
        {"{\"follows\":\"true\"}", -EINVAL, "\"follows\" must be true or false"},
        {"{\"follows\":true,\"disks\":[[[[[[[[[[]]]]]]]]]]}", -E2BIG, "nested deeper"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct definition definition = {.disk_count = 77};
        struct error err = {0};
        int rc = parse(table[i].text, &definition, &err);
        if (rc != table[i].rc || err.code != -rc)
            fail_msg("%s: %d, %s", table[i].text, rc, err.text);
        if (!strstr(err.text, table[i].said))
            fail_msg("%s: \"%s\" does not say \"%s\"", table[i].text, err.text, table[i].said);
        assert_int_equal(definition.disk_count, 77);
        assert_null(definition.name);
    }
}

static void the_name_of_the_file_must_be_legal_where_it_counts(void **state)
{
    struct definition definition = {0};
    struct error err = {0};
    assert_int_equal(definition_parse("{}", 2, ".hidden", &definition, &err), -EINVAL);
    assert_non_null(strstr(err.text, "begins with a dot"));
    assert_int_equal(definition_parse("{\"name\":\"a\"}", 12, ".hidden", &definition, &err), 0);
    definition_done(&definition);
}

static void zero_bytes_end_nothing(void **state)
{
    struct definition definition = {0};
    struct error err = {0};
    const char text[] = "{\"name\":\"a\"}\0{\"follows\":1}";
    assert_int_equal(definition_parse(text, sizeof text - 1, "x", &definition, &err), -EINVAL);
    assert_non_null(strstr(err.text, "more after the end"));
    /* Nothing is read beyond the length, terminated or not. */
    assert_int_equal(definition_parse(text, 12, "x", &definition, &err), 0);
    definition_done(&definition);
    assert_int_equal(definition_parse(text, 11, "x", &definition, &err), -EINVAL);
}

/* A list of `count` times `entry` as the value of `key`. */
static char *list_of(const char *key, const char *entry, size_t count)
{
    struct text text = {0};
    text_printf(&text, "{\"%s\":[", key);
    for (size_t i = 0; i < count; i++)
        text_printf(&text, "%s%s", i ? "," : "", entry);
    text_append_string(&text, "]}");
    return text_steal(&text);
}

static void sizes_are_bounded(void **state)
{
    struct definition definition = {0};
    struct error err = {0};
    char *spaces = malloc(DEFINITION_BYTES_MAX + 1);
    memset(spaces, ' ', DEFINITION_BYTES_MAX + 1);
    memcpy(spaces, "{}", 2);
    assert_int_equal(definition_parse(spaces, DEFINITION_BYTES_MAX + 1, "x", &definition, &err), -E2BIG);
    assert_int_equal(definition_parse(spaces, DEFINITION_BYTES_MAX, "x", &definition, &err), 0);
    definition_done(&definition);
    free(spaces);

    static const struct {
        const char *key, *entry;
        size_t count;
        const char *said;
    } table[] = {
        {"disks", "{}", 20000, "values"}, /* small in the text, large in memory */
        {"disks", "\"\\\"\",{}", 20000, "values"},
        {"disks", "{}", DOMAIN_DISKS_MAX + 1, "disks"},
        {"launch", "\"x\"", 4097, "arguments"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char *text = list_of(table[i].key, table[i].entry, table[i].count);
        assert_int_equal(parse(text, &definition, &err), -E2BIG);
        if (!strstr(err.text, table[i].said))
            fail_msg("%zu: %s", i, err.text);
        free(text);
    }
    char *text = list_of("launch", "\"{[,\"", 4096);
    assert_int_equal(parse(text, &definition, &err), 0);
    definition_done(&definition);
    free(text);

    struct text most = {0};
    for (unsigned i = 0; i < DOMAIN_DISKS_MAX; i++)
        text_printf(&most,
                    "%s{\"target\":\"vd%u\",\"source\":\"%u.img\",\"format\":\"raw\",\"snapshot\":\"no\","
                    "\"persistent\":true}",
                    i ? "," : "{\"disks\":[", i, i);
    text_append_string(&most, "]}");
    assert_int_equal(definition_parse(most.data, most.length, "x", &definition, &err), 0);
    assert_int_equal(definition.disk_count, DOMAIN_DISKS_MAX);
    definition_done(&definition);
    text_done(&most);
}

static void names_and_paths_that_are_too_long_are_refused(void **state)
{
    struct definition definition = {0};
    struct error err = {0};
    char letters[5000], text[6000];
    memset(letters, 'x', sizeof letters - 1);
    letters[sizeof letters - 1] = '\0';
    for (int length = 251; length <= 252; length++) {
        snprintf(text, sizeof text, "{\"disks\":[{\"target\":\"%.*s\",\"source\":\"a.img\"}]}", length,
                 letters);
        assert_int_equal(parse(text, &definition, &err), length == 251 ? 0 : -EINVAL);
        definition_done(&definition);
    }
    assert_non_null(strstr(err.text, "too long"));
    snprintf(text, sizeof text, "{\"disks\":[{\"target\":\"a\",\"source\":\"%s\",\"format\":\"raw\"}]}",
             letters);
    assert_int_equal(parse(text, &definition, &err), -EINVAL);
    assert_non_null(strstr(err.text, "longer than a path"));
}

/* json-c 0.18 refuses such bytes if it is strict, and is not given them. */
static void names_in_every_language_are_read(void **state)
{
    struct definition definition = {0};
    struct error err = {0};
    int rc = parse("{\"name\": \"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\\u00e9\\\\\xc3\xa9\","
                   " \"disks\": [{\"target\": \"vda\", \"source\": \"\xd0\xb4.img\", \"format\": \"raw\"}]}",
                   &definition, &err);
    if (rc < 0)
        fail_msg("%s", err.text);
    assert_string_equal(definition.name, "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xc3\xa9\\\xc3\xa9");
    assert_string_equal(definition.disks[0].source, "\xd0\xb4.img");
    definition_done(&definition);
    static const char *const wrong[] = {
        "{\"name\": \"\xc3\"}",         "{\"name\": \"\xff\"}", "{\"name\": \"\\\xc3\xa9\"}",
        "{\"name\": \xc3\xa9}",         "{\xc3\xa9: 1}",        "\xef\xbb\xbf{\"disks\": []}",
        "{\"name\": \"\xed\xa0\x80\"}",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(parse(wrong[i], &definition, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_in_every_language_are_read),
        cmocka_unit_test(a_whole_definition_is_read),
        cmocka_unit_test(what_is_absent_has_its_default),
        cmocka_unit_test(mistakes_are_told),
        cmocka_unit_test(the_name_of_the_file_must_be_legal_where_it_counts),
        cmocka_unit_test(zero_bytes_end_nothing),
        cmocka_unit_test(sizes_are_bounded),
        cmocka_unit_test(names_and_paths_that_are_too_long_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
