// SPDX-License-Identifier: LGPL-2.1-or-later
/* Domains and what they own; see domain.h. */
#include "domain/domain.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct domain *domain_new(void)
{
    struct domain *domain = calloc(1, sizeof *domain);
    if (domain)
        domain->references = 1;
    return domain;
}

struct domain *domain_ref(struct domain *domain)
{
    atomic_fetch_add(&domain->references, 1);
    return domain;
}

void internal_snapshot_free(struct internal_snapshot *internal)
{
    if (!internal)
        return;
    free(internal->id);
    free(internal->name);
    free(internal);
}

struct internal_snapshot *internal_snapshot_copy(const struct internal_snapshot *from)
{
    struct internal_snapshot *copy = malloc(sizeof *copy);
    if (!copy)
        return NULL;
    *copy = *from;
    copy->id = strdup(from->id);
    copy->name = strdup(from->name);
    if (!copy->id || !copy->name) {
        internal_snapshot_free(copy);
        return NULL;
    }
    return copy;
}

bool internal_snapshot_equal(const struct internal_snapshot *a, const struct internal_snapshot *b)
{
    return strcmp(a->id, b->id) == 0 && strcmp(a->name, b->name) == 0 &&
           a->l1_table_offset == b->l1_table_offset && a->l1_size == b->l1_size &&
           a->date_sec == b->date_sec && a->date_nsec == b->date_nsec &&
           a->vm_clock_nsec == b->vm_clock_nsec && a->vm_state_size == b->vm_state_size &&
           a->disk_size == b->disk_size;
}

struct saved_memory *saved_memory_new(const char *path, enum memory_compression compression,
                                      const struct file_identity *identity)
{
    struct saved_memory *memory = calloc(1, sizeof *memory);
    if (!memory)
        return NULL;
    memory->compression = compression;
    memory->layer.path = strdup(path);
    if (!memory->layer.path) {
        free(memory);
        return NULL;
    }
    memory->layer.format = IMAGE_FORMAT_RAW;
    memory->layer.identity = *identity;
    memory->layer.size = memory->frozen.size = identity->size;
    memory->frozen.layer = &memory->layer;
    memory->frozen.is_memory = true;
    atomic_init(&memory->frozen.allocated, identity->size);
    return memory;
}

void saved_memory_free(struct saved_memory *memory)
{
    if (!memory)
        return;
    free(memory->layer.path);
    free(memory);
}

static void free_list(char **list)
{
    for (char **string = list; string && *string; string++)
        free(*string);
    free(list);
}

static void snapshot_free(struct snapshot *snapshot)
{
    if (!snapshot)
        return;
    for (size_t i = 0; i < snapshot->frozen_count; i++)
        internal_snapshot_free(snapshot->frozen[i].internal);
    free(snapshot->frozen);
    free(snapshot->children);
    free(snapshot->name);
    free(snapshot->description);
    saved_memory_free(snapshot->memory);
    free_list(snapshot->launch);
    free(snapshot);
}

void domain_unref(struct domain *domain)
{
    if (!domain || atomic_fetch_sub(&domain->references, 1) != 1)
        return;
    for (size_t i = 0; i < domain->snapshot_count; i++)
        snapshot_free(domain->snapshots[i]);
    for (size_t i = 0; i < domain->disk_count; i++) {
        free(domain->disks[i].target);
        free(domain->disks[i].source);
        free(domain->disks[i].mirror);
    }
    for (size_t i = 0; i < domain->layer_count; i++) {
        if (domain->layers[i])
            free(domain->layers[i]->path);
        free(domain->layers[i]);
    }
    for (size_t i = 0; i < domain->released_count; i++)
        internal_snapshot_free(domain->released[i].internal);
    free(domain->released);
    free(domain->defaults);
    free_list(domain->named_files);
    free_list(domain->launch);
    for (size_t i = 0; i < domain->unneeded_count; i++)
        saved_memory_free(domain->unneeded[i]);
    free(domain->unneeded);
    free(domain->qmp);
    free(domain->agent);
    free(domain->snapshots);
    free(domain->by_name);
    free(domain->by_serial);
    free(domain->disks);
    free(domain->layers);
    free(domain->name);
    free(domain->uuid);
    free(domain->definition);
    free(domain->problem);
    free(domain);
}

static int compare_age(const void *left, const void *right)
{
    const struct snapshot *a = *(struct snapshot *const *)left, *b = *(struct snapshot *const *)right;
    if (a->created.tv_sec != b->created.tv_sec)
        return a->created.tv_sec < b->created.tv_sec ? -1 : 1;
    if (a->created.tv_nsec != b->created.tv_nsec)
        return a->created.tv_nsec < b->created.tv_nsec ? -1 : 1;
    return a->serial < b->serial ? -1 : a->serial > b->serial;
}

