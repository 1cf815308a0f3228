// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * storage_daemon.h and the commands on block nodes, against the real programs, with qemu-img as the oracle:
 * what works, what must fail and leave no trace, and what a daemon leaves that is killed in the middle. Skips
 * (77) where there is no QEMU.
 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "hypervisor/block_merge.h"
#include "hypervisor/block_nodes.h"
#include "hypervisor/block_snapshot.h"
#include "hypervisor/qemu_img.h"
#include "hypervisor/qmp_arguments.h"
#include "hypervisor/storage_daemon.h"
#include "must.h"

#define LONG_MS   600000
#define NODES_MAX 16
#define MIB       (UINT64_C(1) << 20)

static char folder[] = "/tmp/test_storage_daemon.XXXXXX";

/* ---- words ---- */

static const char *in_folder(const char *name)
{
    static char paths[32][128];
    static unsigned next;
    char *path = paths[next++ % 32];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

/* Runs a shell line in the folder, and returns its status. */
static int status_of(const char *line)
{
    cleanup_free char *command = NULL;
    assert_true(asprintf(&command, "cd %s && { %s; } >log 2>&1", folder, line) > 0);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void run(const char *line)
{
    if (status_of(line) != 0) {
        status_of("cp log log.failed");
        fail_msg("failed: %s", line);
    }
}

/* `says` is a regular expression of grep, in which the shell puts in $PWD, the folder. */
static void assert_info_says(const char *image, const char *says)
{
    char line[512];
    snprintf(line, sizeof line, "qemu-img info %s | grep -q \"%s\"", image, says);
    run(line);
}

/* Leaks are no damage: qemu-img check gives 3 for them. */
static void assert_undamaged(const char *image)
{
    char line[256];
    snprintf(line, sizeof line, "qemu-img check -q -f qcow2 %s", image);
    int status = status_of(line);
    assert_true(status == 0 || status == 3);
}

static void assert_reads_as(const char *image, const char *raw)
{
    char line[256];
    snprintf(line, sizeof line, "qemu-img compare -q -f qcow2 -F raw %s %s", image, raw);
    if (status_of(line) != 0)
        fail_msg("%s reads otherwise than %s", image, raw);
}

static struct json_object *file_node(const char *name, const char *path)
{
    struct json_object *node = json_object_new_object();
    qmp_add_string(&node, "driver", "file");
    qmp_add_string(&node, "node-name", name);
    qmp_add_string(&node, "filename", path);
    qmp_add_string(&node, "discard", "unmap");
    assert_non_null(node);
    return node;
}

static struct json_object *format_node(const char *name, const char *driver, const char *file,
                                       const char *backing)
{
    struct json_object *node = json_object_new_object();
    qmp_add_string(&node, "driver", driver);
    qmp_add_string(&node, "node-name", name);
    qmp_add_string(&node, "file", file);
    qmp_add_string(&node, "discard", "unmap");
    assert_non_null(node);
    if (strcmp(driver, "qcow2") == 0)
        json_object_object_add(node, "backing", backing ? json_object_new_string(backing) : NULL);
    return node;
}

/* A chain of qcow2 images or single ones, to be opened in this order: the file's name is also the node's. */
struct image {
    const char *name, *driver, *backing;
};

static struct json_object *nodes[NODES_MAX];
static size_t node_count;
static const char *write_paths[NODES_MAX];

static void forget_nodes(void)
{
    for (size_t i = 0; i < node_count; i++)
        json_object_put(nodes[i]);
    node_count = 0;
}

static struct storage_daemon_spec spec_of(const struct image *images, size_t count)
{
    forget_nodes();
    for (size_t i = 0; i < count; i++) {
        char file[32];
        snprintf(file, sizeof file, "f-%s", images[i].name);
        write_paths[i] = in_folder(images[i].name);
        nodes[node_count++] = file_node(file, write_paths[i]);
        nodes[node_count++] = format_node(images[i].name, images[i].driver, file, images[i].backing);
    }
    write_paths[count] = NULL;
    return (struct storage_daemon_spec){.write_paths = write_paths,
                                        .nodes = nodes,
                                        .node_count = node_count,
                                        .memory_bytes = (size_t)1 << 30,
                                        .timeout_ms = LONG_MS};
}

static struct block_engine start(const struct image *images, size_t count)
{
    struct storage_daemon_spec spec = spec_of(images, count);
    struct storage_daemon *daemon = NULL;
    struct error err = {0};
    if (storage_daemon_start(&spec, &daemon, &err) < 0)
        fail_msg("%s", err.text);
    return (struct block_engine){.qmp = storage_daemon_qmp(daemon), .daemon = daemon, .timeout_ms = LONG_MS};
}

static int refuse_to_start(const struct storage_daemon_spec *spec, struct error *err)
{
    struct storage_daemon *daemon = NULL;
    *err = (struct error){0};
    int rc = storage_daemon_start(spec, &daemon, err);
    assert_null(daemon);
    assert_int_equal(rc, -err->code);
    return rc;
}

static void stop(struct block_engine *engine)
{
    struct error err = {0};
    if (storage_daemon_stop(engine->daemon, LONG_MS, &err) < 0)
        fail_msg("%s", err.text);
}

static const struct qmp_job_watch patient = {.timeout_ms = LONG_MS};

/* ---- snapshots ---- */

static const struct image two[] = {{"d0", "qcow2", NULL}, {"d1", "qcow2", NULL}};
static const char *const two_names[] = {"d0", "d1"};

static void make_two(void)
{
    run("rm -f d0 d1; for i in 0 1; do qemu-img create -q -f qcow2 d$i 64M; qemu-io -c \"write -P 1$i 0 9M\" "
        "d$i; done");
}

static bool has_tag(const char *image, const char *tag)
{
    char line[512];
    snprintf(line, sizeof line, "qemu-img snapshot -l %s | grep -qw %s", image, tag);
    return status_of(line) == 0;
}

static void test_internal_snapshot_of_two_disks(void **state)
{
    make_two();
    struct block_engine engine = start(two, 2);
    must(block_snapshot_internal(&engine, two_names, 2, "first", &why));
    must(block_snapshot_internal(&engine, two_names, 2, "second", &why));
    must(block_snapshot_delete(&engine, "d0", NULL, "first", &why));
    struct error err = {0};
    assert_int_equal(block_snapshot_delete(&engine, "d0", NULL, "first", &err), -ENOENT);
    assert_int_equal(block_snapshot_delete(&engine, "d0", "7", "second", &err), -ENOENT);
    assert_int_equal(block_snapshot_delete(&engine, "nosuch", NULL, "first", &err), -ENODEV);
    assert_int_equal(block_snapshot_internal(&engine, two_names, 2, "17", &err), -EINVAL);
    assert_int_equal(block_snapshot_internal(&engine, two_names, 2, "", &err), -EINVAL);
    char tag[BLOCK_TAG_BYTES_MAX + 2];
    memset(tag, 't', sizeof tag);
    tag[sizeof tag - 1] = '\0';
    assert_int_equal(block_snapshot_internal(&engine, two_names, 2, tag, &err), -ENAMETOOLONG);
    tag[sizeof tag - 2] = '\0';
    must(block_snapshot_internal(&engine, two_names, 2, tag, &why));
    stop(&engine);
    assert_false(has_tag("d0", "first"));
    assert_true(has_tag("d1", "first"));
    assert_true(has_tag("d0", "second") && has_tag("d1", "second"));
    assert_true(has_tag("d0", tag) && has_tag("d1", tag));
    assert_undamaged("d0");
    assert_undamaged("d1");
}

static void test_snapshot_of_all_or_none(void **state)
{
    make_two();
    run("qemu-img snapshot -c taken d1");
    struct block_engine engine = start(two, 2);
    struct error err = {0};
    assert_int_equal(block_snapshot_internal(&engine, two_names, 2, "taken", &err), -EEXIST);
    assert_non_null(strstr(err.text, "d1"));
    stop(&engine);
    assert_false(has_tag("d0", "taken"));
    run("qemu-img check -q d0; rm -f d1; qemu-img create -q -f raw d1 1M");

    static const struct image with_raw[] = {{"d0", "qcow2", NULL}, {"d1", "raw", NULL}};
    engine = start(with_raw, 2);
    assert_int_equal(block_snapshot_internal(&engine, two_names, 2, "tag", &err), -EOPNOTSUPP);
    stop(&engine);
    assert_false(has_tag("d0", "tag"));
    assert_undamaged("d0");
}

/* ---- overlays ---- */

static void test_external_snapshot(void **state)
{
    make_two();
    run("rm -f new0 new1; qemu-img convert -O raw d0 want && "
        "for i in 0 1; do qemu-img create -q -f qcow2 -b $PWD/d$i -F qcow2 new$i 64M; done");
    struct block_nodes found = {0};
    struct error err = {0};
    static const struct image four[] = {
        {"d0", "qcow2", NULL}, {"d1", "qcow2", NULL}, {"new0", "qcow2", NULL}, {"new1", "qcow2", NULL}};
    struct block_engine engine = start(four, 4);
    const struct block_snapshot_pair bad[] = {{"d0", "new0"}, {"d1", "nosuch"}};
    assert_int_equal(block_snapshot_external(&engine, bad, 2, &err), -ENODEV);
    const struct block_snapshot_pair pairs[] = {{"d0", "new0"}, {"d1", "new1"}};
    must(block_snapshot_external(&engine, pairs, 2, &why));
    assert_int_equal(block_snapshot_external(&engine, pairs, 2, &err), -EBUSY);
    must(block_nodes_query(&engine, &found, &why));
    assert_int_equal(found.count, 8);
    const struct block_node *node = block_nodes_find(&found, "new0");
    assert_non_null(node);
    assert_string_equal(node->driver, "qcow2");
    assert_string_equal(node->filename, in_folder("new0"));
    assert_string_equal(node->backing_filename, in_folder("d0"));
    assert_int_equal(node->virtual_size, 64 * MIB);
    assert_false(node->read_only);
    assert_true(block_nodes_find(&found, "d0")->read_only); /* frozen */
    assert_null(block_nodes_find(&found, "d0")->backing_filename);
    assert_null(block_nodes_find(&found, "nosuch"));
    block_nodes_done(&found);
    stop(&engine);
    assert_reads_as("new0", "want");
}

/* ---- merging ---- */

static const struct image chain[] = {
    {"base", "qcow2", NULL}, {"a", "qcow2", "base"}, {"b", "qcow2", "a"}, {"c", "qcow2", "b"}};

static void make_chain(void)
{
    run("rm -f base a b c; qemu-img create -q -f qcow2 base 64M; qemu-io -c 'write -P 1 0 32M' base;"
        "below=base; for i in a b c; do qemu-img create -q -f qcow2 -b $PWD/$below -F qcow2 $i; below=$i; "
        "done;"
        "qemu-io -c 'write -P 2 1M 40M' a; qemu-io -c 'write -P 3 20M 16M' -c 'write -z 24M 1M' b;"
        "qemu-io -c 'write -P 4 50M 1M' c; qemu-img convert -O raw c want; qemu-img convert -O raw b want-b");
}

/* Kills what runs the nodes: at a call of the progress, or as soon as the graph may change. */
struct killer {
    pid_t pid;
    unsigned calls, at_call;
    const bool *when;
};

static bool watch_and_kill(void *opaque, uint64_t current, uint64_t total)
{
    struct killer *killer = opaque;
    if (++killer->calls == killer->at_call || (killer->when && *killer->when))
        kill(killer->pid, SIGKILL);
    return true;
}

static bool cancel_at_once(void *opaque, uint64_t current, uint64_t total)
{
    return false;
}

static int commit(const struct block_engine *engine, const struct qmp_job_watch *watch, bool *changed,
                  struct error *err)
{
    const struct block_commit spec = {.job_id = "j",
                                      .device = "c",
                                      .overlay = "b",
                                      .top = "a",
                                      .base = "base",
                                      .base_name = in_folder("base")};
    return block_commit(engine, &spec, watch, changed, err);
}

static int stream(const struct block_engine *engine, const struct qmp_job_watch *watch, bool *changed,
                  struct error *err)
{
    const struct block_stream spec = {
        .job_id = "j", .device = "c", .backing = "b", .base = "base", .base_name = in_folder("base")};
    return block_stream(engine, &spec, watch, changed, err);
}

typedef int merger(const struct block_engine *engine, const struct qmp_job_watch *watch, bool *changed,
                   struct error *err);
static merger *const mergers[] = {commit, stream};

static void test_merging(void **state)
{
    for (size_t i = 0; i < 2; i++) {
        make_chain();
        struct block_engine engine = start(chain, 4);
        bool changed = false;
        must(mergers[i](&engine, &patient, &changed, &why));
        assert_true(changed);
        /* No job is left, and the layer that went out can be closed. */
        struct error err = {0};
        assert_int_equal(qmp_job_wait(engine.qmp, "j", &patient, NULL, &err), -ENOENT);
        stop(&engine);
        assert_reads_as("c", "want");
        assert_info_says(i == 0 ? "b" : "c", "backing file: $PWD/base$");
        assert_info_says(i == 0 ? "b" : "c", "backing file format: qcow2");
        assert_undamaged("base");
        assert_undamaged("b");
        assert_undamaged("c");
        run(i == 0 ? "rm a" : "rm a b");
        assert_reads_as("c", "want");
    }
}

static void test_streaming_all(void **state)
{
    make_chain();
    struct block_engine engine = start(chain, 4);
    const struct block_stream spec = {.job_id = "j", .device = "c", .backing = "b"};
    bool changed = false;
    must(block_stream(&engine, &spec, &patient, &changed, &why));
    stop(&engine);
    run("rm base a b; qemu-img info c | grep -q 'backing file' && exit 1 || exit 0");
    assert_reads_as("c", "want");
    assert_undamaged("c");
}

static void test_merging_cancelled(void **state)
{
    for (size_t i = 0; i < 2; i++) {
        make_chain();
        struct block_engine engine = start(chain, 4);
        const struct qmp_job_watch watch = {.progress = cancel_at_once, .timeout_ms = LONG_MS};
        bool changed = false;
        struct error err = {0};
        assert_int_equal(mergers[i](&engine, &watch, &changed, &err), -ECANCELED);
        assert_false(changed);
        must(mergers[i](&engine, &patient, &changed, &why)); /* and again */
        stop(&engine);
        assert_reads_as("c", "want");
    }
}

static void test_merging_refused(void **state)
{
    make_chain();
    struct block_engine engine = start(chain, 4);
    struct error err = {0};
    bool changed = false;
    struct block_commit spec = {
        .job_id = "j", .device = "c", .overlay = "c", .top = "c", .base = "base", .base_name = "x"};
    assert_int_equal(block_commit(&engine, &spec, &patient, &changed, &err), -EINVAL);
    spec.top = "base";
    spec.base = "a";
    assert_true(block_commit(&engine, &spec, &patient, &changed, &err) < 0);
    spec.base = "nosuch";
    assert_int_equal(block_commit(&engine, &spec, &patient, &changed, &err), -ENODEV);
    struct block_stream other = {.job_id = "j", .device = "c", .backing = "b", .base = "base"};
    assert_int_equal(block_stream(&engine, &other, &patient, &changed, &err), -EINVAL);
    assert_false(changed);
    stop(&engine);
    assert_reads_as("c", "want");
}

/* QEMU would show through the layer above what the base has behind the end of the one that goes out. */
static void test_merging_a_short_layer_is_refused(void **state)
{
    make_chain();
    run("rm a b c; qemu-img create -q -f qcow2 -b $PWD/base -F qcow2 a 16M;"
        "qemu-img create -q -f qcow2 -b $PWD/a -F qcow2 b 64M;"
        "qemu-img create -q -f qcow2 -b $PWD/b -F qcow2 c 64M; qemu-img convert -O raw c want");
    struct block_engine engine = start(chain, 4);
    bool changed = false;
    struct error err = {0};
    assert_int_equal(commit(&engine, &patient, &changed, &err), -EOPNOTSUPP);
    const struct block_stream spec = {
        .job_id = "j", .device = "b", .backing = "a", .base = "base", .base_name = in_folder("base")};
    assert_int_equal(block_stream(&engine, &spec, &patient, &changed, &err), -EOPNOTSUPP);
    assert_false(changed);
    stop(&engine);
    assert_reads_as("c", "want");
}

/* At each moment at which we are told something, and at the one at which QEMU loses data if it is let. */
static void test_killed_while_merging(void **state)
{
    for (size_t i = 0; i < 2; i++)
        for (unsigned at = 0; at < 3; at++) {
            make_chain();
            struct block_engine engine = start(chain, 4);
            bool changed = false;
            struct killer killer = {.pid = storage_daemon_pid(engine.daemon), .at_call = at};
            if (at == 0)
                killer.when = &changed;
            const struct qmp_job_watch watch = {
                .progress = watch_and_kill, .opaque = &killer, .timeout_ms = LONG_MS};
            struct error err = {0};
            int rc = mergers[i](&engine, &watch, &changed, &err);
            assert_true(rc == -ECONNRESET || rc == -EPIPE);
            assert_non_null(strstr(err.text, "signal 9"));
            assert_int_equal(storage_daemon_stop(engine.daemon, LONG_MS, &err), -EIO);
            assert_reads_as("c", "want");
            assert_reads_as("b", "want-b");
            assert_undamaged("base");
            assert_undamaged("b");
            assert_undamaged("c");
            if (at == 0) { /* what went out of the chain is not needed */
                assert_info_says(i == 0 ? "b" : "c", "backing file: $PWD/base$");
                run("rm a");
                assert_reads_as("c", "want");
            }
        }
}

static void test_killed_between_commands(void **state)
{
    make_two();
    struct block_engine engine = start(two, 2);
    must(block_snapshot_internal(&engine, two_names, 2, "kept", &why));
    kill(storage_daemon_pid(engine.daemon), SIGKILL);
    struct error err = {0};
    int rc = block_snapshot_internal(&engine, two_names, 2, "lost", &err);
    assert_true(rc == -ECONNRESET || rc == -EPIPE);
    assert_non_null(strstr(err.text, "signal 9"));
    assert_int_equal(storage_daemon_stop(engine.daemon, LONG_MS, &err), -EIO);
    for (int i = 0; i < 2; i++) {
        assert_true(has_tag(two_names[i], "kept"));
        assert_false(has_tag(two_names[i], "lost"));
        assert_undamaged(two_names[i]);
    }
}

/* ---- names of backing files ---- */

static void test_naming_a_backing_file(void **state)
{
    make_chain();
    run("ln base same; qemu-img create -q -f raw r 64M; qemu-img create -q -f qcow2 -b $PWD/r -F raw on-raw");
    struct block_engine engine = start(chain, 4);
    struct block_backing_name name = {.device = "c",
                                      .image = "a",
                                      .backing = "base",
                                      .backing_name = in_folder("same"),
                                      .backing_format = "qcow2"};
    must(block_name_backing(&engine, &name, &why));
    struct error err = {0};
    name.backing_format = "raw";
    assert_int_equal(block_name_backing(&engine, &name, &err), -EOPNOTSUPP);
    name.image = "nosuch";
    assert_int_equal(block_name_backing(&engine, &name, &err), -ENODEV);
    stop(&engine);
    assert_info_says("a", "backing file: $PWD/same$");
    assert_info_says("a", "backing file format: qcow2");
    assert_reads_as("c", "want");

    const struct qemu_img image = {.path = in_folder("on-raw"), .timeout_ms = LONG_MS};
    must(qemu_img_name_backing(&image, in_folder("r2"), "raw", &why));
    assert_info_says("on-raw", "backing file: $PWD/r2$");
    assert_info_says("on-raw", "backing file format: raw");
    run("rm same r on-raw");
    char *longer = malloc(1025);
    assert_non_null(longer);
    memset(longer, 'x', 1024);
    longer[1024] = '\0';
    assert_int_equal(qemu_img_name_backing(&image, longer, "raw", &err), -ENAMETOOLONG);
    free(longer);
    assert_int_equal(qemu_img_name_backing(&image, "", "raw", &err), -EINVAL);
}

static void test_applying_a_snapshot(void **state)
{
    make_two();
    /* The tag "2" is the id of another one. */
    run("qemu-img convert -O raw d0 want; qemu-img snapshot -c 2 d0; qemu-io -c 'write -P 7 0 1M' d0;"
        "qemu-img convert -O raw d0 want2; qemu-img snapshot -c x d0; qemu-io -c 'write -P 8 0 1M' d0");
    const struct qemu_img image = {.path = in_folder("d0"), .timeout_ms = LONG_MS};
    must(qemu_img_apply(&image, "1", &why));
    assert_reads_as("d0", "want");
    must(qemu_img_apply(&image, "2", &why));
    assert_reads_as("d0", "want2");
    struct error err = {0};
    assert_int_equal(qemu_img_apply(&image, "x", &err), -EINVAL);
    assert_int_equal(qemu_img_apply(&image, "99", &err), -ENOENT);
    assert_null(strstr(err.text, "json:"));
    struct block_engine engine = start(two, 1);
    assert_int_equal(qemu_img_apply(&image, "1", &err), -EBUSY);
    stop(&engine);
    assert_reads_as("d0", "want2");
    const struct qemu_img missing = {.path = in_folder("nosuch"), .timeout_ms = LONG_MS};
    assert_int_equal(qemu_img_apply(&missing, "1", &err), -ENOENT);
    assert_undamaged("d0");
}

/* ---- what it may reach ---- */

static void test_other_files_are_out_of_reach(void **state)
{
    make_two();
    run("rm -f other swapped; qemu-img create -q -f qcow2 other 1M; cp other swapped");
    struct storage_daemon_spec spec = spec_of(two, 2);
    struct error err;
    write_paths[1] = NULL; /* d1 is in the graph, and not given */
    assert_int_equal(refuse_to_start(&spec, &err), -EACCES);

    /* Given for reading: can't be opened for writing. */
    const char *const read_paths[] = {in_folder("d1"), NULL};
    spec.read_paths = read_paths;
    assert_int_equal(refuse_to_start(&spec, &err), -EACCES);

    /* Another file that takes the name of a given one. */
    write_paths[1] = in_folder("swapped");
    write_paths[2] = NULL;
    spec.read_paths = NULL;
    spec.node_count = 0;
    struct storage_daemon *daemon = NULL;
    must(storage_daemon_start(&spec, &daemon, &why));
    run("mv other swapped");
    cleanup_json struct json_object *node = file_node("f", in_folder("swapped"));
    assert_int_equal(storage_daemon_add_node(daemon, node, LONG_MS, &err), -EACCES);
    cleanup_json struct json_object *given = file_node("f", in_folder("d0"));
    must(storage_daemon_add_node(daemon, given, LONG_MS, &why));
    must(storage_daemon_delete_node(daemon, "f", LONG_MS, &why));
    assert_true(storage_daemon_delete_node(daemon, "f", LONG_MS, &err) < 0);
    must(storage_daemon_stop(daemon, LONG_MS, &why));

    /* By a descriptor of the caller's, and a path that does not exist. */
    cleanup_close int fd = open(in_folder("d1"), O_RDWR | O_CLOEXEC);
    char by_fd[64];
    snprintf(by_fd, sizeof by_fd, "/proc/self/fd/%d", fd);
    spec = spec_of(two, 2);
    write_paths[1] = by_fd;
    must(storage_daemon_start(&spec, &daemon, &why));
    must(storage_daemon_stop(daemon, LONG_MS, &why));
    write_paths[1] = in_folder("nosuch");
    assert_int_equal(refuse_to_start(&spec, &err), -ENOENT);
}

static void test_image_in_use(void **state)
{
    make_two();
    struct block_engine engine = start(two, 2);
    struct storage_daemon_spec spec = spec_of(two, 2);
    struct error err;
    assert_int_equal(refuse_to_start(&spec, &err), -EBUSY);
    stop(&engine);
    engine = start(two, 2);
    stop(&engine);
}

static void test_graphs_that_are_not_spelled_out(void **state)
{
    static const char *const texts[] = {
        "[]",
        "{\"driver\": \"file\", \"filename\": \"/x\"}",
        "{\"driver\": \"file\", \"node-name\": \"1\", \"filename\": \"/x\"}",
        "{\"driver\": \"file\", \"node-name\": \"a b\", \"filename\": \"/x\"}",
        "{\"driver\": \"file\", \"node-name\": \"a123456789012345678901234567890x\", \"filename\": \"/x\"}",
        "{\"driver\": \"file\", \"node-name\": \"a\", \"filename\": \"x\"}",
        "{\"driver\": \"file\", \"node-name\": \"a\"}",
        "{\"driver\": \"nbd\", \"node-name\": \"a\", \"file\": \"f\"}",
        "{\"node-name\": \"a\", \"file\": \"f\"}",
        "{\"driver\": \"qcow2\", \"node-name\": \"a\", \"backing\": null}",
        "{\"driver\": \"qcow2\", \"node-name\": \"a\", \"file\": \"f\"}",
        "{\"driver\": \"qcow2\", \"node-name\": \"a\", \"file\": \"f\", \"backing\": {\"driver\": \"file\"}}",
        "{\"driver\": \"qcow2\", \"node-name\": \"a\", \"backing\": null, \"file\": {\"driver\": \"file\", "
        "\"filename\": \"/x\"}}",
        "{\"driver\": \"qcow2\", \"node-name\": \"a\", \"backing\": null, \"file\": \"f\", \"data-file\": "
        "null}",
        "{\"driver\": \"raw\", \"node-name\": \"a\", \"file\": \"json:{}\"}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        cleanup_json struct json_object *node = json_tokener_parse(texts[i]);
        assert_non_null(node);
        struct storage_daemon_spec spec = {.nodes = &node, .node_count = 1, .timeout_ms = LONG_MS};
        struct error err;
        if (refuse_to_start(&spec, &err) != -EINVAL)
            fail_msg("%s: %s", texts[i], err.text);
    }
}

static void test_flush_of_nodes(void **state)
{
    make_two();
    struct block_engine engine = start(two, 2);
    must(block_flush(&engine, "d0", NULL, &why));
    must(block_flush(&engine, "f-d0", NULL, &why));
    struct error err = {0};
    assert_int_equal(block_flush(&engine, "nosuch", NULL, &err), -ENODEV);
    assert_true(block_flush(&engine, "d0", "nosuch", &err) < 0);
    stop(&engine);
}

/* ---- its end ---- */

static void test_a_daemon_that_hangs(void **state)
{
    make_two();
    struct block_engine engine = start(two, 2);
    pid_t pid = storage_daemon_pid(engine.daemon);
    kill(pid, SIGSTOP);
    engine.timeout_ms = 50;
    struct error err = {0};
    assert_int_equal(block_snapshot_internal(&engine, two_names, 2, "tag", &err), -ETIMEDOUT);
    assert_int_equal(block_snapshot_internal(&engine, two_names, 2, "tag", &err), -ETIMEDOUT);
    assert_int_equal(storage_daemon_stop(engine.daemon, 50, &err), -ETIMEDOUT);
    assert_int_equal(kill(pid, 0), -1);
    assert_int_equal(errno, ESRCH);
    engine = start(two, 2);
    pid = storage_daemon_pid(engine.daemon);
    kill(pid, SIGSTOP);
    assert_int_equal(storage_daemon_stop(engine.daemon, 50, &err), -ETIMEDOUT);
    assert_int_equal(kill(pid, 0), -1);
    assert_undamaged("d0");
    assert_int_equal(storage_daemon_stop(NULL, 0, NULL), 0);
}

/* What it says on its standard error is in the text. (qemu-img does not know such options; that of QEMU 10
 * calls itself as it was called.) */
static void test_a_daemon_that_does_not_start(void **state)
{
    run("mkdir bin; ln -s $(command -v qemu-img) bin/qemu-storage-daemon");
    cleanup_free char *before = strdup(getenv("PATH"));
    setenv("PATH", in_folder("bin"), 1);
    struct storage_daemon_spec spec = {.timeout_ms = LONG_MS};
    struct error err;
    int rc = refuse_to_start(&spec, &err);
    assert_true(rc == -ECONNRESET || rc == -EPIPE);
    assert_non_null(strstr(err.text, "status 1"));
    assert_non_null(strstr(err.text, "unrecognized option"));
    setenv("PATH", "/nonexistent", 1);
    assert_int_equal(refuse_to_start(&spec, &err), -ENOENT);
    assert_non_null(strstr(err.text, "qemu-system-common"));
    setenv("PATH", before, 1);
}

/* ---- a QEMU instead ---- */

static pid_t start_qemu(struct qmp **client)
{
    int ends[2];
    assert_return_code(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), errno);
    pid_t pid = fork();
    if (pid == 0) {
        if (dup2(ends[1], 3) < 0 || fcntl(3, F_SETFD, 0) < 0)
            _exit(126);
        execlp("qemu-system-x86_64", "qemu-system-x86_64", "-machine", "none", "-nodefaults",
               "-no-user-config", "-display", "none", "-S", "-chardev", "socket,id=monitor,fd=3", "-mon",
               "chardev=monitor,mode=control", NULL);
        _exit(127);
    }
    assert_true(pid > 0);
    close(ends[1]);
    must(qmp_take(&ends[0], "qemu", LONG_MS, client, &why));
    return pid;
}

static void test_the_same_commands_in_a_qemu(void **state)
{
    if (system("command -v qemu-system-x86_64 >/dev/null") != 0)
        skip();
    for (size_t i = 0; i < 4; i++) {
        make_chain();
        struct block_engine engine = {.timeout_ms = LONG_MS};
        pid_t pid = start_qemu(&engine.qmp);
        spec_of(chain, 4);
        for (size_t j = 0; j < node_count; j++)
            must(qmp_command(engine.qmp, "blockdev-add", nodes[j], LONG_MS, NULL, &why));
        const char *const top[] = {"c"};
        must(block_snapshot_internal(&engine, top, 1, "tag", &why));
        struct error err = {0};
        assert_int_equal(block_flush(&engine, "nosuch", NULL, &err), -ENODEV);
        assert_int_equal(block_flush(&engine, "c \"flush\"", NULL, &err), -EINVAL);
        bool changed = false, killed = i >= 2;
        struct killer killer = {.pid = pid, .when = killed ? &changed : NULL};
        const struct qmp_job_watch watch = {
            .progress = watch_and_kill, .opaque = &killer, .timeout_ms = LONG_MS};
        int rc = mergers[i % 2](&engine, &watch, &changed, &err);
        if (killed ? rc != -ECONNRESET && rc != -EPIPE : rc != 0)
            fail_msg("%d %s", rc, err.text);
        qmp_free(engine.qmp);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_reads_as("c", "want");
        run("rm a");
        assert_reads_as("c", "want");
        assert_undamaged("c");
        assert_undamaged("base");
        assert_true(has_tag("c", "tag"));
    }
}

/* Open at the first look, after which the daemon ends. */
static bool is_open_until_it_ends(void *opaque)
{
    pid_t *pid = opaque;
    siginfo_t status;
    if (!*pid)
        return false;
    kill(*pid, SIGCONT);
    while (waitid(P_PID, (id_t)*pid, &status, WEXITED | WNOWAIT) < 0)
        assert_int_equal(errno, EINTR);
    *pid = 0;
    return true;
}

static bool is_always_open(void *opaque)
{
    return true;
}

static void test_left_at_its_end(void **state)
{
    make_two();
    for (int way = 0; way < 2; way++) {
        struct block_engine engine = start(two, 2);
        pid_t pid = storage_daemon_pid(engine.daemon);
        if (way == 0) /* not before it is looked at */
            kill(pid, SIGSTOP);
        storage_daemon_begin_stop(engine.daemon, LONG_MS);
        if (way == 0)
            assert_true(storage_daemon_leave(engine.daemon, is_open_until_it_ends, &pid, LONG_MS));
        else /* by another program, for which nobody waits */
            assert_false(storage_daemon_leave(engine.daemon, is_always_open, NULL, LONG_MS));
    }
}

static int teardown(void **state)
{
    forget_nodes();
    char line[128];
    snprintf(line, sizeof line, "rm -rf %s", folder);
    return system(line);
}

int main(void)
{
    if (system("command -v qemu-img >/dev/null && command -v qemu-io >/dev/null && command -v "
               "qemu-storage-daemon "
               ">/dev/null") != 0) {
        fprintf(stderr, "qemu-storage-daemon and qemu-img are not installed\n");
        return 77;
    }
    if (!mkdtemp(folder))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_internal_snapshot_of_two_disks),
        cmocka_unit_test(test_snapshot_of_all_or_none),
        cmocka_unit_test(test_external_snapshot),
        cmocka_unit_test(test_merging),
        cmocka_unit_test(test_streaming_all),
        cmocka_unit_test(test_merging_cancelled),
        cmocka_unit_test(test_merging_refused),
        cmocka_unit_test(test_merging_a_short_layer_is_refused),
        cmocka_unit_test(test_killed_while_merging),
        cmocka_unit_test(test_killed_between_commands),
        cmocka_unit_test(test_naming_a_backing_file),
        cmocka_unit_test(test_applying_a_snapshot),
        cmocka_unit_test(test_other_files_are_out_of_reach),
        cmocka_unit_test(test_image_in_use),
        cmocka_unit_test(test_graphs_that_are_not_spelled_out),
        cmocka_unit_test(test_flush_of_nodes),
        cmocka_unit_test(test_a_daemon_that_hangs),
        cmocka_unit_test(test_left_at_its_end),
        cmocka_unit_test(test_a_daemon_that_does_not_start),
        cmocka_unit_test(test_the_same_commands_in_a_qemu),
    };
    return cmocka_run_group_tests(tests, NULL, teardown);
}
