// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Which domains a source shows, and which snapshots they have (discover.h, assemble.h): every sentence of the
 * contract about that, on sources made by hand in memory.
 */
#include "memory_source.h"

/* ---- Which domains ---- */

static void a_qcow2_file_is_a_domain_with_one_disk(void **unused)
{
    qcow2("web1.qcow2");
    look();
    assert_string_equal(domain_names(), "web1 ");
    const struct domain *domain = domain_named("web1");
    assert_int_equal(domain->disk_count, 1);
    assert_string_equal(domain->disks[0].target, "vda");
    assert_string_equal(domain->disks[0].source, SOURCE "/web1.qcow2");
    assert_int_equal(domain->disks[0].format, IMAGE_FORMAT_QCOW2);
    assert_true(domain->disks[0].persistent);
    assert_null(domain->definition);
    assert_null(domain->problem);
    assert_string_equal(chain_of("web1", "vda"), "web1.qcow2 ");
    assert_int_equal(domain->snapshot_count, 0);
}

static void a_backing_file_is_none_and_is_frozen_in_its_clones(void **unused)
{
    struct scan_image *gold = qcow2("gold.qcow2");
    internal(gold, "1", "fresh", 500);
    overlay("a.qcow2", gold);
    overlay("b.qcow2", gold);
    look();
    assert_string_equal(domain_names(), "a b ");
    assert_string_equal(chain_of("a", "vda"), "a.qcow2 gold.qcow2 ");
    assert_string_equal(snapshot_names("a"), "fresh gold* ");
    assert_string_equal(snapshot_names("b"), "fresh gold* ");
    assert_true(snapshot_named("a", "gold")->is_protected);
    assert_false(snapshot_named("a", "fresh")->is_protected);
    assert_int_equal(snapshot_named("a", "gold")->created.tv_sec, 1000); /* the last write to gold.qcow2 */
    assert_int_equal(snapshot_named("a", "gold")->frozen[0].size, 1 << 20);
    assert_int_equal(snapshot_named("a", "fresh")->frozen[0].size, 2 << 20);
    assert_null(snapshot_named("a", "gold")->frozen[0].internal);
    assert_string_equal(snapshot_named("a", "fresh")->frozen[0].internal->name, "fresh");
}

static void an_overlay_of_virsh_belongs_to_the_domain_of_its_base(void **unused)
{
    struct scan_image *base = qcow2("web1.qcow2");
    struct scan_image *first = overlay("web1.snap1", base);
    look();
    assert_string_equal(domain_names(), "web1 ");
    assert_string_equal(chain_of("web1", "vda"), "web1.snap1 web1.qcow2 ");
    assert_string_equal(snapshot_names("web1"), "snap1* ");
    assert_null(domain_named("web1")->problem);
    uint64_t serial = snapshot_named("web1", "snap1")->serial;

    overlay("web1.v2.0", first);
    look();
    assert_string_equal(chain_of("web1", "vda"), "web1.v2.0 web1.snap1 web1.qcow2 ");
    assert_string_equal(snapshot_names("web1"), "snap1 snap1<v2.0* ");
    assert_true(snapshot_named("web1", "snap1")->serial == serial);
    assert_string_equal(domain_named("web1")->disks[0].source, SOURCE "/web1.qcow2");
}

static void between_an_overlay_and_its_base_anything_may_lie(void **unused)
{
    struct scan_image *base = qcow2("web1.qcow2");
    struct scan_image *middle = qcow2("/allowed/middle.qcow2"); /* no candidate: nobody lists that place */
    put_on(middle, base);
    overlay("web1.top", middle);
    look();
    assert_string_equal(domain_names(), "web1 ");
    assert_string_equal(chain_of("web1", "vda"), "web1.top middle.qcow2 web1.qcow2 ");
    /* middle's ending says nothing, so web1.qcow2 has its own name; web1.top is not made from "middle". */
    assert_string_equal(snapshot_names("web1"), "web1 web1<top* ");
}

static void a_clone_on_an_overlay_takes_it_from_the_domain(void **unused)
{
    struct scan_image *base = qcow2("web1.qcow2");
    struct scan_image *snap = overlay("web1.snap1", base);
    overlay("clone.qcow2", snap);
    look();
    assert_string_equal(domain_names(), "clone ");
    assert_string_equal(snapshot_names("clone"), "snap1 snap1<web1* ");
}

