// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * qemu_img_copy.h and qcow2_snapshot_view.h: copies of random chains and of snapshots in them, byte for byte
 * what qemu-img makes of the images themselves; and what is left after cancelling. Skips (77) where there is
 * no QEMU.
 */
#include "qemu_folder.h"

#include <sys/stat.h>

#include "hypervisor/qemu_img_copy.h"
#include "image/qcow2_snapshot.h"
#include "image/qcow2_snapshot_view.h"

#define ROUNDS     5
#define LAYERS_MAX 3

struct chain {
    struct stopped_image images[LAYERS_MAX];
    char names[LAYERS_MAX][24];
    size_t count;
};

static uint64_t random_size(void)
{
    return 512 * (2048 + random_below(14000)); /* 1 to 8 MiB, of whole sectors */
}

static void write_at_random(const char *name, const char *format, uint64_t size)
{
    for (int i = 0; i < 4; i++) {
        uint64_t offset = 512 * random_below(size / 512), most = size - offset;
        uint64_t length = 512 * (1 + random_below(most / 512 < 600 ? most / 512 : 600));
        run("qemu-io -f %s -c 'write %s %llu %llu' %s", format, random_below(4) ? "-P 0x5a" : "-z",
            (unsigned long long)offset, (unsigned long long)length, name);
        run("qemu-io -f %s -c 'write -P %u %llu 512' %s", format, (unsigned)(1 + random_below(255)),
            (unsigned long long)offset, name);
    }
}

static void forget(struct chain *chain)
{
    for (size_t i = 0; i < chain->count; i++)
        close(chain->images[i].fd);
    chain->count = 0;
}

/* From the base up: "l0", "l1", ... */
static void make_chain(struct chain *chain, size_t count)
{
    static const unsigned clusters[] = {512, 4096, 65536, 1 << 20};
    run("rm -f l? c want* got*");
    for (size_t i = 0; i < count; i++) {
        uint64_t size = random_size();
        bool is_raw = i == 0 && count > 1 && random_below(2);
        const char *format = is_raw ? "raw" : "qcow2";
        snprintf(chain->names[i], sizeof chain->names[i], "l%zu", i);
        if (is_raw)
            run("truncate -s %llu l0", (unsigned long long)size);
        else if (i == 0)
            run("qemu-img create -q -f qcow2 -o cluster_size=%u l0 %llu", clusters[random_below(4)],
                (unsigned long long)size);
        else
            run("qemu-img create -q -f qcow2 -o cluster_size=%u -b $PWD/l%zu -F %s l%zu %llu",
                clusters[random_below(4)], i - 1, image_format_name(chain->images[i - 1].format), i,
                (unsigned long long)size);
        write_at_random(chain->names[i], format, size);
        chain->images[i] = (struct stopped_image){
            .name = chain->names[i],
            .fd = open_image_file(chain->names[i], O_RDONLY),
            .format = is_raw ? IMAGE_FORMAT_RAW : IMAGE_FORMAT_QCOW2,
            .backing = (int)i - 1,
            .data_fd = -1,
        };
    }
    chain->count = count;
}

static void copy(const struct chain *chain, int view, const char *target, enum image_format format,
                 bool in_place)
{
    int fd = open_image_file(target, O_RDWR);
    const struct qemu_img_copy spec = {.images = chain->images,
                                       .count = chain->count,
                                       .top = chain->count - 1,
                                       .view = view,
                                       .target_name = target,
                                       .target_fd = fd,
                                       .target_format = format,
                                       .in_place = in_place};
    must(qemu_img_copy(&spec, &why));
    close(fd);
}

/* To all kinds of targets; each has to read as `want`. */
static void copy_to_all(const struct chain *chain, int view, const char *want)
{
    run("rm -f got*; echo garbage >got && truncate -s 9M got");
    copy(chain, view, "got", IMAGE_FORMAT_RAW, false);
    run("cmp got %s", want);
    run("dd if=/dev/urandom of=got conv=notrunc bs=$(stat -c %%s got) count=1 status=none");
    copy(chain, view, "got", IMAGE_FORMAT_RAW, true);
    run("cmp got %s", want);
    run("rm got && touch got");
    copy(chain, view, "got", IMAGE_FORMAT_QCOW2, false);
    assert_reads_as("got", "qcow2", want);
    assert_undamaged("got");
    run("qemu-img info got | grep -q 'backing file' && exit 1 || rm got && "
        "qemu-img create -q -f qcow2 -o cluster_size=4096 got $(stat -c %%s %s) && "
        "qemu-io -c \"write -P 77 0 $(stat -c %%s %s)\" got && qemu-img snapshot -c kept got && "
        "qemu-img convert -O raw got want.kept",
        want, want);
    copy(chain, view, "got", IMAGE_FORMAT_QCOW2, true);
    assert_reads_as("got", "qcow2", want);
    assert_undamaged("got");
    run("qemu-img snapshot -a kept got && qemu-img compare -q got want.kept");
}

