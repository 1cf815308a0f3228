// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The catalog as the filesystem uses it (catalog.h): on a directory of real images, with everything running.
 * Nothing here has a time limit: what must become true is waited for, and a test that waits for ever has
 * failed.
 */
#include "unit.h"

#include "failing_reads.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "catalog/catalog.h"
#include "catalog/catalog_hold.h"
#include "io/cache.h"
#include "source_dir.h"

static struct mount {
    struct locate *locate;
    struct store *store;
    struct cache *cache;
    struct catalog_service *service;
    atomic_uint changes;
    atomic_uint kept; /* domains that were the same in both, summed over all changes */
    atomic_uint counted;
    atomic_uint broken; /* domains that were published without an active image, or incomplete */
} mounted;

static void on_change(void *opaque, const struct catalog *before, const struct catalog *after)
{
    assert_ptr_not_equal(before, after);
    for (size_t i = 0; i < after->domain_count; i++)
        if (catalog_find_domain(before, after->domains[i]->name) == after->domains[i])
            atomic_fetch_add(&mounted.kept, 1);
    for (size_t i = 0; i < after->domain_count; i++) {
        const struct domain *domain = after->domains[i];
        bool is_whole = !domain->is_incomplete;
        for (size_t j = 0; j < domain->disk_count; j++)
            is_whole &= domain->disks[j].active != NULL;
        if (!is_whole)
            atomic_fetch_add(&mounted.broken, 1);
    }
    atomic_fetch_add(&mounted.changes, 1);
}

static void on_count(void *opaque, const struct domain *domain, const struct snapshot *snapshot,
                     const struct frozen *frozen)
{
    assert_true(atomic_load(&frozen->allocated) != ALLOCATED_UNKNOWN);
    atomic_fetch_add(&mounted.counted, 1);
}

enum { READ_ONLY = 1, COUNT = 2, WATCH = 4, SLOW_TIMER = 8 };

static void mount_source(int how)
{
    struct error err = {0};
    mounted = (struct mount){0};
    if (locate_new(source_dir, NULL, 0, IMAGE_FORMAT_UNKNOWN, &mounted.locate, &err) != 0 ||
        store_open(source_dir, how & READ_ONLY, &mounted.store, &err) != 0)
        fail_msg("%s", err.text);
    mounted.cache = cache_new(1 << 20);
    const struct catalog_options options = {
        .locate = mounted.locate,
        .store = mounted.store,
        .cache = mounted.cache,
        .interval_ms = how & SLOW_TIMER ? 3600000 : 20,
        .count_usage = how & COUNT,
        .changed = on_change,
        .counted = on_count,
    };
    if (catalog_service_new(&options, &mounted.service, &err) != 0)
        fail_msg("%s", err.text);
    if ((how & (WATCH | COUNT)) && catalog_service_start(mounted.service, &err) != 0)
        fail_msg("%s", err.text);
}

static void unmount_source(void)
{
    catalog_service_free(mounted.service);
    cache_free(mounted.cache);
    store_close(mounted.store);
    locate_free(mounted.locate);
    mounted = (struct mount){0};
}

static int teardown(void **state)
{
    unmount_source();
    return source_dir_teardown(state);
}

static void put_catalog(struct catalog **catalog)
{
    catalog_put(*catalog);
}

#define cleanup_catalog cleanup(put_catalog)

static struct catalog *now(void)
{
    return catalog_service_get(mounted.service);
}

static const struct snapshot *find(const struct catalog *catalog, const char *domain, const char *name)
{
    const struct domain *of = catalog_find_domain(catalog, domain);
    return of ? domain_find_snapshot(of, name) : NULL;
}

/* The serial of a snapshot, or of the domain where `name` is NULL. */
static uint64_t serial_of(const char *domain, const char *name)
{
    cleanup_catalog struct catalog *catalog = now();
    const struct domain *of = catalog_find_domain(catalog, domain);
    if (!of)
        fail_msg("there is no domain %s", domain);
    if (!name)
        return of->serial;
    const struct snapshot *snapshot = domain_find_snapshot(of, name);
    if (!snapshot)
        fail_msg("%s has no snapshot %s", domain, name);
    return snapshot->serial;
}

