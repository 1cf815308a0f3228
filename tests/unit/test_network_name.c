// SPDX-License-Identifier: LGPL-2.1-or-later
/* Names of disks on the network: what QEMU 7.2 takes, and what of that is refused. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "format/network_name.h"

static void protocols_are_told_by_what_stands_before_the_first_colon(void **state)
{
    const struct {
        const char *name;
        enum network_protocol protocol;
    } table[] = {
        {"a.qcow2", NETWORK_NONE},   {"/a/nbd:b", NETWORK_NONE},
        {"./nbd:b", NETWORK_NONE},   {"", NETWORK_NONE},
        {":", NETWORK_NONE},         {"web1:disk", NETWORK_NONE},
        {"file:a", NETWORK_NONE},    {"file:///a", NETWORK_NONE},
        {"json:{}", NETWORK_NONE},   {"nbd", NETWORK_NONE},
        {"nbd:", NETWORK_NBD},       {"nbd+tcp://h", NETWORK_NBD},
        {"NBD://h", NETWORK_OTHER},  {"nfs://h/a", NETWORK_OTHER},
        {"rbd:a/b", NETWORK_RBD},    {"nbd+unix://", NETWORK_NBD_UNIX},
        {"https://h", NETWORK_HTTP}, {"iscsi://h", NETWORK_ISCSI},
        {"ssh://h", NETWORK_SSH},    {"sshx://h", NETWORK_OTHER},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (network_name_protocol(table[i].name) != table[i].protocol)
            fail_msg("%s is taken for %d", table[i].name, (int)network_name_protocol(table[i].name));
}

static void names_are_taken_apart(void **state)
{
    const struct {
        const char *name;
        enum network_protocol protocol;
        const char *shown; /* NULL: the name */
        const char *label;
        const char *files[2];
    } table[] = {
        {"rbd:pool/image", NETWORK_RBD, NULL, "image", {NULL}},
        {"rbd:pool/space/image@snap", NETWORK_RBD, NULL, "image", {NULL}},
        {"rbd:pool/im\\:age:id=me:mon_host=10.0.0.1\\:6789",
         NETWORK_RBD,
         "rbd:pool/im\\:age",
         "im\\:age",
         {NULL}},
        {"rbd:pool/vm-1:conf=/etc/pve/ceph.conf:keyring=/etc/pve/k",
         NETWORK_RBD,
         "rbd:pool/vm-1",
         "vm-1",
         {"/etc/pve/ceph.conf", "/etc/pve/k"}},
        {"nbd:host:10809", NETWORK_NBD, NULL, "host:10809", {NULL}},
        {"nbd:[::1]:10809:exportname=a", NETWORK_NBD, NULL, "a", {NULL}},
        {"nbd:unix:/run/web1:exportname=", NETWORK_NBD_UNIX, NULL, "web1", {NULL}},
        {"nbd://host", NETWORK_NBD, NULL, "host", {NULL}},
        {"nbd://[::1]:10809/a/b", NETWORK_NBD, NULL, "b", {NULL}},
        {"nbd+unix:///a?socket=/run/s", NETWORK_NBD_UNIX, NULL, "a", {NULL}},
        {"nbd+unix:///?socket=/run/s", NETWORK_NBD_UNIX, NULL, "s", {NULL}},
        {"iscsi://host:3260/iqn.2000-01.com:disk/1", NETWORK_ISCSI, NULL, "iqn.2000-01.com:disk", {NULL}},
        {"ssh://user@host:22/srv/a.img?host_key_check=yes", NETWORK_SSH, NULL, "a.img", {NULL}},
        {"https://host/a/b.img?signed=17", NETWORK_HTTP, "https://host/a/b.img", "b.img", {NULL}},
        {"ftp://host/b.img", NETWORK_HTTP, NULL, "b.img", {NULL}},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct network_name parsed = {0};
        struct error err = {0};
        if (network_name_parse(table[i].name, &parsed, &err) != 0)
            fail_msg("%s: %s", table[i].name, err.text);
        assert_int_equal(parsed.protocol, table[i].protocol);
        assert_string_equal(parsed.shown, table[i].shown ? table[i].shown : table[i].name);
        assert_string_equal(parsed.label, table[i].label);
        for (size_t j = 0; j < 2; j++)
            if (table[i].files[j])
                assert_string_equal(parsed.files[j], table[i].files[j]);
            else
                assert_null(parsed.files[j]);
        network_name_done(&parsed);
    }
}