static void test_copies_of_chains(void **state)
{
    for (int i = 0; i < ROUNDS; i++) {
        struct chain chain;
        make_chain(&chain, 1 + random_below(LAYERS_MAX));
        run("qemu-img convert -f qcow2 -O raw %s want && md5sum l? >sums", chain.names[chain.count - 1]);
        copy_to_all(&chain, -1, "want");
        run("md5sum -c --quiet sums");
        forget(&chain);
    }
}

static void read_snapshots(int fd, struct qcow2_snapshots *snapshots)
{
    const struct byte_source source = byte_source_fd(fd);
    cleanup(qcow2_header_done) struct qcow2_header header = {0};
    int damage = 0;
    must(qcow2_header_read(&source, &header, &why));
    must(qcow2_snapshots_read(&source, &header, snapshots, &damage, &why));
    assert_int_equal(damage, 0);
}

/* The disk is larger now, or smaller, than it was at the snapshot. */
static void test_copies_of_snapshots(void **state)
{
    for (int i = 0; i < ROUNDS; i++) {
        struct chain chain;
        make_chain(&chain, 1 + random_below(LAYERS_MAX));
        const char *top = chain.names[chain.count - 1];
        for (int j = 0; j < 3; j++) {
            uint64_t size = random_size();
            run("qemu-img snapshot -c s%d %s && qemu-img resize -q --shrink %s %llu", j, top, top,
                (unsigned long long)size);
            write_at_random(top, "qcow2", size);
        }
        cleanup(qcow2_snapshots_done) struct qcow2_snapshots snapshots = {0};
        int fd = chain.images[chain.count - 1].fd;
        read_snapshots(fd, &snapshots);
        assert_int_equal(snapshots.count, 3);
        run("md5sum l? >sums");
        for (size_t j = 0; j < snapshots.count; j++) {
            int view = -1;
            must(qcow2_snapshot_view_open(fd, snapshots.entries[j], &view, &why));
            run("cp %s c && qemu-img snapshot -a s%zu c && qemu-img convert -f qcow2 -O raw c want", top, j);
            copy_to_all(&chain, view, "want");
            close(view);
        }
        run("md5sum -c --quiet sums");
        forget(&chain);
    }
}

/* What QEMU can do by itself is the same. */
static void test_a_snapshot_of_the_same_size(void **state)
{
    struct chain chain;
    make_chain(&chain, 2);
    run("qemu-img snapshot -c s l1");
    write_at_random("l1", "qcow2", 1 << 20);
    cleanup(qcow2_snapshots_done) struct qcow2_snapshots snapshots = {0};
    read_snapshots(chain.images[1].fd, &snapshots);
    int view = -1;
    must(qcow2_snapshot_view_open(chain.images[1].fd, snapshots.entries[0], &view, &why));
    run("qemu-img convert -l s -O raw l1 want");
    copy_to_all(&chain, view, "want");
    close(view);
    view = -1;
    run("qemu-img snapshot -d s l1");
    must_fail(qcow2_snapshot_view_open(chain.images[1].fd, snapshots.entries[0], &view, &why), ESTALE);
    assert_int_equal(view, -1);
    forget(&chain);
}

/* ---- what goes wrong ---- */

struct watcher {
    unsigned calls, percent;
    bool cancels;
};

static bool watch(void *opaque, unsigned percent)
{
    struct watcher *watcher = opaque;
    watcher->calls++;
    assert_true(percent <= 100 && percent >= watcher->percent);
    watcher->percent = percent;
    return !watcher->cancels;
}

