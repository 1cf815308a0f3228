// SPDX-License-Identifier: LGPL-2.1-or-later
/* A set of numbers: a hash table with open addressing, at most half full. */
#include "catalog/number_set.h"

#include <errno.h>
#include <stdlib.h>

static uint64_t *slot_of(const struct number_set *set, uint64_t number)
{
    size_t at = (size_t)((number * UINT64_C(0x9e3779b97f4a7c15)) >> 16);
    for (;; at++) {
        uint64_t *slot = &set->slots[at & (set->slot_count - 1)];
        if (*slot == 0 || *slot == number)
            return slot;
    }
}

bool number_set_has(const struct number_set *set, uint64_t number)
{
    return set->count && *slot_of(set, number) == number;
}

int number_set_add(struct number_set *set, uint64_t number)
{
    if (2 * (set->count + 1) > set->slot_count) {
        struct number_set grown = {.slot_count = set->slot_count ? 2 * set->slot_count : 64};
        grown.slots = calloc(grown.slot_count, sizeof *grown.slots);
        if (!grown.slots)
            return -ENOMEM;
        for (size_t i = 0; i < set->slot_count; i++)
            if (set->slots[i])
                *slot_of(&grown, set->slots[i]) = set->slots[i];
        grown.count = set->count;
        free(set->slots);
        *set = grown;
    }
    uint64_t *slot = slot_of(set, number);
    set->count += *slot == 0;
    *slot = number;
    return 0;
}

void number_set_done(struct number_set *set)
{
    free(set->slots);
    *set = (struct number_set){0};
}
