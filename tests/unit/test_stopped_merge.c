// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * stopped_merge.h: random chains, merged down and up, cancelled, and with the daemon killed at random
 * moments. What the upper over the lower reads as is the same all the time. Skips (77) where there is no
 * QEMU.
 */
#include "qemu_folder.h"

#include <pthread.h>
#include <signal.h>

#include "base/bytes.h"
#include "hypervisor/block_nodes.h"
#include "hypervisor/stopped_merge.h"

#define ROUNDS 8

/* base <- lower <- upper; "base" may be missing. */
struct chain {
    bool has_base, lower_is_raw;
    uint64_t sizes[3]; /* of base, lower, upper */
    unsigned lower_cluster;
    struct stopped_image images[3];
};

enum { BASE, LOWER, UPPER };

static const char *const names[] = {"base", "lower", "upper"};

static void write_at_random(const char *name, const char *format, uint64_t size)
{
    for (int i = 0; i < 6; i++) {
        uint64_t offset = 512 * random_below(size / 512), most = (size - offset) / 512;
        run("qemu-io -f %s -c 'write %s %llu %llu' %s", format, random_below(3) ? "-P 0x5a" : "-z",
            (unsigned long long)offset,
            (unsigned long long)(512 * (1 + random_below(most < 3000 ? most : 3000))), name);
        run("qemu-io -f %s -c 'write -P %u %llu 512' %s", format, (unsigned)(1 + random_below(255)),
            (unsigned long long)offset, name);
    }
}

static void close_chain(struct chain *chain)
{
    for (int i = 0; i < 3; i++)
        if (chain->images[i].fd >= 0)
            close(chain->images[i].fd);
}

static void open_chain(struct chain *chain, bool lower_writable, bool upper_writable)
{
    for (int i = 0; i < 3; i++)
        chain->images[i] = (struct stopped_image){
            .name = names[i],
            .fd = i > BASE || chain->has_base ? open_image_file(names[i], O_RDONLY) : -1,
            .format = i == LOWER && chain->lower_is_raw ? IMAGE_FORMAT_RAW : IMAGE_FORMAT_QCOW2,
            .writable = i == LOWER ? lower_writable : i == UPPER && upper_writable,
            .backing = i == UPPER ? 0 : -1,
            .data_fd = -1};
}

/* The lower first, then the upper, then the base. */
static struct stopped_images *begin(const struct chain *chain, struct stopped_image images[3])
{
    images[0] = chain->images[LOWER];
    images[1] = chain->images[UPPER];
    images[2] = chain->images[BASE];
    images[0].backing = chain->has_base ? 2 : -1;
    const struct stopped_images_spec spec = {
        .images = images, .count = chain->has_base ? 3 : 2, .timeout_ms = LONG_MS};
    struct stopped_images *daemon = NULL;
    must(stopped_images_begin(&spec, &daemon, &why));
    return daemon;
}

static void make_chain(struct chain *chain)
{
    static const unsigned clusters[] = {512, 4096, 65536, 1 << 20};
    run("rm -f base lower upper want* sums");
    *chain = (struct chain){.lower_is_raw = random_below(3) == 0, .lower_cluster = clusters[random_below(4)]};
    chain->has_base = !chain->lower_is_raw && random_below(2);
    for (int i = BASE; i <= UPPER; i++)
        chain->sizes[i] = 512 * (4096 + random_below(12000)); /* 2 to 8 MiB */
    if (!chain->lower_is_raw && random_below(4) != 0)
        align_up_checked(chain->sizes[LOWER], chain->lower_cluster, &chain->sizes[LOWER]);
    if (random_below(3) == 0)
        chain->sizes[UPPER] = chain->sizes[LOWER];
    if (chain->has_base) {
        run("qemu-img create -q -f qcow2 base %llu", (unsigned long long)chain->sizes[BASE]);
        write_at_random("base", "qcow2", chain->sizes[BASE]);
    }
    const char *format = chain->lower_is_raw ? "raw" : "qcow2";
    if (chain->lower_is_raw)
        run("truncate -s %llu lower", (unsigned long long)chain->sizes[LOWER]);
    else
        run("qemu-img create -q -f qcow2 -o cluster_size=%u,compat=%s %s lower %llu", chain->lower_cluster,
            chain->has_base || random_below(3) ? "1.1" : "0.10",
            chain->has_base ? "-b $PWD/base -F qcow2" : "", (unsigned long long)chain->sizes[LOWER]);
    write_at_random("lower", format, chain->sizes[LOWER]);
    run("qemu-img create -q -f qcow2 -o cluster_size=%u -b $PWD/lower -F %s upper %llu",
        clusters[random_below(4)], format, (unsigned long long)chain->sizes[UPPER]);
    write_at_random("upper", "qcow2", chain->sizes[UPPER]);
    run("qemu-img convert -f qcow2 -O raw upper want && md5sum upper >sums");
}

