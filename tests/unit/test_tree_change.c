// SPDX-License-Identifier: LGPL-2.1-or-later
/* What each operation does to the snapshots of a domain: every rule of delete, with small trees. */
#include "small_tree.h"

/* a with the children b and c; b with the child d. The present descends from c. All external. */
static void start_fork(struct world *world)
{
    world_start(world);
    create(world, "a", DISK_EXTERNAL);
    create(world, "b", DISK_EXTERNAL);
    create(world, "d", DISK_EXTERNAL);
    revert(world, "a");
    create(world, "c", DISK_EXTERNAL);
    assert_string_equal(drawing(world), "a(b(d) c)*c");
}

static void creating_freezes_or_marks_the_active_layer(void **state)
{
    struct world w;
    world_start(&w);
    create(&w, "a", DISK_INTERNAL);
    assert_int_equal(active_of(&w), w.original);
    assert_int_equal(layer_of(&w, "a"), w.original);
    assert_int_not_equal(snapshot_of(&w, "a")->contents[0].internal, 0);
    create(&w, "b", DISK_EXTERNAL);
    assert_int_equal(layer_of(&w, "b"), w.original);
    assert_int_equal(snapshot_of(&w, "b")->contents[0].internal, 0);
    assert_int_equal(node_of(&w, active_of(&w))->backing, w.original);
    assert_true(node_of(&w, active_of(&w))->made_by_us);
    assert_string_equal(drawing(&w), "a(b)*b");

    struct error err;
    struct tree_part parts[] = {{.disk = 0, .kind = DISK_INTERNAL}, {.disk = 0, .kind = DISK_NO}};
    const struct {
        const char *name;
        size_t count;
        int code;
    } refused[] = {{"a", 1, EEXIST}, {".x", 1, EINVAL}, {"x", 0, EINVAL}, {"x", 2, EINVAL}};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        assert_int_equal(
            tree_create(&w.tree, &w.layers, 99, refused[i].name, false, parts, refused[i].count, &err),
            -refused[i].code);
        assert_string_equal(drawing(&w), "a(b)*b");
    }
    assert_int_equal(tree_create(&w.tree, &w.layers, 2, "x", false, parts, 1, &err), -EINVAL);
    parts[0].disk = 5;
    assert_int_equal(tree_create(&w.tree, &w.layers, 99, "x", false, parts, 1, &err), -ENOENT);
    parts[0] = (struct tree_part){.disk = 0, .kind = DISK_NO};
    assert_int_equal(tree_create(&w.tree, &w.layers, 99, "x", false, parts, 1, &err), -EINVAL);
    assert_int_equal(tree_create(&w.tree, &w.layers, 99, "x", true, parts, 1, &err), 0); /* its memory */
    parts[0].kind = DISK_EXTERNAL;
    w.tree.may_switch_files = false;
    assert_int_equal(tree_create(&w.tree, &w.layers, 100, "y", false, parts, 1, &err), -EPERM);
    assert_non_null(strstr(err.text, "follows"));
    world_end(&w);
}

