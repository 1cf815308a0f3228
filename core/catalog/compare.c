// SPDX-License-Identifier: LGPL-2.1-or-later
/* Is it still the same? See compare.h. */
#include "catalog/compare.h"

#include <string.h>

static bool same_string(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same_list(char *const *a, char *const *b)
{
    for (; a && *a && b && *b; a++, b++)
        if (strcmp(*a, *b) != 0)
            return false;
    return !(a && *a) && !(b && *b);
}

static bool same_identity(const struct file_identity *a, const struct file_identity *b)
{
    return file_identity_same_file(a, b) && file_identity_same_content(a, b);
}

static bool same_layer(const struct layer *a, const struct layer *b)
{
    if (!a || !b)
        return a == b;
    return strcmp(a->path, b->path) == 0 && a->remote == b->remote && a->format == b->format &&
           a->size == b->size && a->active == b->active && a->changed == b->changed && a->made == b->made &&
           a->original == b->original && a->touched == b->touched &&
           (a->active ? file_identity_same_file(&a->identity, &b->identity)
                      : same_identity(&a->identity, &b->identity)) &&
           same_identity(&a->data_identity, &b->data_identity) &&
           same_string(a->backing ? a->backing->path : NULL, b->backing ? b->backing->path : NULL);
}

static bool same_disk(const struct disk *a, const struct disk *b)
{
    return a->position == b->position && strcmp(a->target, b->target) == 0 &&
           strcmp(a->source, b->source) == 0 && a->format == b->format && a->snapshot == b->snapshot &&
           a->persistent == b->persistent && a->is_of_another == b->is_of_another &&
           same_string(a->mirror, b->mirror) && a->mirror_operation == b->mirror_operation &&
           a->mirror_is_unsettled == b->mirror_is_unsettled && same_layer(a->active, b->active);
}

static bool same_frozen(const struct frozen *a, const struct frozen *b)
{
    return a->disk->position == b->disk->position && a->size == b->size && same_layer(a->layer, b->layer) &&
           (a->internal && b->internal ? internal_snapshot_equal(a->internal, b->internal)
                                       : a->internal == b->internal);
}

static bool same_memory(const struct saved_memory *a, const struct saved_memory *b)
{
    return a && b ? a->compression == b->compression && same_layer(&a->layer, &b->layer) : a == b;
}

static bool same_snapshot(const struct snapshot *a, const struct snapshot *b)
{
    if (a->serial != b->serial || strcmp(a->name, b->name) != 0 || a->created.tv_sec != b->created.tv_sec ||
        a->created.tv_nsec != b->created.tv_nsec || a->frozen_count != b->frozen_count ||
        a->lost_disks != b->lost_disks || a->state != b->state || a->consistency != b->consistency ||
        a->memory_size != b->memory_size || a->is_protected != b->is_protected ||
        strcmp(a->description, b->description) != 0 || !same_memory(a->memory, b->memory) ||
        !same_list(a->launch, b->launch) ||
        (a->parent ? a->parent->serial : 0) != (b->parent ? b->parent->serial : 0))
        return false;
    for (size_t i = 0; i < a->frozen_count; i++)
        if (!same_frozen(&a->frozen[i], &b->frozen[i]))
            return false;
    return true;
}

static bool same_administration(const struct domain *a, const struct domain *b)
{
    if (a->may_switch_files != b->may_switch_files || a->is_administered != b->is_administered ||
        a->is_guessed != b->is_guessed || a->is_incomplete != b->is_incomplete ||
        !same_string(a->defaults, b->defaults) || a->unneeded_count != b->unneeded_count ||
        a->released_count != b->released_count || !same_string(a->qmp, b->qmp) ||
        !same_string(a->agent, b->agent) || !same_list(a->launch, b->launch) || !a->launch != !b->launch)
        return false;
    for (size_t i = 0; i < a->released_count; i++)
        if (!same_layer(a->released[i].layer, b->released[i].layer) ||
            !internal_snapshot_equal(a->released[i].internal, b->released[i].internal))
            return false;
    for (size_t i = 0; i < a->unneeded_count; i++)
        if (!same_memory(a->unneeded[i], b->unneeded[i]))
            return false;
    return true;
}

bool domain_is_same(const struct domain *a, const struct domain *b)
{
    if (a->serial != b->serial || strcmp(a->name, b->name) != 0 || !same_string(a->uuid, b->uuid) ||
        !same_string(a->definition, b->definition) || !same_string(a->problem, b->problem) ||
        !same_list(a->named_files, b->named_files) || a->disk_count != b->disk_count ||
        a->layer_count != b->layer_count || a->snapshot_count != b->snapshot_count ||
        (a->current ? a->current->serial : 0) != (b->current ? b->current->serial : 0) ||
        a->guard != b->guard || !same_administration(a, b))
        return false;
    for (size_t i = 0; i < a->disk_count; i++)
        if (!same_disk(&a->disks[i], &b->disks[i]))
            return false;
    for (size_t i = 0; i < a->layer_count; i++)
        if (!same_layer(a->layers[i], b->layers[i]))
            return false;
    for (size_t i = 0; i < a->snapshot_count; i++)
        if (!same_snapshot(a->snapshots[i], b->snapshots[i]))
            return false;
    return true;
}

static bool same_state_frozen(const struct state_frozen *a, const struct state_frozen *b)
{
    return strcmp(a->target, b->target) == 0 && a->position == b->position &&
           strcmp(a->layer, b->layer) == 0 && a->internal == b->internal &&
           same_string(a->internal_id, b->internal_id) && a->l1_table_offset == b->l1_table_offset &&
           a->date_sec == b->date_sec && a->date_nsec == b->date_nsec && a->allocated == b->allocated &&
           same_identity(&a->layer_identity, &b->layer_identity) &&
           same_identity(&a->data_identity, &b->data_identity) &&
           file_identity_same_file(&a->overlay_identity, &b->overlay_identity) &&
           a->is_settled == b->is_settled;
}

static bool same_state_list(const struct state_frozen *a, size_t a_count, const struct state_frozen *b,
                            size_t b_count)
{
    if (a_count != b_count)
        return false;
    for (size_t i = 0; i < a_count; i++)
        if (!same_state_frozen(&a[i], &b[i]))
            return false;
    return true;
}

static bool same_state_memory(const struct state_memory *a, const struct state_memory *b)
{
    return same_string(a->path, b->path) && a->compression == b->compression &&
           same_identity(&a->identity, &b->identity);
}

static bool same_unneeded(const struct state_domain *a, const struct state_domain *b)
{
    if (a->unneeded_count != b->unneeded_count)
        return false;
    for (size_t i = 0; i < a->unneeded_count; i++)
        if (!same_state_memory(&a->unneeded[i], &b->unneeded[i]))
            return false;
    return true;
}

static bool same_state_snapshot(const struct state_snapshot *a, const struct state_snapshot *b,
                                bool is_administered)
{
    if (a->serial != b->serial || strcmp(a->name, b->name) != 0 ||
        !same_state_list(a->frozen, a->frozen_count, b->frozen, b->frozen_count))
        return false;
    return !is_administered ||
           (a->parent == b->parent && a->created_sec == b->created_sec &&
            a->created_nsec == b->created_nsec && a->state == b->state && a->consistency == b->consistency &&
            a->is_protected == b->is_protected && same_string(a->description, b->description) &&
            same_string(a->memory.path, b->memory.path) && a->memory.compression == b->memory.compression &&
            same_identity(&a->memory.identity, &b->memory.identity) && same_list(a->launch, b->launch));
}

static bool same_mirrors(const struct state_domain *a, const struct state_domain *b)
{
    if (a->mirror_count != b->mirror_count)
        return false;
    for (size_t i = 0; i < a->mirror_count; i++) {
        const struct state_mirror *one = &a->mirrors[i], *other = &b->mirrors[i];
        if (one->position != other->position || strcmp(one->path, other->path) != 0 ||
            one->format != other->format || one->operation != other->operation ||
            one->device != other->device || one->inode != other->inode || one->phase != other->phase ||
            one->is_made != other->is_made || one->is_shallow != other->is_shallow ||
            one->resumes != other->resumes)
            return false;
    }
    return true;
}

bool state_is_same(const struct state_domain *a, const struct state_domain *b)
{
    if (a->serial != b->serial || strcmp(a->name, b->name) != 0 || !same_string(a->uuid, b->uuid) ||
        !same_list(a->files, b->files) || a->disk_count != b->disk_count ||
        a->snapshot_count != b->snapshot_count || a->is_administered != b->is_administered ||
        a->current != b->current || a->operation != b->operation || a->guard != b->guard ||
        !same_list(a->made, b->made) || !same_list(a->reused, b->reused) ||
        !same_list(a->touched, b->touched) || !same_unneeded(a, b) ||
        !same_string(a->defaults, b->defaults) || !same_list(a->raw, b->raw) ||
        !same_list(a->left, b->left) || !same_mirrors(a, b) ||
        !same_state_list(a->hidden, a->hidden_count, b->hidden, b->hidden_count))
        return false;
    for (size_t i = 0; i < a->disk_count; i++)
        if (a->disks[i].position != b->disks[i].position ||
            strcmp(a->disks[i].target, b->disks[i].target) != 0 ||
            !same_string(a->disks[i].active, b->disks[i].active) ||
            !same_string(a->disks[i].original, b->disks[i].original))
            return false;
    for (size_t i = 0; i < a->snapshot_count; i++)
        if (!same_state_snapshot(&a->snapshots[i], &b->snapshots[i], a->is_administered))
            return false;
    return true;
}
