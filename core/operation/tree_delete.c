// SPDX-License-Identifier: LGPL-2.1-or-later
/* The seven kinds of delete; see tree_change.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "operation/tree_change.h"

/* What a delete is about to do: worked out and checked as a whole, then done. */
struct intent {
    struct tree_snapshot *snapshot;
    struct tree_snapshot *parent; /* NULL: a root */
    bool *goes;                   /* for each snapshot of the tree */
    bool merges, reverts;
};

static void intent_done(struct intent *intent)
{
    free(intent->goes);
}

void tree_deletion_done(struct tree_deletion *deletion)
{
    free(deletion->gone);
    tree_reversion_done(&deletion->reversion);
    *deletion = (struct tree_deletion){0};
}

/* Which snapshots go. -ENOMEM */
static int mark(const struct tree *tree, enum delete_kind kind, struct intent *intent)
{
    size_t self = (size_t)(intent->snapshot - tree->snapshots);
    bool subtree = kind == DELETE_CHILDREN || kind == DELETE_CHILDREN_ONLY || kind == DELETE_DISCARD_FORCE;
    if (subtree) {
        if (tree_mark_branch(tree, intent->snapshot->serial, &intent->goes) < 0)
            return -ENOMEM;
        intent->goes[self] = kind != DELETE_CHILDREN_ONLY;
        return 0;
    }
    intent->goes = calloc(tree->count, sizeof *intent->goes);
    if (!intent->goes)
        return -ENOMEM;
    intent->goes[self] = true;
    if (kind != DELETE_MERGE_FORCE || !intent->parent)
        return 0;
    /* The parent's other branches too: what descends from the parent, but not from the snapshot. */
    bool *branch = NULL, *kept = NULL;
    int rc = tree_mark_branch(tree, intent->parent->serial, &branch);
    if (rc == 0)
        rc = tree_mark_branch(tree, intent->snapshot->serial, &kept);
    for (size_t i = 0; i < tree->count && rc == 0; i++)
        if (branch[i] && !kept[i] && &tree->snapshots[i] != intent->parent)
            intent->goes[i] = true;
    free(branch);
    free(kept);
    return rc;
}

static bool is_going(const struct tree *tree, const struct intent *intent, uint64_t serial)
{
    const struct tree_snapshot *snapshot = serial ? tree_find(tree, serial) : NULL;
    return snapshot && intent->goes[snapshot - tree->snapshots];
}

static bool has_child(const struct tree *tree, uint64_t parent, uint64_t other_than)
{
    for (size_t i = 0; i < tree->count; i++)
        if (tree->snapshots[i].parent == parent && tree->snapshots[i].serial != other_than)
            return true;
    return false;
}

static int check_merge(const struct tree *tree, enum delete_kind kind, struct intent *intent,
                       struct error *err)
{
    const char *name = intent->snapshot->name;
    const struct tree_snapshot *parent = intent->parent;
    if (!parent)
        return error_set(err, EINVAL, "snapshot %.200s has no parent that it could be merged into", name);
    bool present_is_child = tree->current == parent->serial;
    if (kind == DELETE_MERGE && has_child(tree, parent->serial, intent->snapshot->serial))
        return error_set(err, ENOTEMPTY,
                         "the parent, %.150s, has other children, whose state would change with it; "
                         "merge-force discards them",
                         parent->name);
    if (kind == DELETE_MERGE && present_is_child)
        return error_set(err, ENOTEMPTY,
                         "the parent, %.150s, is current, so that the present state depends on it; "
                         "merge-force discards the present state",
                         parent->name);
    intent->merges = true;
    intent->reverts = present_is_child ||
                      (is_going(tree, intent, tree->current) && tree->current != intent->snapshot->serial);
    if (intent->reverts && tree->is_active)
        return error_set(err, EBUSY,
                         "the domain is active, and merging %.150s would discard its present state; shut it "
                         "down first",
                         name);
    return 0;
}

static int check_discard(const struct tree *tree, enum delete_kind kind, struct intent *intent,
                         struct error *err)
{
    const struct tree_snapshot *snapshot = intent->snapshot;
    if (kind == DELETE_DISCARD) {
        if (has_child(tree, snapshot->serial, 0))
            return error_set(err, ENOTEMPTY, "snapshot %.200s has children; discard-force discards them too",
                             snapshot->name);
        if (tree->current == snapshot->serial)
            return error_set(err, EBUSY,
                             "snapshot %.200s is current, so that the present state depends on it; "
                             "discard-force goes back to its parent",
                             snapshot->name);
        return 0;
    }
    intent->reverts = is_going(tree, intent, tree->current);
    if (intent->reverts && tree->is_active)
        return error_set(
            err, EBUSY,
            "the domain is active, and discarding %.150s would discard its present state; shut it "
            "down first",
            snapshot->name);
    if (intent->reverts && !intent->parent)
        return error_set(err, EBUSY,
                         "the domain descends from %.200s, which has no parent that it could go back to; "
                         "revert it to another snapshot first, or delete with `children`",
                         snapshot->name);
    return 0;
}

/* May the snapshot's present content be lost? `why` names the way it is lost. */
static int check_loss(const struct tree_snapshot *snapshot, const char *why, struct error *err)
{
    if (snapshot->is_protected)
        return error_set(err, EPERM, "snapshot %.200s, which %s, is protected; write 0 to its `protected`",
                         snapshot->name, why);
    if (snapshot->is_open)
        return error_set(err, EBUSY, "snapshot %.200s, which %s, is in use: one of its files is open",
                         snapshot->name, why);
    return 0;
}