static void of_several_tops_the_one_written_last_is_active(void **unused)
{
    struct scan_image *base = qcow2("web1.qcow2");
    struct scan_image *one = overlay("web1.one", base), *two = overlay("web1.two", base);
    look();
    assert_string_equal(domain_names(), "web1 ");
    assert_string_equal(chain_of("web1", "vda"), "web1.two web1.qcow2 ");
    assert_true(problem_has("web1", "2 overlays"));
    assert_true(problem_has("web1", "web1.two"));
    assert_int_equal(result.discovery.contended_count, 1);
    assert_ptr_equal(result.discovery.contended[0].chosen, two);
    assert_ptr_equal(result.discovery.contended[0].other, one);
    one->identity.mtime_sec += 100;
    look();
    assert_string_equal(chain_of("web1", "vda"), "web1.one web1.qcow2 ");
    /* What is frozen is the same point in time, and keeps the name that it was given. */
    assert_string_equal(snapshot_names("web1"), "two* ");
}

static void a_top_that_is_somebodys_backing_file_is_not_preferred(void **unused)
{
    struct scan_image *base = qcow2("web1.qcow2");
    struct scan_image *two = overlay("web1.two", base);
    struct scan_image *one = overlay("web1.one", base);
    two->identity.mtime_sec = one->identity.mtime_sec + 10;
    overlay("clone.qcow2", two);
    look();
    assert_string_equal(domain_names(), "clone web1 ");
    assert_string_equal(chain_of("web1", "vda"), "web1.one web1.qcow2 ");
    assert_string_equal(chain_of("clone", "vda"), "clone.qcow2 web1.two web1.qcow2 ");
    assert_null(domain_named("web1")->problem);
}

static void a_file_that_the_store_knows_keeps_its_domain(void **unused)
{
    struct scan_image *gold = qcow2("gold.qcow2");
    look();
    assert_string_equal(domain_names(), "gold ");
    uint64_t serial = domain_named("gold")->serial;
    overlay("clone.qcow2", gold);
    look();
    assert_string_equal(domain_names(), "clone gold ");
    assert_true(domain_named("gold")->serial == serial);
    assert_true(problem_has("gold", "backing file of " SOURCE "/clone.qcow2"));
    assert_null(domain_named("clone")->problem);
    assert_string_equal(chain_of("gold", "vda"), "gold.qcow2 ");
    look();
    assert_string_equal(domain_names(), "clone gold ");
}

static void a_definition_makes_a_domain_of_its_disks(void **unused)
{
    struct scan_image *root = qcow2("web1.qcow2"), *data = image("data.img", IMAGE_FORMAT_RAW);
    struct scan_definition *web = definition("web");
    disk(web, "vdb", data);
    disk(web, "vda", root);
    web->definition.disks[0].persistent = false;
    web->definition.disks[0].snapshot = PRESET_EXTERNAL;
    web->definition.uuid = (char *)"u-u-i-d";
    qcow2("other.qcow2");
    look();
    assert_string_equal(domain_names(), "other web ");
    const struct domain *domain = domain_named("web");
    assert_string_equal(domain->definition, web->path);
    assert_string_equal(domain->uuid, "u-u-i-d");
    assert_string_equal(domain->disks[0].target, "vdb");
    assert_int_equal(domain->disks[0].format, IMAGE_FORMAT_RAW);
    assert_int_equal(domain->disks[0].snapshot, PRESET_EXTERNAL);
    assert_false(domain->disks[0].persistent);
    assert_true(domain->disks[1].persistent);
    assert_string_equal(domain->named_files[0], data->path);
    assert_string_equal(domain->named_files[1], root->path);
    assert_null(domain->named_files[2]);

    char *launch[] = {(char *)"qemu", (char *)"-S", NULL};
    web->definition.qmp = (char *)"/run/qmp";
    web->definition.agent = (char *)"/run/agent";
    web->definition.launch = launch;
    look();
    domain = domain_named("web");
    assert_string_equal(domain->qmp, "/run/qmp");
    assert_string_equal(domain->agent, "/run/agent");
    assert_string_equal(domain->launch[1], "-S");
    assert_null(domain->launch[2]);
    assert_true(domain->may_switch_files);

    web->distrust = (char *)"others can write to it";
    look();
    domain = domain_named("web");
    assert_null(domain->named_files);
    assert_null(domain->qmp);
    assert_null(domain->agent);
    assert_null(domain->launch);
    assert_false(domain->may_switch_files);
    assert_true(problem_has("web", "others can write to it"));
}

