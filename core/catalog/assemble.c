// SPDX-License-Identifier: LGPL-2.1-or-later
/* From a draft to a domain and its state; see assemble.h. */
#include "catalog/assemble.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "catalog/assembly.h"
#include "catalog/scan_images.h"

/* ---- Disks and layers ---- */

/* A target keeps its position for ever, and a new one gets a position that none had. */
static int give_positions(struct assembly *assembly)
{
    struct draft *draft = assembly->draft;
    const struct state_domain *known = draft->state;
    unsigned next = 0;
    for (size_t i = 0; known && i < known->disk_count; i++)
        if (known->disks[i].position >= next)
            next = known->disks[i].position + 1;
    size_t kept = 0;
    for (size_t i = 0; i < draft->disk_count; i++) {
        unsigned position = next;
        for (size_t j = 0; known && j < known->disk_count; j++)
            if (strcmp(known->disks[j].target, draft->disks[i].target) == 0)
                position = known->disks[j].position;
        if (position >= DOMAIN_DISKS_MAX) {
            draft_problem(draft, "disk %s is left out: a domain has at most %d disks in all its life",
                          draft->disks[i].target, DOMAIN_DISKS_MAX);
            scan_chain_done(&draft->disks[i].chain);
            free(draft->disks[i].layers);
            continue;
        }
        next += position == next;
        assembly->positions[kept] = position;
        draft->disks[kept++] = draft->disks[i];
    }
    draft->disk_count = kept;
    return 0;
}

/* What the store knows of the disk; NULL: nothing. */
static const struct state_disk *disk_state(const struct assembly *assembly, size_t index)
{
    const struct state_domain *known = assembly->draft->state;
    return known && known->is_administered ? state_find_disk(known, assembly->positions[index]) : NULL;
}

static int add_layer(struct assembly *assembly, size_t index, size_t at)
{
    struct draft *draft = assembly->draft;
    struct domain *domain = assembly->domain;
    const struct scan_image *image = draft->disks[index].layers[at].image;
    const struct state_disk *state = disk_state(assembly, index);
    const char *path = path_in_store(assembly->input->source, image->path);
    bool is_left = state && state_paths_have(draft->state->left, path);
    struct layer *layer = calloc(1, sizeof *layer);
    if (!layer)
        return -ENOMEM;
    domain->layers[domain->layer_count++] = layer;
    assembly->layers[index][at] = layer;
    *layer = (struct layer){
        .path = strdup(image->path),
        .remote = image->is_remote,
        .format = image->format,
        .identity = image->identity,
        .size = image->size,
        .active = draft->disks[index].chain.count && at == 0,
        .made = state && state_paths_have(draft->state->made, path),
        .touched = state && state_paths_have(draft->state->touched, path),
        .original = is_left || (state && state->original && strcmp(state->original, path) == 0),
        .original_disk = is_left ? DOMAIN_DISKS_MAX : assembly->positions[index],
    };
    if (!layer->path)
        return -ENOMEM;
    if (image->info && image->info->encrypted)
        draft_problem(draft, "%s is encrypted: its frozen disks can't be read", image->path);
    if (image->info && image->info->problem) {
        draft_problem(draft, "%s", image->info->problem);
        draft->is_incomplete = true;
    }
    if (image->size_problem)
        draft_problem(draft, "%s", image->size_problem);
    return 0;
}

static int add_layers(struct assembly *assembly, size_t index)
{
    const struct draft_disk *disk = &assembly->draft->disks[index];
    assembly->layers[index] = calloc(disk->layer_count + 1, sizeof **assembly->layers);
    if (!assembly->layers[index])
        return -ENOMEM;
    for (size_t i = disk->layer_count; i-- > 0;) {
        int r = add_layer(assembly, index, i);
        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < disk->layer_count; i++)
        if (disk->layers[i].backing != DRAFT_NO_LAYER)
            assembly->layers[index][i]->backing = assembly->layers[index][disk->layers[i].backing];
    return 0;
}

static int absolute_path(const char *source, const char *stored, char **path)
{
    char *made = NULL;
    if (*stored == '/')
        made = strdup(stored);
    else if (asprintf(&made, "%s/%s", source, stored) < 0)
        made = NULL;
    *path = made;
    return made ? 0 : -ENOMEM;
}

static int add_disks(struct assembly *assembly)
{
    struct draft *draft = assembly->draft;
    struct domain *domain = assembly->domain;
    size_t images = 0;
    for (size_t i = 0; i < draft->disk_count; i++)
        images += draft->disks[i].layer_count;
    domain->disks = calloc(draft->disk_count ? draft->disk_count : 1, sizeof *domain->disks);
    domain->layers = calloc(images ? images : 1, sizeof *domain->layers);
    assembly->layers = calloc(draft->disk_count ? draft->disk_count : 1, sizeof *assembly->layers);
    if (!domain->disks || !domain->layers || !assembly->layers)
        return -ENOMEM;
    for (size_t i = 0; i < draft->disk_count; i++) {
        const struct draft_disk *from = &draft->disks[i];
        int r = add_layers(assembly, i);
        if (r < 0)
            return r;
        struct disk *disk = &domain->disks[domain->disk_count++];
        *disk = (struct disk){
            .position = assembly->positions[i],
            .target = strdup(from->target),
            .source = strdup(from->source),
            .format = from->format,
            .active = from->chain.count ? assembly->layers[i][0] : NULL,
            .snapshot = from->snapshot,
            .persistent = from->persistent,
            .is_of_another = from->is_of_another,
        };
        const struct state_mirror *mirror =
            disk_state(assembly, i) ? state_find_mirror(draft->state, disk->position) : NULL;
        if (mirror && absolute_path(assembly->input->source, mirror->path, &disk->mirror) < 0)
            return -ENOMEM;
        disk->mirror_operation = mirror ? mirror->operation : 0;
        disk->mirror_is_unsettled = mirror && (mirror->phase != MIRROR_COPIES || mirror->resumes);
        if (!disk->target || !disk->source)
            return -ENOMEM;
    }
    return 0;
}

