// SPDX-License-Identifier: LGPL-2.1-or-later
/* Entries of one name make a snapshot; see groups.h. */
#include "catalog/groups.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "domain/name.h"

static struct group **bucket_of(const struct groups *groups, const char *name)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (const char *at = name; *at; at++)
        hash = (hash ^ (unsigned char)*at) * UINT64_C(0x100000001b3);
    return &groups->by_name[(hash >> 20) & (groups->bucket_count - 1)];
}

struct group *groups_find(const struct groups *groups, const char *name)
{
    for (struct group *group = *bucket_of(groups, name); group; group = group->same_hash)
        if (strcmp(group->name, name) == 0)
            return group;
    return NULL;
}

static bool has_disk(const struct group *group, size_t disk)
{
    for (size_t i = 0; i < group->count; i++)
        if (group->entries[i]->disk == disk)
            return true;
    return false;
}

/* May the entry have this name? Not if another one of its disk has. */
static bool is_free(const struct groups *groups, const struct entry *entry, const char *name)
{
    const struct group *group = groups_find(groups, name);
    return !group || !has_disk(group, entry->disk);
}

static int group_new(struct groups *groups, const char *name, struct group **result)
{
    struct group *group = calloc(1, sizeof *group);
    if (!group)
        return -ENOMEM;
    group->name = strdup(name);
    if (!group->name) {
        free(group);
        return -ENOMEM;
    }
    struct group **bucket = bucket_of(groups, name);
    group->same_hash = *bucket;
    *bucket = group;
    groups->list[groups->count++] = group;
    *result = group;
    return 0;
}

static int join(struct groups *groups, const char *name, struct entry *entry)
{
    struct group *group = groups_find(groups, name);
    if (!group) {
        int r = group_new(groups, name, &group);
        if (r < 0)
            return r;
    }
    struct entry **grown = realloc(group->entries, (group->count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    group->entries = grown;
    size_t at = group->count++;
    for (; at > 0 && grown[at - 1]->disk > entry->disk; at--)
        grown[at] = grown[at - 1];
    grown[at] = entry;
    entry->group = group;
    if (!group->known)
        group->known = entry->known;
    return 0;
}

/* Joins under the entry's own name, or one made from it that is free: with `~` and its id, then numbers. */
static int join_by_name(const struct draft *draft, struct groups *groups, struct entry *entry)
{
    cleanup_free char *name = entry_name(draft, entry);
    if (!name)
        return -ENOMEM;
    if (is_free(groups, entry, name))
        return join(groups, name, entry);
    cleanup_free char *id =
        entry->internal ? name_make_legal(entry->internal->id, strlen(entry->internal->id)) : NULL;
    if (entry->internal && !id)
        return -ENOMEM;
    struct group *taken = groups_find(groups, name);
    for (unsigned number = 1;;
         number = number == 1 && taken->last_number > 1 ? taken->last_number : number + 1) {
        char suffix[NAME_BYTES_MAX + 16];
        if (id && number == 1)
            snprintf(suffix, sizeof suffix, "%s", id);
        else if (id)
            snprintf(suffix, sizeof suffix, "%s~%u", id, number);
        else
            snprintf(suffix, sizeof suffix, "%u", number + 1);
        cleanup_free char *other = name_with_suffix(name, suffix);
        if (!other)
            return -ENOMEM;
        if (is_free(groups, entry, other)) {
            if (number > taken->last_number)
                taken->last_number = number;
            return join(groups, other, entry);
        }
    }
}

/* Snapshots of memory alone: no image tells of them. */
static int add_of_memory(const struct draft *draft, struct groups *groups)
{
    const struct state_domain *state = draft->state;
    for (size_t i = 0; state && state->is_administered && i < state->snapshot_count; i++) {
        const struct state_snapshot *known = &state->snapshots[i];
        struct group *group;
        if (!known->memory.path || known->frozen_count || groups_find(groups, known->name))
            continue;
        if (group_new(groups, known->name, &group) < 0)
            return -ENOMEM;
        group->known = known;
    }
    return 0;
}

int groups_make(const struct draft *draft, struct entries *entries, struct groups *groups)
{
    struct groups made = {.bucket_count = 16};
    size_t most = entries->count + (draft->state ? draft->state->snapshot_count : 0);
    while (made.bucket_count < most)
        made.bucket_count *= 2;
    made.by_name = calloc(made.bucket_count, sizeof *made.by_name);
    made.list = calloc(most + 1, sizeof *made.list);
    int r = made.by_name && made.list ? add_of_memory(draft, &made) : -ENOMEM;
    /* Names that were given once come first, so that they stay. */
    for (size_t i = 0; r == 0 && i < entries->count; i++) {
        struct entry *entry = &entries->list[i];
        if (entry->known && is_free(&made, entry, entry->known->name))
            r = join(&made, entry->known->name, entry);
    }
    for (size_t i = 0; r == 0 && i < entries->count; i++)
        if (!entries->list[i].group) {
            entries->list[i].known = NULL; /* its snapshot, and that one's serial number, went to another */
            r = join_by_name(draft, &made, &entries->list[i]);
        }
    if (r < 0) {
        groups_done(&made);
        return r;
    }
    *groups = made;
    return 0;
}

void groups_done(struct groups *groups)
{
    for (size_t i = 0; i < groups->count; i++) {
        free(groups->list[i]->entries);
        free(groups->list[i]->name);
        free(groups->list[i]);
    }
    free(groups->list);
    free(groups->by_name);
    *groups = (struct groups){0};
}
