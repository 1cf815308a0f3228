// SPDX-License-Identifier: LGPL-2.1-or-later
/* tree.h, node.h, content.h, tree_drawing.h: the shape of the tree, over a catalog made by hand. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attributes.h"
#include "content.h"
#include "tree.h"
#include "tree_drawing.h"

/*
 * web1 has two disks and the snapshots
 *     a ── b ── c        (serials 11, 12, 13; ages in that order)
 *     └─── d             (serial 14; without vdb)
 *     r                  (serial 15)
 * and is serial 10; an empty domain is serial 20.
 */
static struct snapshot *add_snapshot(struct domain *domain, uint64_t serial, const char *name,
                                     struct snapshot *parent, size_t disks)
{
    struct snapshot *snapshot = calloc(1, sizeof *snapshot);
    snapshot->serial = serial;
    snapshot->name = strdup(name);
    snapshot->description = strdup("");
    snapshot->created.tv_sec = (time_t)(1700000000 + serial);
    snapshot->parent = parent;
    snapshot->frozen = calloc(disks, sizeof *snapshot->frozen);
    snapshot->frozen_count = disks;
    for (size_t i = 0; i < disks; i++) {
        snapshot->frozen[i].disk = &domain->disks[i];
        snapshot->frozen[i].layer = domain->layers[0];
        snapshot->frozen[i].size = 1 << 20;
        snapshot->frozen[i].allocated = ALLOCATED_UNKNOWN;
    }
    domain->snapshots[domain->snapshot_count++] = snapshot;
    return snapshot;
}

static struct domain *make_domain(void)
{
    struct domain *domain = domain_new();
    domain->serial = 10;
    domain->name = strdup("web1");
    domain->disks = calloc(2, sizeof *domain->disks);
    domain->layers = calloc(1, sizeof *domain->layers);
    domain->layers[0] = calloc(1, sizeof **domain->layers);
    domain->layers[0]->path = strdup("/images/web1.qcow2");
    domain->layers[0]->format = IMAGE_FORMAT_QCOW2;
    domain->layer_count = 1;
    for (unsigned i = 0; i < 2; i++)
        domain->disks[domain->disk_count++] = (struct disk){
            .position = i * 5, /* a disk was removed in between, once */
            .target = strdup(i ? "vdb" : "vda"),
            .source = strdup("/images/web1.qcow2"),
            .active = domain->layers[0],
            .persistent = true,
        };
    domain->snapshots = calloc(8, sizeof(struct snapshot *));
    struct snapshot *a = add_snapshot(domain, 11, "a", NULL, 2);
    struct snapshot *b = add_snapshot(domain, 12, "b", a, 2);
    domain->current = add_snapshot(domain, 13, "c", b, 2);
    add_snapshot(domain, 14, "d", a, 1);
    add_snapshot(domain, 15, "r", NULL, 2);
    assert_int_equal(domain_seal(domain), 0);
    return domain;
}

static struct domain *domains[2];
static struct catalog_entry entries[7];
static struct catalog catalog = {.domains = domains, .by_serial = entries};

static int setup(void **state)
{
    domains[1] = make_domain();
    domains[0] = domain_new();
    domains[0]->serial = 20;
    domains[0]->name = strdup("empty");
    assert_int_equal(domain_seal(domains[0]), 0);
    catalog.domain_count = 2;
    catalog.entry_count = 0;
    entries[catalog.entry_count++] = (struct catalog_entry){10, domains[1], NULL};
    for (size_t i = 0; i < domains[1]->snapshot_count; i++)
        entries[catalog.entry_count++] =
            (struct catalog_entry){domains[1]->by_serial[i]->serial, domains[1], domains[1]->by_serial[i]};
    entries[catalog.entry_count++] = (struct catalog_entry){20, domains[0], NULL};
    return 0;
}

static int teardown(void **state)
{
    domain_unref(domains[0]);
    domain_unref(domains[1]);
    return 0;
}

/* Follows a path from the root. */
static int walk(const char *path, struct place *place)
{
    char copy[256];
    snprintf(copy, sizeof copy, "%s", path);
    int result = tree_resolve(&catalog, NODE_ROOT_ID, place);
    for (char *name = strtok(copy, "/"); result == 0 && name; name = strtok(NULL, "/")) {
        struct place parent = *place;
        result = tree_lookup(&catalog, &parent, name, place);
    }
    return result;
}

