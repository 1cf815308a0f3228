// SPDX-License-Identifier: LGPL-2.1-or-later
/* The store: what is saved comes back, whatever happened in between; and who may use it. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/text.h"
#include "source_dir.h"
#include "store/restart.h"
#include "store/state_json.h"
#include "store/store.h"
#include "store/thaw_owed.h"

static char *copy(const char *string)
{
    char *made = strdup(string);
    assert_non_null(made);
    return made;
}

static void administer(struct state_domain *state)
{
    state->is_administered = true;
    state->current = state->serial + 1;
    state->guard = state->current;
    state->defaults = copy("quiesce=try\n");
    assert_int_equal(state_paths_add(&state->made, "web1.up\"grade"), 0);
    assert_int_equal(state_paths_add(&state->made, "bytes\xfe"), 0);
    assert_int_equal(state_paths_add(&state->touched, "b"), 0);
    struct state_memory old = {copy("web1.old.mem"), COMPRESS_GZIP, {5, 4, 3, 2, 1}};
    assert_int_equal(state_add_unneeded(state, &old), 0);
    assert_int_equal(state_add_unneeded(state, &old), 0);
    free(old.path);
    assert_int_equal(state_paths_add(&state->reused, "/elsewhere/c"), 0);
    assert_int_equal(state_paths_add(&state->raw, "/elsewhere/c"), 0);
    assert_int_equal(state_paths_add(&state->left, "first.img"), 0);
    struct state_mirror mirror = {.position = 7,
                                  .path = copy("copy.qcow2"),
                                  .format = IMAGE_FORMAT_QCOW2,
                                  .operation = 12,
                                  .device = 3,
                                  .inode = 4,
                                  .phase = MIRROR_PIVOTS,
                                  .is_made = true,
                                  .resumes = true};
    assert_int_equal(state_add_mirror(state, &mirror), 0);
    mirror.position = 0;
    mirror.phase = MIRROR_ENDS;
    mirror.is_shallow = true;
    assert_int_equal(state_add_mirror(state, &mirror), 0);
    free(mirror.path);
    state->hidden_count = 1;
    state->hidden = calloc(1, sizeof *state->hidden);
    state->hidden[0] = (struct state_frozen){.target = copy("vdb"),
                                             .position = 7,
                                             .layer = copy("web1.x"),
                                             .allocated = 1,
                                             .layer_identity = {1, 2, 3, 4, 5},
                                             .is_settled = true};
}

/* A state with something in every field. */
static struct state_domain *make_state(uint64_t serial, const char *name, size_t snapshots)
{
    struct state_domain *state = calloc(1, sizeof *state);
    state->serial = serial;
    state->name = copy(name);
    state->uuid = copy("7a4c0000-0000-0000-0000-00000000000a");
    state->files = calloc(3, sizeof *state->files);
    state->files[0] = copy("web \"1\".qcow2");
    state->files[1] = copy("bytes\xff\xfe.img"); /* no UTF-8 */
    state->disk_count = 2;
    state->disks = calloc(2, sizeof *state->disks);
    state->disks[0] = (struct state_disk){.position = 0, .target = copy("vda")};
    state->disks[1] = (struct state_disk){.position = 7,
                                          .target = copy("vdb"),
                                          .active = copy("web1.up\"grade"),
                                          .original = copy("/elsewhere/\xff.img")};
    administer(state);
    state->snapshot_count = snapshots;
    state->snapshots = calloc(snapshots ? snapshots : 1, sizeof *state->snapshots);
    for (size_t i = 0; i < snapshots; i++) {
        struct state_snapshot *snapshot = &state->snapshots[i];
        char text[32];
        snprintf(text, sizeof text, "s%zu\u00e9", i);
        snapshot->serial = serial + 1 + i;
        snapshot->name = copy(text);
        snapshot->parent = i ? serial + i : 0;
        snapshot->created_sec = -1;
        snapshot->created_nsec = 999999999;
        snapshot->state = SNAPSHOT_STATE_PAUSED;
        snapshot->consistency = CONSISTENCY_QUIESCED;
        snapshot->is_protected = i % 2;
        snapshot->description = i % 2 ? copy("two\nlines") : NULL;
        if (i % 2) {
            snapshot->memory = (struct state_memory){copy("web1.\xffs.mem"), COMPRESS_ZSTD, {1, 2, 3, -4, 5}};
            assert_int_equal(state_paths_add(&snapshot->launch, "qemu-system-x86_64"), 0);
            assert_int_equal(state_paths_add(&snapshot->launch, "-S"), 0);
        }
        snapshot->frozen_count = 2;
        snapshot->frozen = calloc(2, sizeof *snapshot->frozen);
        snapshot->frozen[0] = (struct state_frozen){
            .target = copy("vda"),
            .layer = copy("/elsewhere/\\gold\n.qcow2"),
            .internal = true,
            .internal_id = copy("\x01\x80id"),
            .l1_table_offset = UINT64_MAX,
            .date_sec = UINT32_MAX,
            .date_nsec = 999999999,
            .allocated = 12345678901234567890u,
        };
        snapshot->frozen[1] = (struct state_frozen){
            .target = copy("vdb"),
            .position = 7,
            .layer = copy("bytes\xff\xfe.img"),
            .allocated = ALLOCATED_UNKNOWN,
            .layer_identity = {UINT64_MAX, 2, 3, -4, 5},
            .overlay_identity = {6, 7, 8, 9, 10},
            .is_settled = i % 2,
        };
    }
    return state;
}

