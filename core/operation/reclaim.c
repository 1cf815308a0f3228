// SPDX-License-Identifier: LGPL-2.1-or-later
/* The steps by which space is given back; see reclaim.h. */
#include "operation/reclaim.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"

static const struct layer_survey *of(const struct reclaim_world *world, const struct layer_survey *survey,
                                     uint64_t layer)
{
    return &survey[layer_set_find(world->layers, layer) - world->layers->layers];
}

static bool refers_to(const struct tree *tree, uint64_t internal)
{
    for (size_t i = 0; i < tree->count; i++)
        for (size_t j = 0; j < tree->snapshots[i].content_count; j++)
            if (tree->snapshots[i].contents[j].internal == internal)
                return true;
    return false;
}

static bool can_drop(const struct reclaim_world *world, const struct layer_survey *survey,
                     const struct internal_node *internal)
{
    const struct layer_node *layer = layer_set_find(world->layers, internal->layer);
    if (!internal->released || !layer_may_be_written(layer) ||
        of(world, survey, layer->id)->fate == LAYER_UNLINK)
        return false;
    for (size_t i = 0; i < world->tree_count; i++)
        if (refers_to(world->trees[i], internal->id))
            return false;
    return true;
}

/* Has nobody any need of it, and no internal snapshot either? */
static bool is_idle(const struct layer_survey *one)
{
    return !one->whole && !one->internal && !one->internals && !one->writers && !one->children;
}

/* From which layer the disk's content could be copied into the file that it began with, and into which. */
static bool way_home(const struct reclaim_world *world, const struct layer_survey *survey,
                     const struct tree *tree, const struct tree_disk *disk, struct reclaim_step *step)
{
    const struct layer_node *from = layer_set_find(world->layers, disk->active);
    if (tree->count || tree->is_active || !tree->may_switch_files || !layer_may_be_unlinked(from))
        return false;
    struct layer_survey alone = *of(world, survey, from->id);
    if (alone.writers != 1)
        return false;
    alone.writers = 0;
    if (!is_idle(&alone))
        return false;
    for (size_t i = 0; i < world->layers->count; i++) {
        const struct layer_node *home = &world->layers->layers[i];
        if (home->original_of == tree->domain && home->original_disk == disk->position &&
            layer_may_be_written(home) && is_idle(&survey[i])) {
            *step = (struct reclaim_step){.kind = RECLAIM_COPY_HOME, .layer = from->id, .into = home->id};
            return true;
        }
    }
    return false;
}

/* The rule of layer_set.h, once more and by itself: whatever a survey came to, this holds. */
static bool keeps_the_rule(const struct layer_set *layers, const struct reclaim_step *step)
{
    const struct layer_node *layer = layer_set_find(layers, step->layer);
    const struct layer_node *into = step->into ? layer_set_find(layers, step->into) : NULL;
    if (!layer)
        return false;
    if (step->kind == RECLAIM_DROP_INTERNAL)
        return layer_may_be_written(layer);
    if (!layer_may_be_unlinked(layer))
        return false;
    if (step->kind == RECLAIM_UNLINK)
        return true;
    if (!into || !layer_may_be_written(into))
        return false;
    for (size_t i = 0; i < layers->count; i++) {
        const struct layer_node *other = &layers->layers[i];
        if (other == layer || other == into)
            continue;
        /* What lies on a file that is written sees it change; what lies on one that goes is written too. */
        if (step->kind != RECLAIM_INTO_CHILD && other->backing == into->id)
            return false;
        if (other->backing == layer->id &&
            (step->kind != RECLAIM_INTO_PARENT || !layer_may_be_written(other)))
            return false;
    }
    return true;
}

/* Offers each step that could be next. What a survey comes to holds when everything is unlinked that nobody
 * needs; until then keeps_the_rule holds back what must wait for that. */
