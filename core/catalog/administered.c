// SPDX-License-Identifier: LGPL-2.1-or-later
/* The images of administered domains; see administered.h. */
#include "catalog/administered.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "catalog/scan_definition.h"
#include "catalog/scan_images.h"
#include "image/frozen_disk.h"

/* ---- Images by path ---- */

static size_t hash_of(const char *directory, const char *name)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (const char *at = directory; *at; at++)
        hash = (hash ^ (unsigned char)*at) * UINT64_C(0x100000001b3);
    for (const char *at = name; *at; at++)
        hash = (hash ^ (unsigned char)*at) * UINT64_C(0x100000001b3);
    return (size_t)(hash >> 20);
}

int image_index_init(struct image_index *index, const struct scan *scan)
{
    struct image_index made = {.bucket_count = 16};
    while (made.bucket_count < scan->image_count)
        made.bucket_count *= 2;
    made.buckets = calloc(made.bucket_count, sizeof *made.buckets);
    made.next = calloc(scan->image_count + 1, sizeof *made.next);
    if (!made.buckets || !made.next) {
        image_index_done(&made);
        return -ENOMEM;
    }
    for (size_t i = scan->image_count; i-- > 0;) { /* the first of the same path is found first */
        size_t bucket = hash_of("", scan->images[i]->path) & (made.bucket_count - 1);
        made.next[i] = made.buckets[bucket];
        made.buckets[bucket] = scan->images[i];
    }
    *index = made;
    return 0;
}

void image_index_done(struct image_index *index)
{
    free(index->buckets);
    free(index->next);
    *index = (struct image_index){0};
}

struct scan_image *image_index_find(const struct image_index *index, const char *source, const char *path)
{
    cleanup_free char *prefix = NULL;
    const char *directory = "";
    size_t length = 0;
    if (*path != '/' && asprintf(&prefix, "%s/", source) >= 0) {
        directory = prefix;
        length = strlen(prefix);
    }
    size_t bucket = hash_of(directory, path) & (index->bucket_count - 1);
    struct scan_image *image = index->buckets[bucket];
    /* The first: one that a definition names comes first, and says which format is right. */
    while (image && (strncmp(image->path, directory, length) != 0 || strcmp(image->path + length, path) != 0))
        image = index->next[image->index];
    return image;
}

/* ---- Whose layers ---- */

struct marking {
    const struct kinship *kinship;
    const struct image_index *index;
    const char *source;
    const struct state_domain *state;
};

static void mark(const struct marking *marking, const char *path)
{
    struct scan_image *image = image_index_find(marking->index, marking->source, path);
    if (!image)
        return;
    kin_of(marking->kinship, image)->is_known = true;
    if (!state_paths_have(marking->state->files, path))
        kin_of(marking->kinship, image)->is_layer = true;
}

void administered_mark(const struct kinship *kinship, const struct image_index *index, const char *source,
                       struct state_domain *const *states, size_t state_count)
{
    for (size_t i = 0; i < state_count; i++) {
        const struct state_domain *state = states[i];
        const struct marking marking = {kinship, index, source, state};
        if (!state->is_administered)
            continue;
        for (size_t j = 0; j < state->disk_count; j++)
            if (state->disks[j].active)
                mark(&marking, state->disks[j].active);
        for (char **path = state->made; path && *path; path++)
            mark(&marking, *path);
        for (char **path = state->reused; path && *path; path++)
            mark(&marking, *path);
        for (size_t j = 0; j < state->mirror_count; j++)
            mark(&marking, state->mirrors[j].path);
        for (size_t j = 0; j < state->hidden_count; j++)
            mark(&marking, state->hidden[j].layer);
        for (size_t j = 0; j < state->snapshot_count; j++)
            for (size_t k = 0; k < state->snapshots[j].frozen_count; k++)
                mark(&marking, state->snapshots[j].frozen[k].layer);
    }
}

/* ---- The active image and its chain ---- */

