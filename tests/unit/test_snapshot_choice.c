// SPDX-License-Identifier: LGPL-2.1-or-later
/* K2: what a snapshot consists of, row by row of the table, and what the table leaves to each disk. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "operation/command_text.h"
#include "operation/snapshot_choice.h"

static const struct choice_disk two_qcow2[] = {
    {.target = "vda", .format = IMAGE_FORMAT_QCOW2, .may_be_written = true, .persistent = true},
    {.target = "vdb", .format = IMAGE_FORMAT_QCOW2, .may_be_written = true, .persistent = true},
};
static const struct choice_disk qcow2_and_raw[] = {
    {.target = "vda", .format = IMAGE_FORMAT_QCOW2, .may_be_written = true, .persistent = true},
    {.target = "vdb", .format = IMAGE_FORMAT_RAW, .may_be_written = true, .persistent = true},
};

/* The letters of what comes out: memory, then each disk; n, i, e. "" where it is refused. */
static int choose(const struct choice_domain *domain, const char *text, char *letters, unsigned *row,
                  struct error *err)
{
    static const char of[] = "?nie";
    struct create_command command;
    if (command_parse_create(text, strlen(text), &command, err) < 0)
        fail_msg("%s: %s", text, err->text);
    struct snapshot_choice choice;
    int rc = snapshot_choose(&command, domain, &choice, err);
    letters[0] = '\0';
    if (rc == 0) {
        *letters++ = of[choice.memory];
        for (size_t i = 0; i < domain->disk_count; i++)
            *letters++ = of[choice.disks[i].kind];
        *letters = '\0';
        *row = choice.row;
        snapshot_choice_done(&choice);
    } else {
        assert_true(err->code == -rc && *err->text);
    }
    create_command_done(&command);
    return rc;
}

/*
 * The contract's table, in its words. What comes out, for two qcow2 disks and for a qcow2 and a raw one:
 * memory and disks as letters, or the beginning of the refusal. NULL: the row's disks say "internal", which
 * raw can't.
 */
#define NOTHING "nothing to snapshot"
static const struct {
    const char *domain, *memory, *disk, *disk_only, *qcow2, *with_raw;
} rows[] = {
    {"inactive", "omitted,no", "omitted", "no,yes", "nii", "nie"},
    {"inactive", "omitted,no", "no", "no,yes", NOTHING, NOTHING},
    {"inactive", "omitted,no", "internal", "no,yes", "nii", NULL},
    {"inactive", "omitted,no", "external", "no,yes", "nee", "nee"},
    {"inactive", "internal,external", "omitted,no,internal,external", "no,yes", "the domain is not active",
     "the domain is not active"},
    {"active", "omitted", "omitted", "no", "iii", "eee"},
    {"active", "omitted", "omitted", "yes", "nii", "nie"},
    {"active", "omitted", "no", "no", "enn", "enn"},
    {"active", "omitted", "external", "no", "eee", "eee"},
    {"active", "omitted", "no", "yes", NOTHING, NOTHING},
    {"active", "omitted", "external", "yes", "nee", "nee"},
    {"active", "omitted", "internal", "no", "iii", NULL},
    {"active", "omitted,no", "internal", "yes", "nii", NULL},
    {"active", "no", "omitted", "no,yes", "nii", "nie"},
    {"active", "no", "no", "no,yes", NOTHING, NOTHING},
    {"active", "no", "internal", "no,yes", "nii", NULL},
    {"active", "no", "external", "no,yes", "nee", "nee"},
    {"active", "internal,external", "omitted,no,internal,external", "yes",
     "disk-only and memory=", "disk-only and memory="},
    {"active", "internal", "omitted", "no", "iii", "iie"},
    {"active", "internal", "no,external", "no", "internal memory needs", "internal memory needs"},
    {"active", "external", "omitted", "no", "eii", "eie"},
    {"active", "external", "no", "no", "enn", "enn"},
    {"active", "external", "internal", "no", "eii", NULL},
    {"active", "external", "external", "no", "eee", "eee"},
    /* The second half of row 19, whose disks with raw differ from those of the first. */
    {"active", "internal", "internal", "no", "iii", NULL},
};

