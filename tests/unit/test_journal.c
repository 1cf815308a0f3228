// SPDX-License-Identifier: LGPL-2.1-or-later
/* The journal: what it says after the power was cut in any of its calls, after any of them failed, and of
 * files that are damaged. */
#include "unit.h"

#include <inttypes.h>
#include <sys/stat.h>
#include <time.h>

#include "base/hash.h"
#include "base/text.h"
#include "power_cut.h"
#include "source_dir.h"
#include "store/journal.h"
#include "store/journal_json.h"
#include "store/store.h"

#define DOMAINS 2

static struct power_cut cut;
static int directory = -1;

/* Also empties it, for tests that begin many times. */
static void fresh_directory(uint64_t seed)
{
    run("rm -rf journal && mkdir journal");
    if (directory >= 0)
        close(directory);
    char path[128];
    snprintf(path, sizeof path, "%s/journal", source_dir);
    directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(directory >= 0);
    power_cut_done(&cut);
    power_cut_init(&cut, directory, seed);
}

static struct journal *open_journal(bool read_only)
{
    struct journal *journal = NULL;
    struct error err = {0};
    if (journal_open(directory, read_only, &cut.calls, &journal, &err) != 0)
        fail_msg("%s", err.text);
    return journal;
}

static struct journal_argument arguments[] = {
    {.string = "/srv/\"web\"\n.qcow2"},
    {.number = UINT64_MAX},
    {.string = "bytes\xff\xfe"},
    {.string = ""},
    {.number = 0},
    {.string = "\u00e9{\"hex\":"},
};
static struct journal_step steps[] = {
    {"overlay-create", arguments, 6}, {"save", NULL, 0},          {"unlink", arguments + 2, 3},
    {"job-2", arguments + 1, 1},      {"save", arguments + 4, 1},
};

/* Something in every field; with a uuid and a request for odd domains. */
static struct journal_record plan(uint64_t domain, size_t step_count, size_t commit)
{
    struct journal_record record = {
        .domain = domain,
        .uuid = domain % 2 ? "7a4c0000-0000-0000-0000-00000000000a" : NULL,
        .serial = SERIAL_HASHED - 1,
        .kind = "create",
        .steps = steps,
        .step_count = step_count,
        .commit = commit,
    };
    if (domain % 2) {
        record.request.mount = UINT64_MAX;
        record.request.id = domain;
    }
    return record;
}

static char *render(const struct journal_record *record)
{
    struct text text = {0};
    text_printf(&text, "%" PRIu64 " %s %" PRIu64 " %s %" PRIx64 ":%" PRIx64 " %zu %zu", record->domain,
                record->uuid ? record->uuid : "-", record->serial, record->kind, record->request.mount,
                record->request.id, record->commit, record->next);
    for (size_t i = 0; i < record->step_count; i++) {
        text_printf(&text, "\n%s", record->steps[i].type);
        for (size_t j = 0; j < record->steps[i].argument_count; j++) {
            const struct journal_argument *argument = &record->steps[i].arguments[j];
            text_printf(&text, " %s%" PRIu64, argument->string ? argument->string : "#", argument->number);
        }
    }
    if (record->is_concluded)
        text_printf(&text, "\n= %d %" PRIu64, record->code, record->value);
    assert_false(text.failed);
    return text_steal(&text);
}

/* ---- Two domains, and what the journal may say of each ---- */

enum action { BEGIN, ADVANCE, SUCCEED, FAIL, FINISH };

struct world {
    struct journal *journal;
    struct journal_operation *operations[DOMAINS];
    bool finishing[DOMAINS];
    char *may[DOMAINS][8]; /* rendered; "" where there may be none */
    size_t may_count[DOMAINS];
};

static void forget(struct world *world, size_t domain)
{
    while (world->may_count[domain])
        free(world->may[domain][--world->may_count[domain]]);
}

static void allow(struct world *world, size_t domain, const char *what)
{
    for (size_t i = 0; i < world->may_count[domain]; i++)
        if (strcmp(world->may[domain][i], what) == 0)
            return;
    assert_true(world->may_count[domain] < 8);
    world->may[domain][world->may_count[domain]++] = strdup(what);
}

static void world_init(struct world *world)
{
    *world = (struct world){.journal = open_journal(false)};
    for (size_t i = 0; i < DOMAINS; i++)
        allow(world, i, "");
}

