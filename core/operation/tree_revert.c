// SPDX-License-Identifier: LGPL-2.1-or-later
/* Going back to a snapshot; see tree_change.h. */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "operation/snapshot_choice.h"
#include "operation/tree_change.h"

void tree_reversion_done(struct tree_reversion *reversion)
{
    free(reversion->disks);
    *reversion = (struct tree_reversion){0};
}

/* Are all layers that the content lies in as they were when they were frozen? */
static int check_layers(const struct layer_set *layers, const struct content *content, const char *name,
                        const char *target, struct error *err)
{
    const struct layer_node *layer = layer_set_find(layers, content->layer);
    for (; layer; layer = layer->backing ? layer_set_find(layers, layer->backing) : NULL)
        if (layer->changed)
            return error_set(err, EIO,
                             "disk %s of snapshot %.200s can't be used: an image that it needs was changed "
                             "by someone else",
                             target, name);
    return 0;
}

/* An internal snapshot is applied only in the file that the domain writes to anyway, and where nothing lies
 * on top of it. */
static enum revert_how how_to(const struct layer_set *layers, const struct content *content, uint64_t active)
{
    if (!content->internal)
        return REVERT_OVERLAY;
    bool in_place = content->layer == active && layer_may_be_written(layer_set_find(layers, active)) &&
                    !layer_set_has_children(layers, active);
    return in_place ? REVERT_APPLY : REVERT_COPY_OUT;
}

int tree_plan_reversion(const struct tree *tree, const struct layer_set *layers,
                        const struct tree_snapshot *to, struct tree_reversion *reversion, struct error *err)
{
    cleanup_free struct revert_disk *disks = calloc(tree->disk_count ? tree->disk_count : 1, sizeof *disks);
    if (!disks)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < tree->disk_count; i++) {
        const struct tree_disk *disk = &tree->disks[i];
        const struct content *content = tree_snapshot_content(to, disk->position);
        disks[i] = (struct revert_disk){
            .disk = disk->position,
            .how = REVERT_KEPT,
            .was_active = disk->active,
            .active = disk->active,
        };
        if (!content)
            continue;
        int rc = check_layers(layers, content, to->name, disk->target, err);
        if (rc < 0)
            return rc;
        disks[i].how = how_to(layers, content, disk->active);
        disks[i].from = *content;
        if (disks[i].how != REVERT_APPLY && !tree->may_switch_files)
            return error_set(err, EPERM, "disk %s can't go back to snapshot %.100s: %s", disk->target,
                             to->name, snapshot_choice_switch_text());
    }
    *reversion = (struct tree_reversion){.disks = steal_pointer(disks), .count = tree->disk_count};
    return 0;
}

void tree_apply_reversion(struct tree *tree, struct layer_set *layers, struct tree_reversion *reversion)
{
    for (size_t i = 0; i < reversion->count; i++) {
        struct revert_disk *disk = &reversion->disks[i];
        if (disk->how == REVERT_OVERLAY || disk->how == REVERT_COPY_OUT) {
            uint64_t backing = disk->how == REVERT_OVERLAY ? disk->from.layer : 0;
            layer_set_add(layers, backing, true, &disk->active);
            tree_find_disk(tree, disk->disk)->active = disk->active;
        }
    }
}

static int check_circumstances(const struct tree *tree, const struct tree_snapshot *to,
                               const struct revert_circumstances *circumstances, struct error *err)
{
    if (circumstances->force)
        return 0;
    for (size_t i = 0; i < to->content_count; i++)
        if (!tree_find_disk(tree, to->contents[i].disk))
            return error_set(
                err, EINVAL,
                "snapshot %.200s has a disk that the domain has no more; `force`, written to its "
                "revert, goes back without it",
                to->name);
    if (to->has_memory && circumstances->machine_changed)
        return error_set(
            err, EINVAL,
            "the domain's definition is not the one that the memory of snapshot %.200s was saved "
            "with; restore the definition, or write `force` to its revert",
            to->name);
    bool leaves_out = false;
    for (size_t i = 0; i < tree->disk_count && !leaves_out; i++)
        leaves_out = !tree_snapshot_content(to, tree->disks[i].position);
    if (to->has_memory && leaves_out && circumstances->left_out_may_have_changed)
        return error_set(
            err, EINVAL,
            "snapshot %.200s holds memory without all disks, and these may have been written "
            "since: the guest would damage its file systems; `force`, written to its revert, does "
            "it nevertheless",
            to->name);
    return 0;
}

int tree_revert(struct tree *tree, struct layer_set *layers, uint64_t serial,
                const struct revert_circumstances *circumstances, struct tree_reversion *reversion,
                struct error *err)
{
    const struct tree_snapshot *to = tree_find(tree, serial);
    if (!to)
        return error_set(err, ENOENT, "there is no such snapshot");
    int rc = check_circumstances(tree, to, circumstances, err);
    if (rc < 0)
        return rc;
    struct tree_reversion planned;
    rc = tree_plan_reversion(tree, layers, to, &planned, err);
    if (rc < 0)
        return rc;
    if (layer_set_reserve(layers, planned.count, 0) < 0) {
        tree_reversion_done(&planned);
        return error_set(err, ENOMEM, "out of memory");
    }
    tree_apply_reversion(tree, layers, &planned);
    tree->current = serial;
    *reversion = planned;
    return 0;
}
