// SPDX-License-Identifier: LGPL-2.1-or-later
/* command_xml.h: libvirt's <domainsnapshot> written to `create`, and that what we write as such is read. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/document.h"
#include "operation/command_document.h"
#include "operation/command_xml.h"

static struct create_command parse(const char *text)
{
    struct create_command command = {0};
    struct error err = {0};
    if (command_xml_parse(text, strlen(text), &command, &err) < 0)
        fail_msg("%s: %s", text, err.text);
    return command;
}

static void refused_bytes(const char *text, size_t length, int code, const char *says)
{
    struct create_command command = {.live = true};
    struct error err = {0};
    int rc = command_xml_parse(text, length, &command, &err);
    if (rc != -code || !strstr(err.text, says))
        fail_msg("%.200s: %d \"%s\", which says nothing of \"%s\"", text, rc, err.text, says);
    assert_true(command.live && !command.name && !command.disks); /* untouched */
}

static void refused(const char *inside, int code, const char *says)
{
    char text[1024];
    snprintf(text, sizeof text, "<domainsnapshot>%s</domainsnapshot>", inside);
    refused_bytes(text, strlen(text), code, says);
}

static void refused_disk(const char *disk, int code, const char *says)
{
    char text[512];
    snprintf(text, sizeof text, "<disks>%s</disks>", disk);
    refused(text, code, says);
}

static void everything_is_read(void **state)
{
    struct create_command c = parse(
        "<?xml version='1.0' encoding='utf-8'?>\n<!-- a -->\n<domainsnapshot>\n"
        "  <name>up\xc3\xa9 &lt;1&gt;</name>\n"
        "  <description>a\n<![CDATA[<b>]]>&#x26;&amp;</description>\n"
        "  <memory snapshot=\"external\" file='/m/r&apos;am'/>\n"
        "  <disks>\n    <disk name='vda' snapshot='no'/>\n"
        "    <disk name='vdb' snapshot='external' type='file'><driver type='qcow2'/><source file='/d/x'/>"
        "<mirror file='/d/y' format='qcow2' type='file'/></disk>\n"
        "    <disk snapshot='internal' name='vdc'></disk><?p i?>\n"
        "    <disk name='vdd'><source file='/d/z'/></disk>\n"
        "    <disk name='vde'><driver type='qcow2'/></disk>\n"
        "    <disk name='vdf'><mirror type='file'><format type='qcow2'/><source "
        "file='/d/m'/></mirror></disk>\n"
        "    <disk name='vdg' type='file'/>\n"
        "  </disks>\n</domainsnapshot>\n<!-- b -->\n");
    assert_string_equal(c.name, "up\xc3\xa9 <1>");
    assert_string_equal(c.description, "a\n<b>&&");
    assert_int_equal(c.memory, MEMORY_EXTERNAL);
    assert_string_equal(c.memory_file, "/m/r'am");
    assert_false(c.live || c.disk_only || c.reuse_external || c.paused);
    static const enum disk_choice choices[] = {DISK_NO,       DISK_EXTERNAL, DISK_INTERNAL, DISK_EXTERNAL,
                                               DISK_EXTERNAL, DISK_OMITTED,  DISK_OMITTED};
    assert_int_equal(c.disk_count, 7);
    for (size_t i = 0; i < 7; i++)
        assert_int_equal(c.disks[i].choice, choices[i]);
    assert_string_equal(c.disks[1].path, "/d/x");
    assert_string_equal(c.disks[1].mirror, "/d/y");
    assert_string_equal(c.disks[3].path, "/d/z");
    assert_null(c.disks[4].path);
    assert_string_equal(c.disks[5].mirror, "/d/m");
    create_command_done(&c);
}

