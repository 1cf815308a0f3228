// SPDX-License-Identifier: LGPL-2.1-or-later
/* domain.json, snapshot.json and snapshot.xml, byte for byte, and as parsers that are not ours see them. */
#include "unit.h"

#include <json-c/json.h>
#include <libxml/parser.h>
#include <stdlib.h>
#include <string.h>

#include "format/document.h"

static struct layer *new_layer(struct domain *domain, const char *path, struct layer *backing)
{
    struct layer *layer = calloc(1, sizeof *layer);
    layer->path = strdup(path);
    layer->format = IMAGE_FORMAT_QCOW2;
    layer->backing = backing;
    layer->size = 1 << 20;
    domain->layers = realloc(domain->layers, (domain->layer_count + 1) * sizeof(struct layer *));
    domain->layers[domain->layer_count++] = layer;
    return layer;
}

/* Two disks: vda with a chain of two and both kinds of snapshots, vdb that could not be read. */
static struct domain *new_domain(void)
{
    struct domain *domain = domain_new();
    domain->name = strdup("web1");
    domain->definition = strdup("/src/web1.json");
    domain->problem = strdup("vdb: \"b.img\" is missing");
    domain->disks = calloc(2, sizeof *domain->disks);
    domain->disk_count = 2;
    struct layer *base = new_layer(domain, "/src/web1.qcow2", NULL);
    struct layer *top = new_layer(domain, "/src/web1.snap1", base);
    top->active = true;
    top->size = 2 << 20;
    base->changed = true;
    domain->disks[0] = (struct disk){.target = strdup("vda"),
                                     .source = strdup("/src/web1.qcow2"),
                                     .format = IMAGE_FORMAT_QCOW2,
                                     .active = top,
                                     .snapshot = PRESET_INTERNAL,
                                     .persistent = true};
    domain->disks[1] = (struct disk){
        .position = 1, .target = strdup("vdb"), .source = strdup("/src/b.img"), .format = IMAGE_FORMAT_RAW};
    domain->snapshots = calloc(2, sizeof *domain->snapshots);
    domain->snapshot_count = 2;
    for (size_t i = 0; i < 2; i++) {
        struct snapshot *snapshot = calloc(1, sizeof *snapshot);
        domain->snapshots[i] = snapshot;
        snapshot->serial = i + 1;
        snapshot->name = strdup(i ? "snap1" : "clean");
        snapshot->description = strdup(i ? "" : "after \"install\"\n");
        snapshot->created = (struct timespec){.tv_sec = 1000000000 + (time_t)i, .tv_nsec = 5};
        snapshot->frozen = calloc(1, sizeof *snapshot->frozen);
        snapshot->frozen_count = 1;
        snapshot->frozen[0].disk = &domain->disks[0];
        snapshot->frozen[0].layer = base;
        snapshot->frozen[0].size = 1 << 20;
    }
    struct snapshot *clean = domain->snapshots[0], *snap1 = domain->snapshots[1];
    clean->state = SNAPSHOT_STATE_RUNNING;
    clean->consistency = CONSISTENCY_CHECKPOINT;
    clean->memory_size = 4096;
    clean->frozen[0].internal = calloc(1, sizeof(struct internal_snapshot));
    clean->frozen[0].internal->id = strdup("1");
    clean->frozen[0].internal->name = strdup("cl\xe4n");
    snap1->parent = clean;
    snap1->is_protected = true;
    domain->current = clean;
    assert_int_equal(domain_seal(domain), 0);
    return domain;
}