static void files_that_were_backing_files_already_are_never_written(void **state)
{
    struct world w = {.tree = {.domain = DOMAIN, .may_switch_files = true}};
    uint64_t base, top, internal;
    assert_int_equal(layer_set_add(&w.layers, 0, false, &base), 0);
    assert_int_equal(layer_set_add_internal(&w.layers, base, &internal), 0);
    assert_int_equal(layer_set_add(&w.layers, base, false, &top), 0);
    /* Whoever asks for it: something lies on top of it. */
    assert_false(layer_set_administer(&w.layers, base, DOMAIN, 0));
    assert_false(layer_may_be_written(node_of(&w, base)));
    assert_false(layer_may_be_unlinked(node_of(&w, base)));
    assert_true(layer_set_administer(&w.layers, top, DOMAIN, 0));
    assert_false(layer_set_administer(&w.layers, top, DOMAIN + 1, 0)); /* another domain's first file */
    assert_true(layer_may_be_written(node_of(&w, top)));
    assert_false(layer_may_be_unlinked(node_of(&w, top)));
    node_of(&w, top)->changed = true;
    assert_false(layer_may_be_written(node_of(&w, top)));

    assert_int_equal(tree_add_disk(&w.tree, 0, "vda", base), 0);
    struct error err;
    struct tree_part part = {.disk = 0, .kind = DISK_INTERNAL};
    assert_int_equal(tree_create(&w.tree, &w.layers, 1, "x", false, &part, 1, &err), -EPERM);
    /* A snapshot that others made inside of it can't be deleted either, only forgotten by who made it. */
    struct content content = {.disk = 0, .layer = base, .internal = internal};
    struct tree_snapshot foreign = {
        .serial = 1, .name = (char[]){"f"}, .contents = &content, .content_count = 1};
    assert_int_equal(tree_add_snapshot(&w.tree, &foreign), 0);
    delete_refused(&w, "f", DELETE_ONE, EPERM, "never writes");
    /* An overlay of the user's that was reused is no file of ours. */
    part = (struct tree_part){.disk = 0, .kind = DISK_EXTERNAL, .reused = true};
    assert_int_equal(tree_create(&w.tree, &w.layers, 2, "r", false, &part, 1, &err), 0);
    assert_false(layer_may_be_written(node_of(&w, active_of(&w))));
    assert_false(layer_may_be_unlinked(node_of(&w, active_of(&w))));
    world_end(&w);
}

static void renaming_replaces_nothing(void **state)
{
    struct world w;
    start_fork(&w);
    struct error err;
    uint64_t b = serial_of(&w, "b");
    assert_int_equal(tree_rename(&w.tree, b, "x", &err), 0);
    assert_int_equal(tree_rename(&w.tree, b, "x", &err), 0);
    assert_string_equal(drawing(&w), "a(x(d) c)*c");
    assert_int_equal(tree_rename(&w.tree, b, "c", &err), -EPERM);
    assert_int_equal(tree_rename(&w.tree, b, "-", &err), -EINVAL);
    assert_int_equal(tree_rename(&w.tree, 99, "y", &err), -ENOENT);
    assert_string_equal(drawing(&w), "a(x(d) c)*c");
    world_end(&w);
}

static void delete_hands_the_children_to_the_parent(void **state)
{
    struct world w;
    start_fork(&w);
    uint64_t active = active_of(&w), content = layer_of(&w, "d");
    delete_ok(&w, "b", DELETE_ONE);
    assert_string_equal(drawing(&w), "a(d c)*c");
    assert_int_equal(layer_of(&w, "d"), content);
    delete_ok(&w, "a", DELETE_ONE);
    assert_string_equal(drawing(&w), "d c*c");
    delete_ok(&w, "c", DELETE_ONE); /* a root that is current */
    assert_string_equal(drawing(&w), "d*");
    assert_int_equal(active_of(&w), active);
    delete_ok(&w, "d", DELETE_ONE);
    assert_string_equal(drawing(&w), "*");
    world_end(&w);
}

static void deleting_the_current_one_makes_the_nearest_ancestor_current(void **state)
{
    struct world w;
    start_fork(&w);
    uint64_t active = active_of(&w);
    delete_ok(&w, "c", DELETE_ONE);
    assert_string_equal(drawing(&w), "a(b(d))*a");
    assert_int_equal(active_of(&w), active);
    revert(&w, "d");
    delete_ok(&w, "b", DELETE_CHILDREN);
    assert_string_equal(drawing(&w), "a*a");
    world_end(&w);

    start_fork(&w);
    revert(&w, "d");
    delete_ok(&w, "a", DELETE_CHILDREN_ONLY);
    assert_string_equal(drawing(&w), "a*a");
    world_end(&w);

    start_fork(&w);
    delete_ok(&w, "b", DELETE_CHILDREN_ONLY);
    assert_string_equal(drawing(&w), "a(b c)*c");
    delete_ok(&w, "c", DELETE_CHILDREN_ONLY); /* has none */
    delete_ok(&w, "a", DELETE_CHILDREN);
    assert_string_equal(drawing(&w), "*");
    world_end(&w);
}