/* Until the snapshot is there with another serial number; in between it may be gone. */
static void wait_for_another(const char *domain, const char *name, uint64_t serial)
{
    for (;; usleep(1000)) {
        cleanup_catalog struct catalog *catalog = now();
        const struct snapshot *snapshot = find(catalog, domain, name);
        if (snapshot && snapshot->serial != serial)
            return;
    }
}

static void wait_for_snapshot(const char *domain, const char *name, bool there)
{
    for (;; usleep(1000)) {
        cleanup_catalog struct catalog *catalog = now();
        if ((find(catalog, domain, name) != NULL) == there)
            return;
    }
}

static void wait_for_domain(const char *domain, bool there)
{
    for (;; usleep(1000)) {
        cleanup_catalog struct catalog *catalog = now();
        if ((catalog_find_domain(catalog, domain) != NULL) == there)
            return;
    }
}

static void wait_for_problem(const char *domain, const char *text)
{
    for (;; usleep(1000)) {
        cleanup_catalog struct catalog *catalog = now();
        const struct domain *of = catalog_find_domain(catalog, domain);
        if (text ? of && of->problem && strstr(of->problem, text) : of && !of->problem)
            return;
    }
}

static void make_images(void)
{
    run("qemu-img create -q -f qcow2 web1.qcow2 8M && qemu-io -c 'write -P 1 0 1M' web1.qcow2 >/dev/null &&"
        " qemu-img snapshot -c a web1.qcow2 && qemu-io -c 'write -P 2 4M 2M' web1.qcow2 >/dev/null &&"
        " qemu-img snapshot -c b web1.qcow2 && qemu-img create -q -f qcow2 -b web1.qcow2 -F qcow2 web1.snap1 "
        "&&"
        " qemu-io -c 'write -P 3 0 64k' web1.snap1 >/dev/null &&"
        " qemu-img create -q -f qcow2 db.qcow2 1M && qemu-img snapshot -c c db.qcow2");
}

static void everything_is_found_by_name_and_by_serial(void **unused)
{
    make_images();
    mount_source(0);
    cleanup_catalog struct catalog *catalog = now();
    assert_int_equal(catalog->domain_count, 2);
    assert_string_equal(catalog->domains[0]->name, "db");
    assert_null(catalog_find_domain(catalog, "nobody"));
    assert_int_equal(catalog->entry_count, 2 + 4);
    for (size_t i = 0; i < catalog->entry_count; i++) {
        const struct catalog_entry *entry = &catalog->by_serial[i];
        assert_ptr_equal(catalog_find_serial(catalog, entry->serial), entry);
        assert_true(entry->serial == (entry->snapshot ? entry->snapshot->serial : entry->domain->serial));
        assert_true(i == 0 || entry->serial > entry[-1].serial);
    }
    assert_null(catalog_find_serial(catalog, 0));
    assert_null(catalog_find_serial(catalog, UINT64_MAX));
    assert_non_null(find(catalog, "web1", "snap1"));
}

static void serials_stay_over_a_remount(void **unused)
{
    make_images();
    mount_source(0);
    static const char *const names[][2] = {{"web1", NULL},    {"web1", "a"}, {"web1", "b"},
                                           {"web1", "snap1"}, {"db", NULL},  {"db", "c"}};
    uint64_t serials[6];
    for (size_t i = 0; i < 6; i++)
        serials[i] = serial_of(names[i][0], names[i][1]);
    for (int round = 0; round < 3; round++) {
        unmount_source();
        mount_source(round == 1 ? READ_ONLY : 0);
        for (size_t i = 0; i < 6; i++)
            assert_true(serial_of(names[i][0], names[i][1]) == serials[i]);
    }
    /* What is new gets new ones, and nothing of what was written before is written again. */
    unmount_source();
    run("qemu-img snapshot -c d db.qcow2 && find .vmsnapfs/domains -printf '%%p %%C@\\n' | grep '[0-9].json' "
        "|"
        " grep -v /%llu.json | sort > before",
        (unsigned long long)serials[4]);
    mount_source(0);
    uint64_t fresh = serial_of("db", "d");
    for (size_t i = 0; i < 6; i++)
        assert_true(fresh > serials[i]);
    run("find .vmsnapfs/domains -printf '%%p %%C@\\n' | grep '[0-9].json' | grep -v /%llu.json | sort | cmp "
        "before",
        (unsigned long long)serials[4]);
}