static char *as_json(const struct state_domain *state)
{
    struct text text = {0};
    state_json_write(&text, state);
    assert_false(text.failed);
    return text_steal(&text);
}

static void assert_same_state(const struct state_domain *a, const struct state_domain *b)
{
    cleanup_free char *left = as_json(a), *right = as_json(b);
    assert_string_equal(left, right);
}

static void copies_are_the_same(void **unused)
{
    struct state_domain *state = make_state(17, "web1", 3), *twin = NULL;
    assert_int_equal(state_domain_copy(state, &twin), 0);
    assert_same_state(state, twin);
    assert_ptr_not_equal(state->made, twin->made);
    assert_ptr_equal(state_find_snapshot(twin, 19), &twin->snapshots[1]);
    assert_null(state_find_snapshot(twin, 21));
    state_paths_remove(twin->made, "web1.up\"grade");
    assert_false(state_paths_have(twin->made, "web1.up\"grade"));
    assert_true(state_paths_have(twin->made, "bytes\xfe"));
    assert_true(state_paths_have(state->made, "web1.up\"grade"));
    state_remove_mirror(twin, 7);
    state_remove_mirror(twin, 7);
    assert_null(state_find_mirror(twin, 7));
    assert_int_equal(state_find_mirror(twin, 0)->phase, MIRROR_ENDS);
    assert_int_equal(state_find_mirror(state, 7)->phase, MIRROR_PIVOTS);
    state_domain_free(state);
    state_domain_free(twin);
}

static struct store *open_store(bool read_only);

static void restarts_come_back_as_they_were(void **unused)
{
    char first[] = "qemu", second[] = "with \"quotes\"", third[] = "bytes\xfe", path[] = "/somewhere/else";
    char *launch[] = {first, second, third, NULL};
    struct restart restart = {.domain = 17,
                              .operation = 33,
                              .before = RESTART_RUNNING,
                              .memory = path,
                              .is_saved = true,
                              .launch = launch,
                              .events = true,
                              .bandwidth = UINT64_C(1) << 40,
                              .after = RESTART_PAUSED,
                              .snapshot = 20,
                              .has_run = true};
    struct restart read = {0};
    struct store *store = open_store(false);
    struct error err;
    uint64_t *domains = NULL;
    size_t count;
    assert_int_equal(store_read_restart(store, 17, &read, &err), -ENOENT);
    assert_int_equal(store_save_restart(store, &restart, &err), 0);
    assert_int_equal(store_list_restarts(store, &domains, &count), 0);
    assert_int_equal(count, 1);
    assert_int_equal(domains[0], 17);
    free(domains);
    assert_int_equal(store_read_restart(store, 17, &read, &err), 0);
    for (size_t i = 0; launch[i]; i++)
        assert_string_equal(read.launch[i], launch[i]);
    assert_string_equal(read.memory, restart.memory);
    assert_true(read.domain == 17 && read.operation == 33 && read.snapshot == 20);
    assert_true(read.before == RESTART_RUNNING && read.after == RESTART_PAUSED);
    assert_true(read.is_saved && read.events && !read.pause_before_switchover && read.has_run);
    assert_true(read.bandwidth == restart.bandwidth);
    restart_done(&read);
    assert_int_equal(store_remove_restart(store, 17, &err), 0);
    assert_int_equal(store_remove_restart(store, 17, &err), 0);
    assert_int_equal(store_read_restart(store, 17, &read, &err), -ENOENT);
    store_close(store);
}