/* An internal snapshot can go only where its file may be written. */
static int check_contents(const struct layer_set *layers, const struct tree_snapshot *snapshot,
                          struct error *err)
{
    for (size_t i = 0; i < snapshot->content_count; i++) {
        const struct content *content = &snapshot->contents[i];
        if (content->internal && !layer_may_be_written(layer_set_find(layers, content->layer)))
            return error_set(err, EPERM,
                             "snapshot %.200s lies inside an image that vmsnapfs never writes, since it was "
                             "the backing file of another one before, or was changed by someone else",
                             snapshot->name);
    }
    return 0;
}

static int check_losses(const struct tree *tree, const struct layer_set *layers, const struct intent *intent,
                        struct error *err)
{
    /* What is protected is said before what will pass by itself. */
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < tree->count; i++) {
            const struct tree_snapshot *each = &tree->snapshots[i];
            bool overwritten = intent->merges && each == intent->parent;
            if (!intent->goes[i] && !overwritten)
                continue;
            if ((pass == 0) != each->is_protected)
                continue;
            int rc = check_loss(each, overwritten ? "would take over another state" : "would go", err);
            if (rc < 0)
                return rc;
        }
    for (size_t i = 0; i < tree->count; i++) {
        const struct tree_snapshot *each = &tree->snapshots[i];
        bool moves = intent->merges && each == intent->snapshot;
        bool overwritten = intent->merges && each == intent->parent;
        int rc = (intent->goes[i] && !moves) || overwritten ? check_contents(layers, each, err) : 0;
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* What a snapshot referred to is needed by one less. */
static void release(struct layer_set *layers, const struct tree_snapshot *snapshot)
{
    for (size_t i = 0; i < snapshot->content_count; i++)
        if (snapshot->contents[i].internal)
            layer_set_find_internal(layers, snapshot->contents[i].internal)->released = true;
}

static uint64_t nearest_left(const struct tree *tree, const struct intent *intent, uint64_t serial)
{
    while (is_going(tree, intent, serial))
        serial = tree_find(tree, serial)->parent;
    return serial;
}

/* The parent takes over what the snapshot is: it keeps its name, its place and its children. */
static void take_over(struct layer_set *layers, struct tree_snapshot *parent, struct tree_snapshot *from)
{
    release(layers, parent);
    struct content *lost = parent->contents;
    parent->contents = from->contents;
    parent->content_count = from->content_count;
    parent->has_memory = from->has_memory;
    parent->state_of = from->state_of ? from->state_of : from->serial;
    from->contents = lost;
    from->content_count = 0;
}

/* Can't fail. */
static void carry_out(struct tree *tree, struct layer_set *layers, const struct intent *intent,
                      struct tree_deletion *deletion)
{
    tree->current = nearest_left(tree, intent, tree->current);
    for (size_t i = 0; i < tree->count; i++)
        if (!intent->goes[i])
            tree->snapshots[i].parent = nearest_left(tree, intent, tree->snapshots[i].parent);
    if (intent->merges) {
        deletion->merged_into = intent->parent->serial;
        deletion->merged_from = intent->snapshot->serial;
        take_over(layers, intent->parent, intent->snapshot);
    }
    if (intent->reverts)
        tree_apply_reversion(tree, layers, &deletion->reversion);
    deletion->reverts = intent->reverts;
    size_t kept = 0;
    for (size_t i = 0; i < tree->count; i++) {
        struct tree_snapshot *each = &tree->snapshots[i];
        if (!intent->goes[i]) {
            tree->snapshots[kept++] = *each;
            continue;
        }
        deletion->gone[deletion->gone_count++] = each->serial;
        release(layers, each);
        free(each->name);
        free(each->contents);
    }
    tree->count = kept;
}

int tree_delete(struct tree *tree, struct layer_set *layers, uint64_t serial, enum delete_kind kind,
                struct tree_deletion *deletion, struct error *err)
{
    cleanup(intent_done) struct intent intent = {.snapshot = tree_find(tree, serial)};
    if (!intent.snapshot)
        return error_set(err, ENOENT, "there is no such snapshot");
    if (intent.snapshot->parent)
        intent.parent = tree_find(tree, intent.snapshot->parent);
    cleanup(tree_deletion_done) struct tree_deletion done = {0};
    done.gone = calloc(tree->count, sizeof *done.gone);
    if (!done.gone || mark(tree, kind, &intent) < 0)
        return error_set(err, ENOMEM, "out of memory");
    int rc = 0;
    if (kind == DELETE_MERGE || kind == DELETE_MERGE_FORCE)
        rc = check_merge(tree, kind, &intent, err);
    else if (kind == DELETE_DISCARD || kind == DELETE_DISCARD_FORCE)
        rc = check_discard(tree, kind, &intent, err);
    if (rc == 0)
        rc = check_losses(tree, layers, &intent, err);
    if (rc == 0 && intent.reverts)
        rc = tree_plan_reversion(tree, layers, intent.merges ? intent.snapshot : intent.parent,
                                 &done.reversion, err);
    if (rc == 0 && layer_set_reserve(layers, done.reversion.count, 0) < 0)
        rc = error_set(err, ENOMEM, "out of memory");
    if (rc < 0)
        return rc;
    carry_out(tree, layers, &intent, &done);
    *deletion = done;
    done = (struct tree_deletion){0};
    return 0;
}