static int compare_name(const void *left, const void *right)
{
    return strcmp((*(struct snapshot *const *)left)->name, (*(struct snapshot *const *)right)->name);
}

static int compare_serial(const void *left, const void *right)
{
    const struct snapshot *a = *(struct snapshot *const *)left, *b = *(struct snapshot *const *)right;
    return a->serial < b->serial ? -1 : a->serial > b->serial;
}

/* A sorted copy of `count` pointers; NULL where memory ran out. */
static struct snapshot **sorted_copy(struct snapshot *const *from, size_t count,
                                     int (*compare)(const void *, const void *))
{
    struct snapshot **copy = calloc(count ? count : 1, sizeof *copy);
    if (copy && count) {
        memcpy(copy, from, count * sizeof *copy);
        qsort(copy, count, sizeof *copy, compare);
    }
    return copy;
}

static int fill_children(struct domain *domain)
{
    for (size_t i = 0; i < domain->snapshot_count; i++) {
        free(domain->snapshots[i]->children);
        domain->snapshots[i]->children = NULL;
        domain->snapshots[i]->child_count = 0;
    }
    for (size_t i = 0; i < domain->snapshot_count; i++)
        if (domain->snapshots[i]->parent)
            domain->snapshots[i]->parent->child_count++;
    for (size_t i = 0; i < domain->snapshot_count; i++) {
        struct snapshot *snapshot = domain->snapshots[i];
        size_t count = snapshot->child_count;
        snapshot->child_count = 0; /* counts again as they are filled in */
        if (count && !(snapshot->children = calloc(count, sizeof(struct snapshot *))))
            return -ENOMEM;
    }
    for (size_t i = 0; i < domain->snapshot_count; i++) {
        struct snapshot *parent = domain->by_serial[i]->parent;
        if (parent)
            parent->children[parent->child_count++] = domain->by_serial[i];
    }
    return 0;
}

int domain_seal(struct domain *domain)
{
    size_t count = domain->snapshot_count;
    if (count)
        qsort(domain->snapshots, count, sizeof *domain->snapshots, compare_age);
    free(domain->by_name);
    free(domain->by_serial);
    domain->by_name = sorted_copy(domain->snapshots, count, compare_name);
    domain->by_serial = sorted_copy(domain->snapshots, count, compare_serial);
    if (!domain->by_name || !domain->by_serial)
        return -ENOMEM;
    for (size_t i = 1; i < count; i++)
        if (strcmp(domain->by_name[i - 1]->name, domain->by_name[i]->name) == 0)
            return -EEXIST;
    domain->latest = count ? domain->snapshots[count - 1] : NULL;
    return fill_children(domain);
}

bool domain_has_touched(const struct domain *domain)
{
    for (size_t i = 0; i < domain->layer_count; i++)
        if (domain->layers[i]->touched)
            return true;
    return false;
}

struct snapshot *domain_find_snapshot(const struct domain *domain, const char *name)
{
    size_t low = 0, high = domain->snapshot_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, domain->by_name[middle]->name);
        if (order == 0)
            return domain->by_name[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

struct disk *domain_find_disk(const struct domain *domain, const char *target)
{
    for (size_t i = 0; i < domain->disk_count; i++)
        if (strcmp(domain->disks[i].target, target) == 0)
            return &domain->disks[i];
    return NULL;
}

struct frozen *snapshot_find_frozen(const struct snapshot *snapshot, const struct disk *disk)
{
    for (size_t i = 0; i < snapshot->frozen_count; i++)
        if (snapshot->frozen[i].disk == disk)
            return &snapshot->frozen[i];
    return NULL;
}

bool frozen_needs_helper(const struct frozen *frozen)
{
    for (const struct layer *layer = frozen->layer; layer; layer = layer->backing)
        if (layer->remote || !image_format_is_native(layer->format))
            return true;
    return false;
}

const char *snapshot_state_name(enum snapshot_state state)
{
    static const char *const names[] = {"unknown", "running", "paused", "shutoff"};
    return names[state];
}

const char *consistency_name(enum consistency consistency)
{
    static const char *const names[] = {"crash", "clean", "quiesced", "checkpoint"};
    return names[consistency];
}

const char *snapshot_preset_name(enum snapshot_preset preset)
{
    static const char *const names[] = {"default", "no", "internal", "external"};
    return names[preset];
}

const char *memory_compression_name(enum memory_compression compression)
{
    static const char *const names[] = {"none", "gzip", "zstd"};
    return names[compression];
}
