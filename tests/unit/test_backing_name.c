// SPDX-License-Identifier: LGPL-2.1-or-later
/* What images say of the files that they stand on. Which of these QEMU opens was tried with QEMU 7.2. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/backing_name.h"

struct good {
    const char *name;
    const char *format_name;
    const char *filename;
    enum image_format format;
};

static void plain_files_are_understood(void **state)
{
    const struct good table[] = {
        {"base.qcow2", NULL, "base.qcow2", IMAGE_FORMAT_UNKNOWN},
        {"base.qcow2", "qcow2", "base.qcow2", IMAGE_FORMAT_QCOW2},
        {"../a b/base", "raw", "../a b/base", IMAGE_FORMAT_RAW},
        {"/srv/base", "vmdk", "/srv/base", IMAGE_FORMAT_VMDK},
        {"base", "file", "base", IMAGE_FORMAT_RAW},
        {"base", "host_device", "base", IMAGE_FORMAT_RAW},
        {"base", "luks", "base", IMAGE_FORMAT_LUKS},
        {"file:base", NULL, "base", IMAGE_FORMAT_UNKNOWN},
        {"file:a:b", "raw", "a:b", IMAGE_FORMAT_RAW},
        {"file:///srv/base", "raw", "///srv/base", IMAGE_FORMAT_RAW},
        {"file:json:{}", "raw", "json:{}", IMAGE_FORMAT_RAW},
        {"./a:b", NULL, "./a:b", IMAGE_FORMAT_UNKNOWN},
        {"sub/nbd:b", NULL, "sub/nbd:b", IMAGE_FORMAT_UNKNOWN},
        {"json:{\"file.filename\":\"b\"}", NULL, "b", IMAGE_FORMAT_UNKNOWN},
        {"json:{\"file.filename\":\"b\"}", "qcow2", "b", IMAGE_FORMAT_QCOW2},
        {"json:{\"driver\":\"qcow2\",\"file.filename\":\"b\"}", NULL, "b", IMAGE_FORMAT_QCOW2},
        {"json: {\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"b\"}} ", NULL, "b",
         IMAGE_FORMAT_QCOW2},
        {"json:{'driver':'qcow2','file.filename':'b'}", NULL, "b", IMAGE_FORMAT_QCOW2},
        {"json:{\"file\":{\"driver\":\"file\"},\"file.filename\":\"b\"}", NULL, "b", IMAGE_FORMAT_UNKNOWN},
        {"json:{\"driver\":\"file\",\"filename\":\"b\"}", NULL, "b", IMAGE_FORMAT_RAW},
        {"json:{\"driver\":\"file\",\"filename\":\"b\"}", "file", "b", IMAGE_FORMAT_RAW},
        {"json:{\"driver\":\"host_device\",\"filename\":\"/dev/b\"}", NULL, "/dev/b", IMAGE_FORMAT_RAW},
        /* In JSON a file's name is just that: no protocol is looked for. */
        {"json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"nbd:b\"}}", NULL, "nbd:b",
         IMAGE_FORMAT_RAW},
        /* Raw passes the bytes of what is below it on. */
        {"json:{\"driver\":\"raw\",\"file\":{\"driver\":\"raw\",\"file\":{\"filename\":\"b\"}}}", NULL, "b",
         IMAGE_FORMAT_RAW},
        {"json:{\"driver\":\"raw\",\"file\":{\"driver\":\"qcow2\",\"file\":{\"filename\":\"b\"}}}", NULL, "b",
         IMAGE_FORMAT_QCOW2},
        {"json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"raw\",\"file\":{\"filename\":\"b\"}}}", NULL, "b",
         IMAGE_FORMAT_QCOW2},
        /* The format beside the name takes the place of the outermost driver. */
        {"json:{\"driver\":\"raw\",\"file\":{\"filename\":\"b\"}}", "qcow2", "b", IMAGE_FORMAT_QCOW2},
        {"json:{\"driver\":\"qcow2\",\"file\":{\"filename\":\"b\"}}", "raw", "b", IMAGE_FORMAT_RAW},
        /* Options that do not change the bytes. */
        {"json:{\"driver\":\"qcow2\",\"node-name\":\"n\",\"read-only\":true,\"l2-cache-size\":1e99,"
         "\"cache\":{\"direct\":true},\"file\":{\"driver\":\"file\",\"filename\":\"b\",\"locking\":\"off\","
         "\"aio\":\"io_uring\",\"cache.no-flush\":false}}",
         NULL, "b", IMAGE_FORMAT_QCOW2},
        {"json:{\"driver\":\"qcow2\",\"file\":{\"filename\":\"\\u00e4\\n\"}}", NULL, "\xc3\xa4\n",
         IMAGE_FORMAT_QCOW2},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct backing_name parsed = {0};
        struct error err = {0};
        int rc = backing_name_parse(table[i].name, table[i].format_name, &parsed, &err);
        if (rc != 0)
            fail_msg("%s (%s): %s", table[i].name, table[i].format_name ? table[i].format_name : "",
                     err.text);
        assert_string_equal(parsed.filename, table[i].filename);
        if (parsed.format != table[i].format)
            fail_msg("%s is taken for %s", table[i].name, image_format_name(parsed.format));
        backing_name_done(&parsed);
    }
}