static void world_done(struct world *world)
{
    journal_close(world->journal);
    for (size_t i = 0; i < DOMAINS; i++)
        forget(world, i);
}

/* What the files say now is what they may say. */
static void check_files(const struct world *world)
{
    struct journal *journal = open_journal(true);
    size_t damaged;
    const struct journal_damage *damage = journal_damage(journal, &damaged);
    if (damaged)
        fail_msg("domain %" PRIu64 ": %s", damage->domain, damage->why);
    for (size_t i = 0; i < DOMAINS; i++) {
        cleanup_free char *says = strdup("");
        struct journal_operation *operation;
        for (size_t j = 0; (operation = journal_operation_at(journal, j)); j++) {
            if (journal_operation_record(operation)->domain != i + 1)
                continue;
            free(says);
            says = render(journal_operation_record(operation));
        }
        bool allowed = false;
        for (size_t j = 0; j < world->may_count[i]; j++)
            allowed |= strcmp(world->may[i][j], says) == 0;
        if (!allowed)
            fail_msg("domain %zu: '%s', not '%s' or one of %zu", i + 1, says, world->may[i][0],
                     world->may_count[i]);
    }
    journal_close(journal);
}

/* One call. When it failed, the files may say what they said, or what it would have made them say. */
static int act(struct world *world, size_t domain, enum action action, struct error *err)
{
    struct journal_operation *operation = world->operations[domain];
    struct journal_record after;
    int r = 0;
    if (action == BEGIN) {
        after = plan(domain + 1, domain ? 3 : 5, domain ? 0 : 2);
        r = journal_begin(world->journal, &after, &world->operations[domain], err);
    } else {
        after = *journal_operation_record(operation);
    }
    after.next += action == ADVANCE;
    after.is_concluded |= action == SUCCEED || action == FAIL;
    after.code = action == FAIL ? ENOSPC : after.code;
    after.value = action == SUCCEED ? UINT64_MAX : after.value;
    cleanup_free char *says = action == FINISH ? strdup("") : render(&after);
    if (action == ADVANCE)
        r = journal_advance(operation, after.next - 1, err);
    else if (action == SUCCEED || action == FAIL)
        r = journal_conclude(operation, after.code, after.value, err);
    else if (action == FINISH)
        r = journal_finish(operation, err);
    if (action == FINISH) {
        world->finishing[domain] = r < 0;
        world->operations[domain] = r < 0 ? operation : NULL;
    }
    if (r == 0)
        forget(world, domain);
    allow(world, domain, says);
    return r;
}

/* The daemon starts again. */
static void reopen(struct world *world)
{
    check_files(world);
    journal_close(world->journal);
    world->journal = open_journal(false);
    for (size_t i = 0; i < DOMAINS; i++) {
        world->operations[i] = NULL;
        world->finishing[i] = false;
        forget(world, i);
    }
    struct journal_operation *operation;
    for (size_t i = 0; (operation = journal_operation_at(world->journal, i)); i++) {
        cleanup_free char *says = render(journal_operation_record(operation));
        size_t domain = journal_operation_record(operation)->domain - 1;
        assert_true(domain < DOMAINS);
        world->operations[domain] = operation;
        allow(world, domain, says);
    }
    for (size_t i = 0; i < DOMAINS; i++)
        if (!world->operations[i])
            allow(world, i, "");
}

static void cut_power(struct world *world)
{
    power_cut_strike(&cut);
    reopen(world);
}

/* As a start does it. */
static void settle(struct world *world)
{
    struct error err = {0};
    for (size_t i = 0; i < DOMAINS; i++) {
        if (!world->operations[i])
            continue;
        const struct journal_record *record = journal_operation_record(world->operations[i]);
        if (!world->finishing[i] && journal_is_committed(record))
            while (record->next < record->step_count)
                assert_int_equal(act(world, i, ADVANCE, &err), 0);
        else if (!world->finishing[i] && !record->is_concluded)
            assert_int_equal(act(world, i, FAIL, &err), 0);
        assert_int_equal(act(world, i, FINISH, &err), 0);
    }
}