static void overlays_belong_to_the_definition_that_names_their_base(void **unused)
{
    struct scan_image *root = qcow2("disk.qcow2"), *data = image("data.img", IMAGE_FORMAT_RAW);
    struct scan_definition *web = definition("web");
    disk(web, "vda", root);
    disk(web, "vdb", data);
    overlay("disk.monday", root);
    overlay("data.monday", data);
    look();
    assert_string_equal(domain_names(), "web ");
    assert_string_equal(chain_of("web", "vda"), "disk.monday disk.qcow2 ");
    assert_string_equal(chain_of("web", "vdb"), "data.monday data.img ");
    assert_string_equal(snapshot_names("web"), "monday* ");
    assert_int_equal(snapshot_named("web", "monday")->frozen_count, 2);
    assert_string_equal(domain_find_disk(domain_named("web"), "vdb")->source, SOURCE "/data.img");
}

static void an_overlay_elsewhere_belongs_to_a_defined_disk_too(void **unused)
{
    struct scan_image *root = qcow2("/elsewhere/disk.qcow2");
    disk(definition("web"), "vda", root);
    overlay("/elsewhere/disk.monday", root)->is_candidate = true;
    look();
    assert_string_equal(chain_of("web", "vda"), "disk.monday disk.qcow2 ");
    assert_string_equal(snapshot_names("web"), "monday* ");
}

static void an_overlay_that_contradicts_a_definition_is_none(void **unused)
{
    struct scan_image *data = image("data.img", IMAGE_FORMAT_RAW);
    struct scan_definition *web = definition("web");
    disk(web, "vda", data);
    struct scan_image *liar = overlay("data.evil", data);
    liar->backing_refused = true;
    liar->backing_error = -EPERM;
    liar->backing_problem = (char *)"data.evil says that data.img is qcow2, but its definition says raw";
    look();
    assert_string_equal(chain_of("web", "vda"), "data.img ");
    assert_true(problem_has("web", "but its definition says raw"));
    assert_string_equal(snapshot_names("web"), "");
}

static void what_stands_on_a_defined_disk_and_ends_in_qcow2_is_a_clone(void **unused)
{
    struct scan_image *gold = qcow2("gold.qcow2");
    disk(definition("gold"), "vda", gold);
    overlay("clone.qcow2", gold);
    look();
    assert_string_equal(domain_names(), "clone gold ");
    assert_string_equal(chain_of("gold", "vda"), "gold.qcow2 ");
    assert_true(problem_has("gold", "it is the backing file of " SOURCE "/clone.qcow2"));
}

static void of_two_definitions_of_one_name_the_second_is_left_out(void **unused)
{
    disk(definition("web"), "vda", qcow2("a.qcow2"));
    struct scan_definition *second = definition("web");
    disk(second, "vda", qcow2("b.qcow2"));
    struct scan_definition *bad = definition("bad");
    bad->is_good = false;
    look();
    assert_string_equal(domain_names(), "web ");
    assert_string_equal(chain_of("web", "vda"), "a.qcow2 ");
    assert_true(noticed(second->path));
}

static void names_that_are_taken_or_not_legal_are_changed(void **unused)
{
    disk(definition("web"), "vda", qcow2("a.qcow2"));
    qcow2("web.qcow2");
    qcow2("-x.qcow2");
    qcow2("\xff.qcow2");
    look();
    assert_string_equal(domain_names(), "%2Dx %FF web web~2 ");
}

static void loops_are_seen(void **unused)
{
    struct scan_image *one = qcow2("one.qcow2"), *two = qcow2("two.qcow2"), *self = qcow2("self.qcow2");
    struct scan_image *snap = qcow2("web.snap"), *top = qcow2("top.qcow2");
    put_on(one, two);
    put_on(two, one);
    put_on(self, self);
    put_on(snap, snap);
    put_on(top, one);
    look();
    assert_string_equal(domain_names(), "self top ");
    assert_true(problem_has("self", "is a loop"));
    assert_true(problem_has("top", "is a loop"));
    assert_string_equal(chain_of("top", "vda"), "top.qcow2 one.qcow2 two.qcow2 ");
}