static void each_step(const struct reclaim_world *world, const struct layer_survey *survey,
                      reclaim_visitor *visit, void *opaque)
{
    const struct layer_set *layers = world->layers;
    for (size_t i = 0; i < layers->internal_count; i++) {
        const struct internal_node *internal = &layers->internals[i];
        struct reclaim_step step = {
            .kind = RECLAIM_DROP_INTERNAL, .layer = internal->layer, .internal = internal->id};
        if (can_drop(world, survey, internal) && visit(opaque, &step))
            return;
    }
    /* What lies on top is younger, and goes first. */
    for (size_t i = layers->count; i-- > 0;) {
        struct reclaim_step step = {.kind = RECLAIM_UNLINK, .layer = survey[i].layer};
        if (survey[i].fate != LAYER_UNLINK || layer_set_has_children(layers, step.layer))
            continue;
        if (visit(opaque, &step))
            return;
    }
    for (size_t i = 0; i < layers->count; i++) {
        struct reclaim_step step = {
            .kind = RECLAIM_INTO_PARENT, .layer = survey[i].only_child, .into = survey[i].layer};
        if (survey[i].fate == LAYER_INTO_CHILD)
            step = (struct reclaim_step){
                .kind = RECLAIM_INTO_CHILD, .layer = survey[i].layer, .into = survey[i].only_child};
        if ((survey[i].fate == LAYER_INTO_PARENT || survey[i].fate == LAYER_INTO_CHILD) &&
            visit(opaque, &step))
            return;
    }
    for (size_t i = 0; i < world->tree_count; i++)
        for (size_t j = 0; j < world->trees[i]->disk_count; j++) {
            struct reclaim_step step;
            if (way_home(world, survey, world->trees[i], &world->trees[i]->disks[j], &step) &&
                visit(opaque, &step))
                return;
        }
}

struct search {
    const struct layer_set *layers;
    const struct reclaim_step *wanted; /* NULL: any that `visit` takes */
    reclaim_visitor *visit;            /* NULL: any */
    void *opaque;
    struct reclaim_step found;
};

static bool consider(void *opaque, const struct reclaim_step *step)
{
    struct search *search = opaque;
    const struct reclaim_step *wanted = search->wanted;
    if (wanted && (wanted->kind != step->kind || wanted->layer != step->layer || wanted->into != step->into ||
                   wanted->internal != step->internal))
        return false;
    if (!keeps_the_rule(search->layers, step))
        return false;
    if (search->visit && !search->visit(search->opaque, step))
        return false;
    search->found = *step;
    return true;
}

static int search_steps(const struct reclaim_world *world, struct search *search)
{
    cleanup_free struct layer_survey *survey = NULL;
    search->layers = world->layers;
    if (!world->is_complete)
        return 0;
    if (reclaim_survey(world, &survey) < 0)
        return -ENOMEM;
    each_step(world, survey, consider, search);
    return 0;
}

int reclaim_next(const struct reclaim_world *world, reclaim_visitor *visit, void *opaque,
                 struct reclaim_step *step)
{
    struct search search = {.visit = visit, .opaque = opaque};
    int rc = search_steps(world, &search);
    if (rc == 0)
        *step = search.found;
    return rc;
}

int reclaim_check(const struct reclaim_world *world, const struct reclaim_step *step, struct error *err)
{
    struct search search = {.wanted = step};
    if (search_steps(world, &search) < 0)
        return error_set(err, ENOMEM, "out of memory");
    if (search.found.kind == RECLAIM_NOTHING)
        return error_set(err, EPERM,
                         "what was to be reclaimed is needed, or may not be written; nothing is "
                         "done");
    return 0;
}

/* Whatever meant the whole of layer `from` means the whole of `to`. */
static void repoint(struct reclaim_world *world, uint64_t from, uint64_t to)
{
    for (size_t i = 0; i < world->tree_count; i++) {
        struct tree *tree = world->trees[i];
        for (size_t j = 0; j < tree->disk_count; j++)
            if (tree->disks[j].active == from)
                tree->disks[j].active = to;
        for (size_t j = 0; j < tree->count; j++)
            for (size_t k = 0; k < tree->snapshots[j].content_count; k++)
                if (tree->snapshots[j].contents[k].layer == from)
                    tree->snapshots[j].contents[k].layer = to;
    }
    for (size_t i = 0; i < world->layers->count; i++)
        if (world->layers->layers[i].backing == from)
            world->layers->layers[i].backing = to;
}

int reclaim_apply(struct reclaim_world *world, const struct reclaim_step *step, struct error *err)
{
    int rc = reclaim_check(world, step, err);
    if (rc < 0)
        return rc;
    struct layer_node *layer = layer_set_find(world->layers, step->layer);
    struct layer_node *into = step->into ? layer_set_find(world->layers, step->into) : NULL;
    switch (step->kind) {
    case RECLAIM_NOTHING:
        return 0;
    case RECLAIM_DROP_INTERNAL:
        layer_set_remove_internal(world->layers, step->internal);
        return 0;
    case RECLAIM_UNLINK:
        break;
    case RECLAIM_INTO_PARENT:
    case RECLAIM_COPY_HOME:
        repoint(world, step->layer, step->into);
        break;
    case RECLAIM_INTO_CHILD:
        into->backing = layer->backing;
        break;
    }
    if (into && into->size < layer->size)
        into->size = layer->size;
    layer_set_remove(world->layers, step->layer);
    return 0;
}
