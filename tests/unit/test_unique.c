// SPDX-License-Identifier: LGPL-2.1-or-later
/* unique.h and qcow2_refcount.h: what deleting would free, on images that qemu-img and qemu-io made. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "image/locate.h"
#include "image/qcow2_snapshot.h"
#include "image/unique.h"

static char directory[] = "/tmp/test_unique.XXXXXX";
static struct locate *locate;

static int setup(void **state)
{
    struct error err;
    assert_non_null(mkdtemp(directory));
    assert_int_equal(locate_new(directory, NULL, 0, IMAGE_FORMAT_UNKNOWN, &locate, &err), 0);
    return 0;
}

static int teardown(void **state)
{
    char command[256];
    locate_free(locate);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

/* Runs a command in the directory. */
static void run(const char *command)
{
    char line[1024];
    snprintf(line, sizeof line, "cd %s && { %s; } >/dev/null", directory, command);
    if (system(line) != 0)
        fail_msg("%s", command);
}

/* The unique bytes of the internal snapshot `tag` of the image `name`. */
static uint64_t unique_of(const char *name, const char *tag)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    struct byte_source source = byte_source_fd(fileno(file));
    struct qcow2_header header;
    struct qcow2_snapshots snapshots;
    struct error err;
    int damage;
    assert_int_equal(qcow2_header_read(&source, &header, &err), 0);
    assert_int_equal(qcow2_snapshots_read(&source, &header, &snapshots, &damage, &err), 0);

    struct layer layer = {.path = path, .format = IMAGE_FORMAT_QCOW2, .active = true};
    struct disk disk = {.active = &layer};
    struct frozen frozen = {.disk = &disk, .layer = &layer};
    for (size_t i = 0; i < snapshots.count; i++)
        if (strcmp(snapshots.entries[i]->name, tag) == 0)
            frozen.internal = snapshots.entries[i];
    assert_non_null(frozen.internal);
    struct snapshot snapshot = {.frozen = &frozen, .frozen_count = 1};
    struct domain domain = {.disks = &disk, .disk_count = 1};
    uint64_t bytes = UINT64_MAX;
    assert_int_equal(
        unique_bytes_count(locate, &domain, &snapshot, (const struct layer *[]){NULL}, NULL, &bytes, &err),
        0);
    qcow2_snapshots_done(&snapshots);
    qcow2_header_done(&header);
    fclose(file);
    return bytes;
}

static void what_was_overwritten_since_is_the_snapshots_own(void **state)
{
    static const char *const options[] = {
        "cluster_size=64k",
        "cluster_size=512",
        "cluster_size=2M",
        "cluster_size=4k,refcount_bits=2",
        "cluster_size=64k,refcount_bits=64",
        "cluster_size=64k,extended_l2=on",
        "compat=0.10",
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        char command[512];
        snprintf(command, sizeof command,
                 "rm -f a.qcow2; qemu-img create -f qcow2 -o %s a.qcow2 64M && qemu-io -c 'write -P 1 0 16M' "
                 "a.qcow2 && "
                 "qemu-img snapshot -c one a.qcow2 && qemu-io -c 'write -P 2 4M 4M' a.qcow2 && "
                 "qemu-img snapshot -c two a.qcow2 && qemu-io -c 'write -P 3 6M 4M' a.qcow2",
                 options[i]);
        run(command);
        /* `one` alone has what was at 4M to 8M; `two` what it had at 6M to 8M; 8M to 10M is in both. */
        assert_int_equal(unique_of("a.qcow2", "one"), 4 * MIB);
        assert_int_equal(unique_of("a.qcow2", "two"), 2 * MIB);
        run("qemu-img snapshot -d one a.qcow2");
        assert_int_equal(unique_of("a.qcow2", "two"), 4 * MIB);
    }
}

static void compressed_clusters_are_counted_where_they_lie(void **state)
{
    run("rm -f a.qcow2 b.raw; seq 1 2000000 | head -c 8M > b.raw; qemu-img convert -c -O qcow2 b.raw "
        "a.qcow2; "
        "qemu-img snapshot -c one a.qcow2");
    assert_int_equal(unique_of("a.qcow2", "one"), 0);
    run("qemu-io -c 'write -z 0 8M' a.qcow2");
    uint64_t bytes = unique_of("a.qcow2", "one");
    assert_true(bytes > 2 * MIB && bytes < 8 * MIB); /* digits compress to about a third */
}