static const char domain_json[] = //
    "{\n"
    "  \"name\": \"web1\",\n"
    "  \"uuid\": null,\n"
    "  \"definition\": \"/src/web1.json\",\n"
    "  \"problem\": \"vdb: \\\"b.img\\\" is missing\",\n"
    "  \"current\": \"clean\",\n"
    "  \"latest\": \"snap1\",\n"
    "  \"disks\": [\n"
    "    {\n"
    "      \"target\": \"vda\",\n"
    "      \"source\": \"/src/web1.snap1\",\n"
    "      \"format\": \"qcow2\",\n"
    "      \"size\": 2097152,\n"
    "      \"snapshot\": \"internal\",\n"
    "      \"persistent\": true,\n"
    "      \"layers\": [\n"
    "        {\n"
    "          \"path\": \"/src/web1.snap1\",\n"
    "          \"format\": \"qcow2\",\n"
    "          \"size\": 2097152,\n"
    "          \"frozen\": false,\n"
    "          \"changed\": false\n"
    "        },\n"
    "        {\n"
    "          \"path\": \"/src/web1.qcow2\",\n"
    "          \"format\": \"qcow2\",\n"
    "          \"size\": 1048576,\n"
    "          \"frozen\": true,\n"
    "          \"changed\": true\n"
    "        }\n"
    "      ]\n"
    "    },\n"
    "    {\n"
    "      \"target\": \"vdb\",\n"
    "      \"source\": \"/src/b.img\",\n"
    "      \"format\": \"raw\",\n"
    "      \"size\": null,\n"
    "      \"snapshot\": \"default\",\n"
    "      \"persistent\": false,\n"
    "      \"layers\": []\n"
    "    }\n"
    "  ],\n"
    "  \"snapshots\": [\n"
    "    \"clean\",\n"
    "    \"snap1\"\n"
    "  ]\n"
    "}\n";

static const char clean_json[] = //
    "{\n"
    "  \"name\": \"clean\",\n"
    "  \"domain\": \"web1\",\n"
    "  \"created\": \"2001-09-09T01:46:40.000000005Z\",\n"
    "  \"parent\": null,\n"
    "  \"state\": \"running\",\n"
    "  \"consistency\": \"checkpoint\",\n"
    "  \"protected\": false,\n"
    "  \"description\": \"after \\\"install\\\"\\u000a\",\n"
    "  \"memory\": \"internal\",\n"
    "  \"memory_bytes\": 4096,\n"
    "  \"memory_file\": null,\n"
    "  \"memory_compression\": null,\n"
    "  \"disks\": [\n"
    "    {\n"
    "      \"target\": \"vda\",\n"
    "      \"file\": \"vda.raw\",\n"
    "      \"size\": 1048576,\n"
    "      \"kind\": \"internal\",\n"
    "      \"layer\": \"/src/web1.qcow2\",\n"
    "      \"format\": \"qcow2\",\n"
    "      \"internal_id\": \"1\",\n"
    "      \"internal_tag\": \"cl\\ufffdn\"\n"
    "    }\n"
    "  ],\n"
    "  \"missing\": [\n"
    "    \"vdb\"\n"
    "  ]\n"
    "}\n";

static const char clean_xml[] = //
    "<domainsnapshot>\n"
    "  <name>clean</name>\n"
    "  <description>after &quot;install&quot;\n"
    "</description>\n"
    "  <state>running</state>\n"
    "  <creationTime>1000000000</creationTime>\n"
    "  <memory snapshot=\"internal\"/>\n"
    "  <disks>\n"
    "    <disk name=\"vda\" snapshot=\"internal\"/>\n"
    "    <disk name=\"vdb\" snapshot=\"no\"/>\n"
    "  </disks>\n"
    "</domainsnapshot>\n";

static const char snap1_xml[] = //
    "<domainsnapshot>\n"
    "  <name>snap1</name>\n"
    "  <state>disk-snapshot</state>\n"
    "  <parent>\n"
    "    <name>clean</name>\n"
    "  </parent>\n"
    "  <creationTime>1000000001</creationTime>\n"
    "  <memory snapshot=\"no\"/>\n"
    "  <disks>\n"
    "    <disk name=\"vda\" snapshot=\"external\">\n"
    "      <driver type=\"qcow2\"/>\n"
    "    </disk>\n"
    "    <disk name=\"vdb\" snapshot=\"no\"/>\n"
    "  </disks>\n"
    "  <domain>\n"
    "    <uuid>7a4c</uuid>\n"
    "  </domain>\n"
    "</domainsnapshot>\n";

