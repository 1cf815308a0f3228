// SPDX-License-Identifier: LGPL-2.1-or-later
/* A domain's snapshots as values; see tree.h. */
#include "operation/tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "domain/domain.h"
#include "domain/name.h"

static void snapshot_done(struct tree_snapshot *snapshot)
{
    free(snapshot->name);
    free(snapshot->contents);
}

void tree_done(struct tree *tree)
{
    for (size_t i = 0; i < tree->count; i++)
        snapshot_done(&tree->snapshots[i]);
    for (size_t i = 0; i < tree->disk_count; i++)
        free(tree->disks[i].target);
    free(tree->snapshots);
    free(tree->disks);
    *tree = (struct tree){0};
}

int tree_copy(const struct tree *from, struct tree *to)
{
    cleanup(tree_done) struct tree copy = {
        .domain = from->domain,
        .is_active = from->is_active,
        .may_switch_files = from->may_switch_files,
        .current = from->current,
    };
    copy.snapshots = calloc(from->count ? from->count : 1, sizeof *copy.snapshots);
    if (!copy.snapshots)
        return -ENOMEM;
    for (size_t i = 0; i < from->disk_count; i++) {
        const struct tree_disk *disk = &from->disks[i];
        int rc = tree_add_disk(&copy, disk->position, disk->target, disk->active);
        if (rc < 0)
            return rc;
    }
    for (size_t i = 0; i < from->count; i++) {
        const struct tree_snapshot *old = &from->snapshots[i];
        struct tree_snapshot *new = &copy.snapshots[copy.count++];
        *new = *old;
        new->name = strdup(old->name);
        new->contents = calloc(old->content_count ? old->content_count : 1, sizeof *new->contents);
        if (!new->name || !new->contents)
            return -ENOMEM;
        if (old->content_count)
            memcpy(new->contents, old->contents, old->content_count * sizeof *old->contents);
    }
    *to = copy;
    copy = (struct tree){0};
    return 0;
}

int tree_add_disk(struct tree *tree, unsigned position, const char *target, uint64_t active)
{
    if (tree->disk_count == DOMAIN_DISKS_MAX || tree_find_disk(tree, position))
        return -EINVAL;
    struct tree_disk *disks = reallocarray(tree->disks, tree->disk_count + 1, sizeof *disks);
    if (!disks)
        return -ENOMEM;
    tree->disks = disks;
    char *copy = strdup(target);
    if (!copy)
        return -ENOMEM;
    disks[tree->disk_count++] = (struct tree_disk){.position = position, .target = copy, .active = active};
    return 0;
}

int tree_add_snapshot(struct tree *tree, const struct tree_snapshot *snapshot)
{
    if (tree->count && snapshot->serial <= tree->snapshots[tree->count - 1].serial)
        return -EINVAL;
    struct tree_snapshot *snapshots = reallocarray(tree->snapshots, tree->count + 1, sizeof *snapshots);
    if (!snapshots)
        return -ENOMEM;
    tree->snapshots = snapshots;
    struct tree_snapshot added = *snapshot;
    added.name = strdup(snapshot->name);
    added.contents = calloc(snapshot->content_count ? snapshot->content_count : 1, sizeof *added.contents);
    if (!added.name || !added.contents) {
        snapshot_done(&added);
        return -ENOMEM;
    }
    if (snapshot->content_count)
        memcpy(added.contents, snapshot->contents, snapshot->content_count * sizeof *added.contents);
    snapshots[tree->count++] = added;
    return 0;
}

