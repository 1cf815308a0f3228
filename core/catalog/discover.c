// SPDX-License-Identifier: LGPL-2.1-or-later
/* Which domains a scan shows; see discover.h. */
#include "catalog/discover.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/endings.h"
#include "catalog/administered.h"
#include "catalog/kinship.h"
#include "catalog/scan_definition.h"
#include "catalog/scan_images.h"
#include "domain/name.h"

#define PROBLEM_BYTES_MAX 8192  /* nobody reads more */
#define IMPLICIT_TARGET   "vda" /* the disk of a domain without a definition */

struct search {
    const struct scan *scan;
    struct kinship kinship;
    struct image_index index;
    struct state_domain *const *states;
    size_t state_count;
    bool *claimed; /* states */
    struct notices *notices;
    struct discovery *discovery;
};

void draft_problem(struct draft *draft, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char sentence[1024];
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    for (char *at = sentence; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = '?'; /* from the name of a file */
    if (draft->problem.length > PROBLEM_BYTES_MAX)
        return;
    if (draft->problem.length && strstr(draft->problem.data, sentence))
        return; /* two disks on one damaged image */
    text_append_string(&draft->problem, draft->problem.length ? "; " : "");
    text_append_string(&draft->problem, sentence);
}

const char *path_in_store(const char *source, const char *path)
{
    size_t length = strlen(source);
    if (strncmp(path, source, length) == 0 && path[length] == '/')
        return path + length + 1;
    return path;
}

char *path_from_store(const char *source, const char *stored)
{
    char *path = NULL;
    if (*stored == '/')
        return strdup(stored);
    return asprintf(&path, "%s/%s", source, stored) < 0 ? NULL : path;
}

/* ---- Drafts ---- */

static int add_draft(struct search *search, char *name, size_t disk_count, struct draft **result)
{
    struct discovery *discovery = search->discovery;
    struct draft *grown = realloc(discovery->drafts, (discovery->count + 1) * sizeof *grown);
    struct draft_disk *disks = calloc(disk_count ? disk_count : 1, sizeof *disks);
    if (grown)
        discovery->drafts = grown;
    if (!grown || !disks) {
        free(disks);
        free(name);
        return -ENOMEM;
    }
    grown[discovery->count] = (struct draft){.name = name, .disks = disks, .disk_count = disk_count};
    *result = &grown[discovery->count++];
    return 0;
}

static struct draft *find_draft(const struct discovery *discovery, const char *name)
{
    for (size_t i = 0; i < discovery->count; i++)
        if (strcmp(discovery->drafts[i].name, name) == 0)
            return &discovery->drafts[i];
    return NULL;
}

static int note_contended(struct search *search, const struct scan_image *base,
                          const struct scan_image *chosen)
{
    struct discovery *discovery = search->discovery;
    for (size_t i = 0; i < search->kinship.overlay_count; i++) {
        const struct scan_image *image = search->kinship.overlays[i];
        const struct kin *kin = kin_of(&search->kinship, image);
        if (image == chosen || kin->base != base->first || kin->child || kinship_is_prepared(image))
            continue;
        struct contended *grown =
            realloc(discovery->contended, (discovery->contended_count + 1) * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        discovery->contended = grown;
        discovery->contended[discovery->contended_count++] = (struct contended){chosen, image};
    }
    return 0;
}

/* Puts the overlays over the disk's image, if there are any, on top of its chain. `below` is the chain from
 * its image down and is used up. */
static int put_overlays(struct search *search, struct draft *draft, struct draft_disk *disk,
                        const struct scan_image *base, struct scan_chain *below)
{
    bool is_free;
    size_t tops;
    const struct scan_image *top = kinship_topmost(&search->kinship, base, &is_free, &tops);
    if (!top) {
        disk->chain = *below;
        *below = (struct scan_chain){0};
    } else {
        /* Down to the base as everybody may, or, on the network, as its definition may; and from there as its
         * definition may. */
        char *const *named = draft->definition ? scan_definition_named(draft->definition) : NULL;
        int r = scan_chain_follow(named, (struct scan_image *)top, &disk->chain);
        for (size_t i = 0; r == 0 && i < disk->chain.count; i++) {
            if (below->count == 0 || disk->chain.images[i] != below->images[0])
                continue;
            struct scan_image **grown = realloc(disk->chain.images, (i + below->count + 1) * sizeof *grown);
            if (!grown)
                return -ENOMEM;
            disk->chain.images = grown;
            for (size_t j = 0; j < below->count; j++)
                grown[i + j] = below->images[j];
            disk->chain.count = i + below->count;
            free(disk->chain.problem);
            disk->chain.problem = steal_pointer(below->problem);
            break;
        }
        if (r < 0)
            return r;
    }
    if (tops > 1) {
        draft_problem(draft,
                      "%zu overlays lie on %s; the one that was written to last, %s, is taken as active",
                      tops, base->path, top->path);
        int r = note_contended(search, base, top);
        if (r < 0)
            return r;
    }
    const struct scan_image *active = disk->chain.count ? disk->chain.images[0] : base;
    const struct scan_image *child = kin_of(&search->kinship, active)->child;
    if (active->is_remote && child && !kinship_is_overlay(child))
        return 0; /* it is named beside its overlay, so that that one may stand on it */
    if (child && !kinship_contradicts(&search->kinship, child))
        draft_problem(draft, "%s is active, and yet it is the backing file of %s", active->path, child->path);
    else if (child)
        draft_problem(draft, "%s", child->backing_problem);
    return 0;
}

/* Copies a chain, so that what the scan owns stays whole. */
static int copy_chain(const struct scan_chain *from, struct scan_chain *to)
{
    to->images = calloc(from->count ? from->count : 1, sizeof *to->images);
    to->problem = from->problem ? strdup(from->problem) : NULL;
    if (!to->images || (from->problem && !to->problem))
        return -ENOMEM;
    if (from->count)
        memcpy(to->images, from->images, from->count * sizeof *to->images);
    to->count = from->count;
    return 0;
}

static int draft_definition(struct search *search, const struct scan_definition *from)
{
    const struct definition *definition = &from->definition;
    struct draft *draft = find_draft(search->discovery, definition->name);
    if (draft) {
        notices_add(search->notices, LOG_LEVEL_ERROR, "%s is left out: %s defines a domain %s too",
                    from->path, draft->definition->path, definition->name);
        return 0;
    }
    char *name = strdup(definition->name);
    int r = name ? add_draft(search, name, definition->disk_count, &draft) : -ENOMEM;
    if (r < 0)
        return r;
    draft->definition = from;
    if (from->unread) {
        draft_problem(draft, "%s can't be read now: %s", from->path, from->unread);
        draft->is_incomplete = true;
    }
    if (from->distrust && (definition->launch || definition->qmp || definition->agent))
        draft_problem(draft, "%s is not trusted with launch, qmp and agent: %s", from->path, from->distrust);
    for (size_t i = 0; i < definition->disk_count; i++) {
        const struct definition_disk *disk = &definition->disks[i];
        draft->disks[i] = (struct draft_disk){
            .target = disk->target,
            .source = from->sources[i],
            .format = disk->format,
            .snapshot = disk->snapshot,
            .persistent = disk->persistent,
        };
    }
    return 0;
}

static bool has_active(const struct draft *draft, const struct draft_disk *disk)
{
    const struct state_disk *known = administered_disk(draft, disk);
    return known && known->active;
}

/* The chains of a domain that has a definition, once its state is known. */
static int chain_definition(struct search *search, struct draft *draft)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < draft->disk_count; i++) {
        struct draft_disk *disk = &draft->disks[i];
        if (has_active(draft, disk)) {
            r = administered_chain(&search->kinship, &search->index, draft, disk);
            continue;
        }
        cleanup(scan_chain_done) struct scan_chain chain = {0};
        r = copy_chain(&draft->definition->chains[i], &chain);
        if (r == 0 && chain.count) {
            r = put_overlays(search, draft, disk, chain.images[0], &chain);
        } else if (r == 0) {
            disk->chain = chain;
            chain = (struct scan_chain){0};
        }
    }
    return r;
}