static void a_chain_that_ends_early_shows_what_it_has(void **unused)
{
    struct scan_image *web = qcow2("web.qcow2"), *bad = qcow2("bad.qcow2");
    internal(web, "1", "a", 500);
    source.infos[web->index].backing_name = (char *)"gone.qcow2";
    web->backing_problem = (char *)"gone.qcow2: No such file or directory";
    web->backing_error = -ENOENT;
    source.infos[bad->index].error = -EINVAL;
    source.infos[bad->index].problem = (char *)"bad.qcow2: no qcow2 image";
    look();
    assert_string_equal(domain_names(), "bad web ");
    assert_true(problem_has("web", "gone.qcow2: No such file"));
    assert_string_equal(snapshot_names("web"), "a ");
    assert_true(problem_has("bad", "no qcow2 image"));
    assert_null(domain_named("bad")->disks[0].active);
    assert_string_equal(domain_named("bad")->disks[0].source, SOURCE "/bad.qcow2");
}

static void encrypted_images_have_their_snapshots_listed(void **unused)
{
    struct scan_image *web = qcow2("web.qcow2");
    internal(web, "1", "a", 500);
    source.infos[web->index].encrypted = true;
    look();
    assert_string_equal(snapshot_names("web"), "a ");
    assert_true(problem_has("web", "encrypted"));
}

static void domains_are_known_again_by_uuid_then_name_then_file(void **unused)
{
    struct scan_image *a = qcow2("a.qcow2"), *b = qcow2("b.qcow2");
    struct scan_definition *web = definition("web");
    disk(web, "vda", a);
    web->definition.uuid = (char *)"u1";
    look();
    uint64_t of_web = domain_named("web")->serial, of_b = domain_named("b")->serial;

    web->definition.name = (char *)"renamed";
    look();
    assert_string_equal(domain_names(), "b renamed ");
    assert_true(domain_named("renamed")->serial == of_web);
    assert_true(domain_named("b")->serial == of_b);

    web->definition.uuid = (char *)"u2"; /* another machine under that name */
    look();
    assert_true(domain_named("renamed")->serial != of_web);

    web->definition.name = (char *)"b"; /* takes the name of b.qcow2, whose domain is called otherwise now */
    look();
    assert_string_equal(domain_names(), "b b~2 ");
    assert_string_equal(chain_of("b~2", "vda"), "b.qcow2 ");
    assert_non_null(b);
}

/* ---- Which snapshots ---- */

static void equal_tags_on_several_disks_are_one_snapshot(void **unused)
{
    struct scan_image *a = qcow2("a.qcow2"), *b = qcow2("b.qcow2");
    struct scan_definition *web = definition("web");
    disk(web, "vdb", b);
    disk(web, "vda", a);
    internal(a, "1", "both", 700)->vm_state_size = 4096;
    internal(b, "9", "both", 701);
    internal(b, "10", "only-b", 600);
    look();
    assert_string_equal(snapshot_names("web"), "only-b both ");
    const struct snapshot *both = snapshot_named("web", "both");
    assert_int_equal(both->frozen_count, 2);
    assert_ptr_equal(both->frozen[0].disk, &domain_named("web")->disks[0]);
    assert_ptr_equal(both->frozen[1].disk, &domain_named("web")->disks[1]);
    assert_int_equal(both->created.tv_sec, 701); /* the latest */
    assert_int_equal(both->memory_size, 4096);
    assert_int_equal(both->state, SNAPSHOT_STATE_RUNNING);
    assert_int_equal(both->consistency, CONSISTENCY_CHECKPOINT);
    const struct snapshot *only = snapshot_named("web", "only-b");
    assert_int_equal(only->frozen_count, 1);
    assert_int_equal(only->state, SNAPSHOT_STATE_UNKNOWN);
    assert_int_equal(only->consistency, CONSISTENCY_CRASH);
    assert_null(snapshot_find_frozen(only, domain_find_disk(domain_named("web"), "vda")));
}

static void doubles_get_their_id_and_names_become_legal(void **unused)
{
    struct scan_image *web = qcow2("web.qcow2");
    internal(web, "1", "a", 501);
    internal(web, "2", "a", 502);
    internal(web, "3", "a~2", 503);
    internal(web, "4/x", "a", 504);
    internal(web, "5", "", 505);
    internal(web, "6", "b/c", 506);
    internal(web, "6", "a", 507); /* ids are made by others too */
    internal(web, "6", "a", 508);
    look();
    assert_string_equal(snapshot_names("web"), "a a~2 a~2~3 a~4%2Fx % b%2Fc a~6 a~6~2 ");
}

