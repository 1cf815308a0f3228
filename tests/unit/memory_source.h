// SPDX-License-Identifier: LGPL-2.1-or-later
/* Sources made by hand in memory, and what a look at one shows. For tests of discover.h and assemble.h. */
#pragma once

#include "unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "catalog/assemble.h"
#include "catalog/compare.h"
#include "catalog/scan_definition.h"
#include "catalog/scan_images.h"

#define SOURCE "/source"
#define MAX    64

/* ---- A source in memory ---- */

static struct source {
    struct scan scan;
    struct scan_image images[MAX];
    struct scan_image *pointers[MAX];
    struct image_info infos[MAX];
    struct scan_definition definitions[8];
    struct definition_disk disks[8][4];
    char *sources[8][5];
    struct scan_chain chains[8][4];
    struct internal_snapshot *snapshots[MAX][16];
    struct internal_snapshot entries[MAX][16];
    char names[MAX][300];
} source;

/* What a round of looking gave. */
static struct result {
    struct notices notices;
    struct discovery discovery;
    struct domain *domains[MAX];
    struct state_domain *states[MAX];
    size_t count;
    uint64_t next_serial;
    size_t room;
} result;

static inline int setup(void **state)
{
    memset(&source, 0, sizeof source);
    memset(&result, 0, sizeof result);
    source.scan.source = SOURCE;
    source.scan.images = source.pointers;
    source.scan.definitions = source.definitions;
    result.next_serial = 100;
    result.room = ASSEMBLY_ENTRIES_MAX;
    return 0;
}

static inline void forget_round(void)
{
    for (size_t i = 0; i < result.count; i++)
        domain_unref(result.domains[i]);
    discovery_done(&result.discovery);
    notices_done(&result.notices);
}

static inline int teardown(void **state)
{
    forget_round();
    for (size_t i = 0; i < result.count; i++)
        state_domain_free(result.states[i]);
    for (size_t i = 0; i < source.scan.definition_count; i++)
        for (size_t j = 0; j < 4; j++)
            scan_chain_done(&source.chains[i][j]);
    return 0;
}

/* A file: a name lies in the source, a path elsewhere. The second one was written to a second later. */
static inline struct scan_image *image(const char *name, enum image_format format)
{
    size_t index = source.scan.image_count++;
    assert_true(index < MAX - 8);
    struct scan_image *made = source.pointers[index] = &source.images[index];
    snprintf(source.names[index], sizeof *source.names, "%s%s", *name == '/' ? "" : SOURCE "/", name);
    made->path = source.names[index];
    made->name = *name == '/' ? NULL : made->path + strlen(SOURCE "/");
    made->format = format;
    made->identity = (struct file_identity){1, index + 1, 4096, (int64_t)(1000 + index), 0};
    made->size = 1 << 20;
    made->index = index;
    made->first = made;
    made->is_candidate = made->name && format == IMAGE_FORMAT_QCOW2;
    if (format == IMAGE_FORMAT_QCOW2) {
        made->info = &source.infos[index];
        source.infos[index].size = made->size;
        source.infos[index].snapshots = source.snapshots[index];
    }
    return made;
}

static inline struct scan_image *qcow2(const char *name)
{
    return image(name, IMAGE_FORMAT_QCOW2);
}

static inline void put_on(struct scan_image *overlay, struct scan_image *base)
{
    source.infos[overlay->index].backing_name = base->path;
    overlay->backing = base;
    base->first->is_backing = true;
}

static inline struct scan_image *overlay(const char *name, struct scan_image *base)
{
    struct scan_image *made = qcow2(name);
    put_on(made, base);
    return made;
}

static inline struct internal_snapshot *internal(struct scan_image *in, const char *id, const char *tag,
                                                 uint32_t date)
{
    struct image_info *info = &source.infos[in->index];
    struct internal_snapshot *made = &source.entries[in->index][info->snapshot_count];
    source.snapshots[in->index][info->snapshot_count++] = made;
    *made = (struct internal_snapshot){.id = (char *)id,
                                       .name = (char *)tag,
                                       .date_sec = date,
                                       .l1_table_offset = 65536 * info->snapshot_count,
                                       .disk_size = 2 << 20};
    return made;
}

