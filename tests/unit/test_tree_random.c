// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Random operations on random trees against a model that knows nothing of layers.
 *
 * The model keeps, for each snapshot and each domain, the bytes that its disks must have, and works out by
 * itself what each operation does to the tree, or with which errno it is refused. Beside it a few "files"
 * with blocks, backing files and internal snapshots are kept, to which is done what the plans say, as a
 * driver would. After every operation and every step of reclaiming each content is read through its files and
 * compared. Files that are written, or go, are judged by the test's own record of whose they are.
 */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "operation/reclaim.h"
#include "operation/tree_change.h"

#define BLOCKS    3
#define DISKS     2
#define DOMAINS   3
#define SNAPSHOTS 400
#define FILES     2000
#define ZERO      1 /* a block that is written with zeros; 0: not allocated */

struct bytes {
    int block[BLOCKS];
};

/* --- the files --- */

struct file {
    bool exists, users, writable, named; /* a user's; may be written; a definition names it */
    uint64_t id, backing;
    struct bytes own;
};

struct tag { /* an internal snapshot */
    bool exists;
    uint64_t id, file;
    struct bytes own;
};

static struct file files[FILES];
static struct tag tags[FILES];
static size_t file_count, tag_count;

static struct file *file_of(uint64_t id)
{
    for (size_t i = 0; i < file_count; i++)
        if (files[i].id == id && files[i].exists)
            return &files[i];
    fail_msg("file %d is not there", (int)id);
    return NULL;
}

static struct tag *tag_of(uint64_t id)
{
    for (size_t i = 0; i < tag_count; i++)
        if (tags[i].id == id && tags[i].exists)
            return &tags[i];
    fail_msg("internal snapshot %d is not there", (int)id);
    return NULL;
}

static void through(struct bytes *bytes, uint64_t file)
{
    for (; file; file = file_of(file)->backing)
        for (int i = 0; i < BLOCKS; i++)
            if (!bytes->block[i])
                bytes->block[i] = file_of(file)->own.block[i];
    for (int i = 0; i < BLOCKS; i++)
        if (!bytes->block[i])
            bytes->block[i] = ZERO;
}

static struct bytes read_content(uint64_t file, uint64_t tag)
{
    struct bytes bytes = {0};
    if (tag) {
        assert_int_equal(tag_of(tag)->file, file);
        bytes = tag_of(tag)->own;
        through(&bytes, file_of(file)->backing);
    } else {
        through(&bytes, file);
    }
    return bytes;
}

static struct file *add_file(uint64_t id, uint64_t backing)
{
    assert_true(file_count < FILES);
    files[file_count] = (struct file){.exists = true, .writable = true, .id = id, .backing = backing};
    return &files[file_count++];
}

static void add_tag(uint64_t id, uint64_t file)
{
    assert_true(tag_count < FILES && file_of(file)->writable);
    tags[tag_count++] = (struct tag){.exists = true, .id = id, .file = file, .own = file_of(file)->own};
}

static void remove_file(uint64_t id)
{
    struct file *file = file_of(id);
    assert_false(file->users);
    assert_false(file->named);
    for (size_t i = 0; i < file_count; i++)
        assert_false(files[i].exists && files[i].backing == id);
    file->exists = false;
    for (size_t i = 0; i < tag_count; i++)
        tags[i].exists &= tags[i].file != id;
}

/* --- the model --- */

struct model_snapshot {
    uint64_t serial, parent;
    char name[16];
    bool is_protected, is_open, stuck; /* stuck: lies inside a file that is never written */
    bool has[DISKS];
    struct bytes bytes[DISKS];
};

struct model {
    bool exists, is_active;
    struct model_snapshot snapshots[SNAPSHOTS];
    size_t count;
    uint64_t current;
    struct bytes present[DISKS];
};