static void merge_gives_the_parent_the_snapshots_state(void **state)
{
    struct world w;
    start_fork(&w);
    delete_refused(&w, "a", DELETE_MERGE, EINVAL, "no parent");
    delete_refused(&w, "a", DELETE_MERGE_FORCE, EINVAL, "no parent");
    delete_refused(&w, "b", DELETE_MERGE, ENOTEMPTY, "other children");
    uint64_t content = layer_of(&w, "d");
    snapshot_of(&w, "d")->has_memory = true;
    delete_ok(&w, "d", DELETE_MERGE);
    assert_string_equal(drawing(&w), "a(b c)*c");
    assert_int_equal(layer_of(&w, "b"), content);
    assert_true(snapshot_of(&w, "b")->has_memory);
    world_end(&w);

    /* Its children become the parent's, and where it is current, the parent becomes so. */
    world_start(&w);
    create(&w, "a", DISK_EXTERNAL);
    create(&w, "b", DISK_EXTERNAL);
    create(&w, "c", DISK_EXTERNAL);
    content = layer_of(&w, "b");
    delete_ok(&w, "b", DELETE_MERGE);
    assert_string_equal(drawing(&w), "a(c)*c");
    assert_int_equal(layer_of(&w, "a"), content);
    uint64_t active = active_of(&w);
    w.tree.is_active = true; /* nothing of the present changes */
    delete_ok(&w, "c", DELETE_MERGE);
    assert_string_equal(drawing(&w), "a*a");
    assert_int_equal(active_of(&w), active);
    world_end(&w);
}

static void the_present_state_is_a_child_of_the_current_snapshot(void **state)
{
    struct world w;
    world_start(&w);
    create(&w, "a", DISK_EXTERNAL);
    create(&w, "b", DISK_EXTERNAL);
    revert(&w, "a");
    assert_string_equal(drawing(&w), "a(b)*a");
    delete_refused(&w, "b", DELETE_MERGE, ENOTEMPTY, "is current");
    w.tree.is_active = true;
    delete_refused(&w, "b", DELETE_MERGE_FORCE, EBUSY, "shut it down");
    w.tree.is_active = false;
    uint64_t content = layer_of(&w, "b");
    struct tree_deletion deletion;
    struct error err;
    assert_int_equal(delete_as(&w, "b", DELETE_MERGE_FORCE, &deletion, &err), 0);
    assert_true(deletion.reverts);
    assert_int_equal(deletion.merged_into, serial_of(&w, "a"));
    assert_int_equal(deletion.gone_count, 1);
    assert_int_equal(deletion.gone[0], deletion.merged_from);
    assert_int_equal(deletion.reversion.disks[0].how, REVERT_OVERLAY);
    tree_deletion_done(&deletion);
    assert_string_equal(drawing(&w), "a*a");
    assert_int_equal(layer_of(&w, "a"), content);
    assert_int_equal(node_of(&w, active_of(&w))->backing, content);

    delete_refused(&w, "a", DELETE_DISCARD, EBUSY, "is current");
    world_end(&w);
}

static void merge_force_discards_the_other_branches(void **state)
{
    struct world w;
    start_fork(&w); /* the present descends from c, which goes */
    uint64_t content = layer_of(&w, "b");
    w.tree.is_active = true;
    delete_refused(&w, "b", DELETE_MERGE_FORCE, EBUSY, "active");
    w.tree.is_active = false;
    delete_ok(&w, "b", DELETE_MERGE_FORCE);
    assert_string_equal(drawing(&w), "a(d)*a");
    assert_int_equal(layer_of(&w, "a"), content);
    assert_int_equal(node_of(&w, active_of(&w))->backing, content);
    world_end(&w);

    start_fork(&w); /* the other way round: b and d go, and the present stays */
    uint64_t active = active_of(&w);
    w.tree.is_active = true;
    delete_ok(&w, "c", DELETE_MERGE_FORCE);
    assert_string_equal(drawing(&w), "a*a");
    assert_int_equal(active_of(&w), active);
    world_end(&w);

    start_fork(&w); /* below the snapshot that is merged: nothing is lost there */
    revert(&w, "d");
    active = active_of(&w);
    delete_ok(&w, "b", DELETE_MERGE_FORCE);
    assert_string_equal(drawing(&w), "a(d)*d");
    assert_int_equal(active_of(&w), active);
    world_end(&w);
}

