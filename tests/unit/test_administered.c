// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * How domains appear that were changed through us: by what the store says, where the files alone would tell
 * something else, and by the files, where another program has changed something since.
 */
#include "memory_source.h"

/* ---- What the store says ---- */

static struct state_domain *state(void)
{
    assert_true(result.count >= 1);
    return result.states[0];
}

static void administer(const char *active, const char *original)
{
    state()->is_administered = true;
    for (size_t i = 0; i < state()->snapshot_count; i++) {
        const struct snapshot *snapshot = snapshot_named("web1", state()->snapshots[i].name);
        state()->snapshots[i].parent = snapshot->parent ? snapshot->parent->serial : 0;
        state()->snapshots[i].created_sec = snapshot->created.tv_sec;
        state()->snapshots[i].is_protected = false;
    }
    state()->current = result.domains[0]->current ? result.domains[0]->current->serial : 0;
    state()->disks[0].active = strdup(active);
    state()->disks[0].original = strdup(original);
}

static struct state_snapshot *stored(const char *name)
{
    for (size_t i = 0; i < state()->snapshot_count; i++)
        if (strcmp(state()->snapshots[i].name, name) == 0)
            return &state()->snapshots[i];
    fail_msg("the store has no %s", name);
    return NULL;
}

/* What was the snapshot is hidden from now on. */
static void hide(const char *name)
{
    struct state_domain *of = state();
    struct state_snapshot *snapshot = stored(name);
    of->hidden = realloc(of->hidden, (of->hidden_count + snapshot->frozen_count) * sizeof *of->hidden);
    for (size_t i = 0; i < snapshot->frozen_count; i++)
        assert_int_equal(state_frozen_copy(&snapshot->frozen[i], &of->hidden[of->hidden_count++]), 0);
    state_snapshot_done(snapshot);
    size_t at = (size_t)(snapshot - of->snapshots);
    memmove(snapshot, snapshot + 1, (--of->snapshot_count - at) * sizeof *snapshot);
}

static bool is_hidden(const char *layer)
{
    for (size_t i = 0; i < state()->hidden_count; i++)
        if (strcmp(state()->hidden[i].layer, layer) == 0)
            return true;
    return false;
}

/* web1.qcow2 <- web1.one <- web1.two, whose definition follows. */
static struct scan_image *chain[3];

static void make_chain(void)
{
    chain[0] = qcow2("web1.qcow2");
    chain[1] = overlay("web1.one", chain[0]);
    chain[2] = overlay("web1.two", chain[1]);
    struct scan_definition *web1 = definition("web1");
    web1->definition.follows = true;
    disk(web1, "vda", chain[0]);
    look();
    assert_string_equal(snapshot_names("web1"), "one one<two* ");
    administer("web1.two", "web1.qcow2");
    look();
    assert_string_equal(snapshot_names("web1"), "one one<two* ");
}

/* ---- Tests ---- */

static void attributes_are_as_the_store_has_them(void **unused)
{
    make_chain();
    stored("one")->description = strdup("two words");
    stored("one")->created_sec = 77;
    stored("one")->is_protected = true;
    stored("two")->state = SNAPSHOT_STATE_SHUTOFF;
    stored("two")->consistency = CONSISTENCY_CLEAN;
    look();
    const struct snapshot *one = snapshot_named("web1", "one"), *two = snapshot_named("web1", "two");
    assert_string_equal(one->description, "two words");
    assert_int_equal(one->created.tv_sec, 77);
    assert_true(one->is_protected);
    assert_false(two->is_protected);
    assert_int_equal(two->state, SNAPSHOT_STATE_SHUTOFF);
    assert_int_equal(two->consistency, CONSISTENCY_CLEAN);
    assert_true(domain_named("web1")->is_administered);
    assert_true(domain_named("web1")->may_switch_files);
}

static void a_branch_is_active_because_the_store_says_so(void **unused)
{
    make_chain();
    overlay("web1.back", chain[0]); /* gone back to "one" */
    look();
    assert_string_equal(chain_of("web1", "vda"), "web1.two web1.one web1.qcow2 ");
    free(state()->disks[0].active);
    state()->disks[0].active = strdup("web1.back");
    state()->current = stored("one")->serial;
    assert_int_equal(state_paths_add(&state()->made, "web1.back"), 0);
    look();
    assert_string_equal(chain_of("web1", "vda"), "web1.back web1.qcow2 ");
    assert_string_equal(snapshot_names("web1"), "one* one<two ");
    assert_null(domain_named("web1")->problem);
    const struct layer *other = snapshot_named("web1", "two")->frozen[0].layer;
    assert_string_equal(other->path, SOURCE "/web1.one");
    assert_string_equal(other->backing->path, SOURCE "/web1.qcow2");
    assert_false(other->active);
}