static void thaws_come_back_as_they_were(void **unused)
{
    char agent[] = "/run/agent\xfe", monitor[] = "";
    struct thaw_owed owed = {.domain = 17,
                             .agent = agent,
                             .monitor = monitor,
                             .socket = {.inode = 1234567890123, .mtime_sec = 1789, .mtime_nsec = 999999999}};
    struct thaw_owed read = {0};
    struct store *store = open_store(false);
    struct error err;
    uint64_t *domains = NULL;
    size_t count;
    assert_int_equal(store_list_thaws(store, &domains, &count), 0);
    assert_int_equal(count, 0);
    free(domains);
    assert_int_equal(store_save_thaw(store, &owed, &err), 0);
    assert_int_equal(store_list_restarts(store, &domains, &count), 0);
    assert_int_equal(count, 0);
    free(domains);
    assert_int_equal(store_list_thaws(store, &domains, &count), 0);
    assert_int_equal(count, 1);
    assert_int_equal(domains[0], 17);
    free(domains);
    assert_int_equal(store_read_thaw(store, 17, &read, &err), 0);
    assert_string_equal(read.agent, agent);
    assert_string_equal(read.monitor, "");
    assert_true(read.domain == 17 && read.socket.inode == owed.socket.inode);
    assert_true(read.socket.mtime_sec == 1789 && read.socket.mtime_nsec == 999999999);
    thaw_owed_done(&read);
    assert_true(store_read_thaw(store, 18, &read, &err) < 0);
    assert_int_equal(store_remove_thaw(store, 17, &err), 0);
    assert_int_equal(store_remove_thaw(store, 17, &err), 0);
    store_close(store);
}

static struct store *open_store(bool read_only)
{
    struct store *store = NULL;
    struct error err = {0};
    if (store_open(source_dir, read_only, &store, &err) != 0)
        fail_msg("%s", err.text);
    return store;
}

static size_t load(struct store *store, struct state_domain ***states)
{
    size_t count;
    struct error err = {0};
    if (store_load(store, states, &count, &err) != 0)
        fail_msg("%s", err.text);
    return count;
}

static void free_all(struct state_domain **states, size_t count)
{
    for (size_t i = 0; i < count; i++)
        state_domain_free(states[i]);
    free(states);
}

static void save(struct store *store, const struct state_domain *state)
{
    struct error err = {0};
    if (store_save(store, state, &err) != 0)
        fail_msg("%s", err.text);
}

static void every_field_comes_back(void **unused)
{
    struct store *store = open_store(false);
    struct state_domain *state = make_state(17, "web1", 3), *other = make_state(40, "\u00e9%2F", 0), **loaded;
    struct error err = {0};
    assert_int_equal(store_save_all(store, (const struct state_domain *[]){state, other}, 2, &err), 0);
    store_close(store);

    store = open_store(false);
    assert_int_equal(load(store, &loaded), 2);
    assert_same_state(loaded[0], state);
    assert_same_state(loaded[1], other);
    const struct state_frozen *internal = &loaded[0]->snapshots[0].frozen[0];
    const struct state_frozen *layer = &loaded[0]->snapshots[1].frozen[1];
    assert_string_equal(loaded[0]->files[1], "bytes\xff\xfe.img");
    assert_string_equal(internal->internal_id, "\x01\x80id");
    assert_true(internal->allocated == 12345678901234567890u);
    assert_true(internal->l1_table_offset == UINT64_MAX);
    assert_true(layer->allocated == ALLOCATED_UNKNOWN);
    assert_int_equal(layer->layer_identity.mtime_sec, -4);
    assert_int_equal(layer->overlay_identity.inode, 7);
    assert_true(layer->is_settled);
    assert_false(loaded[0]->snapshots[0].frozen[1].is_settled);
    free_all(loaded, 2);

    assert_int_equal(store_remove(store, 17, &err), 0);
    assert_int_equal(store_remove(store, 17, &err), 0);
    assert_int_equal(load(store, &loaded), 1);
    assert_same_state(loaded[0], other);
    free_all(loaded, 1);
    store_close(store);
    state_domain_free(state);
    state_domain_free(other);
}