static inline struct scan_definition *definition(const char *name)
{
    size_t index = source.scan.definition_count++;
    struct scan_definition *made = &source.definitions[index];
    snprintf(source.names[MAX - 1 - index], sizeof *source.names, SOURCE "/%zu-%s.json", index, name);
    *made = (struct scan_definition){
        .path = source.names[MAX - 1 - index],
        .is_good = true,
        .definition = {.name = (char *)name, .disks = source.disks[index]},
        .sources = source.sources[index],
        .chains = source.chains[index],
    };
    made->name = made->path + strlen(SOURCE "/");
    return made;
}

static inline void disk(struct scan_definition *of, const char *target, struct scan_image *from)
{
    size_t at = of->definition.disk_count++;
    of->definition.disks[at] = (struct definition_disk){
        .target = (char *)target, .source = from->path, .format = from->format, .persistent = true};
    of->sources[at] = from->path;
    from->is_defined = true;
    assert_int_equal(scan_chain_follow(NULL, from, &of->chains[at]), 0);
}

/* ---- Looking ---- */

static inline int next_serial(void *opaque, const char *kind, const char *domain, const char *name,
                              uint64_t *serial)
{
    *serial = result.next_serial++;
    return 0;
}

/* Looks again, with what the round before knows. */
static inline void look(void)
{
    struct state_domain *known[MAX];
    size_t known_count = result.count;
    if (known_count)
        memcpy(known, result.states, known_count * sizeof *known);
    forget_round();
    result.notices = (struct notices){0};
    const struct discover_input input_of_round = {
        .scan = &source.scan, .states = known, .state_count = known_count, .notices = &result.notices};
    assert_int_equal(discover(&input_of_round, &result.discovery), 0);
    size_t room = result.room;
    const struct assembly_input input = {.source = SOURCE, .next_serial = next_serial, .room = &room};
    result.count = result.discovery.count;
    for (size_t i = 0; i < result.count; i++)
        assert_int_equal(assemble(&input, &result.discovery.drafts[i], &result.domains[i], &result.states[i]),
                         0);
    for (size_t i = 0; i < known_count; i++)
        state_domain_free(known[i]);
}

static inline struct domain *domain_named(const char *name)
{
    for (size_t i = 0; i < result.count; i++)
        if (strcmp(result.domains[i]->name, name) == 0)
            return result.domains[i];
    return NULL;
}

/* The names of all domains, with a space after each. */
static inline const char *domain_names(void)
{
    static char names[1024];
    names[0] = '\0';
    for (size_t i = 0; i < result.count; i++)
        strcat(strcat(names, result.domains[i]->name), " ");
    return names;
}

/* The names of all snapshots, oldest first, each with its parent and, of the current one, a star. */
static inline const char *snapshot_names(const char *domain)
{
    static char names[2048];
    const struct domain *of = domain_named(domain);
    assert_non_null(of);
    names[0] = '\0';
    for (size_t i = 0; i < of->snapshot_count; i++) {
        const struct snapshot *snapshot = of->snapshots[i];
        if (snapshot->parent)
            strcat(strcat(names, snapshot->parent->name), "<");
        strcat(names, snapshot->name);
        strcat(names, of->current == snapshot ? "* " : " ");
    }
    return names;
}

static inline const struct snapshot *snapshot_named(const char *domain, const char *name)
{
    const struct snapshot *snapshot = domain_find_snapshot(domain_named(domain), name);
    assert_non_null(snapshot);
    return snapshot;
}

/* The files of a disk's chain, top first. */
static inline const char *chain_of(const char *domain, const char *target)
{
    static char names[2048];
    const struct disk *of = domain_find_disk(domain_named(domain), target);
    assert_non_null(of);
    names[0] = '\0';
    for (const struct layer *layer = of->active; layer; layer = layer->backing) {
        assert_int_equal(layer->active, layer == of->active);
        strcat(strcat(names, strrchr(layer->path, '/') + 1), " ");
    }
    return names;
}

static inline bool problem_has(const char *domain, const char *text)
{
    const struct domain *of = domain_named(domain);
    return of->problem && strstr(of->problem, text);
}

static inline bool noticed(const char *text)
{
    for (size_t i = 0; i < result.notices.count; i++)
        if (strstr(result.notices.list[i].text, text))
            return true;
    return false;
}
