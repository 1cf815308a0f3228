// SPDX-License-Identifier: LGPL-2.1-or-later
/* Small trees for the tests of tree_change and reclaim: one domain, one or two disks, names of one letter.
 * Header only; not every test uses all of it. */
#pragma once

#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "operation/reclaim.h"
#include "operation/tree_change.h"

#define DOMAIN 7

struct world {
    struct layer_set layers;
    struct tree tree;
    struct tree *trees[2];
    struct reclaim_world reclaim;
    uint64_t original; /* the first layer of disk 0 */
    uint64_t next_serial;
};

/* A domain with one disk, whose file is the user's and lies on nothing. */
static inline void world_start(struct world *world)
{
    *world = (struct world){.next_serial = 1};
    world->tree.domain = DOMAIN;
    world->tree.may_switch_files = true;
    assert_int_equal(layer_set_add(&world->layers, 0, false, &world->original), 0);
    assert_true(layer_set_administer(&world->layers, world->original, DOMAIN, 0));
    assert_int_equal(tree_add_disk(&world->tree, 0, "vda", world->original), 0);
    world->trees[0] = &world->tree;
    world->reclaim = (struct reclaim_world){
        .trees = world->trees, .tree_count = 1, .layers = &world->layers, .is_complete = true};
}

static inline void world_end(struct world *world)
{
    tree_done(&world->tree);
    layer_set_done(&world->layers);
}

static inline uint64_t serial_of(const struct world *world, const char *name)
{
    const struct tree_snapshot *snapshot = tree_find_name(&world->tree, name);
    if (!snapshot)
        fail_msg("no snapshot %s", name);
    return snapshot->serial;
}

static inline struct tree_snapshot *snapshot_of(const struct world *world, const char *name)
{
    return tree_find(&world->tree, serial_of(world, name));
}

static inline uint64_t active_of(const struct world *world)
{
    return world->tree.disks[0].active;
}

static inline uint64_t layer_of(const struct world *world, const char *name)
{
    return snapshot_of(world, name)->contents[0].layer;
}

static inline struct layer_node *node_of(const struct world *world, uint64_t layer)
{
    struct layer_node *node = layer_set_find(&world->layers, layer);
    assert_non_null(node);
    return node;
}

static inline void create(struct world *world, const char *name, enum disk_choice kind)
{
    struct error err = {0};
    struct tree_part part = {.disk = 0, .kind = kind};
    if (tree_create(&world->tree, &world->layers, world->next_serial++, name, false, &part, 1, &err) < 0)
        fail_msg("create %s: %s", name, err.text);
    assert_int_equal(tree_check(&world->tree, &world->layers, &err), 0);
}

/* Returns how disk 0 came there. */
static inline enum revert_how revert(struct world *world, const char *name)
{
    struct error err = {0};
    struct revert_circumstances none = {0};
    struct tree_reversion reversion;
    if (tree_revert(&world->tree, &world->layers, serial_of(world, name), &none, &reversion, &err) < 0)
        fail_msg("revert to %s: %s", name, err.text);
    enum revert_how how = reversion.disks[0].how;
    assert_int_equal(reversion.disks[0].active, active_of(world));
    tree_reversion_done(&reversion);
    assert_int_equal(tree_check(&world->tree, &world->layers, &err), 0);
    return how;
}

/* The tree as a text: "a(b c(d))*c" is a with children b and c, c with child d, and c current. */
static inline void draw_below(const struct tree *tree, uint64_t parent, char *text)
{
    bool any = false;
    for (size_t i = 0; i < tree->count; i++) {
        if (tree->snapshots[i].parent != parent)
            continue;
        if (any)
            strcat(text, " ");
        else if (parent)
            strcat(text, "(");
        any = true;
        strcat(text, tree->snapshots[i].name);
        draw_below(tree, tree->snapshots[i].serial, text);
    }
    if (any && parent)
        strcat(text, ")");
}

static inline const char *drawing(const struct world *world)
{
    static char text[1000];
    text[0] = '\0';
    draw_below(&world->tree, 0, text);
    strcat(text, "*");
    if (world->tree.current)
        strcat(text, tree_find(&world->tree, world->tree.current)->name);
    return text;
}

/* 0 or a negative errno; where refused, the tree must be the same. */
static inline int delete_as(struct world *world, const char *name, enum delete_kind kind,
                            struct tree_deletion *deletion, struct error *err)
{
    char before[1000];
    strcpy(before, drawing(world));
    size_t layers = world->layers.count;
    int rc = tree_delete(&world->tree, &world->layers, serial_of(world, name), kind, deletion, err);
    if (rc < 0) {
        assert_string_equal(before, drawing(world));
        assert_int_equal(layers, world->layers.count);
        assert_true(err->code == -rc && *err->text);
    } else {
        assert_int_equal(tree_check(&world->tree, &world->layers, err), 0);
    }
    return rc;
}

static inline void delete_ok(struct world *world, const char *name, enum delete_kind kind)
{
    struct error err = {0};
    struct tree_deletion deletion;
    if (delete_as(world, name, kind, &deletion, &err) < 0)
        fail_msg("delete %s: %s", name, err.text);
    tree_deletion_done(&deletion);
}

static inline void delete_refused(struct world *world, const char *name, enum delete_kind kind, int code,
                                  const char *says)
{
    struct error err = {0};
    struct tree_deletion deletion;
    assert_int_equal(delete_as(world, name, kind, &deletion, &err), -code);
    if (!strstr(err.text, says))
        fail_msg("\"%s\" says nothing of \"%s\"", err.text, says);
}