static void many_states_are_saved_together(void **unused)
{
    struct store *store = open_store(false);
    struct state_domain *states[200], **loaded;
    for (size_t i = 0; i < 200; i++)
        states[i] = make_state(1000 + 10 * i, "n", 1);
    struct error err = {0};
    assert_int_equal(store_save_all(store, (const struct state_domain *const *)states, 200, &err), 0);
    assert_int_equal(load(store, &loaded), 200);
    for (size_t i = 0; i < 200; i++) {
        assert_same_state(loaded[i], states[i]);
        state_domain_free(states[i]);
    }
    free_all(loaded, 200);
    store_close(store);
}

static void no_serial_is_given_twice(void **unused)
{
    uint64_t last = 0, serial;
    struct error err = {0};
    for (int mount = 0; mount < 5; mount++) {
        struct store *store = open_store(false);
        for (int i = 0; i < 5000; i++) {
            assert_int_equal(store_next_serial(store, &serial, &err), 0);
            assert_true(serial > last && serial < SERIAL_HASHED);
            last = serial;
        }
        store_close(store);
    }
}

static void a_lost_counter_goes_on_above_all_that_is_known(void **unused)
{
    struct store *store = open_store(false);
    struct state_domain *state = make_state(90000, "web1", 5), **loaded;
    save(store, state);
    store_close(store);
    static const char *const losses[] = {"rm -f .vmsnapfs/serials", "echo nonsense > .vmsnapfs/serials",
                                         "printf 12 > .vmsnapfs/serials", ": > .vmsnapfs/serials"};
    for (size_t i = 0; i < 4; i++) {
        run("%s", losses[i]);
        store = open_store(false);
        size_t count_loaded = load(store, &loaded);
        free_all(loaded, count_loaded);
        uint64_t serial;
        struct error err = {0};
        assert_int_equal(store_next_serial(store, &serial, &err), 0);
        assert_true(serial > 90005);
        store_close(store);
    }
    state_domain_free(state);
}

static void the_second_writable_mount_is_told_who_the_first_is(void **unused)
{
    struct store *first = open_store(false), *second = NULL, *reader = open_store(true);
    struct error err = {0};
    char host[65] = "", pid[32];
    gethostname(host, 64);
    snprintf(pid, sizeof pid, "process %d)", (int)getpid());
    assert_int_equal(store_open(source_dir, false, &second, &err), -EBUSY);
    assert_null(second);
    assert_non_null(strstr(err.text, host));
    assert_non_null(strstr(err.text, pid));
    assert_non_null(strstr(err.text, source_dir));
    assert_true(store_is_read_only(reader));
    store_close(first);
    second = open_store(false);
    assert_false(store_is_read_only(second));
    store_close(second);
    store_close(reader);
}

static void *close_soon(void *store)
{
    usleep(50000);
    store_close(store);
    return NULL;
}

/* umount does not wait for the daemon. */
static void a_holder_that_is_ending_is_waited_for(void **unused)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, close_soon, open_store(false)), 0);
    struct store *store = open_store(false);
    assert_false(store_is_read_only(store));
    store_close(store);
    pthread_join(thread, NULL);
}