struct visited {
    struct text names;
    const struct place *directory;
    unsigned count, limit;
    uint64_t next;
};

static int note(void *opaque, const char *name, const struct place *entry, uint64_t next)
{
    struct visited *visited = opaque;
    if (visited->limit && visited->count == visited->limit)
        return 1;
    visited->count++;
    visited->next = next;
    text_printf(&visited->names, "%s ", name);
    /* What is listed can be looked up, is the same thing, and knows its directory. */
    struct place found;
    assert_int_equal(tree_lookup(&catalog, visited->directory, name, &found), 0);
    assert_int_equal(found.id, entry->id);
    assert_int_equal(tree_parent(entry), visited->directory->id);
    return 0;
}

static void assert_lists(const char *path, const char *expected)
{
    struct place directory;
    assert_int_equal(walk(path, &directory), 0);
    struct visited whole = {.directory = &directory};
    assert_int_equal(tree_list(&catalog, &directory, 0, note, &whole), 0);
    assert_string_equal(whole.names.data ? whole.names.data : "", expected);
    /* The same, one entry at a time. */
    struct visited single = {.directory = &directory, .limit = 1};
    do {
        single.count = 0;
        tree_list(&catalog, &directory, single.next, note, &single);
    } while (single.count);
    assert_string_equal(single.names.data ? single.names.data : "", expected);
    text_done(&whole.names);
    text_done(&single.names);
}

static void directories_list_files_first_and_go_on_anywhere(void **state)
{
    assert_lists("", ".vmsnapfs web1 empty ");
    assert_lists(".vmsnapfs", "help log stats version ");
    assert_lists(
        "web1",
        "create defaults domain.json events last_error power state tree.txt current latest disks jobs "
        "snapshots tree ");
    assert_lists(
        "empty",
        "create defaults domain.json events last_error power state tree.txt disks jobs snapshots tree ");
    assert_lists("web1/disks", "vda vdb ");
    assert_lists("web1/disks/vdb", "abort copy format layers persistent pivot size snapshot source ");
    assert_lists("web1/snapshots", ".order a b c d r ");
    assert_lists("empty/snapshots", ".order ");
    assert_lists("web1/snapshots/d",
                 "clone consistency created delete description missing protected revert snapshot.json "
                 "snapshot.xml state unique_bytes parent children disks ");
    assert_lists("web1/snapshots/a/children", "b d ");
    assert_lists("web1/snapshots/a/disks", "vda.raw vdb.raw ");
    assert_lists("web1/snapshots/d/disks", "vda.raw ");
    assert_lists("web1/tree", "a r ");
    assert_lists("web1/tree/a", "@ b d ");
    assert_lists("web1/tree/a/b/c", "@ ");
}