/* Domain 0 commits with its third step of five, domain 1 with its first of three. */
static const struct {
    size_t domain;
    enum action action;
} script[] = {
    {0, BEGIN},   {0, ADVANCE}, {1, BEGIN},  {0, ADVANCE}, {0, ADVANCE}, {1, FAIL},   {0, SUCCEED},
    {1, FINISH},  {0, ADVANCE}, {1, BEGIN},  {1, ADVANCE}, {0, ADVANCE}, {0, FINISH}, {1, ADVANCE},
    {1, SUCCEED}, {1, ADVANCE}, {1, FINISH}, {0, BEGIN},   {0, FAIL},    {0, FINISH},
};
#define SCRIPT_LENGTH (sizeof script / sizeof *script)

static long count_calls(void)
{
    struct world world;
    struct error err = {0};
    fresh_directory(0);
    world_init(&world);
    for (size_t i = 0; i < SCRIPT_LENGTH; i++) {
        assert_int_equal(act(&world, script[i].domain, script[i].action, &err), 0);
        check_files(&world);
    }
    world_done(&world);
    return cut.call;
}

/* Short writes make the number of calls differ, so some cuts come after the end. */
static void power_cut_in_any_call_leaves_before_or_after(void **unused)
{
    long calls = count_calls();
    unsigned cuts = 0;
    assert_true(calls > 90);
    for (long at = 0; at < calls; at++) {
        for (uint64_t seed = 0; seed < 30; seed++) {
            struct world world;
            struct error err = {0};
            fresh_directory(seed * 1000 + (uint64_t)at);
            world_init(&world);
            cut.cut_at = at;
            for (size_t i = 0; i < SCRIPT_LENGTH; i++)
                if (act(&world, script[i].domain, script[i].action, &err) < 0)
                    break;
            cuts += cut.is_off;
            cut_power(&world);
            settle(&world);
            cut_power(&world);
            assert_null(world.operations[0]);
            assert_null(world.operations[1]);
            world_done(&world);
        }
    }
    assert_true(cuts > 2000);
}

/* The call fails with that errno and takes nothing along; repeated, it succeeds. */
static void fail_each(int code, bool fails_on, bool then_cut)
{
    long calls = count_calls();
    for (long at = 0; at < calls; at++) {
        struct world world;
        fresh_directory((uint64_t)at);
        world_init(&world);
        cut.fail_at = at;
        cut.fails_on = fails_on;
        cut.code = code;
        for (size_t i = 0; i < SCRIPT_LENGTH; i++) {
            struct error err = {0};
            size_t domain = script[i].domain;
            cleanup_free char *before = NULL;
            if (world.operations[domain])
                before = render(journal_operation_record(world.operations[domain]));
            if (act(&world, domain, script[i].action, &err) == 0)
                continue;
            assert_int_equal(err.code, code);
            assert_non_null(strstr(err.text, "journal") ? err.text : NULL);
            if (before) { /* unchanged in memory */
                cleanup_free char *after = render(journal_operation_record(world.operations[domain]));
                assert_string_equal(before, after);
            } else {
                assert_null(world.operations[domain]);
            }
            if (script[i].action == BEGIN && !fails_on) { /* it was undone */
                forget(&world, domain);
                allow(&world, domain, "");
            }
            check_files(&world);
            if (fails_on && script[i].action == BEGIN)
                assert_int_equal(act(&world, domain, BEGIN, &err), -code);
            cut.fail_at = CUT_NEVER;
            if (then_cut) {
                cut_power(&world);
                break;
            }
            assert_int_equal(act(&world, domain, script[i].action, &err), 0);
            check_files(&world);
        }
        settle(&world);
        cut_power(&world);
        assert_null(world.operations[0]);
        assert_null(world.operations[1]);
        world_done(&world);
    }
}

static void failed_call_takes_nothing_along_and_can_be_repeated(void **unused)
{
    fail_each(ENOSPC, false, false);
    fail_each(EIO, false, false);
    fail_each(ENOSPC, true, false);
    fail_each(EIO, true, false);
}

static void power_cut_after_a_failure_leaves_before_or_after(void **unused)
{
    for (unsigned i = 0; i < 5; i++) {
        fail_each(EIO, false, true);
        fail_each(ENOSPC, true, true);
    }
}

static enum action choose(const struct world *world, size_t domain)
{
    if (!world->operations[domain])
        return BEGIN;
    const struct journal_record *record = journal_operation_record(world->operations[domain]);
    if (world->finishing[domain] || (record->is_concluded && record->code))
        return FINISH;
    if (!record->is_concluded && cut_random(&cut, 4) == 0)
        return journal_is_committed(record) ? SUCCEED : FAIL;
    return record->next < record->step_count ? ADVANCE : FINISH;
}