static struct model models[DOMAINS], model_before;
static struct tree trees[DOMAINS];
static struct layer_set layers;
static struct reclaim_world world;
static uint64_t first_files[DOMAINS][DISKS];
static struct {
    uint64_t file;
    struct bytes bytes;
} foreign[FILES];
static size_t foreign_count;
static unsigned seed;
static uint64_t next_serial;
static unsigned done[16], refused[16];

static unsigned chance(unsigned of)
{
    return (unsigned)rand_r(&seed) % of;
}

static struct model_snapshot *at(struct model *model, uint64_t serial)
{
    for (size_t i = 0; i < model->count; i++)
        if (model->snapshots[i].serial == serial)
            return &model->snapshots[i];
    return NULL;
}

static bool descends(struct model *model, uint64_t serial, uint64_t from)
{
    return serial && (serial == from || descends(model, at(model, serial)->parent, from));
}

static unsigned children(struct model *model, uint64_t serial)
{
    unsigned found = model->current == serial; /* the present state */
    for (size_t i = 0; i < model->count; i++)
        found += model->snapshots[i].parent == serial;
    return found;
}

/* Takes one snapshot out as the contract says it of the plain delete. */
static void model_remove(struct model *model, uint64_t serial)
{
    uint64_t parent = at(model, serial)->parent;
    for (size_t i = 0; i < model->count; i++)
        if (model->snapshots[i].parent == serial)
            model->snapshots[i].parent = parent;
    if (model->current == serial)
        model->current = parent;
    size_t index = (size_t)(at(model, serial) - model->snapshots);
    memmove(&model->snapshots[index], &model->snapshots[index + 1],
            (--model->count - index) * sizeof *model->snapshots);
}

static void model_revert(struct model *model, uint64_t serial)
{
    for (int d = 0; d < DISKS; d++)
        if (at(model, serial)->has[d])
            model->present[d] = at(model, serial)->bytes[d];
    model->current = serial;
}

/* The errno, and the model changed where that is 0. */
static int model_delete(struct model *m, uint64_t serial, enum delete_kind kind)
{
    uint64_t parent = at(m, serial)->parent;
    uint64_t lost[SNAPSHOTS + 1]; /* whose state is gone afterwards */
    size_t count = 0;
    bool merges = kind == DELETE_MERGE || kind == DELETE_MERGE_FORCE;
    bool to_parent = false;
    if (merges && !parent)
        return EINVAL;
    if (kind == DELETE_MERGE && children(m, parent) > 1)
        return ENOTEMPTY;
    if (kind == DELETE_DISCARD && children(m, serial) > (m->current == serial))
        return ENOTEMPTY;
    if (kind == DELETE_DISCARD && m->current == serial)
        return EBUSY;
    for (size_t i = 0; i < m->count; i++) {
        uint64_t each = m->snapshots[i].serial;
        bool below = descends(m, each, serial);
        bool goes = kind == DELETE_CHILDREN || kind == DELETE_DISCARD_FORCE ? below
                    : kind == DELETE_CHILDREN_ONLY                          ? below && each != serial
                    : kind == DELETE_MERGE_FORCE
                        ? each == serial || (!below && each != parent && descends(m, each, parent))
                        : each == serial;
        if (goes || (merges && each == parent))
            lost[count++] = each;
        to_parent |= goes && m->current == each &&
                     (kind == DELETE_DISCARD_FORCE || (kind == DELETE_MERGE_FORCE && each != serial));
    }
    to_parent |= kind == DELETE_MERGE_FORCE && m->current == parent;
    if (to_parent && (!parent || m->is_active))
        return EBUSY;
    for (size_t i = 0; i < count; i++)
        if (at(m, lost[i])->is_protected)
            return EPERM;
    for (size_t i = 0; i < count; i++)
        if (at(m, lost[i])->is_open)
            return EBUSY;
    for (size_t i = 0; i < count; i++)
        if (at(m, lost[i])->stuck && !(merges && lost[i] == serial))
            return EPERM;

    if (merges) {
        struct model_snapshot *to = at(m, parent), *from = at(m, serial);
        memcpy(to->has, from->has, sizeof to->has);
        memcpy(to->bytes, from->bytes, sizeof to->bytes);
        to->stuck = from->stuck;
    }
    for (size_t i = 0; i < count; i++)
        if (!merges || lost[i] != parent)
            model_remove(m, lost[i]);
    if (to_parent)
        model_revert(m, parent);
    return 0;
}