static void a_deleted_snapshots_layer_is_not_shown(void **unused)
{
    make_chain();
    hide("one");
    stored("two")->parent = 0;
    look();
    assert_string_equal(snapshot_names("web1"), "two* ");
    assert_string_equal(chain_of("web1", "vda"), "web1.two web1.one web1.qcow2 ");
    assert_true(is_hidden("web1.qcow2"));
    look();
    assert_string_equal(snapshot_names("web1"), "two* ");
}

static void what_is_hidden_and_gone_is_forgotten(void **unused)
{
    make_chain();
    struct scan_image *branch = overlay("web1.branch", chain[0]);
    free(state()->hidden);
    state()->hidden = calloc(1, sizeof *state()->hidden);
    state()->hidden[state()->hidden_count++] = (struct state_frozen){.target = strdup("vda"),
                                                                     .layer = strdup("web1.branch"),
                                                                     .allocated = ALLOCATED_UNKNOWN,
                                                                     .layer_identity = branch->identity};
    look();
    assert_true(is_hidden("web1.branch"));
    assert_false(domain_named("web1")->is_incomplete);
    source.scan.image_count--;
    look();
    assert_false(is_hidden("web1.branch"));
    assert_false(domain_named("web1")->is_incomplete);
}

static void an_internal_snapshot_to_be_dropped_is_released(void **unused)
{
    make_chain();
    internal(chain[2], "1", "tag", 5000);
    look();
    assert_string_equal(snapshot_names("web1"), "one one<two* tag ");
    hide("tag");
    look();
    assert_string_equal(snapshot_names("web1"), "one one<two* ");
    assert_int_equal(domain_named("web1")->released_count, 1);
    assert_string_equal(domain_named("web1")->released[0].internal->name, "tag");
    assert_string_equal(domain_named("web1")->released[0].layer->path, SOURCE "/web1.two");
}

static void another_programs_overlay_on_the_active_image_is_a_snapshot(void **unused)
{
    make_chain();
    uint64_t one = stored("one")->serial;
    state()->current = one; /* as after a revert */
    overlay("web1.virsh", chain[2]);
    look();
    assert_string_equal(chain_of("web1", "vda"), "web1.virsh web1.two web1.one web1.qcow2 ");
    assert_string_equal(snapshot_names("web1"), "one one<two one<virsh* ");
    assert_true(snapshot_named("web1", "virsh")->is_protected);
    assert_string_equal(state()->disks[0].active, "web1.virsh");
    assert_true(state()->current == snapshot_named("web1", "virsh")->serial);
    look();
    assert_string_equal(snapshot_names("web1"), "one one<two one<virsh* ");
}

static void of_a_snapshot_that_others_deleted_the_children_go_up(void **unused)
{
    make_chain();
    internal(chain[2], "1", "tag", 5000);
    look();
    stored("tag")->parent = stored("one")->serial;
    stored("two")->parent = stored("tag")->serial;
    state()->current = stored("tag")->serial;
    look();
    assert_string_equal(snapshot_names("web1"), "one tag<two one<tag* ");
    source.infos[chain[2]->index].snapshot_count = 0;
    look();
    assert_string_equal(snapshot_names("web1"), "one* one<two ");
}

static void where_the_active_image_is_gone_nothing_is_forgotten(void **unused)
{
    make_chain();
    uint64_t two = stored("two")->serial;
    source.scan.image_count = 2; /* web1.two */
    look();
    assert_true(problem_has("web1", "web1.two"));
    assert_true(domain_named("web1")->is_incomplete);
    assert_string_equal(state()->disks[0].active, "web1.two");
    assert_true(stored("two")->serial == two);
    source.scan.image_count = 3;
    look();
    assert_false(domain_named("web1")->is_incomplete);
    assert_string_equal(snapshot_names("web1"), "one one<two* ");
}

static void what_we_write_to_need_not_be_as_it_was_frozen(void **unused)
{
    make_chain();
    chain[0]->identity.mtime_sec += 50;
    look();
    assert_true(problem_has("web1", "changed by someone else"));
    assert_int_equal(state_paths_add(&state()->touched, "web1.qcow2"), 0);
    look();
    assert_null(domain_named("web1")->problem);
    assert_true(snapshot_named("web1", "one")->frozen[0].layer->touched);
    assert_false(snapshot_named("web1", "one")->frozen[0].layer->changed);
}

static void a_disk_that_left_the_definition_keeps_what_snapshots_have_of_it(void **unused)
{
    struct scan_image *vda = qcow2("a.qcow2"), *vdb = qcow2("b.qcow2");
    internal(vda, "1", "both", 500);
    internal(vdb, "1", "both", 500);
    internal(vdb, "2", "second", 600);
    struct scan_definition *web1 = definition("web1");
    disk(web1, "vda", vda);
    disk(web1, "vdb", vdb);
    look();
    state()->is_administered = true;
    look();
    assert_string_equal(snapshot_names("web1"), "both second ");
    web1->definition.disk_count = 1;
    look();
    assert_string_equal(snapshot_names("web1"), "both ");
    assert_int_equal(snapshot_named("web1", "both")->lost_disks, 1);
    assert_int_equal(stored("both")->frozen_count, 2);
    assert_int_equal(stored("second")->frozen_count, 1);
    web1->definition.disk_count = 2;
    look();
    assert_string_equal(snapshot_names("web1"), "both second ");
    assert_int_equal(snapshot_named("web1", "both")->lost_disks, 0);
    assert_int_equal(snapshot_named("web1", "both")->frozen_count, 2);
}