/* ---- All of it ---- */

int assembly_copy_list(char *const *from, char ***copy)
{
    size_t count = 0;
    while (from && from[count])
        count++;
    char **list = calloc(count + 1, sizeof *list);
    if (!list)
        return -ENOMEM;
    *copy = list;
    for (size_t i = 0; i < count; i++) {
        list[i] = strdup(from[i]);
        if (!list[i])
            return -ENOMEM;
    }
    return 0;
}

static int copy_string(const char *from, char **copy)
{
    *copy = from ? strdup(from) : NULL;
    return *copy || !from ? 0 : -ENOMEM;
}

/* What only a trusted definition may say. */
static int take_trusted(const struct scan_definition *from, struct domain *domain)
{
    const struct definition *definition = &from->definition;
    int r = assembly_copy_list(from->sources, &domain->named_files);
    if (r == 0)
        r = copy_string(definition->qmp, &domain->qmp);
    if (r == 0)
        r = copy_string(definition->agent, &domain->agent);
    return r == 0 && definition->launch ? assembly_copy_list(definition->launch, &domain->launch) : r;
}

static int name_domain(struct assembly *assembly)
{
    struct domain *domain = assembly->domain;
    struct draft *draft = assembly->draft;
    const struct scan_definition *definition = draft->definition;
    domain->name = strdup(draft->name);
    if (!domain->name)
        return -ENOMEM;
    if (definition) {
        domain->uuid = definition->definition.uuid ? strdup(definition->definition.uuid) : NULL;
        domain->definition = strdup(definition->path);
        if (!domain->definition || (definition->definition.uuid && !domain->uuid))
            return -ENOMEM;
        int r = definition->distrust ? 0 : take_trusted(definition, domain);
        if (r < 0)
            return r;
    }
    if (draft->state) {
        domain->serial = draft->state->serial;
        return 0;
    }
    return assembly->input->next_serial(assembly->input->opaque, "domain", domain->uuid ? domain->uuid : "",
                                        domain->name, &domain->serial);
}

static int add_unneeded(struct assembly *assembly)
{
    const struct state_domain *state = assembly->state;
    struct domain *domain = assembly->domain;
    domain->unneeded = calloc(state->unneeded_count + 1, sizeof *domain->unneeded);
    if (!domain->unneeded)
        return -ENOMEM;
    for (size_t i = 0; i < state->unneeded_count; i++) {
        struct saved_memory *memory = assembly_memory(assembly, &state->unneeded[i]);
        if (!memory)
            return -ENOMEM;
        domain->unneeded[domain->unneeded_count++] = memory;
    }
    return 0;
}

static int add_administration(struct assembly *assembly)
{
    const struct draft *draft = assembly->draft;
    struct domain *domain = assembly->domain;
    domain->may_switch_files =
        draft->definition && (draft->definition->definition.follows ||
                              (draft->definition->definition.launch && !draft->definition->distrust));
    domain->is_incomplete = draft->is_incomplete;
    domain->is_administered = assembly->state->is_administered;
    domain->guard = assembly->state->guard;
    domain->defaults = assembly->state->defaults ? strdup(assembly->state->defaults) : NULL;
    return domain->defaults || !assembly->state->defaults ? add_unneeded(assembly) : -ENOMEM;
}

static int run(struct assembly *assembly)
{
    struct draft *draft = assembly->draft;
    assembly->positions = calloc(draft->disk_count ? draft->disk_count : 1, sizeof *assembly->positions);
    assembly->domain = domain_new();
    if (!assembly->positions || !assembly->domain)
        return -ENOMEM;
    int r = name_domain(assembly);
    if (r == 0)
        r = give_positions(assembly);
    if (r == 0)
        r = add_disks(assembly);
    if (r == 0)
        r = assembly_add_snapshots(assembly);
    if (r == 0)
        r = assembly_make_state(assembly);
    if (r == 0 && draft->problem.length) {
        assembly->domain->problem = strdup(draft->problem.data);
        r = assembly->domain->problem ? 0 : -ENOMEM;
    }
    if (r == 0)
        r = add_administration(assembly);
    return r == 0 && draft->problem.failed ? -ENOMEM : r;
}

int assemble(const struct assembly_input *input, struct draft *draft, struct domain **domain,
             struct state_domain **state)
{
    struct assembly assembly = {.input = input, .draft = draft};
    int r = run(&assembly);
    for (size_t i = 0; assembly.layers && i < draft->disk_count; i++)
        free(assembly.layers[i]);
    free(assembly.layers);
    free(assembly.positions);
    entries_done(&assembly.entries);
    groups_done(&assembly.groups);
    if (r < 0) {
        domain_unref(assembly.domain);
        state_domain_free(assembly.state);
        return r;
    }
    *domain = assembly.domain;
    *state = assembly.state;
    return 0;
}
