// SPDX-License-Identifier: LGPL-2.1-or-later
/* A set of numbers other than 0. Not locked. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct number_set {
    uint64_t *slots; /* 0: empty */
    size_t slot_count;
    size_t count;
};

bool number_set_has(const struct number_set *set, uint64_t number);
int number_set_add(struct number_set *set, uint64_t number); /* -ENOMEM */
void number_set_done(struct number_set *set);