static void of_a_disk_that_could_not_be_read_for_once_nothing_is_forgotten(void **unused)
{
    struct scan_image *vda = qcow2("a.qcow2"), *vdb = qcow2("b.qcow2");
    internal(vda, "1", "both", 500);
    internal(vdb, "1", "both", 500);
    struct scan_definition *web1 = definition("web1");
    disk(web1, "vda", vda);
    disk(web1, "vdb", vdb);
    look();
    state()->is_administered = true;
    look();
    uint64_t serial = snapshot_named("web1", "both")->serial;
    const struct image_info *whole = vdb->info;
    static char problem[] = "b.qcow2: can't read the snapshot table";
    static struct image_info unread = {.problem = problem};
    vdb->info = &unread;
    look();
    assert_int_equal(stored("both")->frozen_count, 2);
    vdb->info = whole;
    look();
    assert_int_equal(snapshot_named("web1", "both")->frozen_count, 2);
    assert_int_equal(snapshot_named("web1", "both")->serial, serial);
}

static void a_clone_shows_nothing_of_what_it_lies_on(void **unused)
{
    struct scan_image *gold = qcow2("gold.qcow2");
    internal(gold, "1", "inside", 500);
    struct scan_image *clone = overlay("web1.qcow2", gold);
    disk(definition("web1"), "vda", clone);
    look();
    assert_string_equal(snapshot_names("web1"), "inside gold* ");
    administer("web1.qcow2", "web1.qcow2");
    hide("gold");
    state_snapshot_done(stored("inside"));
    state()->snapshot_count = 0;
    state()->current = 0;
    look();
    assert_string_equal(snapshot_names("web1"), "");
    assert_int_equal(domain_named("web1")->released_count, 0);
    assert_string_equal(chain_of("web1", "vda"), "web1.qcow2 gold.qcow2 ");
}

static void an_overlay_that_is_about_to_be_used_is_nobodys(void **unused)
{
    struct scan_image *base = qcow2("web1.qcow2");
    disk(definition("web1"), "vda", base);
    struct scan_image *below = overlay("web1.other", base), *mine = overlay("web1.mine", below);
    look();
    assert_string_equal(chain_of("web1", "vda"), "web1.mine web1.other web1.qcow2 ");
    mine->is_prepared = true;
    look();
    assert_string_equal(chain_of("web1", "vda"), "web1.other web1.qcow2 ");
    below->is_prepared = true;
    look();
    assert_string_equal(chain_of("web1", "vda"), "web1.qcow2 ");
    assert_string_equal(snapshot_names("web1"), "");
    assert_null(domain_named("web1")->problem);
}

/* An overlay of somebody's names the file with another format than the definition, which is right. */
static void the_definition_says_which_format_is_right(void **unused)
{
    struct scan_image *base = qcow2("web1.qcow2");
    disk(definition("web1"), "vda", base);
    look();
    administer("web1.qcow2", "web1.qcow2");
    struct scan_image *taken_for_raw = image("web1.qcow2", IMAGE_FORMAT_RAW);
    taken_for_raw->first = base;
    taken_for_raw->identity = base->identity;
    overlay("/elsewhere/other.qcow2", taken_for_raw);
    look();
    assert_string_equal(chain_of("web1", "vda"), "web1.qcow2 ");
    assert_int_equal(domain_named("web1")->disks[0].active->format, IMAGE_FORMAT_QCOW2);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(attributes_are_as_the_store_has_them),
        TEST(a_branch_is_active_because_the_store_says_so),
        TEST(a_deleted_snapshots_layer_is_not_shown),
        TEST(what_is_hidden_and_gone_is_forgotten),
        TEST(an_internal_snapshot_to_be_dropped_is_released),
        TEST(another_programs_overlay_on_the_active_image_is_a_snapshot),
        TEST(of_a_snapshot_that_others_deleted_the_children_go_up),
        TEST(where_the_active_image_is_gone_nothing_is_forgotten),
        TEST(what_we_write_to_need_not_be_as_it_was_frozen),
        TEST(a_disk_that_left_the_definition_keeps_what_snapshots_have_of_it),
        TEST(of_a_disk_that_could_not_be_read_for_once_nothing_is_forgotten),
        TEST(a_clone_shows_nothing_of_what_it_lies_on),
        TEST(an_overlay_that_is_about_to_be_used_is_nobodys),
        TEST(the_definition_says_which_format_is_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