/* --- both side by side --- */

static void compare_bytes(const char *what, int domain, const char *name, int disk, struct bytes got,
                          const struct bytes *expected)
{
    if (memcmp(&got, expected, sizeof got) != 0)
        fail_msg("%s %s of domain %d, disk %d: %d %d %d instead of %d %d %d", what, name, domain, disk,
                 got.block[0], got.block[1], got.block[2], expected->block[0], expected->block[1],
                 expected->block[2]);
}

static void check_domain(int domain)
{
    const struct tree *tree = &trees[domain];
    struct model *model = &models[domain];
    struct error err = {0};
    if (tree_check(tree, &layers, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(tree->count, model->count);
    assert_int_equal(tree->current, model->current);
    for (size_t i = 0; i < tree->count; i++) {
        const struct tree_snapshot *snapshot = &tree->snapshots[i];
        const struct model_snapshot *expected = &model->snapshots[i];
        assert_int_equal(snapshot->serial, expected->serial);
        assert_int_equal(snapshot->parent, expected->parent);
        assert_int_equal(snapshot->is_protected, expected->is_protected);
        assert_string_equal(snapshot->name, expected->name);
        for (int d = 0; d < DISKS; d++) {
            const struct content *content = tree_snapshot_content(snapshot, (unsigned)d);
            assert_int_equal(content != NULL, expected->has[d]);
            if (content)
                compare_bytes("snapshot", domain, expected->name, d,
                              read_content(content->layer, content->internal), &expected->bytes[d]);
        }
    }
    for (size_t d = 0; d < tree->disk_count; d++)
        compare_bytes("present", domain, "", (int)tree->disks[d].position,
                      read_content(tree->disks[d].active, 0), &model->present[tree->disks[d].position]);
}

static void check_everything(void)
{
    for (int i = 0; i < DOMAINS; i++)
        if (models[i].exists)
            check_domain(i);
    for (size_t i = 0; i < foreign_count; i++)
        compare_bytes("foreign", 0, "file", 0, read_content(foreign[i].file, 0), &foreign[i].bytes);
    size_t existing = 0;
    for (size_t i = 0; i < file_count; i++) {
        if (!files[i].exists)
            continue;
        existing++;
        const struct layer_node *node = layer_set_find(&layers, files[i].id);
        assert_non_null(node);
        assert_int_equal(node->backing, files[i].backing);
        if (layer_may_be_written(node))
            assert_true(files[i].writable);
        if (layer_may_be_unlinked(node))
            assert_true(!files[i].users && !files[i].named);
    }
    assert_int_equal(layers.count, existing);
}

/* What a driver would do to the files. */
static void carry_out(const struct tree_reversion *reversion)
{
    for (size_t i = 0; i < reversion->count; i++) {
        const struct revert_disk *disk = &reversion->disks[i];
        if (disk->how == REVERT_OVERLAY) {
            assert_int_equal(disk->from.internal, 0);
            add_file(disk->active, disk->from.layer);
        } else if (disk->how == REVERT_APPLY) {
            struct file *file = file_of(disk->active);
            assert_true(file->writable && disk->from.layer == disk->active);
            for (size_t j = 0; j < file_count; j++)
                assert_false(files[j].exists && files[j].backing == file->id);
            file->own = tag_of(disk->from.internal)->own;
        } else if (disk->how == REVERT_COPY_OUT) {
            struct bytes bytes = read_content(disk->from.layer, disk->from.internal);
            add_file(disk->active, 0)->own = bytes;
        }
    }
}

static void guest_writes(int domain)
{
    static int value = 1000;
    struct tree *tree = &trees[domain];
    for (size_t i = 0; i < tree->disk_count; i++) {
        struct file *file = file_of(tree->disks[i].active);
        int block = (int)chance(BLOCKS);
        /* Whoever stands on it, or meant it to be frozen, would be destroyed. */
        for (size_t j = 0; j < file_count; j++)
            assert_false(files[j].exists && files[j].backing == file->id);
        file->own.block[block] = ++value;
        models[domain].present[tree->disks[i].position].block[block] = value;
        layer_set_find(&layers, file->id)->size += chance(10);
    }
}

static void random_create(int domain)
{
    struct tree *tree = &trees[domain];
    struct model *model = &models[domain];
    if (model->count == SNAPSHOTS)
        return;
    struct tree_part parts[DISKS] = {{0}};
    struct model_snapshot added = {.serial = next_serial, .parent = model->current};
    sprintf(added.name, "s%d", (int)(chance(12) ? next_serial : next_serial - 1));
    int expected = 0;
    bool any = false;
    for (size_t i = 0; i < tree->disk_count; i++) {
        unsigned position = tree->disks[i].position;
        parts[i].disk = position;
        parts[i].kind = (enum disk_choice)(DISK_NO + chance(3));
        any |= parts[i].kind != DISK_NO;
        added.has[position] = parts[i].kind != DISK_NO;
        added.bytes[position] = model->present[position];
    }
    for (size_t i = 0; i < model->count; i++)
        if (strcmp(model->snapshots[i].name, added.name) == 0)
            expected = -EEXIST;
    if (!expected && !any)
        expected = -EINVAL;
    uint64_t before[DISKS];
    for (size_t i = 0; i < tree->disk_count; i++)
        before[i] = tree->disks[i].active;
    struct error err = {0};
    int rc = tree_create(tree, &layers, added.serial, added.name, false, parts, tree->disk_count, &err);
    assert_int_equal(rc, expected);
    if (rc < 0)
        return;
    next_serial++;
    model->snapshots[model->count++] = added;
    model->current = added.serial;
    for (size_t i = 0; i < tree->disk_count; i++) {
        const struct content *content =
            tree_snapshot_content(&tree->snapshots[tree->count - 1], parts[i].disk);
        if (parts[i].kind == DISK_INTERNAL)
            add_tag(content->internal, before[i]);
        else if (parts[i].kind == DISK_EXTERNAL)
            add_file(tree->disks[i].active, before[i]);
    }
}

static void random_delete(int domain)
{
    struct tree *tree = &trees[domain];
    uint64_t serial = tree->snapshots[chance((unsigned)tree->count)].serial;
    enum delete_kind kind = (enum delete_kind)chance(DELETE_KIND_COUNT);
    model_before = models[domain];
    int expected = model_delete(&models[domain], serial, kind);
    struct tree_deletion deletion;
    struct error err = {0};
    int rc = tree_delete(tree, &layers, serial, kind, &deletion, &err);
    if (rc != -expected)
        fail_msg("%s: %d (%s) instead of %d", delete_kind_name(kind), -rc, err.text, expected);
    if (rc < 0) {
        assert_memory_equal(&models[domain], &model_before, sizeof model_before);
        refused[kind]++;
        return;
    }
    done[kind]++;
    assert_int_equal(deletion.gone_count, model_before.count - tree->count);
    if (deletion.reverts)
        carry_out(&deletion.reversion);
    tree_deletion_done(&deletion);
}

static void random_revert(int domain)
{
    struct tree *tree = &trees[domain];
    uint64_t serial = tree->snapshots[chance((unsigned)tree->count)].serial;
    struct revert_circumstances force = {.force = true};
    struct tree_reversion reversion;
    struct error err = {0};
    if (tree_revert(tree, &layers, serial, &force, &reversion, &err) < 0)
        fail_msg("%s", err.text);
    /* A clone has no more disks than the snapshot had that it was made of, and its snapshots no others. */
    model_revert(&models[domain], serial);
    carry_out(&reversion);
    tree_reversion_done(&reversion);
}

static void random_clone(int domain)
{
    int to = 0;
    while (to < DOMAINS && models[to].exists)
        to++;
    if (to == DOMAINS)
        return;
    const struct tree_snapshot *from = &trees[domain].snapshots[chance((unsigned)trees[domain].count)];
    const struct model_snapshot *expected = at(&models[domain], from->serial);
    bool full = chance(4) == 0;
    struct error err = {0};
    int rc = tree_clone(&trees[domain], &layers, from->serial, (uint64_t)to + 100, full, &trees[to], &err);
    if (rc < 0)
        fail_msg("%s", err.text);
    models[to] = (struct model){.exists = true};
    for (size_t i = 0; i < trees[to].disk_count; i++) {
        unsigned position = trees[to].disks[i].position;
        const struct content *content = tree_snapshot_content(from, position);
        uint64_t id = trees[to].disks[i].active;
        struct bytes bytes = read_content(content->layer, content->internal);
        struct file *file = add_file(id, full || content->internal ? 0 : content->layer);
        if (!file->backing)
            file->own = bytes;
        file->named = true;
        first_files[to][position] = id;
        models[to].present[position] = expected->bytes[position];
    }
    world.trees[world.tree_count++] = &trees[to];
}

static void remove_clone(int domain)
{
    size_t kept = 0;
    for (size_t i = 0; i < world.tree_count; i++)
        if (world.trees[i] != &trees[domain])
            world.trees[kept++] = world.trees[i];
    world.tree_count = kept;
    tree_done(&trees[domain]);
    models[domain].exists = false;
    layer_set_forget(&layers, (uint64_t)domain + 100);
    for (int d = 0; d < DISKS; d++)
        for (size_t i = 0; i < file_count; i++)
            if (files[i].exists && files[i].id == first_files[domain][d])
                files[i].named = false;
    memset(first_files[domain], 0, sizeof first_files[domain]);
}

/* Somebody makes an overlay on a file that no domain writes to. */
static void somebody_lays_an_overlay(void)
{
    const struct layer_node *node = &layers.layers[chance((unsigned)layers.count)];
    for (size_t i = 0; i < world.tree_count; i++)
        for (size_t j = 0; j < world.trees[i]->disk_count; j++)
            if (world.trees[i]->disks[j].active == node->id)
                return;
    uint64_t id, backing = node->id;
    assert_int_equal(layer_set_add(&layers, backing, false, &id), 0);
    struct file *file = add_file(id, backing);
    file->users = true;
    file->writable = false;
    file->own.block[chance(BLOCKS)] = 77;
    foreign[foreign_count].file = id;
    foreign[foreign_count++].bytes = read_content(id, 0);
}

static bool reclaim_one(void)
{
    struct reclaim_step step;
    struct error err = {0};
    assert_int_equal(reclaim_next(&world, NULL, NULL, &step), 0);
    if (step.kind == RECLAIM_NOTHING)
        return false;
    done[8 + step.kind]++;
    struct file *file = file_of(step.layer), *into = step.into ? file_of(step.into) : NULL;
    struct bytes bytes;
    assert_true(!into || into->writable);
    switch (step.kind) {
    case RECLAIM_DROP_INTERNAL:
        assert_true(file->writable && tag_of(step.internal)->file == step.layer);
        tag_of(step.internal)->exists = false;
        break;
    case RECLAIM_INTO_PARENT:
        assert_int_equal(file->backing, step.into);
        for (int i = 0; i < BLOCKS; i++)
            if (file->own.block[i])
                into->own.block[i] = file->own.block[i];
        for (size_t i = 0; i < file_count; i++)
            if (files[i].exists && files[i].backing == step.layer) {
                assert_true(files[i].writable);
                files[i].backing = step.into;
            }
        break;
    case RECLAIM_INTO_CHILD:
        assert_int_equal(into->backing, step.layer);
        for (int i = 0; i < BLOCKS; i++)
            if (!into->own.block[i])
                into->own.block[i] = file->own.block[i];
        into->backing = file->backing;
        break;
    case RECLAIM_COPY_HOME:
        bytes = read_content(step.layer, 0);
        into->own = bytes;
        break;
    case RECLAIM_UNLINK:
    case RECLAIM_NOTHING:
        break;
    }
    if (step.kind != RECLAIM_DROP_INTERNAL)
        remove_file(step.layer);
    if (reclaim_apply(&world, &step, &err) < 0)
        fail_msg("%s", err.text);
    check_everything();
    return true;
}

static void random_marks(int domain)
{
    struct tree *tree = &trees[domain];
    struct model *model = &models[domain];
    struct error err;
    size_t i = chance((unsigned)tree->count);
    char name[16];
    switch (chance(4)) {
    case 0:
        model->snapshots[i].is_protected = chance(3) == 0;
        tree_protect(tree, tree->snapshots[i].serial, model->snapshots[i].is_protected, &err);
        break;
    case 1:
        tree->snapshots[i].is_open = model->snapshots[i].is_open = chance(3) == 0;
        break;
    case 2:
        tree->is_active = model->is_active = chance(3) == 0;
        break;
    default:
        sprintf(name, "s%u", chance((unsigned)next_serial + 1));
        bool taken = tree_find_name(tree, name) && strcmp(tree->snapshots[i].name, name) != 0;
        assert_int_equal(tree_rename(tree, tree->snapshots[i].serial, name, &err), taken ? -EPERM : 0);
        if (!taken)
            strcpy(model->snapshots[i].name, name);
    }
}

/* Disk 0 is an overlay of the user's on a file that holds an internal snapshot; disk 1 is one file. */
static void start(bool alone)
{
    static struct tree *all[DOMAINS];
    memset(models, 0, sizeof models);
    memset(trees, 0, sizeof trees);
    memset(first_files, 0, sizeof first_files);
    file_count = tag_count = foreign_count = 0;
    next_serial = 10;
    world = (struct reclaim_world){.trees = all, .tree_count = 1, .layers = &layers, .is_complete = true};
    all[0] = &trees[0];
    trees[0].domain = 100;
    trees[0].may_switch_files = true;
    models[0].exists = true;
    uint64_t base, ids[DISKS], tag;
    assert_int_equal(layer_set_add(&layers, 0, false, &base), 0);
    assert_int_equal(layer_set_add_internal(&layers, base, &tag), 0);
    add_file(base, 0)->own = (struct bytes){{11, 0, 13}};
    add_tag(tag, base);
    file_of(base)->own.block[1] = 12;
    file_of(base)->users = true;
    file_of(base)->writable = false;
    for (int d = 0; d < DISKS; d++) {
        assert_int_equal(layer_set_add(&layers, d == 0 ? base : 0, false, &ids[d]), 0);
        struct file *file = add_file(ids[d], d == 0 ? base : 0);
        file->users = true;
        file->own.block[0] = 21 + d;
        assert_int_equal(tree_add_disk(&trees[0], (unsigned)d, d ? "vdb" : "vda", ids[d]), 0);
        first_files[0][d] = ids[d];
        models[0].present[d] = read_content(ids[d], 0);
    }
    for (int d = 0; d < DISKS; d++)
        assert_true(layer_set_administer(&layers, ids[d], 100, (unsigned)d));
    assert_false(layer_set_administer(&layers, base, 100, 0));
    /* What others made: the internal snapshot in the base, which can't be deleted, and the base itself, which
     * is protected. */
    for (int i = alone ? 1 : 0; i < 2; i++) {
        struct content content = {.disk = 0, .layer = base, .internal = i == 0 ? tag : 0};
        struct tree_snapshot snapshot = {.serial = (uint64_t)i + 1,
                                         .name = (char[]){(char)('a' + i), '\0'},
                                         .contents = &content,
                                         .content_count = 1,
                                         .is_protected = i == 1};
        assert_int_equal(tree_add_snapshot(&trees[0], &snapshot), 0);
        struct model_snapshot *expected = &models[0].snapshots[models[0].count++];
        *expected = (struct model_snapshot){
            .serial = snapshot.serial, .is_protected = i == 1, .stuck = i == 0, .has = {true, false}};
        strcpy(expected->name, snapshot.name);
        expected->bytes[0] = read_content(base, content.internal);
    }
}

/* All snapshots that can go do, and so does what is left of them. */
static void finish(bool alone)
{
    for (int domain = DOMAINS - 1; domain >= 0; domain--) {
        struct tree *tree = &trees[domain];
        if (!models[domain].exists)
            continue;
        tree->is_active = models[domain].is_active = false;
        for (size_t i = 0; i < tree->count; i++) {
            tree->snapshots[i].is_open = tree->snapshots[i].is_protected = false;
            models[domain].snapshots[i].is_open = models[domain].snapshots[i].is_protected = false;
        }
        for (size_t i = tree->count; i-- > 0;) {
            uint64_t serial = tree->snapshots[i].serial;
            int expected = model_delete(&models[domain], serial, DELETE_ONE);
            struct tree_deletion deletion;
            assert_int_equal(tree_delete(tree, &layers, serial, DELETE_ONE, &deletion, NULL), -expected);
            if (expected == 0)
                tree_deletion_done(&deletion);
        }
        if (domain > 0 && alone)
            remove_clone(domain);
    }
    check_everything();
    while (reclaim_one())
        ;
    if (!alone || trees[0].count)
        return;
    /* Nothing of ours is left, and the domain is on its own files, with the right bytes. */
    for (int d = 0; d < DISKS; d++)
        assert_int_equal(trees[0].disks[d].active, first_files[0][d]);
    assert_int_equal(layers.count, 3);
    done[15]++;
}

static void run(unsigned operations, bool alone)
{
    start(alone);
    check_everything();
    for (unsigned i = 0; i < operations; i++) {
        int domain = (int)chance(DOMAINS);
        if (!models[domain].exists)
            domain = 0;
        bool any = trees[domain].count > 0;
        unsigned what = chance(100);
        guest_writes(domain);
        if (what < 30)
            random_create(domain);
        else if (what < 50 && any)
            random_delete(domain);
        else if (what < 65 && any)
            random_revert(domain);
        else if (what < 70 && any)
            random_clone(domain);
        else if (what < 72 && domain > 0)
            remove_clone(domain);
        else if (what < 73 && !alone)
            somebody_lays_an_overlay();
        else if (what < 85 && any)
            random_marks(domain);
        else
            reclaim_one();
        check_everything();
    }
    finish(alone);
    for (int i = 0; i < DOMAINS; i++)
        tree_done(&trees[i]);
    layer_set_done(&layers);
}

static void operations_do_to_the_files_what_the_model_says(void **state)
{
    const char *given = getenv("VMSNAPFS_SEED");
    unsigned first = given ? (unsigned)strtoul(given, NULL, 0) : (unsigned)time(NULL);
    const char *wanted = getenv("VMSNAPFS_ROUNDS");
    unsigned rounds = wanted ? (unsigned)strtoul(wanted, NULL, 0) : 3000;
    print_message("VMSNAPFS_SEED=%u\n", first);
    for (unsigned round = 0; round < rounds; round++) {
        seed = first + round;
        unsigned operations = 20 + chance(150);
        run(operations, chance(2));
    }
    /* It proves something only where everything was done, and refused, often. */
    for (unsigned i = 0; i < 16; i++)
        print_message("%u: %u done, %u refused\n", i, done[i], refused[i]);
    if (rounds >= 300) {
        for (enum delete_kind kind = 0; kind < DELETE_KIND_COUNT; kind++)
            assert_true(done[kind] > 10 && refused[kind] > 10);
        for (enum reclaim_kind kind = RECLAIM_DROP_INTERNAL; kind <= RECLAIM_COPY_HOME; kind++)
            assert_true(done[8 + kind] > 10);
        assert_true(done[15] > 10);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operations_do_to_the_files_what_the_model_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