/* A name for the domain of `image`, and not one that a definition has taken. */
static char *implicit_name(const struct search *search, const struct scan_image *image)
{
    char *name = name_make_legal(image->name, (size_t)(ending_start(image->name) - image->name));
    for (unsigned number = 2; name && find_draft(search->discovery, name); number++) {
        char suffix[16];
        snprintf(suffix, sizeof suffix, "%u", number);
        free(name);
        cleanup_free char *plain =
            name_make_legal(image->name, (size_t)(ending_start(image->name) - image->name));
        name = plain ? name_with_suffix(plain, suffix) : NULL;
    }
    return name;
}

/* As far as it tells: had the domain a definition when it was last seen? */
static bool was_defined(const struct state_domain *state)
{
    bool was = state->uuid || (state->files && state->files[0] && state->files[1]);
    for (size_t i = 0; i < state->disk_count; i++)
        was |= state->disks[i].active != NULL;
    return was;
}

/* Is it the state of a domain whose definition is there, but can't be used now? Then it is kept for that one,
 * and no other domain that has its files is taken for it. */
static bool is_kept(const struct search *search, const struct state_domain *state)
{
    for (size_t i = 0; i < search->scan->definition_count; i++) {
        const struct scan_definition *definition = &search->scan->definitions[i];
        if (!definition->is_good && strcmp(definition->domain, state->name) == 0 && was_defined(state))
            return true;
    }
    return false;
}

