// SPDX-License-Identifier: LGPL-2.1-or-later
/* job_tree.h: jobs/ of a domain, over an administration in which a request is held. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "job_tree.h"

static struct domain *domain, *other;
static struct catalog_entry entries[2];
static struct catalog catalog = {.by_serial = entries};
static struct administration *administration;
static char hold[] = "/tmp/vmsnapfs-job-tree-XXXXXX";
static uint64_t number;
static int answered;

static void event(void *opaque, uint64_t of, const char *line) {}
static void jobs_changed(void *opaque, uint64_t of) {}

static void note_done(void *opaque, const struct request_result *result)
{
    answered = result->code;
}

static int setup(void **state)
{
    domain = domain_new(), other = domain_new();
    domain->serial = 10, other->serial = 20;
    domain->name = strdup("web1"), other->name = strdup("other");
    entries[0] = (struct catalog_entry){10, domain, NULL};
    entries[1] = (struct catalog_entry){20, other, NULL};
    catalog.entry_count = 2;
    close(mkstemp(hold));
    setenv("VMSNAPFS_FAKE_HOLD", hold, 1);
    const struct administration_options options = {.event = event, .jobs_changed = jobs_changed};
    assert_int_equal(administration_new(&options, &administration, NULL), 0);
    struct request *request = calloc(1, sizeof *request);
    *request = (struct request){.kind = REQUEST_DELETE,
                                .domain = 10,
                                .snapshot = 11,
                                .words = strdup("rmdir snapshots/a"),
                                .done = note_done};
    number = administration_number(administration);
    administration_submit(administration, number, request);
    return 0;
}

static int teardown(void **state)
{
    unlink(hold);
    administration_free(administration);
    domain_unref(domain);
    domain_unref(other);
    return 0;
}

static struct place jobs_of(uint64_t serial)
{
    struct place place;
    assert_int_equal(
        job_tree_resolve(administration, &catalog, node_id(NODE_DOMAIN, serial, DOMAIN_JOBS), &place), 0);
    return place;
}

static int note_name(void *opaque, const char *name, const struct place *place, uint64_t next)
{
    struct text *text = opaque;
    text_printf(text, "%s:%d:%d ", name, (int)place->type, (int)(next > 0));
    struct place again;
    assert_int_equal(job_tree_resolve(administration, &catalog, place->id, &again), 0);
    assert_int_equal(again.type, place->type);
    assert_ptr_equal(again.domain, domain);
    return 0;
}

static void a_job_has_its_directory(void **state)
{
    struct place jobs = jobs_of(10), job, file;
    char name[24];
    snprintf(name, sizeof name, "%llu", (unsigned long long)number);
    assert_int_equal(job_tree_lookup(administration, &catalog, &jobs, name, &job), 0);
    assert_int_equal(job_tree_parent(&job), jobs.id);
    struct text names = {0};
    job_tree_list(administration, &catalog, &job, 0, note_name, &names);
    assert_string_equal(names.data, "cancel:3:1 progress:2:1 status:2:1 what:2:1 ");
    text_done(&names);
    job_tree_list(administration, &catalog, &job, 3, note_name, &names);
    assert_string_equal(names.data, "what:2:1 ");
    text_done(&names);
    job_tree_list(administration, &catalog, &job, UINT64_MAX, note_name, &names);
    assert_int_equal(names.length, 0);
    job_tree_list(administration, &catalog, &jobs, number, note_name, &names);
    assert_int_equal(names.length, 0);
    assert_int_equal(job_tree_lookup(administration, &catalog, &job, "what", &file), 0);
    assert_int_equal(job_tree_parent(&file), job.id);
    job_tree_render(administration, &file, &names);
    assert_string_equal(names.data, "rmdir snapshots/a\n");
    text_done(&names);
    assert_int_equal(job_tree_lookup(administration, &catalog, &job, "who", &file), -ENOENT);
    assert_int_equal(job_tree_lookup(administration, &catalog, &file, "x", &job), -ENOTDIR);
    assert_true(job_tree_is_fleeting(&file) && !job_tree_is_fleeting(&jobs));
}

static void it_is_in_its_domain_only_and_under_one_name(void **state)
{
    struct place jobs = jobs_of(10), others = jobs_of(20), job;
    char name[32];
    snprintf(name, sizeof name, "%llu", (unsigned long long)number);
    assert_int_equal(job_tree_lookup(administration, &catalog, &others, name, &job), -ENOENT);
    snprintf(name, sizeof name, "0%llu", (unsigned long long)number);
    assert_int_equal(job_tree_lookup(administration, &catalog, &jobs, name, &job), -ENOENT);
    for (uint64_t position = JOB_ENTRY_WHAT + 1; position < 20; position++)
        assert_int_equal(
            job_tree_resolve(administration, &catalog, node_id(NODE_JOB, number, (unsigned)position), &job),
            -ESTALE);
    assert_int_equal(job_tree_resolve(administration, &catalog, node_id(NODE_JOB, number + 1, 0), &job),
                     -ESTALE);
}

static void when_it_is_over_it_stands_for_nothing(void **state)
{
    struct place job, jobs = jobs_of(10);
    struct text text = {0};
    assert_int_equal(
        job_tree_resolve(administration, &catalog, node_id(NODE_JOB, number, JOB_ENTRY_WHAT), &job), 0);
    administration_cancel(administration, number);
    administration_stop(administration);
    assert_int_equal(answered, EINTR);
    job_tree_render(administration, &job, &text);
    assert_int_equal(text.length, 0);
    job_tree_list(administration, &catalog, &jobs, 0, note_name, &text);
    assert_int_equal(text.length, 0);
    assert_int_equal(job_tree_resolve(administration, &catalog, node_id(NODE_JOB, number, 0), &job), -ESTALE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_has_its_directory),
        cmocka_unit_test(it_is_in_its_domain_only_and_under_one_name),
        cmocka_unit_test(when_it_is_over_it_stands_for_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