static void read_only_writes_nothing(void **unused)
{
    struct store *store = open_store(true);
    struct state_domain *state = make_state(5, "web1", 1), **loaded;
    struct error err = {0};
    uint64_t serial;
    assert_int_equal(access(source_dir, F_OK), 0);
    run("test ! -e .vmsnapfs");
    assert_int_equal(load(store, &loaded), 0);
    assert_int_equal(store_save(store, state, &err), -EROFS);
    assert_int_equal(store_remove(store, 5, &err), -EROFS);
    assert_int_equal(store_next_serial(store, &serial, &err), -EROFS);
    store_close(store);

    store = open_store(false);
    save(store, state);
    store_close(store);
    run("touch .vmsnapfs/left.tmp; find .vmsnapfs -printf '%%p %%T@ %%C@ %%s\\n' | sort > ../$(basename "
        "%s).before",
        source_dir);
    store = open_store(true);
    assert_int_equal(load(store, &loaded), 1);
    assert_same_state(loaded[0], state);
    free_all(loaded, 1);
    assert_int_equal(store_save(store, state, &err), -EROFS);
    store_close(store);
    run("find .vmsnapfs -printf '%%p %%T@ %%C@ %%s\\n' | sort | cmp - ../$(basename %s).before; r=$?; rm "
        "../$(basename %s).before; exit $r",
        source_dir, source_dir);
    state_domain_free(state);
}

/* Root may write everywhere, so somebody else tries. */
static void where_nothing_can_be_written_it_is_read_only(void **unused)
{
    pid_t child = fork();
    if (child == 0) {
        if (geteuid() == 0 && seteuid(65534) != 0)
            _exit(1);
        if (geteuid() != 65534 && chmod(source_dir, 0555) != 0)
            _exit(2);
        struct store *store = NULL;
        if (store_open(source_dir, false, &store, NULL) != 0 || !store_is_read_only(store))
            _exit(3);
        store_close(store);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    chmod(source_dir, 0755);
    run("test ! -e .vmsnapfs");
}

static void a_newer_version_is_only_read(void **unused)
{
    struct store *store = open_store(false);
    struct state_domain *state = make_state(5, "web1", 1), **loaded;
    struct error err = {0};
    save(store, state);
    store_close(store);
    run("sed -i 's/\"name\"/\"novelty\":[{}],\"name\"/' .vmsnapfs/domains/5.json");
    static const char *const versions[] = {"2", "99999", "one"};
    for (size_t i = 0; i < 3; i++) {
        run("echo %s > .vmsnapfs/version", versions[i]);
        store = open_store(false);
        assert_true(store_is_read_only(store));
        assert_int_equal(load(store, &loaded), 1);
        assert_same_state(loaded[0], state);
        free_all(loaded, 1);
        assert_int_equal(store_save(store, state, &err), -EROFS);
        store_close(store);
        run("test \"$(cat .vmsnapfs/version)\" = %s", versions[i]);
    }
    state_domain_free(state);
}

static void a_fifo_in_place_of_a_file_holds_nothing_up(void **unused)
{
    struct store *store = open_store(false);
    struct state_domain *state = make_state(5, "web1", 1), **loaded;
    save(store, state);
    store_close(store);
    run("rm -f .vmsnapfs/serials && mkfifo .vmsnapfs/serials");
    store = open_store(false);
    assert_int_equal(load(store, &loaded), 1);
    free_all(loaded, 1);
    uint64_t serial;
    assert_int_equal(store_next_serial(store, &serial, NULL), 0);
    assert_true(serial > 5);
    store_close(store);
    run("test -f .vmsnapfs/serials");
    state_domain_free(state);
}

static void a_damaged_state_is_left_alone(void **unused)
{
    struct store *store = open_store(false);
    struct state_domain *good = make_state(100, "good", 1), *bad = make_state(200, "bad", 2), **loaded;
    struct error err = {0};
    save(store, good);
    save(store, bad);
    assert_null(store_damage(store));
    store_close(store);
    static const char *const damages[] = {
        "truncate -s 200 $f",
        "truncate -s 0 $f",
        "echo garbage > $f",
        "sed -i 's/:200/:201/' $f",
        "head -c 65536 /dev/zero > $f",
        "echo '[]' >> $f",
        "sed -i 's/\"position\":7/\"position\":1024/' $f",
        "sed -i 's/\"name\":\"bad\"/\"name\":\"..\"/' $f",
        "sed -i 's/\"position\":7/\"position\":0/' $f",
        "sed -i 's/\"position\":7/\"position\":-1/' $f",
        "sed -i 's/\"serial\":202/\"serial\":201/' $f",
        "rm $f; mkdir $f",
        "rm $f; ln -s ../version $f",
        "cp .vmsnapfs/domains/100.json $f",
        "sed -i 's/\"hex\":\"/\"hex\":\"f/' $f",
        "sed -i 's/\"hex\":\"/\"hex\":\"00/' $f",
    };
    run("cp .vmsnapfs/domains/200.json kept.json");
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        run("f=.vmsnapfs/domains/200.json; rm -rf $f; cp kept.json $f; %s; ls -ld $f > before; cat $f >> "
            "before "
            "2>/dev/null; true",
            damages[i]);
        store = open_store(false);
        size_t count = load(store, &loaded);
        if (count != 1 || strcmp(loaded[0]->name, "good") != 0)
            fail_msg("%s: %zu states", damages[i], count);
        free_all(loaded, count);
        assert_string_equal(store_damage(store), "200.json");
        assert_int_equal(store_save(store, bad, &err), -EIO);
        assert_int_equal(store_remove(store, 200, &err), -EIO);
        save(store, good);
        uint64_t serial;
        assert_int_equal(store_next_serial(store, &serial, &err), 0);
        assert_true(serial > 200);
        store_close(store);
        run("f=.vmsnapfs/domains/200.json; ls -ld $f > after; cat $f >> after 2>/dev/null; cmp before after");
    }
    state_domain_free(good);
    state_domain_free(bad);
}