static void without_a_store_serials_are_hashes_that_stay(void **unused)
{
    make_images();
    mount_source(READ_ONLY);
    uint64_t domain = serial_of("web1", NULL), a = serial_of("web1", "a"), snap = serial_of("web1", "snap1");
    assert_true(domain & a & snap & SERIAL_HASHED);
    assert_true(a != serial_of("web1", "b"));
    unmount_source();
    mount_source(READ_ONLY | WATCH);
    assert_true(serial_of("web1", NULL) == domain);
    assert_true(serial_of("web1", "a") == a);
    assert_true(serial_of("web1", "snap1") == snap);
    /* Deleted and taken again under the same name, it is another one. */
    run("qemu-img snapshot -d c db.qcow2");
    wait_for_snapshot("db", "c", false);
    run("qemu-img snapshot -c e db.qcow2");
    wait_for_snapshot("db", "e", true);
    uint64_t e = serial_of("db", "e");
    run("qemu-img snapshot -d e db.qcow2 && qemu-img snapshot -c e db.qcow2");
    wait_for_another("db", "e", e);
    assert_true(serial_of("web1", "a") == a);
    /* A layer too: frozen again, with other bytes. */
    run("rm web1.snap1 && qemu-io -c 'write -P 9 0 64k' web1.qcow2 >/dev/null");
    wait_for_snapshot("web1", "snap1", false);
    run("qemu-img create -q -f qcow2 -b web1.qcow2 -F qcow2 web1.snap1");
    wait_for_snapshot("web1", "snap1", true);
    assert_true(serial_of("web1", "snap1") != snap);
    run("test ! -e .vmsnapfs");
}

static void what_others_do_shows_up(void **unused)
{
    make_images();
    mount_source(WATCH);
    run("qemu-img snapshot -c new web1.snap1");
    wait_for_snapshot("web1", "new", true);
    run("qemu-img snapshot -d new web1.snap1");
    wait_for_snapshot("web1", "new", false);
    run("qemu-img create -q -f qcow2 -b web1.snap1 -F qcow2 web1.snap2");
    wait_for_snapshot("web1", "snap2", true);
    run("cp db.qcow2 copy.qcow2");
    wait_for_snapshot("copy", "c", true);
    run("rm copy.qcow2");
    wait_for_domain("copy", false);
    run("echo '{\"disks\":[{\"target\":\"sda\",\"source\":\"db.qcow2\",\"format\":\"qcow2\"}]}' > web.tmp &&"
        " mv web.tmp web.json");
    wait_for_snapshot("web", "c", true);
    wait_for_domain("db", false);
    run("rm web.json");
    wait_for_snapshot("db", "c", true);
    wait_for_domain("web", false);
}

/* virsh puts overlays beside their base, wherever a definition says that is. */
static void overlays_in_other_directories_show_up(void **unused)
{
    make_images();
    run("mkdir elsewhere && mv db.qcow2 elsewhere/");
    run("echo '{\"disks\":[{\"target\":\"vda\",\"source\":\"elsewhere/db.qcow2\",\"format\":\"qcow2\"}]}' > "
        "db.json");
    mount_source(WATCH);
    run("qemu-img create -q -f qcow2 -b db.qcow2 -F qcow2 elsewhere/db.monday");
    wait_for_snapshot("db", "monday", true);
    run("rm elsewhere/db.monday");
    wait_for_snapshot("db", "monday", false);
}

