// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Which entries of a domain's disks make one snapshot, and what it is called: those of one name. On one disk
 * a name stands for one entry. Inside of assemble.h.
 */
#pragma once

#include "catalog/entries.h"

struct group {
    char *name;
    struct entry **entries; /* by disk; at most one of each */
    size_t count;
    const struct state_snapshot *known; /* the first that the store knows of them; NULL: none */
    struct snapshot *snapshot;          /* what became of it; for assemble.c */
    struct group *same_hash;
    unsigned last_number; /* given to one that wanted this name; the next one tries on from there */
};

struct groups {
    struct group **list;
    size_t count;
    struct group **by_name; /* hash table */
    size_t bucket_count;    /* a power of two */
};

/* Puts every entry into a group, and its group into every entry. -ENOMEM. */
int groups_make(const struct draft *draft, struct entries *entries, struct groups *groups);

/* NULL if no group has this name. */
struct group *groups_find(const struct groups *groups, const char *name);

void groups_done(struct groups *groups);