static void run_random(uint64_t seed)
{
    struct world world;
    fresh_directory(seed);
    world_init(&world);
    for (unsigned i = 0; i < 400; i++) {
        struct error err = {0};
        size_t domain = cut_random(&cut, DOMAINS);
        unsigned trouble = cut_random(&cut, 8);
        if (trouble == 0)
            cut.cut_at = cut.call + cut_random(&cut, 7);
        if (trouble == 1 || trouble == 2) {
            cut.fail_at = cut.call + cut_random(&cut, 7);
            cut.fails_on = trouble == 1;
            cut.code = EIO;
        }
        act(&world, domain, choose(&world, domain), &err);
        cut.cut_at = cut.fail_at = CUT_NEVER;
        if (cut.is_off || cut_random(&cut, 16) == 0)
            cut_power(&world);
        else if (cut_random(&cut, 16) == 0)
            reopen(&world); /* killed */
        else
            check_files(&world);
        /* One that failed again and again may say many things. */
        if (world.may_count[domain] > 6 || cut.names[0].count > CUT_HISTORY / 2)
            cut_power(&world);
    }
    settle(&world);
    cut_power(&world);
    world_done(&world);
}

static void random_sequences_with_cuts_and_failures(void **unused)
{
    const char *given = getenv("SEED");
    uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
    for (unsigned i = 0; i < 30; i++) {
        print_message("SEED=%" PRIu64 "\n", seed + i);
        run_random(seed + i);
    }
}

/* ---- Single cases ---- */

static int cut_nothing(void *layer, int fd)
{
    return 0;
}

static void start_journal(struct journal **journal, struct journal_operation **operation)
{
    fresh_directory(0);
    struct error err = {0};
    struct journal_record record = plan(17, 5, 2);
    *journal = open_journal(false);
    assert_int_equal(journal_begin(*journal, &record, operation, &err), 0);
}

static void calls_out_of_order_are_refused(void **unused)
{
    struct journal *journal;
    struct journal_operation *operation, *other = NULL;
    start_journal(&journal, &operation);
    struct journal_record record = plan(17, 5, 2);
    assert_int_equal(journal_begin(journal, &record, &other, NULL), -EBUSY);
    assert_int_equal(journal_advance(operation, 1, NULL), -EINVAL);
    assert_int_equal(journal_conclude(operation, 0, 0, NULL), -EINVAL);
    assert_int_equal(journal_conclude(operation, -EIO, 0, NULL), -EINVAL);
    assert_int_equal(journal_finish(operation, NULL), -EINVAL);
    assert_ptr_equal(journal_find_request(journal, UINT64_MAX, 17), operation);
    assert_null(journal_find_request(journal, 17, UINT64_MAX));
    for (size_t i = 0; i < 3; i++) {
        assert_false(journal_is_committed(journal_operation_record(operation)));
        assert_int_equal(journal_advance(operation, i, NULL), 0);
    }
    assert_true(journal_is_committed(journal_operation_record(operation)));
    assert_int_equal(journal_conclude(operation, EIO, 0, NULL), -EINVAL);
    assert_int_equal(journal_finish(operation, NULL), -EINVAL);
    assert_int_equal(journal_conclude(operation, 0, 5, NULL), 0);
    assert_int_equal(journal_conclude(operation, 0, 6, NULL), -EINVAL);
    assert_int_equal(journal_advance(operation, 3, NULL), 0);

    struct journal *reader = open_journal(true);
    struct journal_operation *seen = journal_find_request(reader, UINT64_MAX, 17);
    assert_int_equal(journal_operation_record(seen)->value, 5);
    assert_int_equal(journal_advance(seen, 4, NULL), -EROFS);
    assert_int_equal(journal_finish(seen, NULL), -EROFS);
    assert_int_equal(journal_begin(reader, &record, &other, NULL), -EROFS);
    journal_close(reader);

    assert_int_equal(journal_advance(operation, 4, NULL), 0);
    assert_int_equal(journal_advance(operation, 5, NULL), -EINVAL);
    assert_int_equal(journal_finish(operation, NULL), 0);
    record = plan(18, 5, 2);
    assert_int_equal(journal_begin(journal, &record, &operation, NULL), 0);
    assert_null(journal_find_request(journal, 0, 0));
    assert_int_equal(journal_conclude(operation, EIO, 0, NULL), 0);
    assert_int_equal(journal_advance(operation, 0, NULL), -EINVAL);
    assert_null(other);
    journal_close(journal);
}