static bool next_of(const char **list, char *word)
{
    size_t length = strcspn(*list, ",");
    memcpy(word, *list, length);
    word[length] = '\0';
    *list += length;
    if (**list == ',')
        ++*list;
    return length > 0;
}

static void check_combination(unsigned index, const char *memory, const char *disk, const char *only)
{
    char text[200] = "name", letters[8];
    if (strcmp(memory, "omitted") != 0)
        sprintf(text + strlen(text), " memory=%s", memory);
    if (strcmp(disk, "omitted") != 0)
        sprintf(text + strlen(text), " disk=vda:%s disk=vdb:%s", disk, disk);
    if (strcmp(only, "yes") == 0)
        strcat(text, " disk-only");
    for (int raw = 0; raw < 2; raw++) {
        const char *expected = raw ? rows[index].with_raw : rows[index].qcow2;
        struct choice_domain domain = {.is_active = strcmp(rows[index].domain, "active") == 0,
                                       .may_switch_files = true,
                                       .disks = raw ? qcow2_and_raw : two_qcow2,
                                       .disk_count = 2};
        struct error err = {0};
        unsigned row = 0;
        int rc = choose(&domain, text, letters, &row, &err);
        print_message("row %u: %s, %s -> %s%s\n", index + 1, rows[index].domain, text, letters, err.text);
        if (!expected) {
            assert_int_equal(rc, -EOPNOTSUPP);
            assert_non_null(strstr(err.text, "vdb can't hold an internal snapshot"));
        } else if (strlen(expected) > 3) {
            assert_int_equal(rc, -EINVAL);
            assert_int_equal(strncmp(err.text, expected, strlen(expected)), 0);
        } else {
            assert_int_equal(rc, 0);
            assert_string_equal(letters, expected);
            /* Row 13 holds what 16 holds too, and row 25 here is the rest of 19. */
            bool shared = index + 1 == 16 && strcmp(only, "yes") == 0;
            assert_int_equal(row, shared ? 13 : index + 1 == 25 ? 19 : index + 1);
        }
    }
}

static void check_row(void **state)
{
    unsigned index = (unsigned)(uintptr_t)*state;
    char memory[32], disk[32], only[32];
    for (const char *m = rows[index].memory; next_of(&m, memory);)
        for (const char *d = rows[index].disk; next_of(&d, disk);)
            for (const char *o = rows[index].disk_only; next_of(&o, only);)
                check_combination(index, memory, disk, only);
}

/* Every combination is some row's. */
static void nothing_falls_through_the_table(void **state)
{
    static const char *const memories[] = {"", "memory=no", "memory=internal", "memory=external"};
    static const char *const disks[] = {"", "no", "internal", "external"};
    unsigned answered = 0;
    for (int m = 0; m < 4; m++)
        for (int a = 0; a < 4; a++)
            for (int b = 0; b < 4; b++)
                for (int flags = 0; flags < 8; flags++) {
                    char text[200], letters[8];
                    sprintf(text, "name %s %s", memories[m], flags & 1 ? "disk-only" : "");
                    if (a)
                        sprintf(text + strlen(text), " disk=vda:%s", disks[a]);
                    if (b)
                        sprintf(text + strlen(text), " disk=vdb:%s", disks[b]);
                    struct choice_domain domain = {.is_active = flags & 2,
                                                   .may_switch_files = true,
                                                   .disks = flags & 4 ? qcow2_and_raw : two_qcow2,
                                                   .disk_count = 2};
                    struct error err = {0};
                    unsigned row;
                    if (choose(&domain, text, letters, &row, &err) < 0) {
                        assert_null(strstr(err.text, "not known"));
                        continue;
                    }
                    answered++;
                    /* Whatever it is: what was said of a disk holds, and something is saved. */
                    assert_true(!a || letters[1] == disks[a][0]);
                    assert_true(!b || letters[2] == disks[b][0]);
                    assert_string_not_equal(letters, "nnn");
                    assert_true(letters[0] != 'i' || strchr(letters + 1, 'i'));
                }
    assert_true(answered > 100);
}