static void a_name_once_given_stays(void **unused)
{
    struct scan_image *web = qcow2("web.qcow2");
    internal(web, "1", "a", 501);
    internal(web, "2", "a", 502);
    look();
    assert_string_equal(snapshot_names("web"), "a a~2 ");
    uint64_t serial = snapshot_named("web", "a~2")->serial;
    /* The first is deleted, and another one of that tag taken. */
    source.snapshots[web->index][0] = &source.entries[web->index][1];
    source.infos[web->index].snapshot_count = 1;
    look();
    assert_string_equal(snapshot_names("web"), "a~2 ");
    source.entries[web->index][2] = source.entries[web->index][1];
    source.entries[web->index][2].id = (char *)"3";
    source.entries[web->index][2].date_sec = 503;
    source.snapshots[web->index][1] = &source.entries[web->index][2];
    source.infos[web->index].snapshot_count = 2;
    look();
    assert_string_equal(snapshot_names("web"), "a~2 a ");
    assert_true(snapshot_named("web", "a~2")->serial == serial);
}

static void too_many_snapshots_are_not_shown(void **unused)
{
    struct scan_image *web = qcow2("web.qcow2");
    internal(web, "1", "a", 501);
    internal(web, "2", "b", 502);
    internal(overlay("web.snap", web), "1", "c", 5000);
    result.room = 3;
    look();
    assert_string_equal(snapshot_names("web"), "a b snap c ");
    assert_null(domain_named("web")->problem);
    result.room = 2;
    look();
    assert_string_equal(snapshot_names("web"), "a b snap* ");
    assert_true(problem_has("web", "the 1 snapshots in " SOURCE "/web.snap"));
    result.room = 1;
    look();
    assert_string_equal(snapshot_names("web"), "snap c ");
}

static void another_snapshot_of_the_same_id_is_another_one(void **unused)
{
    struct scan_image *web = qcow2("web.qcow2");
    struct internal_snapshot *snapshot = internal(web, "1", "a", 501);
    look();
    uint64_t serial = snapshot_named("web", "a")->serial;
    look();
    assert_true(snapshot_named("web", "a")->serial == serial);
    snapshot->date_nsec++;
    look();
    assert_true(snapshot_named("web", "a")->serial != serial);
    serial = snapshot_named("web", "a")->serial;
    snapshot->l1_table_offset += 512;
    look();
    assert_true(snapshot_named("web", "a")->serial != serial);
}

static void a_layer_and_a_tag_of_one_name_are_two_on_one_disk(void **unused)
{
    struct scan_image *base = qcow2("web.qcow2");
    internal(base, "1", "snap", 501);
    struct scan_image *top = overlay("web.snap", base);
    internal(top, "1", "snap", 2001);
    look();
    assert_string_equal(snapshot_names("web"), "snap snap~2 snap~1 ");
    assert_true(snapshot_named("web", "snap~2")->is_protected);
}

static void a_layer_and_a_tag_of_one_name_are_one_on_two_disks(void **unused)
{
    struct scan_image *a = qcow2("a.qcow2"), *b = qcow2("b.qcow2");
    struct scan_definition *web = definition("web");
    disk(web, "vda", a);
    disk(web, "vdb", b);
    overlay("a.snap", a);
    internal(b, "1", "snap", 501);
    look();
    assert_string_equal(snapshot_names("web"), "snap* ");
    assert_int_equal(snapshot_named("web", "snap")->frozen_count, 2);
    assert_true(snapshot_named("web", "snap")->is_protected);
    assert_int_equal(snapshot_named("web", "snap")->created.tv_sec, 1000);
}

static void a_younger_tag_makes_the_current_one_unknown(void **unused)
{
    struct scan_image *base = qcow2("web.qcow2");
    struct scan_image *top = overlay("web.snap", base);
    struct internal_snapshot *in_top = internal(top, "1", "later", 999);
    look();
    assert_string_equal(snapshot_names("web"), "later snap* ");
    in_top->date_sec = 1000;
    look();
    assert_null(domain_named("web")->current);
    in_top->date_sec = 5000;
    look();
    assert_null(domain_named("web")->current);
}

static void parents_are_known_where_all_disks_agree(void **unused)
{
    struct scan_image *a = qcow2("a.qcow2"), *b = qcow2("b.qcow2");
    struct scan_definition *web = definition("web");
    disk(web, "vda", a);
    disk(web, "vdb", b);
    struct scan_image *a1 = overlay("a.one", a), *b2 = overlay("b.two", b);
    struct scan_image *a2 = overlay("a.two", a1);
    look();
    /* On vdb, two is the first. */
    assert_string_equal(snapshot_names("web"), "one two* ");
    overlay("a.three", a2);
    overlay("b.three", b2);
    look();
    assert_string_equal(snapshot_names("web"), "one two two<three* ");
}