static void numbers_that_two_state_files_hold_are_refused(void **unused)
{
    struct store *store = open_store(false);
    struct state_domain *one = make_state(10, "one", 3), *two = make_state(12, "two", 0),
                        *three = make_state(20, "three", 1), **loaded;
    save(store, one); /* its snapshots are 11, 12, 13 */
    save(store, two);
    save(store, three);
    assert_int_equal(load(store, &loaded), 1);
    assert_string_equal(loaded[0]->name, "three");
    assert_non_null(strstr(store_damage(store), "10.json"));
    assert_non_null(strstr(store_damage(store), "12.json"));
    free_all(loaded, 1);
    store_close(store);
    state_domain_free(one);
    state_domain_free(two);
    state_domain_free(three);
}

/* Whatever a state file is cut to or a byte of it becomes, reading it gives a state or an error. */
static void no_text_breaks_the_parser(void **unused)
{
    struct state_domain *state = make_state(10, "one", 1), *read;
    cleanup_free char *json = as_json(state);
    size_t length = strlen(json);
    struct error err;
    for (size_t i = 0; i + 1 < length; i++) { /* without its last newline it is whole */
        read = NULL;
        if (state_json_read(json, i, &read, &err) == 0)
            assert_int_equal(i, length - 1);
        state_domain_free(read);
    }
    static const char bytes[] = "\"{}[]:,0-\\x\x80";
    for (size_t i = 0; i < length; i++)
        for (size_t j = 0; j < sizeof bytes; j++) {
            char before = json[i];
            json[i] = bytes[j];
            read = NULL;
            state_json_read(json, length, &read, &err);
            state_domain_free(read);
            json[i] = before;
        }
    assert_int_equal(state_json_read(json, length, &read, &err), 0);
    assert_same_state(read, state);
    state_domain_free(read);
    state_domain_free(state);
}

static void a_store_that_others_can_write_to_is_not_used(void **unused)
{
    struct store *store = open_store(false);
    struct state_domain *state = make_state(5, "web1", 1), **loaded;
    struct error err = {0};
    save(store, state);
    store_close(store);
    static const char *const changes[][2] = {
        {"chmod 0770 .vmsnapfs", "chmod 0700 .vmsnapfs"},
        {"chmod 0702 .vmsnapfs/domains", "chmod 0700 .vmsnapfs/domains"},
        {"chmod 0777 .", "chmod 0755 ."},
        {"mv .vmsnapfs real; ln -s real .vmsnapfs", "rm .vmsnapfs; mv real .vmsnapfs"},
    };
    for (size_t i = 0; i < 4; i++) {
        run("%s", changes[i][0]);
        store = NULL;
        int r = store_open(source_dir, false, &store, &err);
        assert_true(r == -EPERM || r == -ELOOP || r == -ENOTDIR);
        assert_non_null(strstr(err.text, "-o ro"));
        store = open_store(true);
        assert_int_equal(load(store, &loaded), 0);
        store_close(store);
        run("%s", changes[i][1]);
    }
    if (geteuid() == 0) {
        run("chown 65534 .vmsnapfs");
        assert_int_equal(store_open(source_dir, false, &store, &err), -EPERM);
        run("chown 0 .vmsnapfs");
    }
    store = open_store(false);
    assert_int_equal(load(store, &loaded), 1);
    free_all(loaded, 1);
    store_close(store);
    state_domain_free(state);
}

