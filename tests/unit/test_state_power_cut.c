// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * State files and a power cut: at every call of replacing several of them, each is the old state or the new
 * one afterwards, whole, and what a call has returned success for stays.
 */
#include "unit.h"

#include "base/cleanup.h"
#include "power_cut.h"
#include "source_dir.h"
#include "store/replace_file.h"
#include "store/state_json.h"

#define FILES 3

static struct power_cut cut;
static int directory = -1;

static void fresh_directory(uint64_t seed)
{
    run("rm -rf domains && mkdir domains");
    if (directory >= 0)
        close(directory);
    char path[128];
    snprintf(path, sizeof path, "%s/domains", source_dir);
    directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(directory >= 0);
    power_cut_done(&cut);
    power_cut_init(&cut, directory, seed);
}

/* The state of domain `file` after its `turn`th change, which grows. */
static struct text state_text(unsigned file, unsigned turn)
{
    struct state_snapshot snapshots[8] = {0};
    char names[8][16];
    for (unsigned i = 0; i < turn; i++) {
        snprintf(names[i], sizeof names[i], "snapshot%u", i);
        snapshots[i] =
            (struct state_snapshot){.serial = 100 + i, .name = names[i], .state = SNAPSHOT_STATE_SHUTOFF};
    }
    const struct state_domain state = {.serial = file + 1,
                                       .name = (char *)"web1",
                                       .is_administered = true,
                                       .operation = turn,
                                       .snapshots = snapshots,
                                       .snapshot_count = turn};
    struct text text = {0};
    state_json_write(&text, &state);
    assert_false(text.failed);
    return text;
}

static int replace_all(unsigned turn, struct error *err)
{
    struct text texts[FILES];
    char names[FILES][16];
    struct replacement files[FILES];
    for (unsigned i = 0; i < FILES; i++) {
        texts[i] = state_text(i, turn);
        snprintf(names[i], sizeof names[i], "%u.json", i + 1);
        files[i] = (struct replacement){names[i], texts[i].data, texts[i].length};
    }
    int r = replace_files_through(&cut.calls, directory, files, FILES, err);
    for (unsigned i = 0; i < FILES; i++)
        text_done(&texts[i]);
    return r;
}

/* Which turn's state the file has: it is one of them, whole, and of its own domain. */
static unsigned turn_of(unsigned file)
{
    char name[16];
    cleanup_free char *bytes = NULL;
    size_t length;
    struct state_domain *state = NULL;
    struct error err = {0};
    snprintf(name, sizeof name, "%u.json", file + 1);
    if (replace_file_read(directory, name, STATE_BYTES_MAX, &bytes, &length, &err) != 0 ||
        state_json_read(bytes, length, &state, &err) != 0)
        fail_msg("%s: %s", name, err.text);
    unsigned turn = (unsigned)state->operation;
    assert_true(state->serial == file + 1);
    assert_int_equal(state->snapshot_count, turn);
    struct text wanted = state_text(file, turn);
    assert_string_equal(bytes, wanted.data);
    text_done(&wanted);
    state_domain_free(state);
    return turn;
}

static void at_any_call_each_state_is_the_old_or_the_new_one(void **unused)
{
    unsigned cuts = 0, kept[2] = {0};
    for (long at = 0; at < 60; at++)
        for (uint64_t seed = 0; seed < 40; seed++) {
            fresh_directory(seed * 1000 + (uint64_t)at);
            assert_int_equal(replace_all(1, NULL), 0);
            unsigned done = 1;
            cut.cut_at = cut.call + at;
            for (unsigned turn = 2; turn < 5 && replace_all(turn, NULL) == 0; turn++)
                done = turn;
            cuts += cut.is_off;
            power_cut_strike(&cut);
            for (unsigned i = 0; i < FILES; i++) {
                unsigned turn = turn_of(i);
                assert_true(turn == done || turn == done + 1);
                kept[turn - done]++;
            }
            /* Whoever starts then can go on. */
            replace_file_clean(directory);
            assert_int_equal(replace_all(5, NULL), 0);
            power_cut_strike(&cut);
            for (unsigned i = 0; i < FILES; i++)
                assert_int_equal(turn_of(i), 5);
        }
    assert_true(cuts > 1000);
    assert_true(kept[0] > 100 && kept[1] > 100); /* both were seen */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(at_any_call_each_state_is_the_old_or_the_new_one, source_dir_setup,
                                        source_dir_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