static bool is_refused(const struct chain *chain)
{
    return !chain->lower_is_raw && chain->sizes[UPPER] > chain->sizes[LOWER] &&
           chain->sizes[LOWER] % chain->lower_cluster;
}

/* What the base has behind the lower's end would be seen. */
static bool is_refused_up(const struct chain *chain)
{
    return chain->has_base && chain->sizes[LOWER] < chain->sizes[UPPER] &&
           chain->sizes[LOWER] < chain->sizes[BASE];
}

static const char *lower_format(const struct chain *chain)
{
    return chain->lower_is_raw ? "raw" : "qcow2";
}

/* The lower alone is what the upper was, and nobody has touched the upper. */
static void assert_merged_down(const struct chain *chain)
{
    assert_reads_as("lower", lower_format(chain), "want");
    run("md5sum -c --quiet sums");
    if (!chain->lower_is_raw)
        assert_undamaged("lower");
    run("rm upper");
    assert_reads_as("lower", lower_format(chain), "want");
}

static void merge_down_in_peace(struct chain *chain)
{
    struct stopped_image images[3];
    open_chain(chain, true, false);
    struct stopped_images *daemon = begin(chain, images);
    must(stopped_merge_down(daemon, 1, NULL, &why));
    must(stopped_images_end(daemon, &why));
    close_chain(chain);
    assert_merged_down(chain);
}

static void test_merging_down(void **state)
{
    unsigned refused = 0;
    for (int i = 0; i < ROUNDS; i++) {
        struct chain chain;
        make_chain(&chain);
        if (!is_refused(&chain)) {
            merge_down_in_peace(&chain);
            continue;
        }
        struct stopped_image images[3];
        refused++;
        open_chain(&chain, true, false);
        struct stopped_images *daemon = begin(&chain, images);
        must_fail(stopped_merge_down(daemon, 1, NULL, &why), EOPNOTSUPP);
        must(stopped_images_end(daemon, &why));
        close_chain(&chain);
        assert_reads_as("upper", "qcow2", "want");
    }
    print_message("%u of %u refused for their sizes\n", refused, ROUNDS);
}

/* A lower that was larger once: what lay there must not come back through the upper. */
static void test_what_lay_behind_the_end_stays_away(void **state)
{
    struct chain chain = {.lower_cluster = 65536, .sizes = {0, 524800, 1 << 20}};
    run("rm -f base lower upper want; qemu-img create -q -f qcow2 lower 1M && qemu-io -c 'write -P 7 0 1M' "
        "lower && qemu-img resize -q --shrink lower 524800 && "
        "qemu-img create -q -f qcow2 -b $PWD/lower -F qcow2 upper 1M && "
        "qemu-img convert -O raw upper want && md5sum upper >sums");
    assert_true(is_refused(&chain));
    struct stopped_image images[3];
    open_chain(&chain, true, true);
    struct stopped_images *daemon = begin(&chain, images);
    must_fail(stopped_merge_down(daemon, 1, NULL, &why), EOPNOTSUPP);
    bool changed = false;
    must(stopped_merge_up(daemon, 1, NULL, NULL, &changed, &why)); /* the other way is open */
    must(stopped_images_end(daemon, &why));
    close_chain(&chain);
    run("rm lower");
    assert_reads_as("upper", "qcow2", "want");
}

static const char *base_name(const struct chain *chain)
{
    return chain->has_base ? in_folder("base") : NULL;
}

static void assert_merged_up(const struct chain *chain)
{
    run("mv lower gone");
    assert_reads_as("upper", "qcow2", "want");
    assert_undamaged("upper");
    if (chain->has_base)
        run("qemu-img info upper | grep -q \"backing file: $PWD/base$\" && "
            "qemu-img info upper | grep -q 'backing file format: qcow2'");
    else
        run("qemu-img info upper | grep -q 'backing file' && exit 1 || exit 0");
}

static void merge_up_in_peace(struct chain *chain)
{
    struct stopped_image images[3];
    bool changed = false;
    open_chain(chain, false, true);
    struct stopped_images *daemon = begin(chain, images);
    must(stopped_merge_up(daemon, 1, base_name(chain), NULL, &changed, &why));
    assert_true(changed);
    must(stopped_images_end(daemon, &why));
    close_chain(chain);
    assert_merged_up(chain);
}

static void test_merging_up(void **state)
{
    for (int i = 0; i < ROUNDS; i++) {
        struct chain chain;
        make_chain(&chain);
        run("md5sum lower >sums");
        if (!is_refused_up(&chain)) {
            merge_up_in_peace(&chain);
            run("mv gone lower && md5sum -c --quiet sums");
            continue;
        }
        struct stopped_image images[3];
        bool changed = false;
        open_chain(&chain, false, true);
        struct stopped_images *daemon = begin(&chain, images);
        must_fail(stopped_merge_up(daemon, 1, base_name(&chain), NULL, &changed, &why), EOPNOTSUPP);
        assert_false(changed);
        must(stopped_images_end(daemon, &why));
        close_chain(&chain);
        assert_reads_as("upper", "qcow2", "want");
    }
}