static bool is_known_file(const struct search *search, const char *file)
{
    for (size_t i = 0; i < search->state_count; i++)
        if (!search->claimed[i] && state_paths_have(search->states[i]->files, file))
            return true;
    return false;
}

static int draft_implicit(struct search *search, struct scan_image *image)
{
    bool top_is_free;
    size_t tops;
    kinship_topmost(&search->kinship, image, &top_is_free, &tops);
    if (kin_of(&search->kinship, image)->child && !top_is_free && !is_known_file(search, image->name))
        return 0;
    char *name = implicit_name(search, image);
    struct draft *draft;
    int r = name ? add_draft(search, name, 1, &draft) : -ENOMEM;
    if (r < 0)
        return r;
    draft->implicit = image;
    draft->disks[0] = (struct draft_disk){
        .target = IMPLICIT_TARGET, .source = image->path, .format = IMAGE_FORMAT_QCOW2, .persistent = true};
    return 0;
}

/* The chain of a domain that has none, once its state is known. */
static int chain_implicit(struct search *search, struct draft *draft)
{
    if (has_active(draft, &draft->disks[0]))
        return administered_chain(&search->kinship, &search->index, draft, &draft->disks[0]);
    cleanup(scan_chain_done) struct scan_chain chain = {0};
    int r = scan_chain_follow(NULL, draft->implicit, &chain);
    return r < 0 ? r : put_overlays(search, draft, &draft->disks[0], draft->implicit, &chain);
}

/* ---- What the store knows of them ---- */

static void claim(struct search *search, struct draft *draft, size_t state)
{
    draft->state = search->states[state];
    search->claimed[state] = true;
}

/* Can a domain without a definition go on with it? */
static bool fits_implicit(const struct state_domain *state)
{
    return state->disk_count == 1 && strcmp(state->disks[0].target, IMPLICIT_TARGET) == 0 && state->files &&
           state->files[0] && !state->files[1];
}

/* Does the definition name all files that the state knows? Then it is that domain's, under another name. */
static bool names_files(const struct search *search, const struct draft *draft,
                        const struct state_domain *state)
{
    for (char **known = state->files; known && *known; known++) {
        bool named = false;
        for (size_t i = 0; i < draft->disk_count && !named; i++)
            named = strcmp(*known, path_in_store(search->scan->source, draft->disks[i].source)) == 0;
        if (!named)
            return false;
    }
    return state->files && *state->files;
}

/* First whom a uuid tells, then whom a name, then whom its files. */
static void match_states(struct search *search, struct draft *draft, int round)
{
    const char *uuid = draft->definition ? draft->definition->definition.uuid : NULL;
    for (size_t i = 0; i < search->state_count && !draft->state; i++) {
        const struct state_domain *state = search->states[i];
        if (search->claimed[i] || ((!draft->definition || round == 2) && is_kept(search, state)) ||
            (!draft->definition && state->is_administered && !fits_implicit(state)))
            continue;
        bool same = false;
        if (round == 0)
            same = uuid && state->uuid && strcmp(uuid, state->uuid) == 0;
        else if (round == 1)
            same = strcmp(draft->name, state->name) == 0 &&
                   (!uuid || !state->uuid || strcmp(uuid, state->uuid) == 0);
        else if (draft->definition)
            same = state->is_administered && (!uuid || !state->uuid) && names_files(search, draft, state);
        else
            same =
                state_paths_have(state->files, path_in_store(search->scan->source, draft->disks[0].source));
        if (same)
            claim(search, draft, i);
    }
}