/* Does the overlay of another program stand on `active`, with nothing but such overlays between? */
static bool stands_on(const struct kinship *kinship, const struct scan_image *overlay,
                      const struct scan_image *active)
{
    for (unsigned depth = 0; depth < CHAIN_DEPTH_MAX; depth++) {
        if (kin_of(kinship, overlay)->is_layer || !overlay->backing)
            return false;
        overlay = overlay->backing;
        if (overlay->first == active->first)
            return true;
        if (!kinship_is_overlay(overlay))
            return false;
    }
    return false;
}

/* The topmost overlay that another program has put on `active`, or `active`. */
static struct scan_image *topmost(const struct kinship *kinship, struct scan_image *active)
{
    struct scan_image *top = active;
    for (size_t i = 0; i < kinship->overlay_count; i++) {
        struct scan_image *image = (struct scan_image *)kinship->overlays[i];
        if (kinship_is_prepared(image) || kin_of(kinship, image)->overlay ||
            !stands_on(kinship, image, active))
            continue;
        if (top == active || image->identity.mtime_sec > top->identity.mtime_sec ||
            (image->identity.mtime_sec == top->identity.mtime_sec &&
             image->identity.mtime_nsec > top->identity.mtime_nsec))
            top = image;
    }
    return top;
}

const struct state_disk *administered_disk(const struct draft *draft, const struct draft_disk *disk)
{
    const struct state_domain *state = draft->state;
    for (size_t i = 0; state && state->is_administered && i < state->disk_count; i++)
        if (strcmp(state->disks[i].target, disk->target) == 0)
            return &state->disks[i];
    return NULL;
}

static char *const *named_of(const struct draft *draft)
{
    return draft->definition ? scan_definition_named(draft->definition) : NULL;
}

int administered_chain(const struct kinship *kinship, const struct image_index *index, struct draft *draft,
                       struct draft_disk *disk)
{
    const struct state_disk *state = administered_disk(draft, disk);
    struct scan_image *active = image_index_find(index, kinship->scan->source, state->active);
    if (!active) {
        draft_problem(draft, "%s, which disk %s writes to, is gone; nothing can be changed until it is back",
                      state->active, disk->target);
        draft->is_incomplete = true;
        return 0;
    }
    return scan_chain_follow(named_of(draft), topmost(kinship, active), &disk->chain);
}

/* ---- Layers of others ---- */

#define NO_POSITION UINT_MAX

/* Is the file a layer of a disk of the domain, but for the one at `position`? */
static bool has_layer(const struct state_domain *state, const char *path, unsigned position)
{
    for (size_t i = 0; i < state->disk_count; i++)
        if (state->disks[i].position != position && state->disks[i].active &&
            strcmp(state->disks[i].active, path) == 0)
            return true;
    for (size_t i = 0; i < state->snapshot_count; i++)
        for (size_t j = 0; j < state->snapshots[i].frozen_count; j++)
            if (state->snapshots[i].frozen[j].position != position &&
                strcmp(state->snapshots[i].frozen[j].layer, path) == 0)
                return true;
    for (size_t i = 0; i < state->hidden_count; i++)
        if (state->hidden[i].position != position && strcmp(state->hidden[i].layer, path) == 0)
            return true;
    return false;
}

/* Is the file the domain's own? Else it may well be a domain of its own, on which this one stands, like a
 * gold image. */
static bool is_own_file(const struct state_domain *state, const char *path)
{
    for (size_t i = 0; i < state->disk_count; i++)
        if (state->disks[i].original && strcmp(state->disks[i].original, path) == 0)
            return true;
    return state_paths_have(state->files, path) || state_paths_have(state->made, path) ||
           state_paths_have(state->reused, path);
}