struct case_of {
    const char *text;
    const char *expected; /* letters */
    int code;             /* or this errno, and this in the text */
    const char *says;
};

static void check_cases(const struct choice_domain *domain, const struct case_of *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char letters[8];
        unsigned row;
        struct error err = {0};
        int rc = choose(domain, cases[i].text, letters, &row, &err);
        print_message("%s -> %s%s\n", cases[i].text, letters, err.text);
        assert_int_equal(rc, -cases[i].code);
        if (rc == 0)
            assert_string_equal(letters, cases[i].expected);
        else
            assert_non_null(strstr(err.text, cases[i].says));
    }
}
#define CHECK(domain, ...)                                                                                   \
    do {                                                                                                     \
        static const struct case_of cases_[] = {__VA_ARGS__};                                                \
        check_cases(domain, cases_, sizeof cases_ / sizeof *cases_);                                         \
    } while (0)

static void each_disk_can_be_told_apart(void **state)
{
    struct choice_domain domain = {
        .is_active = true, .may_switch_files = true, .disks = two_qcow2, .disk_count = 2};
    CHECK(&domain, {"n disk=vda:no", "ini", 0, NULL}, {"n disk=vda:internal", "iii", 0, NULL},
          {"n disk=vda:external", "eee", 0, NULL}, /* not in one, so external */
          {"n disk=vda:external disk=vdb:internal", "eei", 0, NULL},
          {"n disk=vda:no disk=vdb:internal", "ini", 0, NULL},
          {"n disk=vda:no disk=vdb:external", "ene", 0, NULL},
          {"n memory=internal disk=vda:external", "iei", 0, NULL},
          {"n memory=internal disk=vda:external disk=vdb:no", "", EINVAL, "needs an internal disk"},
          {"n memory=external disk=vda:external", "eei", 0, NULL},
          {"n memory=no disk=vda:no", "nni", 0, NULL}, {"n disk-only disk=vda:external", "nei", 0, NULL},
          {"n disk=vdc:no", "", ENOENT, "no disk vdc; it has vda, vdb"});
    domain.is_active = false;
    CHECK(&domain, {"n disk=vda:external", "nei", 0, NULL}, {"n disk=vda:no", "nni", 0, NULL},
          {"n disk=vdb:internal disk=vda:external", "nei", 0, NULL});
    /* A domain without disks has its memory to save. */
    struct choice_domain bare = {.is_active = true};
    CHECK(&bare, {"n", "e", 0, NULL}, {"n disk-only", "", EINVAL, NOTHING},
          {"n memory=internal", "", EINVAL, "needs an internal disk"}, {"n disk=vda:no", "", ENOENT, "none"});
    bare.is_active = false;
    CHECK(&bare, {"n", "", EINVAL, NOTHING});
}

static void presets_hold_where_the_command_is_silent(void **state)
{
    struct choice_disk disks[] = {two_qcow2[0], two_qcow2[1]};
    struct choice_domain domain = {
        .is_active = true, .may_switch_files = true, .disks = disks, .disk_count = 2};
    disks[0].preset = PRESET_NO;
    CHECK(&domain, {"n", "ini", 0, NULL}, {"n disk-only", "nni", 0, NULL},
          {"n disk=vda:internal", "iii", 0, NULL}, {"n disk=vda:external disk-only", "nei", 0, NULL},
          {"n disk=vdb:no", "enn", 0, NULL}, {"n disk-only disk=vdb:no", "", EINVAL, NOTHING});
    disks[0].preset = PRESET_EXTERNAL;
    CHECK(&domain, {"n", "eee", 0, NULL}, {"n disk-only", "nei", 0, NULL},
          {"n disk=vda:internal", "iii", 0, NULL}, {"n memory=external", "eei", 0, NULL},
          {"n memory=internal", "iei", 0, NULL});
    disks[1].preset = PRESET_INTERNAL; /* whoever wrote it wants it so, beside an external one too */
    CHECK(&domain, {"n", "eei", 0, NULL});
    disks[0].preset = PRESET_INTERNAL;
    CHECK(&domain, {"n", "iii", 0, NULL}, {"n disk-only", "nii", 0, NULL});
    disks[0].preset = disks[1].preset = PRESET_NO;
    CHECK(&domain, {"n", "enn", 0, NULL}, {"n disk-only", "", EINVAL, NOTHING},
          {"n memory=no", "", EINVAL, NOTHING}, {"n memory=internal", "", EINVAL, "needs an internal disk"});
    domain.is_active = false;
    CHECK(&domain, {"n", "", EINVAL, NOTHING}, {"n disk=vdb:internal", "nni", 0, NULL});
    disks[0] = qcow2_and_raw[1];
    disks[0].target = "vda";
    disks[0].preset = PRESET_INTERNAL;
    CHECK(&domain, {"n", "", EOPNOTSUPP, "which its definition asks for"},
          {"n disk=vda:external", "nen", 0, NULL});
}

