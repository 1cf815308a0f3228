// SPDX-License-Identifier: LGPL-2.1-or-later
/* Image files, what lies on what, and what may be written; see layer_set.h. */
#include "operation/layer_set.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void layer_set_done(struct layer_set *set)
{
    free(set->layers);
    free(set->internals);
    *set = (struct layer_set){0};
}

int layer_set_copy(const struct layer_set *from, struct layer_set *to)
{
    struct layer_set copy = {.last_id = from->last_id};
    if (layer_set_reserve(&copy, from->count, from->internal_count) < 0) {
        layer_set_done(&copy);
        return -ENOMEM;
    }
    if (from->count)
        memcpy(copy.layers, from->layers, from->count * sizeof *from->layers);
    if (from->internal_count)
        memcpy(copy.internals, from->internals, from->internal_count * sizeof *from->internals);
    copy.count = from->count;
    copy.internal_count = from->internal_count;
    *to = copy;
    return 0;
}

/* Grows an array of `size`-byte members so that `need` fit in; it never shrinks. */
static int grow(void **array, size_t *capacity, size_t need, size_t size)
{
    if (need <= *capacity && *array)
        return 0;
    size_t room = *capacity < need / 2 || *capacity > SIZE_MAX / 4 ? need : *capacity * 2;
    room = room < need ? need : room;
    void *grown = reallocarray(*array, room ? room : 1, size);
    if (!grown)
        return -ENOMEM;
    *array = grown;
    *capacity = room;
    return 0;
}

int layer_set_reserve(struct layer_set *set, size_t layers, size_t internals)
{
    size_t layer_room, internal_room;
    if (__builtin_add_overflow(set->count, layers, &layer_room) ||
        __builtin_add_overflow(set->internal_count, internals, &internal_room))
        return -ENOMEM;
    void *grown = set->layers;
    int rc = grow(&grown, &set->capacity, layer_room, sizeof *set->layers);
    set->layers = grown;
    if (rc < 0)
        return rc;
    grown = set->internals;
    rc = grow(&grown, &set->internal_capacity, internal_room, sizeof *set->internals);
    set->internals = grown;
    return rc;
}

int layer_set_add(struct layer_set *set, uint64_t backing, bool made_by_us, uint64_t *id)
{
    if (backing != 0 && !layer_set_find(set, backing))
        return -EINVAL;
    if (layer_set_reserve(set, 1, 0) < 0)
        return -ENOMEM;
    *id = ++set->last_id;
    set->layers[set->count++] = (struct layer_node){.id = *id, .backing = backing, .made_by_us = made_by_us};
    return 0;
}

int layer_set_add_internal(struct layer_set *set, uint64_t layer, uint64_t *id)
{
    if (!layer_set_find(set, layer))
        return -EINVAL;
    if (layer_set_reserve(set, 0, 1) < 0)
        return -ENOMEM;
    *id = ++set->last_id;
    set->internals[set->internal_count++] = (struct internal_node){.id = *id, .layer = layer};
    return 0;
}

bool layer_set_administer(struct layer_set *set, uint64_t layer, uint64_t domain, unsigned disk)
{
    struct layer_node *node = layer_set_find(set, layer);
    if (!node || node->original_of != 0 || layer_set_has_children(set, layer))
        return false;
    node->original_of = domain;
    node->original_disk = disk;
    return layer_may_be_written(node);
}

void layer_set_forget(struct layer_set *set, uint64_t domain)
{
    for (size_t i = 0; i < set->count; i++)
        if (set->layers[i].original_of == domain)
            set->layers[i].original_of = 0;
}

struct layer_node *layer_set_find(const struct layer_set *set, uint64_t id)
{
    for (size_t low = 0, high = set->count; low < high;) {
        size_t middle = low + (high - low) / 2;
        if (set->layers[middle].id == id)
            return &set->layers[middle];
        if (set->layers[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

struct internal_node *layer_set_find_internal(const struct layer_set *set, uint64_t id)
{
    for (size_t low = 0, high = set->internal_count; low < high;) {
        size_t middle = low + (high - low) / 2;
        if (set->internals[middle].id == id)
            return &set->internals[middle];
        if (set->internals[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

bool layer_set_has_children(const struct layer_set *set, uint64_t layer)
{
    for (size_t i = 0; i < set->count; i++)
        if (set->layers[i].backing == layer)
            return true;
    return false;
}

bool layer_set_has_internals(const struct layer_set *set, uint64_t layer)
{
    for (size_t i = 0; i < set->internal_count; i++)
        if (set->internals[i].layer == layer)
            return true;
    return false;
}

void layer_set_remove(struct layer_set *set, uint64_t layer)
{
    size_t kept = 0;
    for (size_t i = 0; i < set->count; i++)
        if (set->layers[i].id != layer)
            set->layers[kept++] = set->layers[i];
    set->count = kept;
    kept = 0;
    for (size_t i = 0; i < set->internal_count; i++)
        if (set->internals[i].layer != layer)
            set->internals[kept++] = set->internals[i];
    set->internal_count = kept;
}

void layer_set_remove_internal(struct layer_set *set, uint64_t internal)
{
    size_t kept = 0;
    for (size_t i = 0; i < set->internal_count; i++)
        if (set->internals[i].id != internal)
            set->internals[kept++] = set->internals[i];
    set->internal_count = kept;
}

bool layer_may_be_written(const struct layer_node *layer)
{
    return (layer->made_by_us || layer->original_of != 0) && !layer->changed;
}

bool layer_may_be_unlinked(const struct layer_node *layer)
{
    return layer->made_by_us && layer->original_of == 0 && !layer->changed;
}