static void names_on_the_network_stay_as_they_are(void **state)
{
    const struct good table[] = {
        {"nbd://host/export", NULL, "nbd://host/export", IMAGE_FORMAT_UNKNOWN},
        {"nbd:unix:/run/socket", "raw", "nbd:unix:/run/socket", IMAGE_FORMAT_RAW},
        {"http://host/a.qcow2", "qcow2", "http://host/a.qcow2", IMAGE_FORMAT_QCOW2},
        {"rbd:pool/image", "raw", "rbd:pool/image", IMAGE_FORMAT_RAW},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct backing_name parsed = {0};
        assert_int_equal(backing_name_parse(table[i].name, table[i].format_name, &parsed, NULL), 0);
        assert_true(parsed.network);
        assert_string_equal(parsed.filename, table[i].filename);
        assert_int_equal(parsed.format, table[i].format);
        backing_name_done(&parsed);
    }
}

struct bad {
    const char *name;
    const char *format_name;
    int rc;
    const char *said; /* must stand in the text */
};

static void what_is_no_plain_file_is_refused_by_name(void **state)
{
    const struct bad table[] = {
        {"", NULL, -EINVAL, "empty name"},
        {"file:", NULL, -EINVAL, "empty name"},
        {"nbd:host", NULL, -EINVAL, "nbd:HOST:PORT"},
        {"http://user:secret@host/a.qcow2", "raw", -EINVAL, "password"},
        {"nbd://host/a\nb", "raw", -EINVAL, "control character"},
        {"gluster://host/volume/a", "raw", -EOPNOTSUPP, "\"gluster:\" is a protocol"},
        {"fat:/tmp", "raw", -EOPNOTSUPP, "\"fat:\" is a protocol"},
        {"FILE:a", "raw", -EOPNOTSUPP, "\"FILE:\" is a protocol"},
        {"web1:disk.qcow2", "qcow2", -EOPNOTSUPP, "\"./web1:disk.qcow2\""},
        {":a", NULL, -EOPNOTSUPP, "protocol"},
        {"base", "nbd", -EOPNOTSUPP, "\"nbd\""},
        {"base", "", -EOPNOTSUPP, "not known"},
        {"json:", NULL, -EINVAL, "end of data"},
        {"json:{", NULL, -EINVAL, "end of data"},
        {"json:{\"file.filename\":\"b\"", NULL, -EINVAL, "end of data"},
        {"json:{\"file.filename\":\"b\"} x", NULL, -EINVAL, "more after the end"},
        {"json:{\"file.filename\":\"b\"}{}", NULL, -EINVAL, "more after the end"},
        {"json:[]", NULL, -EINVAL, "not an object"},
        {"json:null", NULL, -EINVAL, "not an object"},
        {"json:99999999999999999999999999", NULL, -EINVAL, "not an object"},
        {"json:-", NULL, -EINVAL, "json: name"},
        {"json:{}", NULL, -EINVAL, "no \"file.filename\""},
        {"json:{}", "qcow2", -EINVAL, "no \"file.filename\""},
        {"json:{\"file\":{}}", "qcow2", -EINVAL, "no \"file.filename\""},
        {"json:{\"driver\":\"file\"}", NULL, -EINVAL, "no \"filename\""},
        {"json:{\"file.filename\":\"\"}", NULL, -EINVAL, "empty"},
        {"json:{\"file.filename\":\"a\\u0000b\"}", NULL, -EINVAL, "no string"},
        {"json:{\"file.filename\":17}", NULL, -EINVAL, "no string"},
        {"json:{\"file.filename\":null}", NULL, -EINVAL, "no string"},
        {"json:{\"driver\":true,\"file.filename\":\"b\"}", NULL, -EINVAL, "no string"},
        {"json:{\"driver\":\"nbd\",\"host\":\"h\"}", NULL, -EOPNOTSUPP, "\"nbd\""},
        {"json:{\"driver\":\"null-co\",\"size\":1}", NULL, -EOPNOTSUPP, "\"null-co\""},
        {"json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"http\",\"url\":\"http://h/\"}}", NULL,
         -EOPNOTSUPP, "\"http\""},
        {"json:{\"driver\":\"quorum\",\"children\":[]}", NULL, -EOPNOTSUPP, "\"quorum\""},
        {"json:{\"driver\":\"file\",\"filename\":\"b\"}", "qcow2", -EOPNOTSUPP, "\"filename\""},
        {"json:{\"filename\":\"b\"}", NULL, -EOPNOTSUPP, "\"filename\""},
        {"json:{\"driver\":\"qcow2\",\"file\":\"node\"}", NULL, -EOPNOTSUPP, "\"file\""},
        {"json:{\"driver\":\"raw\",\"offset\":512,\"file.filename\":\"b\"}", NULL, -EOPNOTSUPP, "\"offset\""},
        {"json:{\"driver\":\"raw\",\"size\":18446744073709551616,\"file.filename\":\"b\"}", NULL, -EOPNOTSUPP,
         "\"size\""},
        {"json:{\"driver\":\"qcow2\",\"backing\":null,\"file.filename\":\"b\"}", NULL, -EOPNOTSUPP,
         "\"backing\""},
        {"json:{\"driver\":\"qcow2\",\"backing.file.filename\":\"c\",\"file.filename\":\"b\"}", NULL,
         -EOPNOTSUPP, "\"backing.file.filename\""},
        {"json:{\"driver\":\"qcow2\",\"data-file\":{\"filename\":\"c\"},\"file.filename\":\"b\"}", NULL,
         -EOPNOTSUPP, "\"data-file.filename\""},
        {"json:{\"driver\":\"qcow2\",\"encrypt.format\":\"luks\",\"file.filename\":\"b\"}", NULL, -EOPNOTSUPP,
         "\"encrypt.format\""},
        {"json:{\"driver\":\"qcow2\",\"file\":{\"filename\":\"b\"},\"file.filename\":\"c\"}", NULL, -EINVAL,
         "twice"},
        {"json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"qcow2\",\"file\":{\"filename\":\"b\"}}}", NULL,
         -EOPNOTSUPP, "qcow2 into qcow2"},
        {"json:{\"driver\":\"raw\",\"file\":{\"driver\":\"qcow2\",\"file\":{\"filename\":\"b\"}}}", "qcow2",
         -EOPNOTSUPP, "qcow2 into qcow2"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct backing_name parsed = {.filename = (char *)"untouched"};
        struct error err = {0};
        int rc = backing_name_parse(table[i].name, table[i].format_name, &parsed, &err);
        if (rc != table[i].rc || err.code != -rc)
            fail_msg("%s: %d, %s", table[i].name, rc, err.text);
        if (!strstr(err.text, table[i].said))
            fail_msg("%s: \"%s\" does not say %s", table[i].name, err.text, table[i].said);
        assert_string_equal(parsed.filename, "untouched");
    }
}

static void depth_size_and_number_of_keys_are_bounded(void **state)
{
    struct backing_name parsed = {0};
    struct error err = {0};

    char deep[4096] = "json:";
    for (int i = 0; i < 300; i++)
        strcat(deep, "{\"file\":");
    assert_int_equal(backing_name_parse(deep, NULL, &parsed, &err), -E2BIG);
    strcpy(deep, "json:");
    for (int i = 0; i < 300; i++)
        strcat(deep, "[");
    assert_int_equal(backing_name_parse(deep, NULL, &parsed, &err), -E2BIG);

    /* The same depth without nesting: nodes below nodes, in one key. */
    strcpy(deep, "json:{\"driver\":\"raw\"");
    char prefix[256] = "file.";
    for (int i = 0; i < 20; i++, strcat(prefix, "file."))
        sprintf(deep + strlen(deep), ",\"%sdriver\":\"raw\"", prefix);
    strcat(deep, "}");
    assert_int_equal(backing_name_parse(deep, NULL, &parsed, &err), -EINVAL);
    assert_non_null(strstr(err.text, "deeper"));

    char many[8192] = "json:{\"file.filename\":\"b\"";
    for (int i = 0; i < BACKING_NAME_KEYS_MAX; i++)
        sprintf(many + strlen(many), ",\"cache.%d\":1", i);
    strcat(many, "}");
    assert_int_equal(backing_name_parse(many, NULL, &parsed, &err), -EINVAL);
    assert_non_null(strstr(err.text, "keys"));

    char nested[8192] = "json:{\"file.filename\":\"b\"";
    for (int i = 0; i < BACKING_NAME_KEYS_MAX; i++)
        sprintf(nested + strlen(nested), ",\"cache%d\":{}", i);
    strcat(nested, "}");
    assert_int_equal(backing_name_parse(nested, NULL, &parsed, &err), -EINVAL);
    assert_non_null(strstr(err.text, "keys"));

    char key[1024] = "json:{\"";
    memset(key + strlen(key), 'k', 500);
    strcat(key, "\":1}");
    assert_int_equal(backing_name_parse(key, NULL, &parsed, &err), -EINVAL);
    assert_non_null(strstr(err.text, "key"));

    char *longest = malloc(BACKING_NAME_BYTES_MAX + 2);
    memset(longest, 'x', BACKING_NAME_BYTES_MAX + 1);
    longest[BACKING_NAME_BYTES_MAX + 1] = '\0';
    assert_int_equal(backing_name_parse(longest, NULL, &parsed, &err), -ENAMETOOLONG);
    longest[BACKING_NAME_BYTES_MAX] = '\0';
    assert_int_equal(backing_name_parse(longest, NULL, &parsed, &err), 0);
    backing_name_done(&parsed);
    free(longest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_files_are_understood),
        cmocka_unit_test(names_on_the_network_stay_as_they_are),
        cmocka_unit_test(what_is_no_plain_file_is_refused_by_name),
        cmocka_unit_test(depth_size_and_number_of_keys_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