/* NFS tells nothing: the timer alone finds it all. Here it is the directory that was never watched. */
static void without_inotify_the_timer_finds_it(void **unused)
{
    make_images();
    run("mkdir elsewhere && mv web1.qcow2 elsewhere/ && ln -s elsewhere/web1.qcow2 link");
    run("echo '{\"disks\":[{\"target\":\"vda\",\"source\":\"elsewhere/web1.qcow2\",\"format\":\"qcow2\"}]}' "
        "> web.json");
    mount_source(WATCH);
    run("qemu-img snapshot -c new elsewhere/web1.qcow2");
    wait_for_snapshot("web", "new", true);
    run("rm elsewhere/web1.qcow2");
    wait_for_problem("web", "No such file");
    run("qemu-img create -q -f qcow2 elsewhere/web1.qcow2 1M");
    wait_for_problem("web", NULL);
}

static void a_hint_makes_it_look_at_once(void **unused)
{
    make_images();
    run("mkdir elsewhere && mv db.qcow2 elsewhere/");
    run("echo '{\"disks\":[{\"target\":\"vda\",\"source\":\"elsewhere/db.qcow2\",\"format\":\"qcow2\"}]}' > "
        "db.json");
    mount_source(WATCH | SLOW_TIMER);
    run("qemu-img snapshot -c new elsewhere/db.qcow2"); /* no event, no timer */
    catalog_service_hint(mounted.service);
    wait_for_snapshot("db", "new", true);
}

static void domains_that_did_not_change_stay_the_same_objects(void **unused)
{
    make_images();
    mount_source(WATCH);
    cleanup_catalog struct catalog *before = now();
    run("qemu-img snapshot -c new db.qcow2");
    wait_for_snapshot("db", "new", true);
    cleanup_catalog struct catalog *after = now();
    assert_ptr_equal(catalog_find_domain(before, "web1"), catalog_find_domain(after, "web1"));
    assert_ptr_not_equal(catalog_find_domain(before, "db"), catalog_find_domain(after, "db"));
    while (atomic_load(&mounted.changes) == 0)
        usleep(1000);
    assert_true(atomic_load(&mounted.kept) > 0);
    /* Who holds the old one still sees all of it. */
    assert_null(find(before, "db", "new"));
    assert_non_null(find(before, "db", "c"));
}

static void a_guest_that_writes_publishes_nothing(void **unused)
{
    make_images();
    mount_source(WATCH);
    /* What comes last is seen last: when it is there, everything before it was looked at. */
    for (int i = 0; i < 20; i++)
        run("qemu-io -c 'write -P %d %dk 64k' web1.snap1 >/dev/null && qemu-io -c 'write 0 64k' db.qcow2 "
            ">/dev/null",
            i, 64 * i);
    assert_int_equal(atomic_load(&mounted.changes), 0);
    run("qemu-img snapshot -c last db.qcow2");
    wait_for_snapshot("db", "last", true);
    while (atomic_load(&mounted.changes) == 0)
        usleep(1000);
    assert_int_equal(atomic_load(&mounted.changes), 1);
}

static void a_frozen_layer_that_someone_writes_to_is_seen(void **unused)
{
    make_images();
    mount_source(WATCH);
    cleanup_catalog struct catalog *before = now();
    assert_false(find(before, "web1", "snap1")->frozen[0].layer->changed);
    run("qemu-io -c 'write 0 64k' web1.qcow2 >/dev/null");
    wait_for_problem("web1", "changed by someone else");
    unmount_source();
    mount_source(0); /* and it is not forgotten */
    wait_for_problem("web1", "changed by someone else");
}

static void a_change_while_not_mounted_is_seen(void **unused)
{
    make_images();
    mount_source(0);
    unmount_source();
    run("qemu-io -c 'write 0 64k' web1.qcow2 >/dev/null");
    mount_source(0);
    wait_for_problem("web1", "changed by someone else");
    unmount_source();
    run("rm -r .vmsnapfs"); /* who wants to have it as it is now */
    mount_source(0);
    wait_for_problem("web1", NULL);
}

/* ---- Counting ---- */

static uint64_t allocated(const char *domain, const char *name)
{
    cleanup_catalog struct catalog *catalog = now();
    return atomic_load(&find(catalog, domain, name)->frozen[0].allocated);
}