static void a_layer_has_what_the_one_above_wrote_anew(void **state)
{
    run("rm -f *; qemu-img create -f qcow2 base.qcow2 64M; qemu-io -c 'write -P 1 0 8M' base.qcow2; "
        "qemu-img create -f qcow2 -b base.qcow2 -F qcow2 base.top; qemu-io -c 'write -P 2 6M 4M' -c 'write "
        "-z 0 1M' "
        "base.top");
    char base_path[256], top_path[256];
    snprintf(base_path, sizeof base_path, "%s/base.qcow2", directory);
    snprintf(top_path, sizeof top_path, "%s/base.top", directory);
    struct layer base = {.path = base_path, .format = IMAGE_FORMAT_QCOW2};
    struct layer top = {.path = top_path, .format = IMAGE_FORMAT_QCOW2, .backing = &base, .active = true};
    struct disk disk = {.active = &top};
    struct frozen frozen = {.disk = &disk, .layer = &base};
    struct snapshot snapshot = {.frozen = &frozen, .frozen_count = 1};
    struct domain domain = {.disks = &disk, .disk_count = 1};
    struct error err;
    uint64_t bytes;
    assert_int_equal(
        unique_bytes_count(locate, &domain, &snapshot, (const struct layer *[]){&top}, NULL, &bytes, &err),
        0);
    assert_int_equal(bytes, 3 * MIB);
    assert_int_equal(
        unique_bytes_count(locate, &domain, &snapshot, (const struct layer *[]){NULL}, NULL, &bytes, &err),
        0);
    assert_int_equal(bytes, 0);
    unlink(top_path);
    bytes = 42;
    assert_int_equal(
        unique_bytes_count(locate, &domain, &snapshot, (const struct layer *[]){&top}, NULL, &bytes, &err),
        -ENOENT);
    assert_int_equal(bytes, 42);
}

struct asked {
    unsigned times, until;
};

static bool is_asked(void *opaque)
{
    struct asked *asked = opaque;
    return ++asked->times > asked->until;
}

/* Also in a hole, of which a visitor hears only when it ends. */
static void counting_can_be_stopped(void **state)
{
    run("rm -f *; qemu-img create -f qcow2 base.qcow2 8T; "
        "qemu-img create -f qcow2 -b base.qcow2 -F qcow2 base.top");
    char base_path[256], top_path[256];
    snprintf(base_path, sizeof base_path, "%s/base.qcow2", directory);
    snprintf(top_path, sizeof top_path, "%s/base.top", directory);
    struct layer base = {.path = base_path, .format = IMAGE_FORMAT_QCOW2};
    struct layer top = {.path = top_path, .format = IMAGE_FORMAT_QCOW2, .backing = &base, .active = true};
    struct internal_snapshot internal = {.l1_table_offset = 3 * 64 * KIB, .l1_size = 16384};
    struct disk disk = {.active = &top};
    struct domain domain = {.disks = &disk, .disk_count = 1};
    struct frozen cases[] = {{.disk = &disk, .layer = &base},
                             {.disk = &disk, .layer = &base, .internal = &internal}};
    for (size_t i = 0; i < 2; i++) {
        struct snapshot snapshot = {.frozen = &cases[i], .frozen_count = 1};
        const struct layer *const overlays[] = {&top};
        struct asked asked = {.until = 3};
        const struct unique_stop stop = {.wanted = is_asked, .opaque = &asked};
        struct error err = {0};
        uint64_t bytes = 42;
        assert_int_equal(unique_bytes_count(locate, &domain, &snapshot, overlays, &stop, &bytes, &err),
                         -ECANCELED);
        assert_int_equal(bytes, 42);
        assert_int_equal(asked.times, 4);
        asked.until = UINT32_MAX;
        assert_int_equal(unique_bytes_count(locate, &domain, &snapshot, overlays, &stop, &bytes, &err), 0);
        assert_int_equal(bytes, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counting_can_be_stopped),
        cmocka_unit_test(what_was_overwritten_since_is_the_snapshots_own),
        cmocka_unit_test(compressed_clusters_are_counted_where_they_lie),
        cmocka_unit_test(a_layer_has_what_the_one_above_wrote_anew),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