static void a_disk_that_is_not_persistent_is_left_out(void **state)
{
    struct choice_disk disks[] = {two_qcow2[0], two_qcow2[1]};
    struct choice_domain domain = {
        .is_active = true, .may_switch_files = true, .disks = disks, .disk_count = 2};
    disks[1].persistent = false;
    CHECK(&domain, {"n", "iin", 0, NULL}, {"n disk-only", "nin", 0, NULL},
          {"n disk=vdb:internal", "", EOPNOTSUPP, "not persistent"},
          {"n disk=vdb:external", "", EOPNOTSUPP, "use disk=vdb:no"});
    disks[1].preset = PRESET_EXTERNAL;
    CHECK(&domain, {"n", "", EOPNOTSUPP, "in the definition"}, {"n disk=vdb:no", "iin", 0, NULL});
    domain.is_active = false;
    CHECK(&domain, {"n", "nie", 0, NULL});
}

static void external_snapshots_need_someone_who_knows_of_the_new_file(void **state)
{
    struct choice_domain domain = {.disks = two_qcow2, .disk_count = 2};
    CHECK(&domain, {"n", "nii", 0, NULL}, {"n disk=vda:external", "", EPERM, "\"follows\": true"},
          {"n disk=vda:external disk=vdb:no", "", EPERM, "\"launch\""});
    domain.disks = qcow2_and_raw; /* raw is external by default */
    CHECK(&domain, {"n", "", EPERM, "disk vdb can't have an external snapshot"},
          {"n disk=vdb:no", "nin", 0, NULL});
    domain.is_active = true;
    CHECK(&domain, {"n disk=vdb:external", "", EPERM, "follows"});
}

static void what_a_file_can_not_hold(void **state)
{
    struct choice_disk disks[] = {two_qcow2[0], two_qcow2[1]};
    struct choice_domain domain = {.may_switch_files = true, .disks = disks, .disk_count = 2};
    disks[0].may_be_written = false;
    CHECK(&domain, {"n", "nei", 0, NULL}, {"n disk=vda:internal", "", EPERM, "first administered"});
    domain.is_active = true;
    CHECK(&domain, {"n", "eee", 0, NULL});
    disks[0].may_be_written = true;
    disks[0].has_data_file = true;
    CHECK(&domain, {"n", "eee", 0, NULL}, {"n disk=vda:internal", "", EOPNOTSUPP, "a file of its own"});
    disks[0] = two_qcow2[0];
    disks[0].format = IMAGE_FORMAT_VMDK;
    CHECK(&domain, {"n disk=vda:internal", "", EOPNOTSUPP, "only the format qcow2"},
          {"n disk-only", "nei", 0, NULL});
}