static void wait_for_counts(void)
{
    static const char *const names[][2] = {{"web1", "a"}, {"web1", "b"}, {"web1", "snap1"}, {"db", "c"}};
    for (size_t i = 0; i < 4; i++)
        while (allocated(names[i][0], names[i][1]) == ALLOCATED_UNKNOWN)
            usleep(1000);
}

static void what_disks_hold_is_counted_and_kept(void **unused)
{
    make_images();
    mount_source(0);
    assert_true(allocated("web1", "a") == ALLOCATED_UNKNOWN);
    unmount_source();
    mount_source(COUNT | SLOW_TIMER);
    wait_for_counts();
    assert_int_equal(allocated("web1", "a"), 1 << 20);
    assert_int_equal(allocated("web1", "b"), 3 << 20);
    assert_int_equal(allocated("web1", "snap1"), 3 << 20);
    assert_int_equal(allocated("db", "c"), 0);
    while (atomic_load(&mounted.counted) < 4)
        usleep(1000);
    /* It is carried over to the domain's next object, and over a remount. */
    run("qemu-img snapshot -c new web1.snap1");
    wait_for_snapshot("web1", "new", true);
    assert_int_equal(allocated("web1", "a"), 1 << 20);
    unmount_source();
    mount_source(0);
    assert_int_equal(allocated("web1", "a"), 1 << 20);
    assert_int_equal(allocated("web1", "snap1"), 3 << 20);
    assert_int_equal(allocated("db", "c"), 0);
}

static void counting_ends_when_asked_to(void **unused)
{
    run("for i in 1 2 3 4 5 6 7 8; do qemu-img create -q -f qcow2 -o cluster_size=512 $i.qcow2 64M &&"
        " qemu-img snapshot -c a $i.qcow2; done");
    for (int i = 0; i < 20; i++) {
        mount_source(COUNT);
        usleep((useconds_t)(i * 100));
        unmount_source();
        run("rm -rf .vmsnapfs");
    }
    mount_source(COUNT);
}

/* ---- Trouble ---- */

static void a_damaged_state_leaves_the_domain_there(void **unused)
{
    make_images();
    mount_source(0);
    uint64_t web1 = serial_of("web1", NULL), db = serial_of("db", NULL);
    unmount_source();
    run("echo garbage > .vmsnapfs/domains/%llu.json", (unsigned long long)web1);
    mount_source(WATCH);
    assert_true(serial_of("db", NULL) == db);
    assert_true(serial_of("web1", NULL) & SERIAL_HASHED);
    assert_true(serial_of("web1", "a") & SERIAL_HASHED);
    wait_for_problem("web1", "damaged");
    run("qemu-img snapshot -c new web1.snap1");
    wait_for_snapshot("web1", "new", true);
    assert_true(serial_of("web1", "new") & SERIAL_HASHED);
    unmount_source();
    run("test \"$(cat .vmsnapfs/domains/%llu.json)\" = garbage && test $(ls .vmsnapfs/domains | wc -l) = 2 &&"
        " rm .vmsnapfs/domains/%llu.json",
        (unsigned long long)web1, (unsigned long long)web1);
    mount_source(0);
    wait_for_problem("web1", NULL);
    assert_true(serial_of("web1", NULL) > web1);
    assert_false(serial_of("web1", NULL) & SERIAL_HASHED);
}

/* Root may read everything, so somebody else mounts. */
static void what_may_not_be_read_is_a_domain_with_a_problem(void **unused)
{
    make_images();
    run("chmod 0 db.qcow2 && chmod 0755 .");
    if (geteuid() == 0)
        assert_int_equal(seteuid(65534), 0);
    mount_source(WATCH | READ_ONLY);
    wait_for_problem("db", "Permission denied");
    wait_for_snapshot("web1", "a", true);
    assert_int_equal(seteuid(getuid()), 0);
    run("chmod 0644 db.qcow2");
    wait_for_snapshot("db", "c", true);
    wait_for_problem("db", NULL);
}