static void discard_wants_a_leaf_that_nobody_stands_on(void **state)
{
    struct world w;
    start_fork(&w);
    delete_refused(&w, "b", DELETE_DISCARD, ENOTEMPTY, "has children");
    delete_refused(&w, "c", DELETE_DISCARD, EBUSY, "is current");
    delete_ok(&w, "d", DELETE_DISCARD);
    assert_string_equal(drawing(&w), "a(b c)*c");
    uint64_t active = active_of(&w);
    delete_ok(&w, "b", DELETE_DISCARD_FORCE); /* another branch: the present stays */
    assert_string_equal(drawing(&w), "a(c)*c");
    assert_int_equal(active_of(&w), active);
    uint64_t content = layer_of(&w, "a");
    delete_ok(&w, "c", DELETE_DISCARD_FORCE);
    assert_string_equal(drawing(&w), "a*a");
    assert_int_equal(node_of(&w, active_of(&w))->backing, content);
    delete_refused(&w, "a", DELETE_DISCARD_FORCE, EBUSY, "no parent");
    world_end(&w);

    start_fork(&w);
    revert(&w, "d");
    delete_ok(&w, "b", DELETE_DISCARD_FORCE);
    assert_string_equal(drawing(&w), "a(c)*a");
    world_end(&w);
}