static void match_all(struct search *search, size_t first_draft, int rounds)
{
    for (int round = 0; round < rounds; round++)
        for (size_t i = first_draft; i < search->discovery->count; i++)
            match_states(search, &search->discovery->drafts[i], round);
}

static int compare_draft(const void *left, const void *right)
{
    return strcmp(((const struct draft *)left)->name, ((const struct draft *)right)->name);
}

/* Can it be a disk of a domain whose definition can't be read for a moment? */
static bool is_of_unread(const struct search *search, const struct scan_image *image)
{
    bool any = false;
    for (size_t i = 0; i < search->scan->definition_count; i++)
        any |= search->scan->definitions[i].unread && !search->scan->definitions[i].is_good;
    for (size_t i = 0; any && i < search->state_count; i++)
        if (state_paths_have(search->states[i]->files, image->name) && is_kept(search, search->states[i]))
            return true;
    return false;
}

/*
 * Is it of a domain that is administered, and whose definition is not there, or can't be used? No other
 * domain is made of its files: what reads like its present state is a layer of it, and would be destroyed if
 * it was written to.
 */
static bool is_left_alone(const struct search *search, size_t state)
{
    return !search->claimed[state] && search->states[state]->is_administered &&
           (is_kept(search, search->states[state]) || !fits_implicit(search->states[state]));
}

static bool is_held_back(const struct search *search, const struct scan_image *image)
{
    for (size_t i = 0; i < search->state_count; i++)
        if (is_left_alone(search, i) && state_paths_have(search->states[i]->files, image->name))
            return true;
    return false;
}

static void note_held_back(struct search *search)
{
    for (size_t i = 0; i < search->scan->image_count; i++)
        for (size_t j = 0; j < search->state_count; j++) {
            const struct scan_image *image = search->scan->images[i];
            if (is_left_alone(search, j) && image->name && image == image->first &&
                state_paths_have(search->states[j]->files, image->name))
                notices_add(
                    search->notices, LOG_LEVEL_WARNING,
                    "%s is shown in no domain: it is of %s, whose definition is not there or can't be used",
                    image->path, search->states[j]->name);
        }
}

/* What is a layer of some disk, as the store knows, is the present of no other: nobody may write to it. */
static void refuse_layers(struct search *search)
{
    for (size_t i = 0; i < search->discovery->count; i++) {
        struct draft *draft = &search->discovery->drafts[i];
        bool is_one = false;
        for (size_t j = 0; j < draft->disk_count; j++) {
            const struct scan_chain *chain = &draft->disks[j].chain;
            is_one |= chain->count && kin_of(&search->kinship, chain->images[0])->is_known;
        }
        if (is_one)
            administered_refuse_layers(search->scan->source, draft, search->states, search->state_count);
    }
}

static bool is_candidate(const struct search *search, const struct scan_image *image)
{
    return image->is_candidate && !kin_of(&search->kinship, image)->is_layer && image->name &&
           !image->first->is_defined && !image->is_defined && ending_of(image->name) == ENDING_QCOW2;
}