static void what_is_refused_is_refused_by_name(void **state)
{
    const struct {
        const char *name;
        int rc;
        const char *said;
    } table[] = {
        {"a.img", -EINVAL, "no protocol"},
        {"gluster://h/v/a", -EOPNOTSUPP, "\"gluster\""},
        {"nbd://h/a\nb", -EINVAL, "control character"},
        {"nbd://h/a\x7f", -EINVAL, "control character"},
        {"rbd:", -EINVAL, "empty"},
        {"rbd:pool", -EINVAL, "rbd:POOL/IMAGE"},
        {"rbd:pool/", -EINVAL, "empty"},
        {"rbd:/image", -EINVAL, "empty"},
        {"rbd:a/b/c/d", -EINVAL, "rbd:POOL"},
        {"rbd:a/b@", -EINVAL, "@"},
        {"rbd:a/@b", -EINVAL, "@"},
        {"rbd:a/b@c@d", -EINVAL, "@"},
        {"rbd:a/b:", -EINVAL, "KEY=VALUE"},
        {"rbd:a/b:id", -EINVAL, "KEY=VALUE"},
        {"rbd:a/b:id=", -EINVAL, "KEY=VALUE"},
        {"rbd:a/b:key=AQB", -EINVAL, "password"},
        {"rbd:a/b:id=a@b", -EINVAL, "@"},
        {"rbd:a/b:conf=ceph.conf", -EINVAL, "absolute"},
        {"rbd:a/b:conf=/a:conf=/b:conf=/c", -EINVAL, "twice"},
        {"rbd:a/b:log_file=/etc/passwd", -EOPNOTSUPP, "\"log_file\""},
        {"nbd:", -EINVAL, "nbd:HOST:PORT"},
        {"nbd:host", -EINVAL, "nbd:HOST:PORT"},
        {"nbd:host:0", -EINVAL, "nbd:HOST:PORT"},
        {"nbd:host:65536", -EINVAL, "nbd:HOST:PORT"},
        {"nbd:host:1x", -EINVAL, "nbd:HOST:PORT"},
        {"nbd:unix:run/s", -EINVAL, "nbd:unix:/PATH"},
        {"nbd:unix:", -EINVAL, "nbd:unix:/PATH"},
        {"nbd://", -EINVAL, "host"},
        {"nbd://:10/a", -EINVAL, "host"},
        {"nbd://h:/a", -EINVAL, "port"},
        {"nbd://[::1/a", -EINVAL, "host"},
        {"nbd://u@h/a", -EINVAL, "user"},
        {"nbd://h/a?b", -EINVAL, "options"},
        {"nbd://h/a#b", -EINVAL, "#"},
        {"nbd+unix://h/a?socket=/s", -EINVAL, "nbd+unix"},
        {"nbd+unix:///a", -EINVAL, "nbd+unix"},
        {"nbd+unix:///a?socket=s", -EINVAL, "nbd+unix"},
        {"iscsi://h/target", -EINVAL, "TARGET/LUN"},
        {"iscsi://h//1", -EINVAL, "TARGET/LUN"},
        {"iscsi://u%secret@h/t/1", -EINVAL, "password"},
        {"ssh://h", -EINVAL, "ssh://"},
        {"ssh://u:secret@h/a", -EINVAL, "password"},
        {"ssh:h/a", -EINVAL, "://"},
        {"http://u:secret@h/a", -EINVAL, "password"},
        {"http://h", -EINVAL, "path"},
        {"http://h/a:sslverify=off:", -EINVAL, "OPTION"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct network_name parsed = {.shown = (char *)"untouched"};
        struct error err = {0};
        int rc = network_name_parse(table[i].name, &parsed, &err);
        if (rc != table[i].rc || err.code != -rc || !strstr(err.text, table[i].said))
            fail_msg("%s: %d, %s", table[i].name, rc, err.text);
        assert_null(strstr(err.text, "secret"));
        assert_string_equal(parsed.shown, "untouched");
    }
}

static void the_length_is_bounded(void **state)
{
    char name[NETWORK_NAME_BYTES_MAX + 2] = "nbd://h/";
    memset(name + 8, 'a', sizeof name - 9);
    name[sizeof name - 1] = '\0';
    struct network_name parsed = {0};
    struct error err = {0};
    assert_int_equal(network_name_parse(name, &parsed, &err), -ENAMETOOLONG);
    name[sizeof name - 2] = '\0';
    assert_int_equal(network_name_parse(name, &parsed, &err), 0);
    network_name_done(&parsed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(protocols_are_told_by_what_stands_before_the_first_colon),
        cmocka_unit_test(names_are_taken_apart),
        cmocka_unit_test(what_is_refused_is_refused_by_name),
        cmocka_unit_test(the_length_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