static void overlays_can_be_named_reused_and_mirrored(void **state)
{
    struct choice_domain domain = {.may_switch_files = true, .disks = two_qcow2, .disk_count = 2};
    CHECK(&domain, {"n reuse-external disk=vda:external:/a", "nei", 0, NULL},
          {"n reuse-external", "", EINVAL, "no disk is external"},
          {"n reuse-external disk=vda:external", "", EINVAL, "disk=vda:external:PATH"},
          {"n reuse-external disk=vda:external:/a disk=vdb:external", "", EINVAL, "disk=vdb:external:PATH"},
          {"n mirror=vda:/m disk=vda:external", "nei", 0, NULL},
          {"n mirror=vda:/m", "", EINVAL, "its snapshot is internal"});
    struct create_command command;
    static const char text[] = "n disk=vda:external:/a mirror=vda:/m";
    assert_int_equal(command_parse_create(text, strlen(text), &command, NULL), 0);
    struct snapshot_choice choice;
    assert_int_equal(snapshot_choose(&command, &domain, &choice, NULL), 0);
    assert_string_equal(choice.disks[0].path, "/a");
    assert_string_equal(choice.disks[0].mirror, "/m");
    assert_null(choice.disks[1].path);
    snapshot_choice_done(&choice);
    create_command_done(&command);
}

static void the_manner_matters_only_where_something_runs(void **state)
{
    struct choice_domain domain = {
        .is_active = true, .may_switch_files = true, .disks = two_qcow2, .disk_count = 2};
    CHECK(&domain, {"n live", "", EOPNOTSUPP, "memory=external"}, {"n live memory=external", "eii", 0, NULL},
          {"n live disk-only", "", EINVAL, "no memory is to be saved"},
          {"n compress=gzip", "", EOPNOTSUPP, "compressed"},
          {"n compress=zstd memory=external", "eii", 0, NULL},
          {"n compress=zstd memory=no", "", EINVAL, "compress="},
          {"n compress=none memory=no", "nii", 0, NULL},
          {"n quiesce=require disk-only", "", EOPNOTSUPP, "quiesce=try"},
          {"n quiesce=try disk-only", "nii", 0, NULL});
    domain.is_active = false;
    CHECK(&domain, {"n live compress=gzip quiesce=require paused", "nii", 0, NULL});

    static const char text[] = "n disk-only quiesce=require";
    struct create_command command;
    struct snapshot_choice choice;
    domain.is_active = domain.has_agent = true;
    assert_int_equal(command_parse_create(text, strlen(text), &command, NULL), 0);
    assert_int_equal(snapshot_choose(&command, &domain, &choice, NULL), 0);
    assert_int_equal(choice.quiesce, QUIESCE_REQUIRE);
    snapshot_choice_done(&choice);
    domain.is_active = false;
    assert_int_equal(snapshot_choose(&command, &domain, &choice, NULL), 0);
    assert_int_equal(choice.quiesce, QUIESCE_NO);
    snapshot_choice_done(&choice);
    create_command_done(&command);
}

#define ROW(number)                                                                                          \
    {                                                                                                        \
        .name = "row " #number, .test_func = check_row, .initial_state = (void *)(uintptr_t)(number - 1)     \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        ROW(1),
        ROW(2),
        ROW(3),
        ROW(4),
        ROW(5),
        ROW(6),
        ROW(7),
        ROW(8),
        ROW(9),
        ROW(10),
        ROW(11),
        ROW(12),
        ROW(13),
        ROW(14),
        ROW(15),
        ROW(16),
        ROW(17),
        ROW(18),
        ROW(19),
        ROW(20),
        ROW(21),
        ROW(22),
        ROW(23),
        ROW(24),
        ROW(25),
        cmocka_unit_test(nothing_falls_through_the_table),
        cmocka_unit_test(each_disk_can_be_told_apart),
        cmocka_unit_test(presets_hold_where_the_command_is_silent),
        cmocka_unit_test(a_disk_that_is_not_persistent_is_left_out),
        cmocka_unit_test(external_snapshots_need_someone_who_knows_of_the_new_file),
        cmocka_unit_test(what_a_file_can_not_hold),
        cmocka_unit_test(overlays_can_be_named_reused_and_mirrored),
        cmocka_unit_test(the_manner_matters_only_where_something_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