static void documents_are_these_bytes(void **state)
{
    struct domain *domain = new_domain();
    struct text text = {0};
    document_domain(&text, domain);
    assert_string_equal(text.data, domain_json);
    text_done(&text);
    document_snapshot(&text, domain, domain->snapshots[0]);
    assert_string_equal(text.data, clean_json);
    text_done(&text);
    document_snapshot_xml(&text, domain, domain->snapshots[0]);
    assert_string_equal(text.data, clean_xml);
    text_done(&text);
    domain->uuid = strdup("7a4c");
    document_snapshot_xml(&text, domain, domain->snapshots[1]);
    assert_string_equal(text.data, snap1_xml);
    text_done(&text);
    domain_unref(domain);
}

static struct json_object *parsed(struct text *text)
{
    assert_false(text->failed);
    enum json_tokener_error problem;
    struct json_object *root = json_tokener_parse_verbose(text->data, &problem);
    if (!root)
        fail_msg("%s: %s", json_tokener_error_desc(problem), text->data);
    text_done(text);
    return root;
}

static void an_external_snapshot_has_no_internal_names(void **state)
{
    struct domain *domain = new_domain();
    struct text text = {0};
    document_snapshot(&text, domain, domain->snapshots[1]);
    struct json_object *root = parsed(&text), *value;
    assert_string_equal(json_object_get_string(json_object_object_get(root, "parent")), "clean");
    assert_true(json_object_get_boolean(json_object_object_get(root, "protected")));
    assert_true(json_object_object_get_ex(root, "memory_bytes", &value));
    assert_null(value);
    struct json_object *disk = json_object_array_get_idx(json_object_object_get(root, "disks"), 0);
    assert_string_equal(json_object_get_string(json_object_object_get(disk, "kind")), "external");
    assert_true(json_object_object_get_ex(disk, "internal_id", &value));
    assert_null(value);
    assert_true(json_object_object_get_ex(disk, "internal_tag", &value));
    assert_null(value);
    json_object_put(root);
    domain_unref(domain);
}

static void an_empty_domain_is_a_document_too(void **state)
{
    struct domain *domain = domain_new();
    domain->name = strdup("empty");
    assert_int_equal(domain_seal(domain), 0);
    struct text text = {0};
    document_domain(&text, domain);
    struct json_object *root = parsed(&text);
    assert_int_equal(json_object_array_length(json_object_object_get(root, "disks")), 0);
    assert_int_equal(json_object_array_length(json_object_object_get(root, "snapshots")), 0);
    assert_null(json_object_object_get(root, "latest"));
    json_object_put(root);
    domain_unref(domain);
}

static void every_string_of_bytes_stays_valid(void **state)
{
    struct domain *domain = new_domain();
    struct snapshot *snapshot = domain->snapshots[0];
    for (unsigned byte = 1; byte < 256; byte++) {
        char tag[] = {'a', (char)byte, 'b', '\0'};
        free(snapshot->description);
        snapshot->description = strdup(tag);
        struct text text = {0};
        document_snapshot(&text, domain, snapshot);
        struct json_object *root = parsed(&text);
        const char *back = json_object_get_string(json_object_object_get(root, "description"));
        assert_string_equal(back, byte < 0x80 ? tag
                                              : "a\xef\xbf\xbd"
                                                "b");
        json_object_put(root);
    }
    domain_unref(domain);
}

/* The content of <description>, as libxml2 reads it; the caller frees. */
static xmlChar *described(struct text *text)
{
    assert_false(text->failed);
    xmlDocPtr document = xmlReadMemory(text->data, (int)text->length, NULL, NULL, XML_PARSE_NONET);
    assert_non_null(document);
    xmlNodePtr node = xmlDocGetRootElement(document)->children;
    while (node && strcmp((const char *)node->name, "description") != 0)
        node = node->next;
    assert_non_null(node);
    xmlChar *content = xmlNodeGetContent(node);
    xmlFreeDoc(document);
    text_done(text);
    return content;
}

