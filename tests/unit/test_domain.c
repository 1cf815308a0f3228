// SPDX-License-Identifier: LGPL-2.1-or-later
/* Domains and what they own: orders, the tree, looking up, references. Leaks are the sanitizers' to find. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "domain/domain.h"

static struct snapshot *add_snapshot(struct domain *domain, const char *name, uint64_t serial, time_t sec,
                                     long nsec)
{
    struct snapshot *snapshot = calloc(1, sizeof *snapshot);
    snapshot->name = strdup(name);
    snapshot->description = strdup("");
    snapshot->serial = serial;
    snapshot->created = (struct timespec){.tv_sec = sec, .tv_nsec = nsec};
    domain->snapshots = realloc(domain->snapshots, (domain->snapshot_count + 1) * sizeof(struct snapshot *));
    domain->snapshots[domain->snapshot_count++] = snapshot;
    return snapshot;
}

static void an_empty_domain_has_nothing(void **state)
{
    struct domain *domain = domain_new();
    assert_int_equal(domain_seal(domain), 0);
    assert_null(domain->latest);
    assert_null(domain_find_snapshot(domain, "a"));
    assert_null(domain_find_disk(domain, "vda"));
    domain_unref(domain);
    domain_unref(NULL);
    internal_snapshot_free(NULL);
}

static void snapshots_are_sorted_by_age_and_then_serial(void **state)
{
    struct domain *domain = domain_new();
    add_snapshot(domain, "d", 9, 20, 5);
    add_snapshot(domain, "b", 3, 10, 0);
    add_snapshot(domain, "c", 2, 20, 4);
    add_snapshot(domain, "a", 1, 20, 5);
    add_snapshot(domain, "z", 7, -1, 999999999);
    assert_int_equal(domain_seal(domain), 0);
    const char *const by_age[] = {"z", "b", "c", "a", "d"};
    const char *const by_name[] = {"a", "b", "c", "d", "z"};
    const char *const by_serial[] = {"a", "c", "b", "z", "d"};
    for (size_t i = 0; i < 5; i++) {
        assert_string_equal(domain->snapshots[i]->name, by_age[i]);
        assert_string_equal(domain->by_name[i]->name, by_name[i]);
        assert_string_equal(domain->by_serial[i]->name, by_serial[i]);
    }
    assert_string_equal(domain->latest->name, "d");
    /* Sealing again changes nothing and loses nothing. */
    assert_int_equal(domain_seal(domain), 0);
    assert_string_equal(domain->latest->name, "d");
    domain_unref(domain);
}

static void children_are_those_that_name_the_parent(void **state)
{
    struct domain *domain = domain_new();
    struct snapshot *root = add_snapshot(domain, "root", 1, 1, 0);
    struct snapshot *late = add_snapshot(domain, "late", 2, 9, 0);
    struct snapshot *early = add_snapshot(domain, "early", 3, 2, 0);
    struct snapshot *leaf = add_snapshot(domain, "leaf", 4, 3, 0);
    late->parent = root;
    early->parent = root;
    leaf->parent = early;
    for (int again = 0; again < 2; again++) {
        assert_int_equal(domain_seal(domain), 0);
        assert_int_equal(root->child_count, 2);
        assert_ptr_equal(root->children[0], late); /* by serial */
        assert_ptr_equal(root->children[1], early);
        assert_int_equal(early->child_count, 1);
        assert_ptr_equal(early->children[0], leaf);
        assert_int_equal(leaf->child_count, 0);
        assert_int_equal(late->child_count, 0);
    }
    leaf->parent = NULL;
    assert_int_equal(domain_seal(domain), 0);
    assert_int_equal(early->child_count, 0);
    assert_null(early->children);
    domain_unref(domain);
}

static void two_snapshots_of_one_name_are_refused(void **state)
{
    struct domain *domain = domain_new();
    add_snapshot(domain, "a", 1, 1, 0);
    add_snapshot(domain, "b", 2, 2, 0);
    add_snapshot(domain, "a", 3, 3, 0);
    assert_int_equal(domain_seal(domain), -EEXIST);
    domain_unref(domain);
}

static void every_snapshot_is_found_by_its_name(void **state)
{
    struct domain *domain = domain_new();
    char name[16];
    for (unsigned i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "s%u", i * 7919 % 1000);
        add_snapshot(domain, name, i + 1, (time_t)i, 0);
    }
    assert_int_equal(domain_seal(domain), 0);
    for (unsigned i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "s%u", i);
        struct snapshot *found = domain_find_snapshot(domain, name);
        assert_non_null(found);
        assert_string_equal(found->name, name);
    }
    assert_null(domain_find_snapshot(domain, ""));
    assert_null(domain_find_snapshot(domain, "s"));
    assert_null(domain_find_snapshot(domain, "s1000"));
    assert_null(domain_find_snapshot(domain, "t"));
    domain_unref(domain);
}