static void parents_that_differ_are_none(void **unused)
{
    struct scan_image *a = qcow2("a.qcow2"), *b = qcow2("b.qcow2");
    struct scan_definition *web = definition("web");
    disk(web, "vda", a);
    disk(web, "vdb", b);
    overlay("a.z", overlay("a.x", a));
    overlay("b.z", overlay("b.y", b));
    look();
    assert_string_equal(snapshot_names("web"), "x y z* ");
}

/* Whatever a state file says, no two snapshots get one number. */
static void a_state_that_gives_one_number_twice_does_not(void **unused)
{
    struct scan_image *web = qcow2("web.qcow2");
    internal(web, "1", "a", 501);
    internal(web, "2", "b", 502);
    look();
    struct state_domain *state = result.states[0];
    struct state_snapshot *first = &state->snapshots[0], *second = &state->snapshots[1];
    first->frozen = realloc(first->frozen, 2 * sizeof *first->frozen);
    first->frozen[first->frozen_count++] = second->frozen[0];
    free(second->frozen);
    free(second->name);
    state->snapshot_count = 1;
    look();
    assert_string_equal(snapshot_names("web"), "a b ");
    assert_true(snapshot_named("web", "a")->serial != snapshot_named("web", "b")->serial);
}

static void disks_that_swap_names_make_no_circle(void **unused)
{
    struct scan_image *a = qcow2("a.qcow2"), *b = qcow2("b.qcow2");
    struct scan_definition *web = definition("web");
    disk(web, "vda", a);
    disk(web, "vdb", b);
    overlay("a.y", overlay("a.x", a));
    overlay("b.x", overlay("b.y", b));
    look();
    assert_string_equal(snapshot_names("web"), "y x ");
}

static void endings_with_a_meaning_are_no_names(void **unused)
{
    struct scan_image *base = image("/gold/base.raw", IMAGE_FORMAT_RAW);
    struct scan_definition *web = definition("web");
    struct scan_image *top = qcow2("/elsewhere/x.img");
    put_on(top, base);
    disk(web, "vda", top);
    look();
    assert_string_equal(snapshot_names("web"), "base* ");
}

static void a_disk_keeps_its_position_for_ever(void **unused)
{
    struct scan_image *a = qcow2("a.qcow2"), *b = qcow2("b.qcow2"), *c = qcow2("c.qcow2");
    struct scan_definition *web = definition("web");
    disk(web, "vda", a);
    disk(web, "vdb", b);
    look();
    assert_int_equal(domain_find_disk(domain_named("web"), "vda")->position, 0);
    assert_int_equal(domain_find_disk(domain_named("web"), "vdb")->position, 1);
    web->definition.disks[0].target = (char *)"vdx"; /* vda goes, vdx comes */
    look();
    assert_int_equal(domain_find_disk(domain_named("web"), "vdx")->position, 2);
    assert_int_equal(domain_find_disk(domain_named("web"), "vdb")->position, 1);
    disk(web, "vda", c);
    look();
    assert_int_equal(domain_find_disk(domain_named("web"), "vda")->position, 0);
    assert_int_equal(domain_find_disk(domain_named("web"), "vdx")->position, 2);
}

/* ---- Is a frozen layer still what it was? ---- */

static const struct frozen *frozen_snap(void)
{
    return &snapshot_named("web", "snap")->frozen[0];
}

static void a_layer_that_was_written_to_is_changed(void **unused)
{
    struct scan_image *base = qcow2("web.qcow2");
    overlay("web.snap", base);
    look();
    uint64_t serial = snapshot_named("web", "snap")->serial;
    struct file_identity frozen_as = base->identity;
    atomic_store(&((struct frozen *)frozen_snap())->allocated, 77);
    result.states[0]->snapshots[0].frozen[0].allocated = 77;
    for (int round = 0; round < 3; round++) { /* and stays so */
        base->identity.mtime_nsec++;
        look();
        assert_true(frozen_snap()->layer->changed);
        assert_true(file_identity_same_content(&frozen_snap()->layer->identity, &frozen_as));
        assert_true(problem_has("web", "changed by someone else"));
        assert_true(snapshot_named("web", "snap")->serial == serial);
        assert_true(atomic_load(&frozen_snap()->allocated) == ALLOCATED_UNKNOWN);
    }
    base->identity = frozen_as; /* put back from a backup that keeps times */
    base->identity.inode = 4711;
    look();
    assert_false(frozen_snap()->layer->changed);
    assert_null(domain_named("web")->problem);
}