struct tree_snapshot *tree_find(const struct tree *tree, uint64_t serial)
{
    for (size_t low = 0, high = tree->count; low < high;) {
        size_t middle = low + (high - low) / 2;
        if (tree->snapshots[middle].serial == serial)
            return &tree->snapshots[middle];
        if (tree->snapshots[middle].serial < serial)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

const struct tree_snapshot *tree_find_name(const struct tree *tree, const char *name)
{
    for (size_t i = 0; i < tree->count; i++)
        if (strcmp(tree->snapshots[i].name, name) == 0)
            return &tree->snapshots[i];
    return NULL;
}

struct tree_disk *tree_find_disk(const struct tree *tree, unsigned position)
{
    for (size_t i = 0; i < tree->disk_count; i++)
        if (tree->disks[i].position == position)
            return &tree->disks[i];
    return NULL;
}

const struct content *tree_snapshot_content(const struct tree_snapshot *snapshot, unsigned disk)
{
    for (size_t i = 0; i < snapshot->content_count; i++)
        if (snapshot->contents[i].disk == disk)
            return &snapshot->contents[i];
    return NULL;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int check_names(const struct tree *tree, struct error *err)
{
    cleanup_free const char **names = calloc(tree->count ? tree->count : 1, sizeof *names);
    if (!names)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < tree->count; i++) {
        names[i] = tree->snapshots[i].name;
        if (!name_is_legal(names[i], strlen(names[i]), NULL))
            return error_set(err, EIO, "the name of snapshot %llu is not legal",
                             (unsigned long long)tree->snapshots[i].serial);
    }
    qsort(names, tree->count, sizeof *names, compare_names);
    for (size_t i = 1; i < tree->count; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            return error_set(err, EIO, "two snapshots are called %.200s", names[i]);
    return 0;
}

static int check_contents(const struct tree *tree, const struct tree_snapshot *snapshot,
                          const struct layer_set *layers, struct error *err)
{
    for (size_t i = 0; i < snapshot->content_count; i++) {
        const struct content *content = &snapshot->contents[i];
        for (size_t j = 0; j < tree->disk_count && !content->internal; j++)
            if (tree->disks[j].active == content->layer)
                return error_set(err, EIO, "disk %s writes into the image that snapshot %.200s is",
                                 tree->disks[j].target, snapshot->name);
        const struct internal_node *internal =
            content->internal ? layer_set_find_internal(layers, content->internal) : NULL;
        if (!layer_set_find(layers, content->layer) ||
            (content->internal && (!internal || internal->layer != content->layer)))
            return error_set(err, EIO, "snapshot %.200s has a disk whose image is not known", snapshot->name);
        if (tree_snapshot_content(snapshot, content->disk) != content)
            return error_set(err, EIO, "snapshot %.200s has a disk twice", snapshot->name);
    }
    return 0;
}

/* Walks up from each snapshot until it comes to one that was seen to end. */
static int check_parents(const struct tree *tree, struct error *err)
{
    cleanup_free size_t *walk = calloc(tree->count ? tree->count : 1, sizeof *walk);
    if (!walk)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < tree->count; i++) {
        const struct tree_snapshot *at = &tree->snapshots[i];
        /* walk[]: 0 not seen, i + 1 seen on the way up from i. */
        while (at && walk[at - tree->snapshots] == 0) {
            walk[at - tree->snapshots] = i + 1;
            const struct tree_snapshot *parent = at->parent ? tree_find(tree, at->parent) : NULL;
            if (at->parent && !parent)
                return error_set(err, EIO, "snapshot %.200s has a parent that is not there", at->name);
            if (parent && walk[parent - tree->snapshots] == i + 1)
                return error_set(err, EIO, "snapshot %.200s descends from itself", at->name);
            at = parent;
        }
    }
    return 0;
}

int tree_check(const struct tree *tree, const struct layer_set *layers, struct error *err)
{
    for (size_t i = 0; i < tree->count; i++)
        if (tree->snapshots[i].serial <= (i ? tree->snapshots[i - 1].serial : 0))
            return error_set(err, EIO, "the serial numbers of the snapshots do not rise");
    for (size_t i = 0; i < tree->disk_count; i++)
        if (!layer_set_find(layers, tree->disks[i].active))
            return error_set(err, EIO, "the active image of disk %s is not known", tree->disks[i].target);
    if (tree->current && !tree_find(tree, tree->current))
        return error_set(err, EIO, "the current snapshot is not there");
    int rc = check_names(tree, err);
    if (rc == 0)
        rc = check_parents(tree, err);
    for (size_t i = 0; i < tree->count && rc == 0; i++)
        rc = check_contents(tree, &tree->snapshots[i], layers, err);
    return rc;
}

int tree_mark_branch(const struct tree *tree, uint64_t root, bool **marks)
{
    enum { UNKNOWN, OUTSIDE, INSIDE };
    cleanup_free unsigned char *known = calloc(tree->count ? tree->count : 1, 1);
    bool *inside = calloc(tree->count ? tree->count : 1, sizeof *inside);
    if (!known || !inside) {
        free(inside);
        return -ENOMEM;
    }
    for (size_t i = 0; i < tree->count; i++) {
        /* Up to what is known, then the same way again to write it down: each is walked twice at most. */
        unsigned char found = UNKNOWN;
        for (const struct tree_snapshot *at = &tree->snapshots[i]; found == UNKNOWN;) {
            found = at->serial == root ? INSIDE : known[at - tree->snapshots];
            at = at->parent ? tree_find(tree, at->parent) : NULL;
            if (!at && found == UNKNOWN)
                found = OUTSIDE;
        }
        for (const struct tree_snapshot *at = &tree->snapshots[i];
             at && known[at - tree->snapshots] == UNKNOWN && (found == OUTSIDE || at->serial != root);
             at = at->parent ? tree_find(tree, at->parent) : NULL)
            known[at - tree->snapshots] = found;
        inside[i] = found == INSIDE;
    }
    *marks = inside;
    return 0;
}