/* Not knowing whether the commit is on disk, one may undo only once it surely is not. */
static void what_something_else_tells_to_be_done_is_finished_at_once(void **unused)
{
    struct journal *journal;
    struct journal_operation *operation;
    start_journal(&journal, &operation);
    assert_int_equal(journal_complete(operation, NULL), 0);
    assert_true(journal_is_committed(journal_operation_record(operation)));

    /* It is not written: after a crash that other thing is asked again. */
    struct journal *reader = open_journal(true);
    assert_false(journal_is_committed(journal_operation_record(journal_operation_at(reader, 0))));
    journal_close(reader);

    assert_int_equal(journal_finish(operation, NULL), 0);
    assert_null(journal_operation_at(journal, 0));
    struct journal_record record = plan(18, 5, 2);
    assert_int_equal(journal_begin(journal, &record, &operation, NULL), 0);
    assert_int_equal(journal_conclude(operation, EIO, 0, NULL), 0);
    assert_int_equal(journal_complete(operation, NULL), -EINVAL);
    journal_close(journal);
}

static void commit_that_failed_can_be_taken_back(void **unused)
{
    struct journal *journal;
    struct journal_operation *operation;
    start_journal(&journal, &operation);
    assert_int_equal(journal_advance(operation, 0, NULL), 0);
    assert_int_equal(journal_advance(operation, 1, NULL), 0);
    cut.random = 4; /* no short write comes next */
    long before = cut.call;
    cut.fail_at = before + 4; /* after the rename, the flush of the directory */
    cut.code = EIO;
    assert_int_equal(journal_advance(operation, 2, NULL), -EIO);
    assert_int_equal(cut.call, before + 5);
    cut.fail_at = CUT_NEVER;
    struct journal *reader = open_journal(true);
    assert_true(journal_is_committed(journal_operation_record(journal_operation_at(reader, 0))));
    journal_close(reader);
    assert_int_equal(journal_conclude(operation, EIO, 0, NULL), 0);
    journal_close(journal);
    power_cut_strike(&cut);
    journal = open_journal(false);
    operation = journal_operation_at(journal, 0);
    assert_false(journal_is_committed(journal_operation_record(operation)));
    assert_int_equal(journal_operation_record(operation)->code, EIO);
    assert_int_equal(journal_finish(operation, NULL), 0);
    assert_null(journal_operation_at(journal, 0));
    journal_close(journal);
}

/* Killed between the rename and the flush of the directory: the next one reads "committed", and goes on. */
static void what_a_start_has_read_no_power_cut_takes_back(void **unused)
{
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct world world;
        struct error err = {0};
        fresh_directory(seed);
        world_init(&world);
        assert_int_equal(act(&world, 1, BEGIN, &err), 0);
        cut.calls.fsync_directory = cut_nothing;
        assert_int_equal(act(&world, 1, ADVANCE, &err), 0);
        cut.calls.fsync_directory = cut_fsync_directory;
        reopen(&world);
        assert_true(journal_is_committed(journal_operation_record(world.operations[1])));
        power_cut_strike(&cut);
        check_files(&world);
        world_done(&world);

        /* The same of the opening itself: no journal that could not be flushed. */
        struct journal *journal = NULL;
        cut.fail_at = 0;
        cut.fails_on = false;
        cut.code = EIO;
        assert_int_equal(journal_open(directory, false, &cut.calls, &journal, &err), -EIO);
        assert_null(journal);
    }
}