static void any_number_is_a_harmless_cookie(void **state)
{
    static const uint64_t cookies[] = {1, 13, 40, 63, 64, 65, 1000, UINT64_MAX / 2, UINT64_MAX};
    static const char *const paths[] = {"",          "web1",           "web1/snapshots",
                                        "web1/tree", "web1/disks/vda", "web1/tree/a"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        for (size_t j = 0; j < sizeof cookies / sizeof *cookies; j++) {
            struct place directory;
            assert_int_equal(walk(paths[i], &directory), 0);
            struct visited visited = {.directory = &directory};
            assert_int_equal(tree_list(&catalog, &directory, cookies[j], note, &visited), 0);
            text_done(&visited.names);
        }
}

static void what_is_not_there_is_not_found(void **state)
{
    struct place place;
    static const char *const missing[] = {"x",
                                          "web1/x",
                                          "web1/snapshots/x",
                                          "web1/snapshots/a/x",
                                          "web1/tree/b",
                                          "web1/tree/a/c",
                                          "web1/snapshots/a/parent",
                                          "empty/current",
                                          "empty/latest",
                                          "web1/snapshots/d/disks/vdb.raw",
                                          "web1/snapshots/a/disks/vda",
                                          "web1/snapshots/a/disks/.raw",
                                          "web1/snapshots/a/children/c",
                                          "web1/disks/vdc"};
    for (size_t i = 0; i < sizeof missing / sizeof *missing; i++)
        assert_int_equal(walk(missing[i], &place), -ENOENT);
    assert_int_equal(walk("web1/state/x", &place), -ENOTDIR);
}

static void ids_that_stand_for_nothing_are_stale(void **state)
{
    struct place place;
    uint64_t id = 88172645463325252u;
    for (int i = 0; i < 100000; i++) {
        id ^= id << 13, id ^= id >> 7, id ^= id << 17; /* xorshift */
        int result = tree_resolve(&catalog, id, &place);
        assert_true(result == 0 || result == -ESTALE);
    }
    for (unsigned kind = 0; kind < 64; kind++)
        for (uint64_t serial = 9; serial < 22; serial++)
            for (unsigned position = 0; position < 20; position++) {
                id = node_id(kind, serial, position);
                if (tree_resolve(&catalog, id, &place) == 0) {
                    assert_int_equal(place.id, id);
                    struct stat attributes;
                    struct content_source source = {
                        .source = "/s",
                        .mountpoint = "/m",
                        .last_errors = last_errors_new(),
                        .events = events_new(NULL),
                        .controls = control_files_new(),
                    };
                    attributes_of(&(struct attribute_options){.disk_mode = 0400}, &source, &place,
                                  &attributes);
                    assert_int_equal(attributes.st_ino, id);
                    last_errors_free(source.last_errors);
                    events_free(source.events);
                    control_files_free(source.controls);
                }
            }
}

static void assert_link(const char *path, const char *expected)
{
    struct place place;
    assert_int_equal(walk(path, &place), 0);
    assert_int_equal(place.type, ENTRY_LINK);
    struct text target = {0};
    tree_link_target(&place, &target);
    assert_string_equal(target.data, expected);
    text_done(&target);
}

static void links_lead_to_snapshots(void **state)
{
    assert_link("web1/current", "snapshots/c");
    assert_link("web1/latest", "snapshots/r");
    assert_link("web1/snapshots/c/parent", "../b");
    assert_link("web1/snapshots/a/children/d", "../../d");
    assert_link("web1/tree/a/@", "../../snapshots/a");
    assert_link("web1/tree/a/b/c/@", "../../../../snapshots/c");
}

static void a_disk_that_was_not_counted_looks_almost_full(void **state)
{
    struct content_source source = {.source = "/s", .mountpoint = "/m"};
    struct attribute_options options = {.disk_mode = 0400, .directory_mode = 0755};
    struct place place;
    struct stat attributes;
    assert_int_equal(walk("web1/snapshots/a/disks/vda.raw", &place), 0);
    attributes_of(&options, &source, &place, &attributes);
    assert_int_equal(attributes.st_size, 1 << 20);
    assert_int_equal(attributes.st_blocks, (1 << 20) / 512 - 1);
    assert_int_equal(attributes.st_blksize, 1 << 20);
    assert_int_equal(attributes.st_mode, S_IFREG | 0400);
    place.frozen->allocated = 1; /* never 0 while anything is allocated */
    attributes_of(&options, &source, &place, &attributes);
    assert_int_equal(attributes.st_blocks, 1);
    place.frozen->allocated = 0;
    attributes_of(&options, &source, &place, &attributes);
    assert_int_equal(attributes.st_blocks, 0);
}

static void the_tree_is_drawn_by_age(void **state)
{
    struct text text = {0};
    tree_drawing_render(domains[1], &text);
    assert_string_equal(text.data, "web1\n"
                                   "├── a  2023-11-14 22:13:31\n"
                                   "│   ├── b  2023-11-14 22:13:32\n"
                                   "│   │   └── c  2023-11-14 22:13:33  <- current\n"
                                   "│   └── d  2023-11-14 22:13:34  1 of 2 disks\n"
                                   "└── r  2023-11-14 22:13:35\n");
    text_done(&text);
    tree_drawing_render(domains[0], &text);
    assert_string_equal(text.data, "empty\n");
    text_done(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(directories_list_files_first_and_go_on_anywhere),
        cmocka_unit_test(any_number_is_a_harmless_cookie),
        cmocka_unit_test(what_is_not_there_is_not_found),
        cmocka_unit_test(ids_that_stand_for_nothing_are_stale),
        cmocka_unit_test(links_lead_to_snapshots),
        cmocka_unit_test(a_disk_that_was_not_counted_looks_almost_full),
        cmocka_unit_test(the_tree_is_drawn_by_age),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