/* Says of images that are in no domain why that is so. */
static void note_unseen(struct search *search)
{
    for (size_t i = 0; i < search->discovery->count; i++)
        for (size_t j = 0; j < search->discovery->drafts[i].disk_count; j++) {
            const struct draft_disk *disk = &search->discovery->drafts[i].disks[j];
            for (size_t k = 0; k < disk->chain.count; k++)
                kin_of(&search->kinship, disk->chain.images[k])->is_seen = true;
        }
    for (size_t i = 0; i < search->scan->image_count; i++) {
        const struct scan_image *image = search->scan->images[i];
        const struct kin *kin = kin_of(&search->kinship, image);
        if (!kin->is_seen && kin->child && !kin_of(&search->kinship, kin->child)->is_layer &&
            is_candidate(search, image))
            notices_add(
                search->notices, LOG_LEVEL_WARNING,
                "%s is shown in no domain: it is the backing file of %s, whose chain can't be followed",
                image->path, kin->child->path);
        else if (!kin->is_seen && !kin->is_layer && kinship_is_prepared(image))
            notices_add(search->notices, LOG_LEVEL_INFO,
                        "%s is shown in no domain: it is empty, and a QEMU writes to %s, on which it stands",
                        image->path, image->backing->path);
        else if (!kin->is_seen && !kin->is_layer && !kin->child && !kin->base && kinship_is_overlay(image))
            notices_add(search->notices, LOG_LEVEL_INFO,
                        "%s is shown in no domain: it stands on %s, which no definition names", image->path,
                        image->backing->path);
    }
}

static int run(struct search *search)
{
    const struct scan *scan = search->scan;
    int r = kinship_init(&search->kinship, scan);
    if (r == 0)
        r = image_index_init(&search->index, scan);
    if (r == 0)
        administered_mark(&search->kinship, &search->index, scan->source, search->states,
                          search->state_count);
    for (size_t i = 0; r == 0 && i < scan->definition_count; i++)
        if (scan->definitions[i].is_good)
            r = draft_definition(search, &scan->definitions[i]);
    if (r < 0)
        return r;
    match_all(search, 0, 3);
    size_t defined = search->discovery->count;
    for (size_t i = 0; r == 0 && i < defined; i++)
        r = chain_definition(search, &search->discovery->drafts[i]);
    for (size_t i = 0; r == 0 && i < scan->image_count; i++) {
        struct scan_image *image = scan->images[i];
        if (is_candidate(search, image) && !is_of_unread(search, image) && !is_held_back(search, image))
            r = draft_implicit(search, image);
    }
    if (r < 0)
        return r;
    match_all(search, defined, 3);
    for (size_t i = defined; r == 0 && i < search->discovery->count; i++)
        r = chain_implicit(search, &search->discovery->drafts[i]);
    if (r < 0)
        return r;
    refuse_layers(search);
    note_held_back(search);
    for (size_t i = 0; i < search->discovery->count; i++)
        for (size_t j = 0; r == 0 && j < search->discovery->drafts[i].disk_count; j++)
            r = administered_layers(&search->kinship, &search->index, &search->discovery->drafts[i],
                                    &search->discovery->drafts[i].disks[j]);
    if (r < 0)
        return r;
    for (size_t i = 0; i < search->discovery->count; i++) {
        struct draft *draft = &search->discovery->drafts[i];
        for (size_t j = 0; j < draft->disk_count; j++)
            if (draft->disks[j].chain.problem) {
                draft_problem(draft, "%s", draft->disks[j].chain.problem);
                draft->is_incomplete = true;
            }
        if (draft->problem.failed)
            return -ENOMEM;
    }
    note_unseen(search);
    if (search->discovery->count)
        qsort(search->discovery->drafts, search->discovery->count, sizeof *search->discovery->drafts,
              compare_draft);
    return 0;
}

int discover(const struct discover_input *input, struct discovery *discovery)
{
    struct discovery made = {0};
    cleanup_free bool *claimed = calloc(input->state_count + 1, sizeof *claimed);
    if (!claimed)
        return -ENOMEM;
    struct search search = {
        .scan = input->scan,
        .states = input->states,
        .state_count = input->state_count,
        .claimed = claimed,
        .notices = input->notices,
        .discovery = &made,
    };
    int r = run(&search);
    image_index_done(&search.index);
    kinship_done(&search.kinship);
    if (r < 0) {
        discovery_done(&made);
        return r;
    }
    *discovery = made;
    return 0;
}

void discovery_done(struct discovery *discovery)
{
    for (size_t i = 0; i < discovery->count; i++) {
        struct draft *draft = &discovery->drafts[i];
        for (size_t j = 0; j < draft->disk_count; j++) {
            scan_chain_done(&draft->disks[j].chain);
            free(draft->disks[j].layers);
        }
        free(draft->disks);
        free(draft->name);
        text_done(&draft->problem);
    }
    free(discovery->drafts);
    free(discovery->contended);
    *discovery = (struct discovery){0};
}