static void nothing_begins_while_a_failed_begin_lies_there(void **unused)
{
    struct journal *journal;
    struct journal_operation *operation, *other = NULL;
    start_journal(&journal, &operation);
    struct journal_record record = plan(18, 5, 2), third = plan(19, 5, 2);
    cut.random = 4;
    cut.fail_at = cut.call + 4; /* after the rename */
    cut.fails_on = true;
    cut.code = EIO;
    assert_int_equal(journal_begin(journal, &record, &other, NULL), -EIO);
    assert_int_equal(faccessat(directory, "18.json", F_OK, 0), 0);
    assert_int_equal(journal_begin(journal, &third, &other, NULL), -EIO);
    assert_null(journal_operation_at(journal, 1));
    assert_null(other);
    assert_int_not_equal(faccessat(directory, "19.json", F_OK, 0), 0);
    cut.fail_at = CUT_NEVER;
    assert_int_equal(journal_begin(journal, &third, &other, NULL), 0);
    assert_int_not_equal(faccessat(directory, "18.json", F_OK, 0), 0);
    assert_int_equal(journal_begin(journal, &record, &other, NULL), 0);
    journal_close(journal);
}

static void what_could_not_be_read_again_is_not_written(void **unused)
{
    struct journal *journal;
    struct journal_operation *operation;
    static char longer[JOURNAL_STRING_MAX + 2];
    static struct journal_step many[JOURNAL_STEPS_MAX + 1];
    struct journal_argument argument = {.string = longer};
    memset(longer, 'x', sizeof longer - 1);
    for (size_t i = 0; i <= JOURNAL_STEPS_MAX; i++)
        many[i] = (struct journal_step){"step", &argument, i < 1024};
    start_journal(&journal, &operation);
    long calls = cut.call;
    struct journal_record good = plan(20, 5, 2), bad[10];
    for (size_t i = 0; i < 10; i++)
        bad[i] = good;
    struct journal_step step = {"step", &argument, 1},
                        wide = {"step", (struct journal_argument[17]){{0}}, 17};
    bad[0].step_count = 0;
    bad[1].commit = 5;
    bad[2].kind = "Create";
    bad[3].kind = "";
    bad[4].domain = 0;
    bad[5].domain = SERIAL_HASHED;
    bad[6].steps = &step; /* a string that is too long */
    bad[6].step_count = 1;
    bad[6].commit = 0;
    bad[7].steps = many; /* too many, and 64 MiB */
    bad[7].step_count = JOURNAL_STEPS_MAX + 1;
    bad[8].uuid = longer;
    bad[9].steps = &wide;
    bad[9].step_count = 1;
    bad[9].commit = 0;
    for (size_t i = 0; i < 10; i++) {
        struct error err = {0};
        int r = journal_begin(journal, &bad[i], &operation, &err);
        if (r != -EINVAL && r != -E2BIG)
            fail_msg("%zu: %d", i, r);
        assert_non_null(strstr(err.text, "journal") ? err.text : NULL);
    }
    assert_int_equal(cut.call, calls);
    longer[JOURNAL_STRING_MAX] = '\0';
    bad[7].step_count--;
    for (size_t i = 0; i < JOURNAL_STEPS_MAX; i++)
        many[i].argument_count = i < 16;
    assert_int_equal(journal_begin(journal, &bad[7], &operation, NULL), 0);
    assert_int_equal(journal_begin(journal, &bad[6], &operation, NULL), -EBUSY);
    journal_close(journal);
    journal = open_journal(true);
    assert_non_null(journal_operation_at(journal, 1));
    journal_close(journal);
}

/* ---- Damaged files ---- */

static void put_file(const char *name, const void *bytes, size_t length)
{
    int fd = openat(directory, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, length), length);
    close(fd);
}

static void assert_damaged(const char *what, bool newer)
{
    struct journal *journal = open_journal(false);
    size_t count;
    const struct journal_damage *damage = journal_damage(journal, &count);
    if (count != 1 || damage->domain != 17 || damage->is_newer != newer || !*damage->why ||
        journal_operation_at(journal, 0))
        fail_msg("%s: %s", what, count ? damage->why : "it is taken");
    journal_close(journal);
}

/* With a checksum that is right. */
static void put_body(const char *name, const char *body)
{
    struct text text = {0};
    text_append_string(&text, body);
    text_printf(&text, ",\n \"checksum\": \"%016" PRIx64 "\"}\n",
                hash_bytes(HASH_START, text.data, text.length));
    put_file(name, text.data, text.length);
    text_done(&text);
}