/* ---- not to the end ---- */

static bool cancel_at_once(void *opaque, uint64_t current, uint64_t total)
{
    return false;
}

static void test_cancelling(void **state)
{
    for (int up = 0; up < 2; up++) {
        struct chain chain;
        do
            make_chain(&chain);
        while (is_refused(&chain) || is_refused_up(&chain));
        struct stopped_image images[3];
        bool changed = false;
        const struct qmp_job_watch watch = {.progress = cancel_at_once, .timeout_ms = LONG_MS};
        open_chain(&chain, !up, up);
        struct stopped_images *daemon = begin(&chain, images);
        if (up)
            must_fail(stopped_merge_up(daemon, 1, base_name(&chain), &watch, &changed, &why), ECANCELED);
        else
            must_fail(stopped_merge_down(daemon, 1, &watch, &why), ECANCELED);
        assert_false(changed);
        /* In the same daemon, once more. */
        if (up)
            must(stopped_merge_up(daemon, 1, base_name(&chain), NULL, &changed, &why));
        else
            must(stopped_merge_down(daemon, 1, NULL, &why));
        must(stopped_images_end(daemon, &why));
        close_chain(&chain);
        if (up)
            assert_merged_up(&chain);
        else
            assert_merged_down(&chain);
    }
}

static void test_wrong_requests(void **state)
{
    struct chain chain;
    do
        make_chain(&chain);
    while (chain.has_base || is_refused(&chain));
    struct stopped_image images[3];
    bool changed = false;
    open_chain(&chain, false, false);
    struct stopped_images *daemon = begin(&chain, images);
    must_fail(stopped_merge_down(daemon, 0, NULL, &why), EINVAL);
    must_fail(stopped_merge_up(daemon, 0, NULL, NULL, &changed, &why), EINVAL);
    must_fail(stopped_merge_up(daemon, 1, "/x", NULL, &changed, &why), EINVAL);
    /* What was not opened for writing is not written to. */
    assert_true(stopped_merge_down(daemon, 1, NULL, &why) < 0);
    assert_true(stopped_merge_up(daemon, 1, NULL, NULL, &changed, &why) < 0);
    stopped_images_drop(&daemon);
    close_chain(&chain);
    assert_reads_as("upper", "qcow2", "want");
    run("md5sum -c --quiet sums");
}

struct killer {
    pid_t pid;
    long delay_usec;
};

static void *kill_later(void *opaque)
{
    const struct killer *killer = opaque;
    usleep((useconds_t)killer->delay_usec);
    kill(killer->pid, SIGKILL);
    return NULL;
}

static void test_killed_at_any_moment(void **state)
{
    unsigned killed = 0, in_time = 0;
    for (int i = 0; i < 3 * ROUNDS; i++) {
        bool up = random_below(2), changed = false;
        struct chain chain;
        do
            make_chain(&chain);
        while (is_refused(&chain) || is_refused_up(&chain));
        struct stopped_image images[3];
        open_chain(&chain, !up, up);
        struct stopped_images *daemon = begin(&chain, images);
        pthread_t thread;
        struct killer killer = {.pid = storage_daemon_pid(stopped_images_engine(daemon)->daemon),
                                .delay_usec = (long)random_below(25000)};
        assert_int_equal(pthread_create(&thread, NULL, kill_later, &killer), 0);
        struct error err = {0};
        int rc = up ? stopped_merge_up(daemon, 1, base_name(&chain), NULL, &changed, &err)
                    : stopped_merge_down(daemon, 1, NULL, &err);
        pthread_join(thread,
                     NULL); /* before its process is reaped: the number is that process's until then */
        stopped_images_end(daemon, NULL);
        close_chain(&chain);
        if (rc < 0 && rc != -ECONNRESET && rc != -EPIPE)
            fail_msg("%d %s", rc, err.text);
        rc < 0 ? killed++ : in_time++;
        assert_undamaged("upper");
        if (!chain.lower_is_raw)
            assert_undamaged("lower");
        assert_reads_as("upper", "qcow2", "want");
        /* Again: what was renamed in the header is done. */
        if (!up)
            merge_down_in_peace(&chain);
        else if (status_of("qemu-img info upper | grep -q \"backing file: $PWD/lower$\"") == 0)
            merge_up_in_peace(&chain);
        else
            assert_merged_up(&chain);
    }
    print_message("%u killed, %u were done before\n", killed, in_time);
    assert_true(killed > 0);
}

int main(void)
{
    int rc = folder_make();
    if (rc)
        return rc;
    random_begin();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merging_down),   cmocka_unit_test(test_what_lay_behind_the_end_stays_away),
        cmocka_unit_test(test_merging_up),     cmocka_unit_test(test_cancelling),
        cmocka_unit_test(test_wrong_requests), cmocka_unit_test(test_killed_at_any_moment),
    };
    return cmocka_run_group_tests(tests, NULL, folder_remove);
}