static struct internal_snapshot *new_internal(const char *id)
{
    struct internal_snapshot *internal = calloc(1, sizeof *internal);
    internal->id = strdup(id);
    internal->name = strdup("tag");
    return internal;
}

static void disks_and_what_is_frozen_of_them_are_found(void **state)
{
    struct domain *domain = domain_new();
    domain->disks = calloc(2, sizeof *domain->disks);
    domain->disk_count = 2;
    domain->disks[0].target = strdup("vda");
    domain->disks[1].target = strdup("vdb");
    domain->layers = calloc(1, sizeof *domain->layers);
    domain->layer_count = 1;
    domain->layers[0] = calloc(1, sizeof *domain->layers[0]);
    domain->layers[0]->path = strdup("/src/a.qcow2");
    domain->named_files = calloc(2, sizeof *domain->named_files);
    domain->named_files[0] = strdup("/dev/a");
    struct snapshot *snapshot = add_snapshot(domain, "a", 1, 1, 0);
    snapshot->frozen = calloc(1, sizeof *snapshot->frozen);
    snapshot->frozen_count = 1;
    snapshot->frozen[0].disk = &domain->disks[1];
    snapshot->frozen[0].layer = domain->layers[0];
    snapshot->frozen[0].internal = new_internal("1");
    assert_int_equal(domain_seal(domain), 0);
    assert_ptr_equal(domain_find_disk(domain, "vda"), &domain->disks[0]);
    assert_ptr_equal(domain_find_disk(domain, "vdb"), &domain->disks[1]);
    assert_null(domain_find_disk(domain, "vd"));
    assert_ptr_equal(snapshot_find_frozen(snapshot, &domain->disks[1]), &snapshot->frozen[0]);
    assert_null(snapshot_find_frozen(snapshot, &domain->disks[0]));
    /* The last reference frees it, not the first. */
    assert_ptr_equal(domain_ref(domain), domain);
    domain_unref(domain);
    assert_string_equal(domain->snapshots[0]->name, "a");
    domain_unref(domain);
}

/* Each field for itself makes another entry of it: a table slot that was used again must never pass for the
 * old one. */
static void an_internal_snapshot_is_the_same_only_if_all_of_it_is(void **state)
{
    struct internal_snapshot *a = new_internal("1"), *b = new_internal("1");
    assert_true(internal_snapshot_equal(a, b));
#define differs(change, back)                                                                                \
    change;                                                                                                  \
    assert_false(internal_snapshot_equal(a, b));                                                             \
    back;                                                                                                    \
    assert_true(internal_snapshot_equal(a, b))
    differs(b->id[0] = '2', b->id[0] = '1');
    differs(b->name[0] = 'T', b->name[0] = 't');
    differs(b->l1_table_offset++, b->l1_table_offset--);
    differs(b->l1_size++, b->l1_size--);
    differs(b->date_sec++, b->date_sec--);
    differs(b->date_nsec++, b->date_nsec--);
    differs(b->vm_clock_nsec++, b->vm_clock_nsec--);
    differs(b->vm_state_size++, b->vm_state_size--);
    differs(b->disk_size++, b->disk_size--);
#undef differs
    internal_snapshot_free(a);
    internal_snapshot_free(b);
}

static void words_are_those_of_the_tree(void **state)
{
    assert_string_equal(snapshot_state_name(SNAPSHOT_STATE_UNKNOWN), "unknown");
    assert_string_equal(snapshot_state_name(SNAPSHOT_STATE_RUNNING), "running");
    assert_string_equal(snapshot_state_name(SNAPSHOT_STATE_PAUSED), "paused");
    assert_string_equal(snapshot_state_name(SNAPSHOT_STATE_SHUTOFF), "shutoff");
    assert_string_equal(consistency_name(CONSISTENCY_CRASH), "crash");
    assert_string_equal(consistency_name(CONSISTENCY_CLEAN), "clean");
    assert_string_equal(consistency_name(CONSISTENCY_QUIESCED), "quiesced");
    assert_string_equal(consistency_name(CONSISTENCY_CHECKPOINT), "checkpoint");
    assert_string_equal(snapshot_preset_name(PRESET_DEFAULT), "default");
    assert_string_equal(snapshot_preset_name(PRESET_NO), "no");
    assert_string_equal(snapshot_preset_name(PRESET_INTERNAL), "internal");
    assert_string_equal(snapshot_preset_name(PRESET_EXTERNAL), "external");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_domain_has_nothing),
        cmocka_unit_test(snapshots_are_sorted_by_age_and_then_serial),
        cmocka_unit_test(children_are_those_that_name_the_parent),
        cmocka_unit_test(two_snapshots_of_one_name_are_refused),
        cmocka_unit_test(every_snapshot_is_found_by_its_name),
        cmocka_unit_test(disks_and_what_is_frozen_of_them_are_found),
        cmocka_unit_test(an_internal_snapshot_is_the_same_only_if_all_of_it_is),
        cmocka_unit_test(words_are_those_of_the_tree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