static void a_store_that_goes_away_ends_nothing(void **unused)
{
    make_images();
    mount_source(WATCH);
    uint64_t a = serial_of("web1", "a");
    run("rm -r .vmsnapfs");
    run("qemu-img snapshot -c new db.qcow2");
    wait_for_snapshot("db", "new", true);
    assert_true(serial_of("web1", "a") == a);
}

static void a_domain_that_comes_back_has_its_numbers(void **unused)
{
    make_images();
    mount_source(WATCH);
    uint64_t db = serial_of("db", NULL), c = serial_of("db", "c");
    run("mkdir away && mv db.qcow2 away/");
    wait_for_domain("db", false);
    run("mv away/db.qcow2 .");
    wait_for_snapshot("db", "c", true);
    assert_true(serial_of("db", NULL) == db);
    assert_true(serial_of("db", "c") == c);
}

static void of_two_overlays_the_one_that_is_written_becomes_active(void **unused)
{
    run("qemu-img create -q -f qcow2 web.qcow2 1M && qemu-img create -q -f qcow2 -b web.qcow2 -F qcow2 "
        "web.one &&"
        " qemu-img create -q -f qcow2 -b web.qcow2 -F qcow2 web.two &&"
        " qemu-io -c 'write 0 64k' web.one >/dev/null && qemu-io -c 'write 0 64k' web.two >/dev/null");
    mount_source(WATCH);
    wait_for_problem("web", "web.two, is taken as active");
    sleep(4); /* until the directory is not looked at again for having just changed */
    run("qemu-io -c 'write 0 64k' web.one >/dev/null");
    wait_for_problem("web", "web.one, is taken as active");
    cleanup_catalog struct catalog *catalog = now();
    assert_non_null(strstr(catalog_find_domain(catalog, "web")->disks[0].active->path, "web.one"));
}

/* ---- Many at once ---- */

static void *reader(void *opaque)
{
    atomic_bool *stop = opaque;
    size_t snapshots = 0;
    while (!atomic_load(stop)) {
        cleanup_catalog struct catalog *catalog = now();
        for (size_t i = 0; i < catalog->domain_count; i++)
            for (size_t j = 0; j < catalog->domains[i]->snapshot_count; j++)
                snapshots += strlen(catalog->domains[i]->snapshots[j]->name);
        catalog_service_hint(mounted.service);
    }
    return snapshots ? opaque : NULL;
}

/* db, whose two disks would be domains of their own without its definition. */
static void make_defined(void)
{
    run("qemu-img create -q -f qcow2 db-a.qcow2 8M && qemu-img snapshot -c one db-a.qcow2 &&"
        " qemu-img create -q -f qcow2 db-b.qcow2 8M && qemu-img snapshot -c one db-b.qcow2 &&"
        " echo '{\"disks\":[{\"target\":\"vda\",\"source\":\"db-a.qcow2\",\"format\":\"qcow2\"},"
        "{\"target\":\"vdb\",\"source\":\"db-b.qcow2\",\"format\":\"qcow2\"}]}' > db.json");
}

static bool is_there(const char *domain)
{
    cleanup_catalog struct catalog *catalog = now();
    return catalog_find_domain(catalog, domain);
}

static void a_domain_whose_definition_cant_be_read_stays(void **unused)
{
    make_defined();
    mount_source(WATCH);
    uint64_t domain = serial_of("db", NULL), one = serial_of("db", "one");
    failing_open = "db.json";
    run("touch db.json");
    wait_for_problem("db", "can't be read now");
    {
        cleanup_catalog struct catalog *catalog = now();
        assert_int_equal(catalog->domain_count, 1);
        assert_true(catalog->domains[0]->is_incomplete);
    }
    assert_true(serial_of("db", NULL) == domain && serial_of("db", "one") == one);
    failing_open = NULL;
    wait_for_problem("db", NULL);
    assert_true(serial_of("db", NULL) == domain && serial_of("db", "one") == one);
}