static void test_progress_and_cancelling(void **state)
{
    struct chain chain;
    make_chain(&chain, 1);
    run("rm l0 && qemu-img create -q -f qcow2 l0 2G && qemu-io -c 'write -P 1 0 400M' l0 && touch got && "
        "md5sum l0 >sums");
    close(chain.images[0].fd);
    chain.images[0].fd = open_image_file("l0", O_RDONLY);
    int fd = open_image_file("got", O_RDWR);
    struct watcher watcher = {0};
    struct qemu_img_copy spec = {.images = chain.images,
                                 .count = 1,
                                 .view = -1,
                                 .target_name = "got",
                                 .target_fd = fd,
                                 .target_format = IMAGE_FORMAT_RAW,
                                 .progress = watch,
                                 .opaque = &watcher};
    must(qemu_img_copy(&spec, &why));
    assert_true(watcher.calls > 0 && watcher.percent > 0);
    run("qemu-img compare -q -F raw l0 got && "
        "test $(stat -c %%b got) -le 1000000");
    watcher = (struct watcher){.cancels = true};
    must_fail(qemu_img_copy(&spec, &why), ECANCELED);
    assert_int_equal(watcher.calls, 1);
    run("md5sum -c --quiet sums");
    /* And again, over what is left of it. */
    watcher.cancels = false;
    watcher.percent = 0;
    must(qemu_img_copy(&spec, &why));
    run("qemu-img compare -q -F raw l0 got");
    close(fd);
    forget(&chain);
}

static void test_only_what_is_given_is_reached(void **state)
{
    run("rm -f l? got secret; qemu-img create -q -f raw secret 1M && qemu-io -f raw -c 'write -P 1 0 1M' "
        "secret && qemu-img create -q -f qcow2 -b $PWD/secret -F raw l0 && touch got && truncate -s 1M want");
    struct chain chain = {.count = 1};
    chain.images[0] = (struct stopped_image){.name = "l0",
                                             .fd = open_image_file("l0", O_RDONLY),
                                             .format = IMAGE_FORMAT_QCOW2,
                                             .backing = -1,
                                             .data_fd = -1};
    copy(&chain, -1, "got", IMAGE_FORMAT_RAW, false);
    run("cmp got want");
    forget(&chain);
}

static void test_failures_are_told(void **state)
{
    struct chain chain;
    make_chain(&chain, 1);
    run("echo garbage >got; printf XXXX >damaged");
    int target = open_image_file("got", O_RDWR), damaged = open_image_file("damaged", O_RDONLY);
    struct qemu_img_copy spec = {.images = chain.images,
                                 .count = 1,
                                 .view = -1,
                                 .target_name = "web1.raw",
                                 .target_fd = target,
                                 .target_format = IMAGE_FORMAT_VMDK};
    must_fail(qemu_img_copy(&spec, &why), EINVAL);
    spec.target_format = IMAGE_FORMAT_QCOW2;
    spec.in_place = true; /* which it is no image for */
    assert_true(qemu_img_copy(&spec, &why) < 0);
    assert_null(strstr(why.text, "/proc/"));
    assert_non_null(strstr(why.text, "web1.raw"));
    spec.in_place = false;
    chain.images[0].backing = 0;
    must_fail(qemu_img_copy(&spec, &why), EINVAL);
    chain.images[0].backing = -1;
    int source = chain.images[0].fd;
    chain.images[0].fd = damaged;
    assert_true(qemu_img_copy(&spec, &why) < 0);
    assert_null(strstr(why.text, "json:"));
    assert_non_null(strstr(why.text, "l0"));
    chain.images[0].fd = source;
    /* Somebody writes to it. */
    struct stopped_image writable = chain.images[0];
    writable.writable = true;
    const struct stopped_images_spec writer = {.images = &writable, .count = 1, .timeout_ms = LONG_MS};
    struct stopped_images *daemon = NULL;
    must(stopped_images_begin(&writer, &daemon, &why));
    must_fail(qemu_img_copy(&spec, &why), EBUSY);
    must(stopped_images_end(daemon, &why));
    must(qemu_img_copy(&spec, &why));
    close(target);
    close(damaged);
    forget(&chain);
}

int main(void)
{
    int rc = folder_make();
    if (rc)
        return rc;
    random_begin();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copies_of_chains),
        cmocka_unit_test(test_copies_of_snapshots),
        cmocka_unit_test(test_a_snapshot_of_the_same_size),
        cmocka_unit_test(test_progress_and_cancelling),
        cmocka_unit_test(test_only_what_is_given_is_reached),
        cmocka_unit_test(test_failures_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, folder_remove);
}