static void a_store_that_was_copied_is_accepted(void **unused)
{
    struct scan_image *base = qcow2("web.qcow2");
    struct scan_image *top = overlay("web.snap", base);
    look();
    uint64_t serial = snapshot_named("web", "snap")->serial;
    result.states[0]->snapshots[0].frozen[0].allocated = 77;
    base->identity.device = top->identity.device = 9;
    base->identity.inode = 901;
    top->identity.inode = 902;
    look();
    assert_false(frozen_snap()->layer->changed);
    assert_true(snapshot_named("web", "snap")->serial == serial);
    assert_int_equal(atomic_load(&frozen_snap()->allocated), 77);
    base->identity.size++;
    look();
    assert_true(frozen_snap()->layer->changed);
}

static void a_device_with_a_new_number_hides_no_change(void **unused)
{
    struct scan_image *base = qcow2("web.qcow2");
    struct scan_image *top = overlay("web.snap", base);
    look();
    base->identity.device = top->identity.device = 9;
    base->identity.size++;
    look();
    assert_true(frozen_snap()->layer->changed);
}

static void another_overlay_is_another_freezing(void **unused)
{
    struct scan_image *base = qcow2("web.qcow2");
    struct scan_image *top = overlay("web.snap", base);
    look();
    uint64_t serial = snapshot_named("web", "snap")->serial;
    top->identity.inode = 999; /* committed, removed, and made again while we were away */
    base->identity.mtime_sec += 50;
    look();
    assert_false(frozen_snap()->layer->changed);
    assert_true(snapshot_named("web", "snap")->serial != serial);
    assert_int_equal(snapshot_named("web", "snap")->created.tv_sec, 1050);
}

/* libvirt makes the overlay first, and saves the memory in between. */
static void until_the_overlay_is_used_its_base_may_be_written_to(void **unused)
{
    struct scan_image *base = qcow2("web.qcow2");
    struct scan_image *top = overlay("web.snap", base);
    top->is_empty = base->is_written = true;
    look();
    uint64_t serial = snapshot_named("web", "snap")->serial;
    base->identity.mtime_sec = 5000; /* the guest goes on writing */
    look();
    assert_false(frozen_snap()->layer->changed);
    assert_true(snapshot_named("web", "snap")->serial != serial); /* nobody keeps pages of the other one */
    serial = snapshot_named("web", "snap")->serial;
    base->is_written = top->is_empty = false; /* it moved over */
    top->identity.mtime_sec = 5001;
    look();
    assert_true(snapshot_named("web", "snap")->serial == serial);
    base->identity.mtime_sec = 6000;
    look();
    assert_true(frozen_snap()->layer->changed);
}

/* The last write to the base came after it was looked at, and before the overlay was. */
static void what_was_written_to_during_the_scan_is_not_settled(void **unused)
{
    struct scan_image *base = qcow2("web.qcow2");
    struct scan_image *top = overlay("web.snap", base);
    top->identity.mtime_sec = 5001;
    base->is_restless = true;
    look();
    base->identity.mtime_sec = 5000;
    base->is_restless = false;
    look();
    assert_false(frozen_snap()->layer->changed);
    base->identity.mtime_sec = 6000;
    base->is_restless = true; /* once it is settled nobody may write */
    look();
    assert_true(frozen_snap()->layer->changed);
}

static void an_overlay_that_nobody_uses_yet_freezes_all_the_same(void **unused)
{
    struct scan_image *base = qcow2("web.qcow2");
    overlay("web.snap", base)->is_empty = true;
    look();
    base->identity.mtime_sec++;
    look();
    assert_true(frozen_snap()->layer->changed);
}

static void what_is_not_there_now_keeps_its_number(void **unused)
{
    struct scan_image *base = qcow2("web.qcow2"), *gold = qcow2("gold.qcow2");
    internal(gold, "1", "old", 400);
    internal(base, "1", "mine", 500);
    put_on(base, gold);
    look();
    uint64_t old = snapshot_named("web", "old")->serial, layer = snapshot_named("web", "gold")->serial;
    base->backing = NULL;
    base->backing_problem = (char *)"gold.qcow2: Stale file handle";
    look();
    assert_string_equal(snapshot_names("web"), "mine ");
    look();
    base->backing = gold;
    base->backing_problem = NULL;
    look();
    assert_string_equal(snapshot_names("web"), "old mine gold* ");
    assert_true(snapshot_named("web", "old")->serial == old);
    assert_true(snapshot_named("web", "gold")->serial == layer);
    /* Whole and without them, they are gone. */
    base->backing = NULL;
    source.infos[base->index].backing_name = NULL;
    gold->is_backing = false;
    look();
    assert_int_equal(result.states[1]->snapshot_count, 1);
}