static void what_is_protected_or_open_stays(void **state)
{
    static const struct {
        const char *marked, *deleted;
        enum delete_kind kind;
        bool refused;
    } table[] = {
        {"b", "b", DELETE_ONE, true},
        {"d", "b", DELETE_ONE, false},
        {"d", "b", DELETE_CHILDREN, true},
        {"b", "b", DELETE_CHILDREN, true},
        {"c", "b", DELETE_CHILDREN, false},
        {"d", "b", DELETE_CHILDREN_ONLY, true},
        {"b", "b", DELETE_CHILDREN_ONLY, false},
        {"d", "d", DELETE_MERGE, true},
        {"b", "d", DELETE_MERGE, true}, /* its state would be overwritten */
        {"a", "d", DELETE_MERGE, false},
        {"c", "b", DELETE_MERGE_FORCE, true},
        {"d", "c", DELETE_MERGE_FORCE, true},
        {"a", "c", DELETE_MERGE_FORCE, true},
        {"d", "b", DELETE_MERGE_FORCE, false},
        {"d", "d", DELETE_DISCARD, true},
        {"d", "b", DELETE_DISCARD_FORCE, true},
        {"a", "b", DELETE_DISCARD_FORCE, false},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        for (int open = 0; open < 2; open++) {
            struct world w;
            start_fork(&w);
            struct error err;
            if (open)
                snapshot_of(&w, table[i].marked)->is_open = true;
            else
                assert_int_equal(tree_protect(&w.tree, serial_of(&w, table[i].marked), true, &err), 0);
            if (table[i].refused)
                delete_refused(&w, table[i].deleted, table[i].kind, open ? EBUSY : EPERM,
                               open ? "is open" : "is protected");
            else
                delete_ok(&w, table[i].deleted, table[i].kind);
            if (!open && table[i].refused) { /* that can be taken away again */
                assert_int_equal(tree_protect(&w.tree, serial_of(&w, table[i].marked), false, &err), 0);
                delete_ok(&w, table[i].deleted, table[i].kind);
            }
            world_end(&w);
        }
    struct world w;
    struct error err;
    start_fork(&w);
    assert_int_equal(tree_protect(&w.tree, 99, true, &err), -ENOENT);
    struct tree_deletion deletion;
    assert_int_equal(tree_delete(&w.tree, &w.layers, 99, DELETE_ONE, &deletion, &err), -ENOENT);
    world_end(&w);
}

static void revert_finds_the_way_to_each_content(void **state)
{
    struct world w;
    world_start(&w);
    create(&w, "i", DISK_INTERNAL);
    assert_int_equal(revert(&w, "i"), REVERT_APPLY);
    assert_int_equal(active_of(&w), w.original);
    create(&w, "e", DISK_EXTERNAL);
    assert_int_equal(revert(&w, "e"), REVERT_OVERLAY);
    assert_int_equal(node_of(&w, active_of(&w))->backing, w.original);
    assert_int_equal(revert(&w, "i"), REVERT_COPY_OUT); /* its layer is frozen now */
    assert_int_equal(node_of(&w, active_of(&w))->backing, 0);
    assert_string_equal(drawing(&w), "i(e)*i");

    /* Files that may not be switched, and images that somebody changed. */
    struct error err;
    struct tree_reversion reversion;
    struct revert_circumstances none = {0};
    w.tree.may_switch_files = false;
    assert_int_equal(tree_revert(&w.tree, &w.layers, serial_of(&w, "e"), &none, &reversion, &err), -EPERM);
    w.tree.may_switch_files = true;
    node_of(&w, w.original)->changed = true;
    assert_int_equal(tree_revert(&w.tree, &w.layers, serial_of(&w, "e"), &none, &reversion, &err), -EIO);
    assert_int_equal(tree_revert(&w.tree, &w.layers, 99, &none, &reversion, &err), -ENOENT);
    assert_string_equal(drawing(&w), "i(e)*i");
    world_end(&w);

    /* Nothing is applied under what somebody laid on top of the active file meanwhile. */
    world_start(&w);
    create(&w, "i", DISK_INTERNAL);
    uint64_t foreign;
    assert_int_equal(layer_set_add(&w.layers, w.original, false, &foreign), 0);
    assert_int_equal(revert(&w, "i"), REVERT_COPY_OUT);
    world_end(&w);
}

static void revert_does_only_by_force_what_may_damage_the_guest(void **state)
{
    struct world w;
    world_start(&w);
    create(&w, "a", DISK_EXTERNAL);
    snapshot_of(&w, "a")->has_memory = true;
    uint64_t added;
    assert_int_equal(layer_set_add(&w.layers, 0, false, &added), 0);
    assert_int_equal(tree_add_disk(&w.tree, 1, "vdb", added), 0);
    const struct {
        struct revert_circumstances circumstances;
        int code;
    } table[] = {
        {{.machine_changed = true}, EINVAL},
        {{.left_out_may_have_changed = true}, EINVAL},
        {{.machine_changed = true, .left_out_may_have_changed = true, .force = true}, 0},
        {{0}, 0},
    };
    for (int memory = 1; memory >= 0; memory--)
        for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
            struct tree_reversion reversion;
            struct error err;
            snapshot_of(&w, "a")->has_memory = memory;
            int rc = tree_revert(&w.tree, &w.layers, serial_of(&w, "a"), &table[i].circumstances, &reversion,
                                 &err);
            assert_int_equal(rc, memory ? -table[i].code : 0);
            if (rc == 0) {
                assert_int_equal(reversion.disks[1].how, REVERT_KEPT);
                assert_int_equal(w.tree.disks[1].active, added);
                tree_reversion_done(&reversion);
            }
        }
    /* The disk of the snapshot is gone. */
    w.tree.disks[0].position = 5;
    struct tree_reversion reversion;
    struct revert_circumstances circumstances = {0};
    struct error err;
    assert_int_equal(tree_revert(&w.tree, &w.layers, serial_of(&w, "a"), &circumstances, &reversion, &err),
                     -EINVAL);
    assert_non_null(strstr(err.text, "force"));
    circumstances.force = true;
    assert_int_equal(tree_revert(&w.tree, &w.layers, serial_of(&w, "a"), &circumstances, &reversion, &err),
                     0);
    tree_reversion_done(&reversion);
    world_end(&w);
}

