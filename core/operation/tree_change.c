// SPDX-License-Identifier: LGPL-2.1-or-later
/* Create, rename, protect and clone; see tree_change.h. */
#include "operation/tree_change.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "operation/snapshot_choice.h"

static int out_of_memory(struct error *err)
{
    return error_set(err, ENOMEM, "out of memory");
}

static int check_part(const struct tree *tree, const struct layer_set *layers, const struct tree_part *parts,
                      size_t index, struct error *err)
{
    const struct tree_part *part = &parts[index];
    const struct tree_disk *disk = tree_find_disk(tree, part->disk);
    if (!disk)
        return error_set(err, ENOENT, "the domain has no disk at position %u", part->disk);
    for (size_t i = 0; i < index; i++)
        if (parts[i].disk == part->disk)
            return error_set(err, EINVAL, "disk %s is named twice; each disk once", disk->target);
    const struct layer_node *active = layer_set_find(layers, disk->active);
    if (part->kind == DISK_INTERNAL && !layer_may_be_written(active))
        return error_set(err, EPERM,
                         "disk %s can't have an internal snapshot: its active file is none that vmsnapfs may "
                         "write; use an external one",
                         disk->target);
    if (part->kind == DISK_EXTERNAL && !tree->may_switch_files)
        return error_set(err, EPERM, "disk %s can't have an external snapshot: %s", disk->target,
                         snapshot_choice_switch_text());
    return 0;
}

static int check_new(const struct tree *tree, const struct layer_set *layers, uint64_t serial,
                     const char *name, bool has_memory, const struct tree_part *parts, size_t part_count,
                     struct error *err)
{
    int rc = snapshot_name_check(name, strlen(name), err);
    if (rc < 0)
        return rc;
    if (tree_find_name(tree, name))
        return error_set(err, EEXIST, "there is a snapshot %.200s already", name);
    if (serial == 0 || (tree->count && serial <= tree->snapshots[tree->count - 1].serial))
        return error_set(err, EINVAL, "the serial number of %.200s is not new", name);
    size_t included = 0;
    for (size_t i = 0; i < part_count; i++)
        included += parts[i].kind != DISK_NO;
    if (included == 0 && !has_memory)
        return error_set(err, EINVAL, "nothing to snapshot: no disk is included and no memory is saved");
    for (size_t i = 0; i < part_count && rc == 0; i++)
        rc = check_part(tree, layers, parts, i, err);
    return rc;
}

int tree_create(struct tree *tree, struct layer_set *layers, uint64_t serial, const char *name,
                bool has_memory, const struct tree_part *parts, size_t part_count, struct error *err)
{
    int rc = check_new(tree, layers, serial, name, has_memory, parts, part_count, err);
    if (rc < 0)
        return rc;
    cleanup_free struct content *contents = calloc(part_count ? part_count : 1, sizeof *contents);
    if (!contents || layer_set_reserve(layers, part_count, part_count) < 0)
        return out_of_memory(err);
    struct tree_snapshot added = {
        .serial = serial,
        .parent = tree->current,
        .name = (char *)(uintptr_t)name, /* copied */
        .contents = contents,
        .has_memory = has_memory,
    };
    for (size_t i = 0; i < part_count; i++)
        if (parts[i].kind != DISK_NO)
            contents[added.content_count++] = (struct content){.disk = parts[i].disk};
    rc = tree_add_snapshot(tree, &added);
    if (rc < 0)
        return out_of_memory(err);

    /* From here on nothing fails: there is room. */
    struct content *content = tree->snapshots[tree->count - 1].contents;
    for (size_t i = 0; i < part_count; i++) {
        struct tree_disk *disk = tree_find_disk(tree, parts[i].disk);
        if (parts[i].kind == DISK_NO)
            continue;
        content->layer = disk->active;
        if (parts[i].kind == DISK_INTERNAL)
            layer_set_add_internal(layers, disk->active, &content->internal);
        else
            layer_set_add(layers, disk->active, !parts[i].reused, &disk->active);
        content++;
    }
    tree->current = serial;
    return 0;
}

static struct tree_snapshot *find(const struct tree *tree, uint64_t serial, struct error *err)
{
    struct tree_snapshot *snapshot = tree_find(tree, serial);
    if (!snapshot)
        error_set(err, ENOENT, "there is no such snapshot");
    return snapshot;
}

int tree_rename(struct tree *tree, uint64_t serial, const char *name, struct error *err)
{
    struct tree_snapshot *snapshot = find(tree, serial, err);
    if (!snapshot)
        return -ENOENT;
    int rc = snapshot_name_check(name, strlen(name), err);
    if (rc < 0 || strcmp(snapshot->name, name) == 0)
        return rc;
    if (tree_find_name(tree, name))
        return error_set(err, EPERM,
                         "there is a snapshot %.200s already, and renaming replaces none; delete it first",
                         name);
    char *copy = strdup(name);
    if (!copy)
        return out_of_memory(err);
    free(snapshot->name);
    snapshot->name = copy;
    return 0;
}

int tree_protect(struct tree *tree, uint64_t serial, bool is_protected, struct error *err)
{
    struct tree_snapshot *snapshot = find(tree, serial, err);
    if (!snapshot)
        return -ENOENT;
    snapshot->is_protected = is_protected;
    return 0;
}

int tree_clone(const struct tree *tree, struct layer_set *layers, uint64_t serial, uint64_t domain, bool full,
               struct tree *clone, struct error *err)
{
    const struct tree_snapshot *snapshot = find(tree, serial, err);
    if (!snapshot)
        return -ENOENT;
    /* Only what the domain still has: a definition is made of the disks that there are. */
    cleanup(tree_reversion_done) struct tree_reversion contents = {0};
    struct tree plain = *tree;
    plain.may_switch_files = true; /* the new domain's files are nobody's yet */
    int rc = tree_plan_reversion(&plain, layers, snapshot, &contents, err);
    if (rc < 0)
        return rc;
    cleanup(tree_done) struct tree made = {.domain = domain, .may_switch_files = tree->may_switch_files};
    for (size_t i = 0; i < contents.count; i++) {
        const struct revert_disk *disk = &contents.disks[i];
        if (disk->how == REVERT_KEPT)
            continue;
        rc = tree_add_disk(&made, disk->disk, tree_find_disk(tree, disk->disk)->target, 0);
        if (rc < 0)
            return out_of_memory(err);
    }
    if (made.disk_count == 0)
        return error_set(err, EINVAL, "snapshot %.200s holds no disk that could be cloned", snapshot->name);
    if (layer_set_reserve(layers, made.disk_count, 0) < 0)
        return out_of_memory(err);
    for (size_t i = 0; i < made.disk_count; i++) {
        struct tree_disk *disk = &made.disks[i];
        const struct content *content = tree_snapshot_content(snapshot, disk->position);
        bool copied = full || content->internal;
        layer_set_add(layers, copied ? 0 : content->layer, true, &disk->active);
        layer_set_administer(layers, disk->active, domain, disk->position);
    }
    *clone = made;
    made = (struct tree){0};
    return 0;
}