static void any_byte_that_is_changed_or_missing_is_noticed(void **unused)
{
    struct journal *journal;
    struct journal_operation *operation;
    start_journal(&journal, &operation);
    journal_close(journal);
    struct error err;
    cleanup_free char *bytes = NULL;
    struct text text = {0};
    struct journal_record record = plan(17, 5, 2), read;
    journal_json_write(&text, &record);
    size_t length = text.length;
    bytes = text_steal(&text);
    for (size_t i = 0; i < length; i++) {
        char right = bytes[i];
        if (journal_json_read(bytes, i, &read, &err) == 0)
            fail_msg("cut at %zu", i);
        for (unsigned bit = 0; bit < 8; bit++) {
            bytes[i] = (char)(right ^ (1 << bit));
            if (journal_json_read(bytes, length, &read, &err) == 0)
                fail_msg("bit %u of byte %zu", bit, i);
        }
        bytes[i] = right;
    }
    assert_int_equal(journal_json_read(bytes, length, &read, &err), 0);
    journal_record_done(&read);
    put_file("17.json", bytes, length - 1);
    assert_damaged("cut", false);
    put_file("17.json", "", 0);
    assert_damaged("empty", false);
    put_file("17.json", bytes, length);
    run("printf '\\n' >> journal/17.json");
    assert_damaged("longer", false);
}

#define HEAD  "{\"version\": 1, \"domain\": 17, \"serial\": 1, \"kind\": \"create\", "
#define ASKED "\"request\": {\"mount\": 0, \"id\": 0}, "
#define STEPS                                                                                                \
    "\"steps\": [{\"type\": \"a\", \"arguments\": [\"b\", 1]}, {\"type\": \"c\", \"arguments\": []}]"
#define AT "\"commit\": 0, \"next\": 0, "

static void what_is_no_operation_is_refused_whole(void **unused)
{
    static const char *const bad[] = {
        "[1",
        "{\"a\": 1",
        "{\"version\": \"1\"",
        "{\"version\": 0",
        "{\"version\": -1",
        "{\"version\": 1.0",
        HEAD ASKED STEPS,
        HEAD AT STEPS,
        HEAD ASKED AT "\"steps\": []",
        HEAD ASKED AT "\"steps\": {}",
        HEAD ASKED AT "\"steps\": [1]",
        HEAD ASKED AT "\"steps\": [null]",
        HEAD ASKED AT "\"steps\": [[]]",
        HEAD ASKED AT "\"steps\": [{\"type\": \"a\"}]",
        HEAD ASKED AT "\"steps\": [{\"arguments\": []}]",
        HEAD ASKED AT "\"steps\": [{\"type\": 1, \"arguments\": []}]",
        HEAD ASKED AT "\"steps\": [{\"type\": \"A\", \"arguments\": []}]",
        HEAD ASKED AT "\"steps\": [{\"type\": {\"hex\": \"ff\"}, \"arguments\": []}]",
        HEAD ASKED AT "\"steps\": [{\"type\": \"a\", \"arguments\": [-1]}]",
        HEAD ASKED AT "\"steps\": [{\"type\": \"a\", \"arguments\": [1.5]}]",
        HEAD ASKED AT "\"steps\": [{\"type\": \"a\", \"arguments\": [null]}]",
        HEAD ASKED AT "\"steps\": [{\"type\": \"a\", \"arguments\": [true]}]",
        HEAD ASKED AT "\"steps\": [{\"type\": \"a\", \"arguments\": [[]]}]",
        HEAD ASKED AT "\"steps\": [{\"type\": \"a\", \"arguments\": [\"\\u0000\"]}]",
        HEAD ASKED AT "\"steps\": [{\"type\": \"a\", \"arguments\": [{\"hex\": \"f\"}]}]",
        HEAD ASKED AT "\"steps\": [{\"type\": \"a\", \"arguments\": [[[[[[[[[[]]]]]]]]]]}]",
        HEAD ASKED "\"commit\": 2, \"next\": 0, " STEPS,
        HEAD ASKED "\"commit\": 0, \"next\": 3, " STEPS,
        HEAD ASKED "\"commit\": 0, \"next\": -1, " STEPS,
        HEAD ASKED AT STEPS ", \"outcome\": null",
        HEAD ASKED AT STEPS ", \"outcome\": {\"code\": 0, \"value\": 0}",
        HEAD ASKED AT STEPS ", \"outcome\": {\"code\": 4096, \"value\": 0}",
        HEAD ASKED AT STEPS ", \"outcome\": {\"code\": 5}",
        HEAD ASKED "\"commit\": 0, \"next\": 1, " STEPS ", \"outcome\": {\"code\": 5, \"value\": 0}",
        HEAD AT STEPS ", \"request\": {\"mount\": 0}",
        HEAD AT STEPS ", \"request\": 1",
        HEAD ASKED AT STEPS ", \"uuid\": 7",
        HEAD ASKED AT STEPS ", \"domain\": 0",
        HEAD ASKED AT STEPS ", \"domain\": 140737488355328",
        HEAD ASKED AT STEPS ", \"domain\": 18", /* not what its name says */
    };
    fresh_directory(0);
    put_body("17.json", HEAD ASKED AT STEPS);
    struct journal *journal = open_journal(true);
    assert_non_null(journal_operation_at(journal, 0));
    journal_close(journal);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_body("17.json", bad[i]);
        assert_damaged(bad[i], false);
    }
    put_body("17.json", "{\"version\": 2, \"anything\": []");
    assert_damaged("newer", true);
    put_file("17.json", "{\"version\": 2}", 14);
    assert_damaged("newer, with no checksum", true);
    run("cd journal && truncate -s 17M 17.json");
    assert_damaged("too long", false);
    run("cd journal && rm 17.json && mkdir 17.json");
    assert_damaged("a directory", false);
    run("cd journal && rmdir 17.json && ln -s /etc/passwd 17.json");
    assert_damaged("a link", false);
    run("cd journal && rm 17.json && mkfifo 17.json");
    assert_damaged("a pipe", false);
}