static void a_clone_begins_on_the_frozen_layer(void **state)
{
    struct world w;
    world_start(&w);
    create(&w, "i", DISK_INTERNAL);
    create(&w, "e", DISK_EXTERNAL);
    const struct {
        const char *name;
        bool full;
        uint64_t backing;
    } table[] = {{"e", false, w.original}, {"e", true, 0}, {"i", false, 0}, {"i", true, 0}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct tree clone;
        struct error err;
        assert_int_equal(tree_clone(&w.tree, &w.layers, serial_of(&w, table[i].name), DOMAIN + 1 + i,
                                    table[i].full, &clone, &err),
                         0);
        assert_int_equal(clone.domain, DOMAIN + 1 + i);
        assert_int_equal(clone.count, 0);
        assert_int_equal(clone.disk_count, 1);
        assert_string_equal(clone.disks[0].target, "vda");
        const struct layer_node *layer = node_of(&w, clone.disks[0].active);
        assert_int_equal(layer->backing, table[i].backing);
        assert_true(layer_may_be_written(layer));
        assert_false(layer_may_be_unlinked(layer)); /* its definition names it */
        tree_done(&clone);
    }
    struct error err;
    struct tree clone;
    assert_int_equal(tree_clone(&w.tree, &w.layers, 99, 50, false, &clone, &err), -ENOENT);
    struct tree_part none = {.disk = 0, .kind = DISK_NO};
    assert_int_equal(tree_create(&w.tree, &w.layers, 50, "m", true, &none, 1, &err), 0);
    assert_int_equal(tree_clone(&w.tree, &w.layers, 50, 50, false, &clone, &err), -EINVAL);
    world_end(&w);
}

static void a_damaged_tree_is_told(void **state)
{
    for (int damage = 0; damage < 9; damage++) {
        struct world w;
        start_fork(&w);
        struct error err = {0};
        assert_int_equal(tree_check(&w.tree, &w.layers, &err), 0);
        struct tree_snapshot *a = snapshot_of(&w, "a"), *b = snapshot_of(&w, "b");
        switch (damage) {
        case 0:
            a->parent = serial_of(&w, "d");
            break; /* a ring */
        case 1:
            b->parent = b->serial;
            break;
        case 2:
            b->parent = 99;
            break;
        case 3:
            w.tree.current = 99;
            break;
        case 4:
            b->name[0] = 'a';
            break;
        case 5:
            b->name[0] = '/';
            break;
        case 6:
            b->contents[0].layer = 99;
            break;
        case 7:
            b->contents[0].internal = 99;
            break;
        case 8:
            b->contents[0].layer = active_of(&w);
            break;
        }
        assert_int_equal(tree_check(&w.tree, &w.layers, &err), -EIO);
        assert_true(*err.text);
        world_end(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(creating_freezes_or_marks_the_active_layer),
        cmocka_unit_test(files_that_were_backing_files_already_are_never_written),
        cmocka_unit_test(renaming_replaces_nothing),
        cmocka_unit_test(delete_hands_the_children_to_the_parent),
        cmocka_unit_test(deleting_the_current_one_makes_the_nearest_ancestor_current),
        cmocka_unit_test(merge_gives_the_parent_the_snapshots_state),
        cmocka_unit_test(the_present_state_is_a_child_of_the_current_snapshot),
        cmocka_unit_test(merge_force_discards_the_other_branches),
        cmocka_unit_test(discard_wants_a_leaf_that_nobody_stands_on),
        cmocka_unit_test(what_is_protected_or_open_stays),
        cmocka_unit_test(revert_finds_the_way_to_each_content),
        cmocka_unit_test(revert_does_only_by_force_what_may_damage_the_guest),
        cmocka_unit_test(a_clone_begins_on_the_frozen_layer),
        cmocka_unit_test(a_damaged_tree_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