static void what_a_killed_writer_left_is_removed(void **unused)
{
    store_close(open_store(false));
    run("touch .vmsnapfs/serials.tmp .vmsnapfs/domains/7.json.tmp");
    store_close(open_store(false));
    run("test ! -e .vmsnapfs/serials.tmp && test ! -e .vmsnapfs/domains/7.json.tmp");
}

static void hashed_serials_stay_the_same_and_apart(void **unused)
{
    uint64_t serial = store_serial_hashed("domain", "", "web1", 0);
    assert_true(serial == store_serial_hashed("domain", "", "web1", 0));
    assert_true(serial != store_serial_hashed("domain", "", "web1", 1));
    assert_true(serial != store_serial_hashed("snapshot", "", "web1", 0));
    assert_true(store_serial_hashed("d", "ab", "c", 0) != store_serial_hashed("d", "a", "bc", 0));
    /* As every version gives it: inode numbers of read-only mounts depend on it. */
    assert_true(serial == UINT64_C(0x9f7f00ffe480));
    for (unsigned i = 0; i < 1000; i++) {
        char name[16];
        snprintf(name, sizeof name, "%u", i);
        serial = store_serial_hashed("snapshot", "web1", name, i);
        assert_true(serial & SERIAL_HASHED);
        assert_true(serial >> SERIAL_BITS == 0);
    }
}

/* ---- Killed at every system call ---- */

struct report { /* what the killed process had been given */
    uint64_t last_serial;
};

static void old_and_new(struct state_domain *states[3], const char *name, size_t snapshots)
{
    for (size_t i = 0; i < 3; i++)
        states[i] = make_state(100 * (i + 1), name, snapshots);
}

static void write_new(struct report *report)
{
    struct state_domain *states[3];
    struct store *store = NULL;
    if (store_open(source_dir, false, &store, NULL) != 0)
        _exit(1);
    for (int i = 0; i < 4100; i++) /* through the end of a block of reserved numbers */
        if (store_next_serial(store, &report->last_serial, NULL) != 0)
            _exit(2);
    old_and_new(states, "new", 2);
    if (store_save_all(store, (const struct state_domain *const *)states, 3, NULL) != 0)
        _exit(3);
    _exit(0);
}

/* Runs write_new in a child and kills it when it makes its `count`th system call. Letters for what it did are
 * put into `calls` (may be NULL). False if it came to its end first. */
static bool run_and_kill(struct report *report, int count, struct text *calls)
{
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        write_new(report);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSTOPPED(status));
    assert_int_equal(ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD), 0);
    for (int stops = 0;;) {
        assert_int_equal(ptrace(PTRACE_SYSCALL, child, 0, 0), 0);
        assert_int_equal(waitpid(child, &status, 0), child);
        if (WIFEXITED(status)) {
            assert_int_equal(WEXITSTATUS(status), 0);
            return false;
        }
        if (!WIFSTOPPED(status) || WSTOPSIG(status) != (SIGTRAP | 0x80))
            continue;
        struct __ptrace_syscall_info info = {0};
        ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof info, &info);
        if (calls && info.op == PTRACE_SYSCALL_INFO_ENTRY) {
            if (info.entry.nr == SYS_write)
                text_append(calls, "w", 1);
            else if (info.entry.nr == SYS_fsync || info.entry.nr == SYS_fdatasync)
                text_append(calls, "f", 1);
            else if (info.entry.nr == SYS_renameat || info.entry.nr == SYS_renameat2)
                text_append(calls, "r", 1);
        }
        if (++stops == count) {
            kill(child, SIGKILL);
            assert_int_equal(waitpid(child, &status, 0), child);
            return true;
        }
    }
}

