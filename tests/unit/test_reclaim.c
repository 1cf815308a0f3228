// SPDX-License-Identifier: LGPL-2.1-or-later
/* What is given back, in which way, and what never is. */
#include "small_tree.h"

static struct reclaim_step next(struct world *world)
{
    struct reclaim_step step;
    assert_int_equal(reclaim_next(&world->reclaim, NULL, NULL, &step), 0);
    return step;
}

static void do_next(struct world *world, enum reclaim_kind kind, uint64_t layer, uint64_t into)
{
    struct reclaim_step step = next(world);
    assert_int_equal(step.kind, kind);
    assert_int_equal(step.layer, layer);
    assert_int_equal(step.into, into);
    struct error err = {0};
    if (reclaim_apply(&world->reclaim, &step, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(tree_check(&world->tree, &world->layers, &err), 0);
}

static void nothing_left(struct world *world)
{
    assert_int_equal(next(world).kind, RECLAIM_NOTHING);
}

static const struct layer_survey *survey_of(struct world *world, uint64_t layer)
{
    static struct layer_survey found;
    struct layer_survey *survey;
    assert_int_equal(reclaim_survey(&world->reclaim, &survey), 0);
    found = survey[node_of(world, layer) - world->layers.layers];
    free(survey);
    return &found;
}

/* Is this refused at the last moment too? */
static void never(struct world *world, enum reclaim_kind kind, uint64_t layer, uint64_t into)
{
    struct reclaim_step step = {.kind = kind, .layer = layer, .into = into};
    struct error err;
    size_t count = world->layers.count;
    assert_int_equal(reclaim_check(&world->reclaim, &step, &err), -EPERM);
    assert_int_equal(reclaim_apply(&world->reclaim, &step, &err), -EPERM);
    assert_int_equal(world->layers.count, count);
}

static void a_domain_without_snapshots_ends_on_its_own_file(void **state)
{
    struct world w;
    world_start(&w);
    create(&w, "a", DISK_EXTERNAL);
    uint64_t first = active_of(&w);
    create(&w, "b", DISK_EXTERNAL);
    uint64_t second = active_of(&w);
    nothing_left(&w);
    delete_ok(&w, "a", DELETE_ONE);
    do_next(&w, RECLAIM_INTO_PARENT, first, w.original); /* though it is larger, as nothing says otherwise */
    assert_int_equal(layer_of(&w, "b"), w.original);
    nothing_left(&w);
    delete_ok(&w, "b", DELETE_ONE);
    do_next(&w, RECLAIM_INTO_PARENT, second, w.original);
    nothing_left(&w);
    assert_int_equal(active_of(&w), w.original);
    assert_int_equal(w.layers.count, 1);
    world_end(&w);
}

static void between_two_of_ours_the_smaller_goes_into_the_larger(void **state)
{
    for (int larger_below = 0; larger_below < 2; larger_below++) {
        struct world w;
        world_start(&w);
        create(&w, "a", DISK_EXTERNAL);
        create(&w, "b", DISK_EXTERNAL);
        uint64_t lower = layer_of(&w, "b"), upper = active_of(&w);
        create(&w, "c", DISK_EXTERNAL);
        node_of(&w, lower)->size = larger_below ? 10 : 9;
        node_of(&w, upper)->size = larger_below ? 9 : 10;
        delete_ok(&w, "b", DELETE_ONE);
        if (larger_below)
            do_next(&w, RECLAIM_INTO_PARENT, upper, lower);
        else
            do_next(&w, RECLAIM_INTO_CHILD, lower, upper);
        uint64_t left = larger_below ? lower : upper;
        assert_int_equal(layer_of(&w, "c"), left);
        assert_int_equal(node_of(&w, left)->backing, w.original);
        assert_int_equal(node_of(&w, active_of(&w))->backing, left);
        nothing_left(&w);
        world_end(&w);
    }
}

static void what_several_need_stays_unseen_until_one_is_left(void **state)
{
    struct world w;
    world_start(&w);
    create(&w, "a", DISK_EXTERNAL);
    create(&w, "b", DISK_EXTERNAL);
    uint64_t branch = layer_of(&w, "b");
    revert(&w, "a");
    uint64_t active = active_of(&w);
    delete_ok(&w, "a", DELETE_ONE);
    do_next(&w, RECLAIM_UNLINK, 4 - 1, 0); /* the overlay that the revert left behind */
    assert_int_equal(survey_of(&w, w.original)->fate, LAYER_UNSEEN);
    assert_int_equal(survey_of(&w, w.original)->children, 2);
    nothing_left(&w);
    never(&w, RECLAIM_INTO_PARENT, active, w.original);
    never(&w, RECLAIM_INTO_PARENT, branch, w.original);
    never(&w, RECLAIM_UNLINK, w.original, 0);
    delete_ok(&w, "b", DELETE_ONE);
    do_next(&w, RECLAIM_UNLINK, branch, 0);
    do_next(&w, RECLAIM_INTO_PARENT, active, w.original);
    nothing_left(&w);
    world_end(&w);
}

/* X7: BASE---A---B domain 1, A---C domain 2, in every order of deletion. */
static void two_domains_on_one_gold_image(void **state)
{
    for (int order = 0; order < 2; order++) {
        struct world w;
        struct tree clone;
        struct error err;
        world_start(&w);
        create(&w, "base", DISK_EXTERNAL);
        create(&w, "gold", DISK_EXTERNAL);
        uint64_t gold = layer_of(&w, "gold"), mine = active_of(&w);
        assert_int_equal(
            tree_clone(&w.tree, &w.layers, serial_of(&w, "gold"), DOMAIN + 1, false, &clone, &err), 0);
        uint64_t theirs = clone.disks[0].active;
        w.trees[1] = &clone;
        w.reclaim.tree_count = 2;
        delete_ok(&w, order ? "gold" : "base", DELETE_ONE);
        if (order) {
            assert_int_equal(survey_of(&w, gold)->fate, LAYER_UNSEEN);
            nothing_left(&w);
        } else {
            assert_int_equal(survey_of(&w, w.original)->domain, DOMAIN_SEVERAL);
            /* The first domain's own file must not become the clone's. Nor can it go. */
            nothing_left(&w);
        }
        delete_ok(&w, order ? "base" : "gold", DELETE_ONE);
        nothing_left(&w);
        never(&w, RECLAIM_INTO_PARENT, mine, gold);
        never(&w, RECLAIM_INTO_CHILD, gold, theirs);
        assert_int_equal(node_of(&w, theirs)->backing, gold);
        assert_int_equal(node_of(&w, mine)->backing, gold);
        assert_int_equal(node_of(&w, gold)->backing, w.original);
        /* The clone is removed for good: what is left is one domain's again. */
        w.reclaim.tree_count = 1;
        layer_set_forget(&w.layers, DOMAIN + 1);
        do_next(&w, RECLAIM_UNLINK, theirs, 0);
        do_next(&w, RECLAIM_INTO_PARENT, gold, w.original);
        do_next(&w, RECLAIM_INTO_PARENT, mine, w.original);
        nothing_left(&w);
        tree_done(&clone);
        world_end(&w);
    }
}

static void internal_snapshots_hold_what_they_read_through(void **state)
{
    struct world w;
    world_start(&w);
    create(&w, "a", DISK_EXTERNAL);
    create(&w, "i", DISK_INTERNAL); /* in the overlay, and reads through it */
    delete_ok(&w, "a", DELETE_ONE);
    assert_int_equal(survey_of(&w, w.original)->fate, LAYER_UNSEEN);
    assert_non_null(strstr(survey_of(&w, w.original)->reason, "internal"));
    nothing_left(&w);
    never(&w, RECLAIM_INTO_PARENT, active_of(&w), w.original);
    delete_ok(&w, "i", DELETE_ONE);
    do_next(&w, RECLAIM_DROP_INTERNAL, active_of(&w), 0);
    do_next(&w, RECLAIM_INTO_PARENT, active_of(&w), w.original);
    nothing_left(&w);
    world_end(&w);
}

static void an_internal_snapshot_that_nobody_deleted_is_never_dropped(void **state)
{
    struct world w;
    world_start(&w);
    uint64_t unknown;
    assert_int_equal(layer_set_add_internal(&w.layers, w.original, &unknown), 0);
    nothing_left(&w);
    never(&w, RECLAIM_DROP_INTERNAL, w.original, 0);
    create(&w, "i", DISK_INTERNAL);
    delete_ok(&w, "i", DELETE_ONE);
    struct reclaim_step step = next(&w);
    assert_int_equal(step.kind, RECLAIM_DROP_INTERNAL);
    assert_int_not_equal(step.internal, unknown);
    /* Another domain refers to it as well. */
    struct content content = {.disk = 0, .layer = w.original, .internal = step.internal};
    struct tree other = {.domain = DOMAIN + 1};
    struct tree_snapshot also = {
        .serial = 1, .name = (char[]){"x"}, .contents = &content, .content_count = 1};
    assert_int_equal(tree_add_snapshot(&other, &also), 0);
    w.trees[1] = &other;
    w.reclaim.tree_count = 2;
    nothing_left(&w);
    tree_done(&other);
    world_end(&w);
}

static void a_domain_that_left_its_file_comes_home(void **state)
{
    struct world w;
    world_start(&w);
    create(&w, "i", DISK_INTERNAL);
    create(&w, "e", DISK_EXTERNAL);
    uint64_t overlay = active_of(&w);
    assert_int_equal(revert(&w, "i"), REVERT_COPY_OUT);
    uint64_t copy = active_of(&w);
    do_next(&w, RECLAIM_UNLINK, overlay, 0);
    nothing_left(&w);
    delete_ok(&w, "e", DELETE_ONE);
    nothing_left(&w);
    delete_ok(&w, "i", DELETE_ONE);
    do_next(&w, RECLAIM_DROP_INTERNAL, w.original, 0);
    w.tree.is_active = true;
    nothing_left(&w);
    w.tree.is_active = false;
    w.tree.may_switch_files = false;
    nothing_left(&w);
    w.tree.may_switch_files = true;
    do_next(&w, RECLAIM_COPY_HOME, copy, w.original);
    assert_int_equal(active_of(&w), w.original);
    nothing_left(&w);
    world_end(&w);
}

/* Each of these alone keeps a merge from being done. */
static void what_keeps_layers_apart(void **state)
{
    for (int reason = 0; reason < 8; reason++) {
        struct world w;
        uint64_t foreign;
        world_start(&w);
        create(&w, "a", DISK_EXTERNAL);
        uint64_t upper = active_of(&w);
        create(&w, "b", DISK_EXTERNAL);
        delete_ok(&w, "a", DELETE_ONE);
        assert_int_equal(next(&w).kind, RECLAIM_INTO_PARENT);
        switch (reason) {
        case 0:
            node_of(&w, w.original)->changed = true;
            break;
        case 1:
            node_of(&w, upper)->changed = true;
            break;
        case 2:
            node_of(&w, w.original)->original_of = 0;
            break;
        case 3:
            node_of(&w, w.original)->original_of = DOMAIN + 1;
            break;
        case 4:
            node_of(&w, upper)->made_by_us = false;
            break;
        case 5: /* something of somebody's on the file that would be written */
            assert_int_equal(layer_set_add(&w.layers, w.original, false, &foreign), 0);
            break;
        case 6: /* on the file that would go: its header would have to be written */
            assert_int_equal(layer_set_add(&w.layers, upper, false, &foreign), 0);
            break;
        case 7:
            w.reclaim.is_complete = false;
            break;
        }
        if (w.reclaim.is_complete) {
            assert_int_equal(survey_of(&w, w.original)->fate, LAYER_UNSEEN);
            assert_non_null(survey_of(&w, w.original)->reason);
        }
        nothing_left(&w);
        never(&w, RECLAIM_INTO_PARENT, upper, w.original);
        never(&w, RECLAIM_INTO_CHILD, w.original, upper);
        never(&w, RECLAIM_UNLINK, w.original, 0);
        never(&w, RECLAIM_UNLINK, upper, 0);
        world_end(&w);
    }
    /* Who starts the domain would not know that the lower file is active again. */
    struct world w;
    world_start(&w);
    create(&w, "a", DISK_EXTERNAL);
    delete_ok(&w, "a", DELETE_ONE);
    w.tree.may_switch_files = false;
    nothing_left(&w);
    world_end(&w);
}

/* Between two files of ours, what somebody laid on top decides: his file is not written, nor its header. */
static void a_file_of_somebodys_on_top_is_never_written(void **state)
{
    for (int larger_below = 0; larger_below < 2; larger_below++) {
        struct world w;
        uint64_t foreign;
        world_start(&w);
        create(&w, "a", DISK_EXTERNAL);
        create(&w, "b", DISK_EXTERNAL);
        uint64_t lower = layer_of(&w, "b"), upper = active_of(&w);
        create(&w, "c", DISK_EXTERNAL);
        assert_int_equal(layer_set_add(&w.layers, upper, false, &foreign), 0);
        node_of(&w, lower)->size = larger_below ? 10 : 9;
        node_of(&w, upper)->size = larger_below ? 9 : 10;
        delete_ok(&w, "b", DELETE_ONE);
        /* The other way, whatever the sizes: the header of what lies on top stays as it is. */
        assert_int_equal(survey_of(&w, lower)->fate, LAYER_INTO_CHILD);
        do_next(&w, RECLAIM_INTO_CHILD, lower, upper);
        assert_int_equal(node_of(&w, foreign)->backing, upper);
        nothing_left(&w);
        world_end(&w);
    }
    struct world w;
    uint64_t ours, foreign;
    world_start(&w);
    assert_int_equal(layer_set_add(&w.layers, 0, true, &ours), 0);
    assert_int_equal(layer_set_add(&w.layers, ours, false, &foreign), 0);
    assert_int_equal(survey_of(&w, ours)->fate, LAYER_UNSEEN);
    nothing_left(&w);
    never(&w, RECLAIM_INTO_CHILD, ours, foreign);
    never(&w, RECLAIM_INTO_PARENT, foreign, ours);
    world_end(&w);
}

static void a_file_of_the_users_is_left_where_it_is(void **state)
{
    struct world w;
    world_start(&w);
    create(&w, "i", DISK_INTERNAL);
    create(&w, "e", DISK_EXTERNAL);
    revert(&w, "i");
    delete_ok(&w, "e", DELETE_ONE);
    do_next(&w, RECLAIM_UNLINK, w.original + 2, 0);
    uint64_t foreign;
    assert_int_equal(layer_set_add(&w.layers, 0, false, &foreign), 0);
    assert_int_equal(survey_of(&w, foreign)->fate, LAYER_LEFT);
    nothing_left(&w);
    never(&w, RECLAIM_UNLINK, foreign, 0);
    /* Nor what we made and somebody changed. */
    uint64_t ours;
    assert_int_equal(layer_set_add(&w.layers, 0, true, &ours), 0);
    node_of(&w, ours)->changed = true;
    nothing_left(&w);
    never(&w, RECLAIM_UNLINK, ours, 0);
    node_of(&w, ours)->changed = false;
    do_next(&w, RECLAIM_UNLINK, ours, 0);
    world_end(&w);
}

static bool not_this_one(void *opaque, const struct reclaim_step *step)
{
    return step->layer != *(uint64_t *)opaque;
}

static void what_must_wait_holds_up_nothing_else(void **state)
{
    struct world w;
    world_start(&w);
    uint64_t first, second;
    assert_int_equal(layer_set_add(&w.layers, 0, true, &first), 0);
    assert_int_equal(layer_set_add(&w.layers, 0, true, &second), 0);
    struct reclaim_step step;
    assert_int_equal(reclaim_next(&w.reclaim, not_this_one, &second, &step), 0);
    assert_int_equal(step.layer, first);
    assert_int_equal(reclaim_next(&w.reclaim, not_this_one, &first, &step), 0);
    assert_int_equal(step.layer, second);
    world_end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_domain_without_snapshots_ends_on_its_own_file),
        cmocka_unit_test(between_two_of_ours_the_smaller_goes_into_the_larger),
        cmocka_unit_test(what_several_need_stays_unseen_until_one_is_left),
        cmocka_unit_test(two_domains_on_one_gold_image),
        cmocka_unit_test(internal_snapshots_hold_what_they_read_through),
        cmocka_unit_test(an_internal_snapshot_that_nobody_deleted_is_never_dropped),
        cmocka_unit_test(a_domain_that_left_its_file_comes_home),
        cmocka_unit_test(what_keeps_layers_apart),
        cmocka_unit_test(a_file_of_somebodys_on_top_is_never_written),
        cmocka_unit_test(a_file_of_the_users_is_left_where_it_is),
        cmocka_unit_test(what_must_wait_holds_up_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