static void nobody_else_becomes_the_domain_of_a_bad_definition(void **unused)
{
    make_defined();
    mount_source(0);
    uint64_t domain = serial_of("db", NULL), one = serial_of("db", "one");
    unmount_source();
    failing_open = "db.json";
    mount_source(WATCH);
    assert_false(is_there("db-a") || is_there("db-b"));
    failing_open = NULL;
    wait_for_domain("db", true);
    assert_true(serial_of("db", NULL) == domain && serial_of("db", "one") == one);
    run("cp db.json good && echo '{' > db.json");
    wait_for_domain("db", false);
    wait_for_domain("db-a", true);
    assert_true(serial_of("db-a", NULL) != domain && serial_of("db-a", "one") != one);
    unmount_source();
    mount_source(WATCH);
    run("cat good > db.json");
    wait_for_domain("db", true);
    assert_true(serial_of("db", NULL) == domain && serial_of("db", "one") == one);
}

/* Until it is only looked at what changes: the directory was listed once more, well after its last change. */
static void wait_until_quiet(void)
{
    for (int i = 0; i < 3; i++) {
        catalog_look(mounted.service);
        usleep(2100000);
    }
}

static void what_could_not_be_read_for_one_domain_is_looked_at_again(void **unused)
{
    struct error err = {0};
    struct domain *seen = NULL;
    make_defined();
    mount_source(WATCH);
    uint64_t domain = serial_of("db", NULL), one = serial_of("db", "one");
    wait_until_quiet();
    assert_int_equal(catalog_hold(mounted.service, domain, &err), 0);
    failing_read = "db-a.qcow2";
    failing_from = 65536;
    assert_int_equal(catalog_refresh(mounted.service, domain, &seen, NULL, &err), 0);
    assert_true(seen->is_incomplete);
    domain_unref(seen);
    wait_for_problem("db", "can't read the snapshot table");
    failing_read = NULL;
    catalog_release(mounted.service, domain);
    wait_for_problem("db", NULL);
    assert_true(serial_of("db", "one") == one);
}

static void what_was_saved_is_shown_soon_also_where_it_could_not_be_at_once(void **unused)
{
    struct error err = {0};
    struct state_domain *state = NULL;
    make_defined();
    mount_source(WATCH);
    uint64_t domain = serial_of("db", NULL);
    wait_until_quiet();
    assert_int_equal(catalog_hold(mounted.service, domain, &err), 0);
    assert_int_equal(catalog_refresh(mounted.service, domain, NULL, &state, &err), 0);
    free(state->snapshots[0].name);
    state->snapshots[0].name = strdup("other");
    failing_open = "db.json";
    failures = 0;
    assert_int_equal(catalog_save(mounted.service, state, &err), 0);
    assert_true(catalog_show(mounted.service, state, NULL, &err) < 0);
    assert_true(failures > 1); /* it was tried again at once */
    failing_open = NULL;
    state_domain_free(state);
    catalog_release(mounted.service, domain);
    wait_for_snapshot("db", "other", true);
}

/* The disks of a domain are administered from now on, or no more. */
static void set_administered(struct state_domain *state, bool is_administered)
{
    static const char *const files[] = {"db-a.qcow2", "db-b.qcow2"};
    state->is_administered = is_administered;
    for (size_t i = 0; i < state->disk_count; i++) {
        free(state->disks[i].active);
        free(state->disks[i].original);
        state->disks[i].active = is_administered ? strdup(files[i]) : NULL;
        state->disks[i].original = is_administered ? strdup(files[i]) : NULL;
    }
}

/* What it was until then is not another domain's: for a moment its active images would be frozen layers. */
static void a_domain_that_is_administered_no_more_is_whole_all_the_time(void **unused)
{
    struct error err = {0};
    make_defined();
    run("for i in a b; do qemu-img snapshot -d one db-$i.qcow2; done");
    mount_source(0);
    uint64_t domain = serial_of("db", NULL);
    assert_int_equal(catalog_hold(mounted.service, domain, &err), 0);
    for (int i = 0; i < 4; i++) {
        struct state_domain *state = NULL;
        struct domain *shown = NULL;
        assert_int_equal(catalog_refresh(mounted.service, domain, NULL, &state, &err), 0);
        set_administered(state, i % 2 == 0);
        assert_int_equal(catalog_save(mounted.service, state, &err), 0);
        assert_int_equal(catalog_show(mounted.service, state, &shown, &err), 0);
        assert_true(shown->is_administered == (i % 2 == 0) && shown->snapshot_count == 0 && !shown->problem);
        domain_unref(shown);
        state_domain_free(state);
        assert_int_equal(atomic_load(&mounted.broken), 0);
    }
    assert_int_equal(atomic_load(&mounted.changes), 4);
    catalog_release(mounted.service, domain);
}