static void counts_are_taken_over(void **unused)
{
    struct scan_image *web = qcow2("web.qcow2");
    internal(web, "1", "a", 501);
    look();
    assert_true(atomic_load(&snapshot_named("web", "a")->frozen[0].allocated) == ALLOCATED_UNKNOWN);
    result.states[0]->snapshots[0].frozen[0].allocated = 4242;
    look();
    assert_int_equal(atomic_load(&snapshot_named("web", "a")->frozen[0].allocated), 4242);
    look();
    assert_int_equal(result.states[0]->snapshots[0].frozen[0].allocated, 4242);
}

static void what_did_not_change_compares_as_the_same(void **unused)
{
    struct scan_image *base = qcow2("web.qcow2");
    struct scan_image *top = overlay("web.snap", base);
    struct internal_snapshot *in_top = internal(top, "1", "a", 5000);
    look();
    struct domain *before = domain_ref(domain_named("web"));
    look();
    assert_true(domain_is_same(before, domain_named("web")));
    top->identity.mtime_sec++; /* the guest writes */
    top->identity.size += 65536;
    look();
    assert_true(domain_is_same(before, domain_named("web")));
    in_top->vm_state_size = 1;
    look();
    assert_false(domain_is_same(before, domain_named("web")));
    in_top->vm_state_size = 0;
    base->identity.size++;
    look();
    assert_false(domain_is_same(before, domain_named("web")));
    domain_unref(before);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_qcow2_file_is_a_domain_with_one_disk),
        TEST(a_backing_file_is_none_and_is_frozen_in_its_clones),
        TEST(an_overlay_of_virsh_belongs_to_the_domain_of_its_base),
        TEST(between_an_overlay_and_its_base_anything_may_lie),
        TEST(a_clone_on_an_overlay_takes_it_from_the_domain),
        TEST(of_several_tops_the_one_written_last_is_active),
        TEST(a_top_that_is_somebodys_backing_file_is_not_preferred),
        TEST(a_file_that_the_store_knows_keeps_its_domain),
        TEST(a_definition_makes_a_domain_of_its_disks),
        TEST(overlays_belong_to_the_definition_that_names_their_base),
        TEST(an_overlay_elsewhere_belongs_to_a_defined_disk_too),
        TEST(an_overlay_that_contradicts_a_definition_is_none),
        TEST(what_stands_on_a_defined_disk_and_ends_in_qcow2_is_a_clone),
        TEST(of_two_definitions_of_one_name_the_second_is_left_out),
        TEST(names_that_are_taken_or_not_legal_are_changed),
        TEST(loops_are_seen),
        TEST(a_chain_that_ends_early_shows_what_it_has),
        TEST(encrypted_images_have_their_snapshots_listed),
        TEST(domains_are_known_again_by_uuid_then_name_then_file),
        TEST(equal_tags_on_several_disks_are_one_snapshot),
        TEST(doubles_get_their_id_and_names_become_legal),
        TEST(a_name_once_given_stays),
        TEST(too_many_snapshots_are_not_shown),
        TEST(another_snapshot_of_the_same_id_is_another_one),
        TEST(a_layer_and_a_tag_of_one_name_are_two_on_one_disk),
        TEST(a_layer_and_a_tag_of_one_name_are_one_on_two_disks),
        TEST(a_younger_tag_makes_the_current_one_unknown),
        TEST(parents_are_known_where_all_disks_agree),
        TEST(parents_that_differ_are_none),
        TEST(a_state_that_gives_one_number_twice_does_not),
        TEST(disks_that_swap_names_make_no_circle),
        TEST(endings_with_a_meaning_are_no_names),
        TEST(a_disk_keeps_its_position_for_ever),
        TEST(a_layer_that_was_written_to_is_changed),
        TEST(a_store_that_was_copied_is_accepted),
        TEST(a_device_with_a_new_number_hides_no_change),
        TEST(another_overlay_is_another_freezing),
        TEST(until_the_overlay_is_used_its_base_may_be_written_to),
        TEST(what_was_written_to_during_the_scan_is_not_settled),
        TEST(an_overlay_that_nobody_uses_yet_freezes_all_the_same),
        TEST(what_is_not_there_now_keeps_its_number),
        TEST(counts_are_taken_over),
        TEST(what_did_not_change_compares_as_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