static void refuse_layer(const char *source, struct draft *draft, struct draft_disk *disk,
                         const struct state_domain *state)
{
    bool is_own = draft->state && draft->state->serial == state->serial;
    const struct state_disk *known = administered_disk(draft, disk);
    const char *path = disk->chain.images[0]->path, *stored = path_in_store(source, path);
    if (!state->is_administered || !is_own_file(state, stored) ||
        !has_layer(state, stored, is_own && known ? known->position : NO_POSITION))
        return;
    draft_problem(draft,
                  "%s, which disk %s begins with, is a layer of another disk, of %s, and is left alone", path,
                  disk->target, state->name);
    draft->is_incomplete = true;
    disk->is_of_another = true;
    scan_chain_done(&disk->chain);
    /* Where they are known already: without its chain, what was active would be a frozen layer. */
    free(disk->layers);
    disk->layers = NULL;
    disk->layer_count = 0;
}

void administered_refuse_layers(const char *source, struct draft *draft, struct state_domain *const *states,
                                size_t count)
{
    for (size_t i = 0; i < draft->disk_count; i++) {
        struct draft_disk *disk = &draft->disks[i];
        const struct state_disk *known = administered_disk(draft, disk);
        for (size_t j = 0; j < count && disk->chain.count && !(known && known->active); j++)
            refuse_layer(source, draft, disk, states[j]);
    }
}

/* ---- All layers of a disk ---- */

static size_t find_layer(const struct draft_disk *disk, const struct scan_image *image)
{
    size_t i = 0;
    while (i < disk->layer_count && disk->layers[i].image != image)
        i++;
    return i < disk->layer_count ? i : DRAFT_NO_LAYER;
}

/* Adds what is not there yet of a chain, top first. */
static int add_chain(struct draft_disk *disk, const struct scan_chain *chain)
{
    size_t above = DRAFT_NO_LAYER;
    for (size_t i = 0; i < chain->count; i++) {
        size_t at = find_layer(disk, chain->images[i]);
        bool is_there = at != DRAFT_NO_LAYER;
        if (!is_there) {
            struct draft_layer *grown = realloc(disk->layers, (disk->layer_count + 1) * sizeof *grown);
            if (!grown)
                return -ENOMEM;
            disk->layers = grown;
            at = disk->layer_count++;
            grown[at] = (struct draft_layer){chain->images[i], DRAFT_NO_LAYER};
        }
        if (above != DRAFT_NO_LAYER)
            disk->layers[above].backing = at;
        if (is_there)
            return 0;
        above = at;
    }
    return 0;
}

static int add_known(const struct kinship *kinship, const struct image_index *index, struct draft *draft,
                     struct draft_disk *disk, const struct state_frozen *frozen, const char *snapshot)
{
    struct scan_image *image = image_index_find(index, kinship->scan->source, frozen->layer);
    if (!image) {
        if (snapshot) {
            draft_problem(draft,
                          "%s, which snapshot %s needs, is gone; nothing can be changed until it is back",
                          frozen->layer, snapshot);
            draft->is_incomplete = true;
        }
        return 0;
    }
    if (find_layer(disk, image) != DRAFT_NO_LAYER)
        return 0;
    cleanup(scan_chain_done) struct scan_chain chain = {0};
    int r = scan_chain_follow(named_of(draft), image, &chain);
    if (r == 0 && chain.problem) {
        draft_problem(draft, "%s", chain.problem);
        draft->is_incomplete = true;
    }
    return r < 0 ? r : add_chain(disk, &chain);
}

int administered_layers(const struct kinship *kinship, const struct image_index *index, struct draft *draft,
                        struct draft_disk *disk)
{
    const struct state_disk *state = administered_disk(draft, disk);
    const struct state_domain *known = draft->state;
    int r = add_chain(disk, &disk->chain);
    if (!state || !known->is_administered)
        return r;
    for (size_t i = 0; r == 0 && i < known->snapshot_count; i++)
        for (size_t j = 0; r == 0 && j < known->snapshots[i].frozen_count; j++)
            if (known->snapshots[i].frozen[j].position == state->position)
                r = add_known(kinship, index, draft, disk, &known->snapshots[i].frozen[j],
                              known->snapshots[i].name);
    for (size_t i = 0; r == 0 && i < known->hidden_count; i++)
        if (known->hidden[i].position == state->position)
            r = add_known(kinship, index, draft, disk, &known->hidden[i], NULL);
    return r;
}