static void check_after_kill(const struct report *report, int count)
{
    struct store *store = open_store(false);
    struct state_domain *old[3], *new[3], **loaded;
    old_and_new(old, "old", 1);
    old_and_new(new, "new", 2);
    assert_int_equal(load(store, &loaded), 3);
    assert_null(store_damage(store));
    for (size_t i = 0; i < 3; i++) {
        bool is_new = strcmp(loaded[i]->name, "new") == 0;
        assert_same_state(loaded[i], is_new ? new[i] : old[i]);
        if (count == 0)
            assert_true(is_new);
    }
    uint64_t serial;
    struct error err = {0};
    assert_int_equal(store_next_serial(store, &serial, &err), 0);
    assert_true(serial > report->last_serial);
    run("test -z \"$(find .vmsnapfs -name '*.tmp')\"");
    free_all(loaded, 3);
    for (size_t i = 0; i < 3; i++) {
        state_domain_free(old[i]);
        state_domain_free(new[i]);
    }
    store_close(store);
}

static void killed_anywhere_it_is_old_or_new(void **unused)
{
    struct report *report =
        mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(report, MAP_FAILED);
    bool killed = true;
    int count = 0;
    while (killed) {
        struct state_domain *old[3];
        run("rm -rf .vmsnapfs");
        struct store *store = open_store(false);
        old_and_new(old, "old", 1);
        for (size_t i = 0; i < 3; i++) {
            save(store, old[i]);
            state_domain_free(old[i]);
        }
        store_close(store);
        report->last_serial = 0;
        killed = run_and_kill(report, ++count, NULL);
        check_after_kill(report, killed ? count : 0);
    }
    assert_true(count > 50);
    munmap(report, sizeof *report);
}

/* Killed while the store is made for the first time, it can be made the next time. */
static void killed_while_it_is_made(void **unused)
{
    struct report *report =
        mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(report, MAP_FAILED);
    for (int count = 1;; count++) {
        run("rm -rf .vmsnapfs");
        report->last_serial = 0;
        bool killed = run_and_kill(report, count, NULL);
        struct store *store = open_store(false);
        assert_false(store_is_read_only(store));
        uint64_t serial;
        struct error err = {0};
        struct state_domain **loaded;
        size_t count_loaded = load(store, &loaded);
        free_all(loaded, count_loaded);
        assert_null(store_damage(store));
        assert_int_equal(store_next_serial(store, &serial, &err), 0);
        assert_true(serial > report->last_serial);
        store_close(store);
        if (!killed)
            break;
    }
    munmap(report, sizeof *report);
}

/* A power cut keeps what was flushed, in any order what was not. So: written, flushed, renamed, and the
 * directory flushed before the next thing is built on it. */
static void everything_is_flushed_before_it_counts(void **unused)
{
    struct report *report =
        mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(report, MAP_FAILED);
    store_close(open_store(false));
    cleanup_text struct text calls = {0};
    assert_false(run_and_kill(report, -1, &calls));
    assert_string_equal(calls.data, "ff"   /* what a killed one may have left unflushed */
                                    "wfrf" /* numbers 1 to 4096 */
                                    "wfrf" /* and up to 8192 */
                                    "wwwfffrrrf" /* three states */);
    munmap(report, sizeof *report);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, source_dir_setup, source_dir_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_are_the_same),
        TEST(every_field_comes_back),
        TEST(restarts_come_back_as_they_were),
        TEST(thaws_come_back_as_they_were),
        TEST(many_states_are_saved_together),
        TEST(no_serial_is_given_twice),
        TEST(a_lost_counter_goes_on_above_all_that_is_known),
        TEST(the_second_writable_mount_is_told_who_the_first_is),
        TEST(a_holder_that_is_ending_is_waited_for),
        TEST(read_only_writes_nothing),
        TEST(where_nothing_can_be_written_it_is_read_only),
        TEST(a_newer_version_is_only_read),
        TEST(a_fifo_in_place_of_a_file_holds_nothing_up),
        TEST(a_damaged_state_is_left_alone),
        TEST(numbers_that_two_state_files_hold_are_refused),
        TEST(no_text_breaks_the_parser),
        TEST(a_store_that_others_can_write_to_is_not_used),
        TEST(what_a_killed_writer_left_is_removed),
        TEST(hashed_serials_stay_the_same_and_apart),
        TEST(killed_anywhere_it_is_old_or_new),
        TEST(killed_while_it_is_made),
        TEST(everything_is_flushed_before_it_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