static void memory_is_as_the_element_says(void **state)
{
    static const struct {
        const char *text;
        enum memory_choice memory;
    } cases[] = {
        {"<domainsnapshot/>", MEMORY_OMITTED},
        {"<domainsnapshot><memory/></domainsnapshot>", MEMORY_OMITTED},
        {"<domainsnapshot><memory snapshot='no'/></domainsnapshot>", MEMORY_NO},
        {"<domainsnapshot><memory snapshot='internal'/></domainsnapshot>", MEMORY_INTERNAL},
        {"<domainsnapshot><memory snapshot='external'/></domainsnapshot>", MEMORY_EXTERNAL},
        {"<domainsnapshot><state>running</state></domainsnapshot>", MEMORY_OMITTED},
        {"<domainsnapshot><state>disk-snapshot</state></domainsnapshot>", MEMORY_NO},
        {"<domainsnapshot><state>disk-snapshot</state><memory snapshot='internal'/></domainsnapshot>",
         MEMORY_INTERNAL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct create_command c = parse(cases[i].text);
        assert_int_equal(c.memory, cases[i].memory);
        create_command_done(&c);
    }
}

static void what_libvirt_ignores_is_ignored(void **state)
{
    struct create_command c =
        parse("<domainsnapshot><name>a</name><state>running</state><parent><name>b</name></parent>"
              "<creationTime>1270477159</creationTime><active>1</active><cookie><x:y "
              "xmlns:x='u'/></cookie>"
              "<domain type='kvm' id='3'><name>c</name>text<devices><disk/><disk/></devices></domain>"
              "<inactiveDomain><name>d</name></inactiveDomain></domainsnapshot>");
    assert_string_equal(c.name, "a");
    assert_true(!c.disks && !c.description);
    create_command_done(&c);
}

static void what_is_wrong_is_named(void **state)
{
    refused("<nam>x</nam>", EINVAL, "<nam> is not known in <domainsnapshot>; a snapshot has <name>");
    refused("<name>x</name>\n<name>y</name>", EINVAL, "line 2: <name> is there twice");
    refused("<name>x<b/></name>", EINVAL, "can have no elements");
    refused("<name a='b'>x</name>", EINVAL, "attribute a of <name>");
    refused("<name>.x</name>", EINVAL, "dot");
    refused("<name>a&#10;b</name>", EINVAL, "name");
    refused("<x:name xmlns:x='u'>x</x:name>", EINVAL, "not known");
    refused("<description>&#x7f;</description>", EINVAL, "control characters");
    refused("words", EINVAL, "there is text in <domainsnapshot>");
    refused("<disks>words</disks>", EINVAL, "there is text in <disks>");
    refused("<disks a='b'/>", EINVAL, "attribute a of <disks>");
    refused("<disks><drive/></disks>", EINVAL, "<drive> is not known in <disks>");
    refused("<memory snapshot='maybe'/>", EINVAL, "no, internal and external");
    refused("<memory snapshot='internal' file='/x'/>", EINVAL, "snapshot='external'");
    refused("<memory file='/x'/>", EINVAL, "snapshot='external'");
    refused("<memory snapshot='external' file='x'/>", EINVAL, "absolute");
    refused("<memory snapshot='no' path='/x'/>", EINVAL, "the attributes snapshot and file");
    refused("<memory><file>/x</file></memory>", EINVAL, "<file> is not known in <memory>");
    refused_disk("<disk/>", EINVAL, "has no name");
    refused_disk("<disk name=''/>", EINVAL, "target");
    refused_disk("<disk name='/src/a.qcow2'/>", EINVAL, "named by its file");
    refused_disk("<disk name='vda'/><disk name='vda'/>", EINVAL, "twice");
    refused_disk("<disk name='vda' kind='no'/>", EINVAL, "attribute kind of <disk>");
    refused_disk("<disk name='vda' snapshot='manual'/>", EOPNOTSUPP, "no, internal and external");
    refused_disk("<disk name='vda' snapshot='&#x7f;[1m'/>", EINVAL, "control characters");
    refused_disk("<disk name='vda' type='block'/>", EOPNOTSUPP, "type='block' of <disk>");
    refused_disk("<disk name='vda' snapshot='no'><source file='/x'/></disk>", EINVAL, "disk vda needs");
    refused_disk("<disk name='vda' snapshot='internal'><driver type='qcow2'/></disk>", EINVAL, "needs");
    refused_disk("<disk name='vda'><driver type='raw'/></disk>", EOPNOTSUPP, "a new overlay is qcow2");
    refused_disk("<disk name='vda'><driver><metadata_cache/></driver></disk>", EINVAL, "<metadata_cache>");
    refused_disk("<disk name='vda'><source dev='/x'/></disk>", EINVAL, "attribute dev of <source>");
    refused_disk("<disk name='vda'><source file='x'/></disk>", EINVAL, "absolute");
    refused_disk("<disk name='vda'><source file='/x'><seclabel/></source></disk>", EINVAL, "<seclabel>");
    refused_disk("<disk name='vda'><mirror/></disk>", EINVAL, "names no file");
    refused_disk("<disk name='vda'><mirror file='/x'><source file='/y'/></mirror></disk>", EINVAL,
                 "two files");
    refused_disk("<disk name='vda'><mirror file='/x' format='raw'/></disk>", EOPNOTSUPP, "qcow2");
    refused_disk("<disk name='vda' snapshot='no'><mirror file='/x'/></disk>", EINVAL, "mirror");
    refused_disk("<disk name='vda'><source file='/x'/></disk><disk name='vdb'><source file='/x'/></disk>",
                 EINVAL, "named twice");
    refused_bytes("<domain/>", 9, EINVAL, "the root element is <domain>");
    refused_bytes("<domainsnapshot xml:lang='en'/>", 31, EINVAL, "attribute lang of <domainsnapshot>");
    refused_bytes("<domainsnapshot xmlns='u'/>", 27, EINVAL, "<domainsnapshot>");
}

static void what_is_not_well_formed_is_refused(void **state)
{
    refused_bytes("", 0, EINVAL, "ends before");
    refused_bytes("<domainsnapshot>", 16, EINVAL, "ends before");
    refused_bytes("<domainsnapshot></domain>", 25, EINVAL, "line 1: ");
    refused_bytes("<domainsnapshot/><domainsnapshot/>", 34, EINVAL, "line 1: ");
    refused_bytes("<domainsnapshot/> words", 23, EINVAL, "line 1: ");
    refused_bytes("words <domainsnapshot/>", 23, EINVAL, "line 1: ");
    refused_bytes("</domainsnapshot>", 17, EINVAL, "line 1: ");
    refused_bytes("< domainsnapshot/>", 18, EINVAL, "line 1: ");
    refused("<memory snapshot=no/>", EINVAL, "line 1: ");
    refused("<memory snapshot='no' snapshot='no'/>", EINVAL, "line 1: ");
    refused("<name>&unknown;</name>", EINVAL, "line 1: ");
    refused("<name>&#0;</name>", EINVAL, "line 1: ");
    refused("<name>a & b</name>", EINVAL, "line 1: ");
    refused("\n\n<name>\x01</name>", EINVAL, "line 3: ");
    refused("\n<name>\xff</name>", EINVAL, "line 2: not UTF-8");
    refused("<name>\xed\xa0\x80</name>", EINVAL, "not UTF-8");
    refused_bytes("<domainsnapshot\0/>", 18, EINVAL, "zero byte");
    refused_bytes("\xff\xfe<\0a\0/\0>\0", 10, EINVAL, "zero byte");
    static const char other[] = "<?xml version='1.0' encoding='ISO-8859-1'?><domainsnapshot/>";
    refused_bytes(other, sizeof other - 1, EINVAL, "encoding must be UTF-8");
}

/* Of these nothing comes to the parser. */
static void document_types_and_entities_are_refused(void **state)
{
    static const char *const texts[] = {
        "<!DOCTYPE a SYSTEM 'file:///etc/passwd'><domainsnapshot/>",
        ("<!DOCTYPE a [<!ENTITY b SYSTEM "
         "'file:///etc/passwd'>]><domainsnapshot><name>&b;</name></domainsnapshot>"),
        "<!DOCTYPE a [<!ENTITY % b SYSTEM 'http://127.0.0.1/'> %b;]><domainsnapshot/>",
        "<!DOCTYPE a [<!ENTITY b 'bbbb'><!ENTITY c '&b;&b;&b;'>]><domainsnapshot>&c;</domainsnapshot>",
        "<?xml version='1.0'?><!DOCTYPE a><domainsnapshot/>",
        "<domainsnapshot><!ENTITY b 'c'></domainsnapshot>",
        "<domainsnapshot/><!DOCTYPE a>",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        refused_bytes(texts[i], strlen(texts[i]), EINVAL, "a document type");
}

static char *repeated(const char *begin, const char *middle, size_t count, const char *end, size_t *length)
{
    struct text text = {0};
    text_append_string(&text, begin);
    for (size_t i = 0; i < count; i++)
        text_append_string(&text, middle);
    text_append_string(&text, end);
    *length = text.length;
    return text_steal(&text);
}

static void limits_hold(void **state)
{
    static const struct {
        const char *begin, *middle, *end, *says;
        size_t count;
    } cases[] = {
        {"", "<a>", "", "deeper than 32", 80000},
        {"<domainsnapshot><disks>", "<disk name='vda'/>", "</disks></domainsnapshot>", "elements", 8191},
        {"<domainsnapshot ", "a='' ", "/>", "attributes", 16385},
        {"<domainsnapshot>", " ", "</domainsnapshot>", "longer than", COMMAND_DOCUMENT_BYTES_MAX},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t length;
        char *text = repeated(cases[i].begin, cases[i].middle, cases[i].count, cases[i].end, &length);
        refused_bytes(text, length, E2BIG, cases[i].says);
        free(text);
    }
    size_t length;
    char *text =
        repeated("<domainsnapshot><disks>", "<disk name='v'/>", 1025, "</disks></domainsnapshot>", &length);
    refused_bytes(text, length, EINVAL, "more than 1024 disks");
    free(text);
}

/* What document.h writes of a snapshot says the same when it is read: every disk, and always the memory. */
static void our_own_documents_are_read(void **state)
{
    struct disk disks[3] = {
        {.target = (char[]){"vda"}}, {.target = (char[]){"v'<b>"}}, {.target = (char[]){"vdc"}}};
    struct internal_snapshot internal = {0};
    struct layer layer = {.path = (char[]){"/src/web1.qcow2"}};
    struct frozen frozen[2] = {{.disk = &disks[0], .layer = &layer, .internal = &internal},
                               {.disk = &disks[1], .layer = &layer}};
    struct saved_memory memory = {.layer.path = (char[]){"/src/a & \"b\".mem"}};
    struct domain domain = {.name = (char[]){"web1"}, .uuid = (char[]){"u"}, .disks = disks, .disk_count = 3};
    struct snapshot parent = {.name = (char[]){"<parent>"}, .description = (char[]){""}};
    struct snapshot snapshot = {.name = (char[]){"a]]> & 'b' \"c\" \xc3\xa9"},
                                .description = (char[]){" line one\n\tline <two>\n\n"},
                                .parent = &parent,
                                .frozen = frozen,
                                .frozen_count = 2};
    for (enum memory_choice choice = MEMORY_NO; choice <= MEMORY_EXTERNAL; choice++) {
        snapshot.memory = choice == MEMORY_EXTERNAL ? &memory : NULL;
        snapshot.memory_size = choice == MEMORY_INTERNAL ? 4096 : 0;
        struct text text = {0};
        document_snapshot_xml(&text, &domain, &snapshot);
        struct create_command c = parse(text.data);
        assert_string_equal(c.name, snapshot.name);
        assert_string_equal(c.description, snapshot.description);
        assert_int_equal(c.memory, choice);
        if (choice == MEMORY_EXTERNAL)
            assert_string_equal(c.memory_file, memory.layer.path);
        assert_int_equal(c.disk_count, 3);
        for (size_t i = 0; i < 3; i++)
            assert_string_equal(c.disks[i].target, disks[i].target);
        assert_int_equal(c.disks[0].choice, DISK_INTERNAL);
        assert_int_equal(c.disks[1].choice, DISK_EXTERNAL);
        assert_int_equal(c.disks[2].choice, DISK_NO);
        create_command_done(&c);
        text_done(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_is_read),
        cmocka_unit_test(memory_is_as_the_element_says),
        cmocka_unit_test(what_libvirt_ignores_is_ignored),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(what_is_not_well_formed_is_refused),
        cmocka_unit_test(document_types_and_entities_are_refused),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(our_own_documents_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