/* A look at the one alone, to which the other's layers are told afterwards. */
static void a_layer_of_another_domain_is_no_snapshot_either(void **unused)
{
    struct error err = {0};
    struct state_domain *state = NULL;
    struct domain *seen = NULL;
    make_defined();
    run("for i in a b; do qemu-img snapshot -d one db-$i.qcow2; done; echo '{\"disks\":[{\"target\":\"vda\","
        "\"source\":\"db-a.qcow2\",\"format\":\"qcow2\"}]}' > other.json");
    mount_source(0);
    uint64_t domain = serial_of("db", NULL), other = serial_of("other", NULL);
    assert_int_equal(catalog_hold(mounted.service, domain, &err), 0);
    assert_int_equal(catalog_hold(mounted.service, other, &err), 0);
    assert_int_equal(catalog_refresh(mounted.service, domain, NULL, &state, &err), 0);
    set_administered(state, true);
    assert_int_equal(catalog_show(mounted.service, state, NULL, &err), 0);
    assert_int_equal(catalog_refresh(mounted.service, other, &seen, NULL, &err), 0);
    assert_true(seen->is_incomplete && seen->disks[0].is_of_another && !seen->disks[0].active);
    assert_true(seen->snapshot_count == 0 && seen->layer_count == 0);
    domain_unref(seen);
    state_domain_free(state);
    catalog_release(mounted.service, other);
    catalog_release(mounted.service, domain);
}

static void readers_see_whole_catalogs(void **unused)
{
    pthread_t threads[3];
    atomic_bool stop = false;
    make_images();
    mount_source(WATCH | COUNT);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, reader, &stop), 0);
    for (int i = 0; i < 5; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", i);
        run("qemu-img snapshot -c %s db.qcow2", name);
        wait_for_snapshot("db", name, true);
    }
    atomic_store(&stop, true);
    for (size_t i = 0; i < 3; i++) {
        void *seen;
        pthread_join(threads[i], &seen);
        assert_non_null(seen);
    }
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, source_dir_setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(everything_is_found_by_name_and_by_serial),
        TEST(serials_stay_over_a_remount),
        TEST(without_a_store_serials_are_hashes_that_stay),
        TEST(what_others_do_shows_up),
        TEST(overlays_in_other_directories_show_up),
        TEST(without_inotify_the_timer_finds_it),
        TEST(a_hint_makes_it_look_at_once),
        TEST(domains_that_did_not_change_stay_the_same_objects),
        TEST(a_guest_that_writes_publishes_nothing),
        TEST(a_frozen_layer_that_someone_writes_to_is_seen),
        TEST(a_change_while_not_mounted_is_seen),
        TEST(what_disks_hold_is_counted_and_kept),
        TEST(counting_ends_when_asked_to),
        TEST(a_damaged_state_leaves_the_domain_there),
        TEST(what_may_not_be_read_is_a_domain_with_a_problem),
        TEST(a_store_that_goes_away_ends_nothing),
        TEST(a_domain_that_comes_back_has_its_numbers),
        TEST(of_two_overlays_the_one_that_is_written_becomes_active),
        TEST(readers_see_whole_catalogs),
        TEST(a_domain_whose_definition_cant_be_read_stays),
        TEST(nobody_else_becomes_the_domain_of_a_bad_definition),
        TEST(what_could_not_be_read_for_one_domain_is_looked_at_again),
        TEST(what_was_saved_is_shown_soon_also_where_it_could_not_be_at_once),
        TEST(a_domain_that_is_administered_no_more_is_whole_all_the_time),
        TEST(a_layer_of_another_domain_is_no_snapshot_either),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