static void every_string_of_bytes_stays_valid_in_xml(void **state)
{
    struct domain *domain = new_domain();
    struct snapshot *snapshot = domain->snapshots[0];
    for (unsigned byte = 1; byte < 256; byte++) {
        char string[] = {'a', (char)byte, 'b', '\0'};
        free(snapshot->description);
        snapshot->description = strdup(string);
        struct text text = {0};
        document_snapshot_xml(&text, domain, snapshot);
        xmlChar *back = described(&text);
        bool is_kept = (byte >= 0x20 && byte < 0x7f) || byte == '\t' || byte == '\n';
        assert_string_equal((const char *)back, is_kept ? string
                                                        : "a\xef\xbf\xbd"
                                                          "b");
        xmlFree(back);
    }
    domain_unref(domain);
}

static void a_state_is_what_libvirt_calls_it(void **state)
{
    static const struct {
        enum snapshot_state state;
        uint64_t memory_size;
        const char *shown;
    } table[] = {
        {SNAPSHOT_STATE_SHUTOFF, 0, "<state>shutoff</state>"},
        {SNAPSHOT_STATE_RUNNING, 0, "<state>disk-snapshot</state>"},
        {SNAPSHOT_STATE_UNKNOWN, 0, "<state>disk-snapshot</state>"},
        {SNAPSHOT_STATE_RUNNING, 4096, "<state>running</state>"},
        {SNAPSHOT_STATE_PAUSED, 4096, "<state>paused</state>"},
        {SNAPSHOT_STATE_UNKNOWN, 4096, NULL},
    };
    struct domain *domain = new_domain();
    struct snapshot *snapshot = domain->snapshots[0];
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        snapshot->state = table[i].state;
        snapshot->memory_size = table[i].memory_size;
        struct text text = {0};
        document_snapshot_xml(&text, domain, snapshot);
        assert_int_equal(strstr(text.data, "<state>") != NULL, table[i].shown != NULL);
        assert_true(!table[i].shown || strstr(text.data, table[i].shown));
        text_done(&text);
    }
    domain_unref(domain);
}

static void times_that_no_calendar_has_are_null(void **state)
{
    struct domain *domain = new_domain();
    struct snapshot *snapshot = domain->snapshots[0];
    const struct {
        time_t seconds;
        const char *shown;
    } table[] = {
        {-1, "1969-12-31T23:59:59.000000005Z"},
        {253402300799, "9999-12-31T23:59:59.000000005Z"},
        {253402300800, NULL},
        {INT64_MAX, NULL},
        {INT64_MIN, NULL},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        snapshot->created.tv_sec = table[i].seconds;
        struct text text = {0};
        document_snapshot(&text, domain, snapshot);
        struct json_object *root = parsed(&text);
        const char *shown = json_object_get_string(json_object_object_get(root, "created"));
        if (table[i].shown)
            assert_string_equal(shown, table[i].shown);
        else
            assert_null(shown);
        json_object_put(root);
    }
    domain_unref(domain);
}

/* What must not happen does not hang: a chain that is a loop. */
static void a_loop_of_layers_ends(void **state)
{
    struct domain *domain = new_domain();
    domain->layers[0]->backing = domain->layers[1];
    struct text text = {0};
    document_domain(&text, domain);
    struct json_object *root = parsed(&text);
    struct json_object *disk = json_object_array_get_idx(json_object_object_get(root, "disks"), 0);
    assert_int_equal(json_object_array_length(json_object_object_get(disk, "layers")), 2);
    json_object_put(root);
    domain_unref(domain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents_are_these_bytes),
        cmocka_unit_test(an_external_snapshot_has_no_internal_names),
        cmocka_unit_test(an_empty_domain_is_a_document_too),
        cmocka_unit_test(every_string_of_bytes_stays_valid),
        cmocka_unit_test(every_string_of_bytes_stays_valid_in_xml),
        cmocka_unit_test(a_state_is_what_libvirt_calls_it),
        cmocka_unit_test(times_that_no_calendar_has_are_null),
        cmocka_unit_test(a_loop_of_layers_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