static void damaged_file_stays_and_stops_only_its_domain(void **unused)
{
    fresh_directory(0);
    put_file("17.json", "{torn", 5);
    put_file("18.json.tmp", "{torn", 5);
    put_file("notes", "mine", 4);
    put_file("017.json", "mine", 4);
    struct journal *journal = open_journal(false);
    struct journal_operation *operation;
    struct journal_record record = plan(17, 5, 2), other = plan(18, 5, 2);
    struct error err = {0};
    assert_int_equal(journal_begin(journal, &record, &operation, &err), -EIO);
    assert_non_null(strstr(err.text, "17.json") ? err.text : NULL);
    assert_int_equal(journal_begin(journal, &other, &operation, &err), 0);
    journal_close(journal);
    run("test \"$(cat journal/17.json)\" = '{torn'");
    run("test \"$(cd journal && ls | tr '\\n' ' ')\" = '017.json 17.json 18.json notes '");
}

static void store_has_a_directory_for_it(void **unused)
{
    struct store *store;
    struct error err = {0};
    struct journal *journal;
    assert_int_equal(store_open(source_dir, true, &store, &err), 0);
    assert_int_equal(store_journal_directory(store), -1);
    assert_int_equal(journal_open(store_journal_directory(store), false, NULL, &journal, &err), 0);
    struct journal_record record = plan(17, 5, 2);
    struct journal_operation *operation;
    assert_int_equal(journal_begin(journal, &record, &operation, &err), -EROFS);
    journal_close(journal);
    store_close(store);

    assert_int_equal(store_open(source_dir, false, &store, &err), 0);
    assert_int_equal(journal_open(store_journal_directory(store), false, NULL, &journal, &err), 0);
    assert_int_equal(journal_begin(journal, &record, &operation, &err), 0);
    journal_close(journal);
    store_close(store);
    run("test -f .vmsnapfs/journal/17.json");

    run("chmod 0777 .vmsnapfs/journal");
    assert_int_equal(store_open(source_dir, false, &store, &err), -EPERM);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, source_dir_setup, source_dir_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(power_cut_in_any_call_leaves_before_or_after),
        CASE(failed_call_takes_nothing_along_and_can_be_repeated),
        CASE(power_cut_after_a_failure_leaves_before_or_after),
        CASE(random_sequences_with_cuts_and_failures),
        CASE(calls_out_of_order_are_refused),
        CASE(what_something_else_tells_to_be_done_is_finished_at_once),
        CASE(commit_that_failed_can_be_taken_back),
        CASE(what_a_start_has_read_no_power_cut_takes_back),
        CASE(nothing_begins_while_a_failed_begin_lies_there),
        CASE(what_could_not_be_read_again_is_not_written),
        CASE(any_byte_that_is_changed_or_missing_is_noticed),
        CASE(what_is_no_operation_is_refused_whole),
        CASE(damaged_file_stays_and_stops_only_its_domain),
        CASE(store_has_a_directory_for_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
