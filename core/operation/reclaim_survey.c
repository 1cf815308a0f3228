// SPDX-License-Identifier: LGPL-2.1-or-later
/* Who needs which layer, and what becomes of it; see reclaim.h. */
#include <errno.h>
#include <stdlib.h>

#include "operation/reclaim.h"

static struct layer_survey *of(const struct layer_set *layers, struct layer_survey *all, uint64_t layer)
{
    const struct layer_node *node = layer ? layer_set_find(layers, layer) : NULL;
    return node ? &all[node - layers->layers] : NULL;
}

static void add_domain(struct layer_survey *one, uint64_t domain)
{
    if (one->domain == 0)
        one->domain = domain;
    else if (one->domain != domain)
        one->domain = DOMAIN_SEVERAL;
}

static void count_tree(const struct tree *tree, const struct layer_set *layers, struct layer_survey *all)
{
    for (size_t i = 0; i < tree->count; i++) {
        const struct tree_snapshot *snapshot = &tree->snapshots[i];
        for (size_t j = 0; j < snapshot->content_count; j++) {
            struct layer_survey *one = of(layers, all, snapshot->contents[j].layer);
            if (!one)
                continue;
            if (snapshot->contents[j].internal)
                one->internal++;
            else
                one->whole++;
            add_domain(one, tree->domain);
        }
    }
    for (size_t i = 0; i < tree->disk_count; i++) {
        struct layer_survey *one = of(layers, all, tree->disks[i].active);
        if (!one)
            continue;
        one->writers++;
        one->writers_may_switch &= tree->may_switch_files;
        add_domain(one, tree->domain);
    }
}

/* From the top down: what is needed needs what lies below it, and so does what stays for another reason. */
static void count_children(const struct layer_set *layers, struct layer_survey *all)
{
    for (size_t i = layers->count; i-- > 0;) {
        const struct layer_node *node = &layers->layers[i];
        struct layer_survey *one = &all[i];
        bool needed = one->whole || one->internal || one->writers || one->children;
        if (!needed)
            one->fate = layer_may_be_unlinked(node) ? LAYER_UNLINK : LAYER_LEFT;
        struct layer_survey *below = of(layers, all, node->backing);
        if (!below || one->fate == LAYER_UNLINK)
            continue;
        below->children++;
        below->only_child = node->id;
        below->children_may_be_written &= layer_may_be_written(node);
        add_domain(below, one->domain ? one->domain : DOMAIN_SEVERAL);
    }
}

/* Can `upper` be written into `lower`, below it, and be unlinked? */
static bool can_go_down(const struct layer_node *lower, const struct layer_node *upper,
                        const struct layer_survey *upper_survey)
{
    return layer_may_be_written(lower) && layer_may_be_unlinked(upper) &&
           upper_survey->children_may_be_written && upper_survey->writers_may_switch &&
           (lower->original_of == 0 || lower->original_of == upper_survey->domain);
}

/* Can what `upper` has not itself be written into it, and `lower` be unlinked? */
static bool can_go_up(const struct layer_node *lower, const struct layer_node *upper)
{
    return layer_may_be_written(upper) && layer_may_be_unlinked(lower);
}

static void decide(const struct layer_set *layers, struct layer_survey *all, size_t index)
{
    struct layer_survey *one = &all[index];
    const struct layer_node *lower = &layers->layers[index];
    if (one->fate == LAYER_UNLINK || one->fate == LAYER_LEFT)
        return;
    if (one->whole || one->internal || one->writers) {
        one->fate = LAYER_SEEN;
        return;
    }
    one->fate = LAYER_UNSEEN;
    if (one->children > 1) {
        one->reason = "several others lie on top of it";
        return;
    }
    const struct layer_node *upper = layer_set_find(layers, one->only_child);
    const struct layer_survey *top = &all[upper - layers->layers];
    if (one->internals || top->internals)
        one->reason = "it, or what lies on top of it, holds internal snapshots";
    else if (lower->changed || upper->changed)
        one->reason = "it, or what lies on top of it, was changed by someone else";
    else if (top->writers > 1)
        one->reason = "two disks write to what lies on top of it";
    else {
        bool down = can_go_down(lower, upper, top), up = can_go_up(lower, upper);
        bool prefers_down = lower->original_of   ? true
                            : upper->original_of ? false
                                                 : upper->size <= lower->size;
        if (down && (prefers_down || !up))
            one->fate = LAYER_INTO_PARENT;
        else if (up)
            one->fate = LAYER_INTO_CHILD;
        else
            one->reason = "neither it nor what lies on top of it may be written into the other";
    }
}

int reclaim_survey(const struct reclaim_world *world, struct layer_survey **survey)
{
    const struct layer_set *layers = world->layers;
    struct layer_survey *all = calloc(layers->count ? layers->count : 1, sizeof *all);
    if (!all)
        return -ENOMEM;
    for (size_t i = 0; i < layers->count; i++)
        all[i] = (struct layer_survey){
            .layer = layers->layers[i].id, .writers_may_switch = true, .children_may_be_written = true};
    for (size_t i = 0; i < world->tree_count; i++)
        count_tree(world->trees[i], layers, all);
    for (size_t i = 0; i < layers->internal_count; i++) {
        struct layer_survey *one = of(layers, all, layers->internals[i].layer);
        if (one)
            one->internals++;
    }
    count_children(layers, all);
    for (size_t i = 0; i < layers->count; i++)
        decide(layers, all, i);
    *survey = all;
    return 0;
}
