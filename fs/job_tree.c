// SPDX-License-Identifier: LGPL-2.1-or-later
/* jobs/ in the tree; see job_tree.h. */
#include "job_tree.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct job_file {
    const char *name;
    enum entry_type type;
} files[] = {
    [JOB_ENTRY_CANCEL] = {"cancel", ENTRY_CONTROL},
    [JOB_ENTRY_PROGRESS] = {"progress", ENTRY_DYNAMIC},
    [JOB_ENTRY_STATUS] = {"status", ENTRY_DYNAMIC},
    [JOB_ENTRY_WHAT] = {"what", ENTRY_DYNAMIC},
};

#define FILE_COUNT (sizeof files / sizeof *files)

static bool is_jobs(const struct place *place)
{
    return place->node.kind == NODE_DOMAIN && place->node.position == DOMAIN_JOBS;
}

static struct place place_of(struct domain *domain, uint64_t number, unsigned position)
{
    struct place place = {
        .id = node_id(NODE_JOB, number, position),
        .type = position == JOB_DIRECTORY ? ENTRY_DIRECTORY : files[position].type,
        .domain = domain,
    };
    place.node = node_of(place.id);
    return place;
}

int job_tree_resolve(struct administration *administration, const struct catalog *catalog, uint64_t id,
                     struct place *place)
{
    struct node node = node_of(id);
    struct job job;
    if (node.kind != NODE_JOB)
        return tree_resolve(catalog, id, place);
    if (node.position >= FILE_COUNT || administration_job(administration, node.serial, &job) != 0)
        return -ESTALE;
    const struct catalog_entry *entry = catalog_find_serial(catalog, job.domain);
    if (!entry || entry->snapshot)
        return -ESTALE;
    *place = place_of(entry->domain, node.serial, node.position);
    return 0;
}

/* The number that a name is, spelled as it is listed; 0 if it is none. */
static uint64_t number_of(const char *name)
{
    char listed[24];
    uint64_t number = strtoull(name, NULL, 10);
    snprintf(listed, sizeof listed, "%" PRIu64, number);
    return number >> NODE_SERIAL_BITS || strcmp(listed, name) != 0 ? 0 : number;
}

int job_tree_lookup(struct administration *administration, const struct catalog *catalog,
                    const struct place *parent, const char *name, struct place *child)
{
    if (is_jobs(parent)) {
        uint64_t number = number_of(name);
        struct job job;
        if (!number || administration_job(administration, number, &job) != 0 ||
            job.domain != parent->domain->serial)
            return -ENOENT;
        *child = place_of(parent->domain, number, JOB_DIRECTORY);
        return 0;
    }
    if (parent->node.kind != NODE_JOB)
        return tree_lookup(catalog, parent, name, child);
    if (parent->type != ENTRY_DIRECTORY)
        return -ENOTDIR;
    for (unsigned i = JOB_DIRECTORY + 1; i < FILE_COUNT; i++)
        if (strcmp(files[i].name, name) == 0) {
            *child = place_of(parent->domain, parent->node.serial, i);
            return 0;
        }
    return -ENOENT;
}

/* Sorted by number, so that a listing goes on after the cookie, which is one. */
static int list_jobs(struct administration *administration, const struct place *directory, uint64_t cookie,
                     tree_visitor visitor, void *opaque)
{
    struct domain *domain = directory->domain;
    size_t count = administration_jobs(administration, domain->serial, NULL, 0);
    cleanup_free struct job *jobs = calloc(count + 1, sizeof *jobs);
    if (!jobs)
        return -ENOMEM;
    size_t now = administration_jobs(administration, domain->serial, jobs, count);
    for (size_t i = 0; i < now && i < count; i++) {
        if (jobs[i].number <= cookie)
            continue;
        char name[24];
        snprintf(name, sizeof name, "%" PRIu64, jobs[i].number);
        struct place place = place_of(domain, jobs[i].number, JOB_DIRECTORY);
        if (visitor(opaque, name, &place, jobs[i].number) != 0)
            break;
    }
    return 0;
}

int job_tree_list(struct administration *administration, const struct catalog *catalog,
                  const struct place *directory, uint64_t cookie, tree_visitor visitor, void *opaque)
{
    if (is_jobs(directory))
        return list_jobs(administration, directory, cookie, visitor, opaque);
    if (directory->node.kind != NODE_JOB)
        return tree_list(catalog, directory, cookie, visitor, opaque);
    if (directory->type != ENTRY_DIRECTORY)
        return -ENOTDIR;
    for (uint64_t i = cookie + 1; i != 0 && i < FILE_COUNT; i++) {
        struct place place = place_of(directory->domain, directory->node.serial, (unsigned)i);
        if (visitor(opaque, files[i].name, &place, i) != 0)
            break;
    }
    return 0;
}

uint64_t job_tree_parent(const struct place *place)
{
    if (place->node.kind != NODE_JOB)
        return tree_parent(place);
    return place->node.position == JOB_DIRECTORY ? node_id(NODE_DOMAIN, place->domain->serial, DOMAIN_JOBS)
                                                 : node_id(NODE_JOB, place->node.serial, JOB_DIRECTORY);
}

static const char *status_name(enum job_status status)
{
    static const char *const names[] = {
        [JOB_WAITING] = "waiting", [JOB_RUNNING] = "running", [JOB_CANCELLING] = "cancelling",
        [JOB_DONE] = "done",       [JOB_FAILED] = "failed",   [JOB_COPYING] = "copying",
        [JOB_READY] = "ready",
    };
    return names[status];
}

void job_tree_render(struct administration *administration, const struct place *place, struct text *text)
{
    struct job job;
    if (administration_job(administration, place->node.serial, &job) != 0)
        return;
    switch (place->node.position) {
    case JOB_ENTRY_CANCEL:
        text_append_string(text, "Write 1 to have the job undone.\n");
        return;
    case JOB_ENTRY_PROGRESS:
        text_printf(text, "%u\n", job.percent);
        return;
    case JOB_ENTRY_STATUS:
        text_printf(text, "%s%s%s\n", status_name(job.status), job.reason[0] ? ": " : "", job.reason);
        return;
    case JOB_ENTRY_WHAT:
        text_printf(text, "%s\n", job.what);
        return;
    }
}
