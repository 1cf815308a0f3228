// SPDX-License-Identifier: LGPL-2.1-or-later
/* From domains to trees and layers; see world.h. */
#include "administration/world.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

static int out_of_memory(struct error *err)
{
    return error_set(err, ENOMEM, "out of memory");
}

/* ---- Files ---- */

static int compare_files(const void *left, const void *right)
{
    return strcmp(((const struct world_file *)left)->layer->path,
                  ((const struct world_file *)right)->layer->path);
}

static struct world_file *file_at(const struct world *world, const char *path)
{
    size_t low = 0, high = world->file_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(path, world->files[middle].layer->path);
        if (order == 0)
            return &world->files[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static int collect_files(struct world *world)
{
    size_t total = 0, kept = 0;
    for (size_t i = 0; i < world->count; i++)
        total += world->domains[i]->layer_count;
    world->files = calloc(total + 1, sizeof *world->files);
    if (!world->files)
        return -ENOMEM;
    for (size_t i = 0; i < world->count; i++)
        for (size_t j = 0; j < world->domains[i]->layer_count; j++) {
            const struct layer *layer = world->domains[i]->layers[j];
            world->files[world->file_count++] = (struct world_file){.layer = layer,
                                                                    .made = layer->made,
                                                                    .original = layer->original,
                                                                    .changed = layer->changed,
                                                                    .touched = layer->touched};
        }
    if (total)
        qsort(world->files, total, sizeof *world->files, compare_files);
    for (size_t i = 0; i < total; i++) {
        struct world_file *file = &world->files[i], *last = kept ? &world->files[kept - 1] : NULL;
        if (!last || strcmp(last->layer->path, file->layer->path) != 0) {
            world->files[kept++] = *file;
            continue;
        }
        last->made |= file->made;
        last->original |= file->original;
        last->changed |= file->changed;
        last->touched |= file->touched;
        last->is_shared = true;
        if (!last->layer->backing)
            last->layer = file->layer;
    }
    world->file_count = kept;
    return 0;
}

/* Adds the layers to the set, what lies below first. */
static int add_layers(struct world *world, struct error *err)
{
    cleanup_free struct world_file **stack = calloc(world->file_count + 1, sizeof *stack);
    if (!stack)
        return out_of_memory(err);
    for (size_t i = 0; i < world->file_count; i++) {
        size_t depth = 0;
        for (struct world_file *file = &world->files[i]; file && !file->id;) {
            if (depth == world->file_count)
                return error_set(err, EIO, "the chain of backing files of %s is a loop",
                                 world->files[i].layer->path);
            stack[depth++] = file;
            file = file->layer->backing ? file_at(world, file->layer->backing->path) : NULL;
        }
        while (depth-- > 0) {
            struct world_file *file = stack[depth];
            const struct world_file *backing =
                file->layer->backing ? file_at(world, file->layer->backing->path) : NULL;
            if (layer_set_add(&world->layers, backing ? backing->id : 0, file->made, &file->id) < 0)
                return out_of_memory(err);
            struct layer_node *node = layer_set_find(&world->layers, file->id);
            node->changed = file->changed;
            node->size = file->layer->identity.size;
        }
    }
    return 0;
}

/* A file that is where a domain began may be written to for that domain, unless it is so for another, too. */
static void add_originals(struct world *world)
{
    for (size_t i = 0; i < world->count; i++)
        for (size_t j = 0; j < world->domains[i]->layer_count; j++) {
            const struct layer *layer = world->domains[i]->layers[j];
            if (!layer->original)
                continue;
            struct layer_node *node = layer_set_find(&world->layers, world_layer_at(world, layer->path));
            if (node->original_of == 0) {
                node->original_of = world->domains[i]->serial;
                node->original_disk = layer->original_disk;
            } else if (node->original_of != world->domains[i]->serial) {
                node->changed = true; /* two say so: nobody writes */
            }
        }
}

/* ---- Internal snapshots ---- */

static int add_internal(struct world *world, const struct layer *layer,
                        const struct internal_snapshot *internal, bool released, uint64_t *id)
{
    const struct world_file *file = file_at(world, layer->path);
    /* Several domains can know the same one. */
    for (size_t i = 0; file->is_shared && i < world->internal_count; i++) {
        const struct world_internal *known = &world->internals[i];
        if (strcmp(known->layer->path, layer->path) == 0 &&
            internal_snapshot_equal(known->internal, internal)) {
            *id = known->id;
            layer_set_find_internal(&world->layers, *id)->released |= released;
            return 0;
        }
    }
    struct world_internal *grown = realloc(world->internals, (world->internal_count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    world->internals = grown;
    int r = layer_set_add_internal(&world->layers, file->id, id);
    if (r < 0)
        return r;
    layer_set_find_internal(&world->layers, *id)->released = released;
    grown[world->internal_count++] = (struct world_internal){*id, layer, internal};
    return 0;
}

/* ---- Trees ---- */

static int add_snapshot(struct world *world, struct tree *tree, const struct snapshot *from, bool is_open)
{
    cleanup_free struct content *contents = calloc(from->frozen_count + 1, sizeof *contents);
    if (!contents)
        return -ENOMEM;
    for (size_t i = 0; i < from->frozen_count; i++) {
        const struct frozen *frozen = &from->frozen[i];
        contents[i] = (struct content){.disk = frozen->disk->position,
                                       .layer = world_layer_at(world, frozen->layer->path)};
        if (frozen->internal &&
            add_internal(world, frozen->layer, frozen->internal, false, &contents[i].internal) < 0)
            return -ENOMEM;
    }
    const struct tree_snapshot snapshot = {
        .serial = from->serial,
        .parent = from->parent ? from->parent->serial : 0,
        .name = from->name,
        .contents = contents,
        .content_count = from->frozen_count,
        .has_memory = snapshot_has_memory(from),
        .is_protected = from->is_protected,
        .is_open = is_open,
    };
    return tree_add_snapshot(tree, &snapshot);
}

static int make_tree(struct world *world, const struct domain *domain, world_is_open *is_open, void *opaque,
                     struct tree *tree)
{
    int r = 0;
    *tree = (struct tree){.domain = domain->serial,
                          .may_switch_files = domain->may_switch_files,
                          .current = domain->current ? domain->current->serial : 0};
    for (size_t i = 0; r == 0 && i < domain->disk_count; i++) {
        const struct disk *disk = &domain->disks[i];
        if (disk->active)
            r = tree_add_disk(tree, disk->position, disk->target, world_layer_at(world, disk->active->path));
    }
    for (size_t i = 0; r == 0 && i < domain->snapshot_count; i++) {
        const struct snapshot *snapshot = domain->by_serial[i];
        r = add_snapshot(world, tree, snapshot, is_open && is_open(opaque, snapshot->serial));
    }
    for (size_t i = 0; r == 0 && i < domain->released_count; i++) {
        uint64_t id;
        r = add_internal(world, domain->released[i].layer, domain->released[i].internal, true, &id);
    }
    return r;
}

int world_make(struct domain *const *domains, size_t count, world_is_open *is_open, void *opaque,
               struct world *world, struct error *err)
{
    cleanup(world_done) struct world made = {.domains = domains};
    made.trees = calloc(count + 1, sizeof *made.trees);
    if (!made.trees)
        return out_of_memory(err);
    made.count = count;
    if (collect_files(&made) < 0)
        return out_of_memory(err);
    int r = add_layers(&made, err);
    if (r < 0)
        return r;
    add_originals(&made);
    for (size_t i = 0; i < count; i++) {
        made.trees[i] = calloc(1, sizeof **made.trees);
        if (!made.trees[i] || make_tree(&made, domains[i], is_open, opaque, made.trees[i]) < 0)
            return out_of_memory(err);
        r = tree_check(made.trees[i], &made.layers, err);
        if (r < 0)
            return r;
    }
    *world = made;
    made = (struct world){0};
    return 0;
}

void world_done(struct world *world)
{
    for (size_t i = 0; world->trees && i < world->count; i++) {
        if (world->trees[i])
            tree_done(world->trees[i]);
        free(world->trees[i]);
    }
    free(world->trees);
    layer_set_done(&world->layers);
    free(world->files);
    free(world->internals);
    *world = (struct world){0};
}

/* ---- The way back ---- */

const struct world_file *world_find_file(const struct world *world, uint64_t layer)
{
    for (size_t i = 0; i < world->file_count; i++)
        if (world->files[i].id == layer)
            return &world->files[i];
    return NULL;
}

static int compare_internals(const void *left, const void *right)
{
    const struct world_internal *a = left, *b = right;
    return a->id < b->id ? -1 : a->id > b->id;
}

const struct world_internal *world_find_internal(const struct world *world, uint64_t internal)
{
    const struct world_internal wanted = {.id = internal};
    return world->internal_count
               ? bsearch(&wanted, world->internals, world->internal_count, sizeof wanted, compare_internals)
               : NULL;
}

uint64_t world_layer_at(const struct world *world, const char *path)
{
    const struct world_file *file = file_at(world, path);
    return file ? file->id : 0;
}
