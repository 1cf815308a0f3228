// SPDX-License-Identifier: LGPL-2.1-or-later
/* A domain that is being put together, and its state. Inside of assemble.h. */
#pragma once

#include "catalog/assemble.h"
#include "catalog/entries.h"
#include "catalog/groups.h"

struct assembly {
    const struct assembly_input *input;
    struct draft *draft;
    unsigned *positions; /* of the draft's disks */
    struct entries entries;
    struct groups groups;
    struct domain *domain;
    struct state_domain *state;
    struct layer ***layers; /* of each disk, by depth in its chain; borrowed from the domain */
};

/* A copy of a NULL-terminated list of strings, the caller's; -ENOMEM, where some of it is made. */
int assembly_copy_list(char *const *from, char ***copy);

/* Saved memory as the store knows it; NULL where memory ran out. */
struct saved_memory *assembly_memory(const struct assembly *assembly, const struct state_memory *known);

bool assembly_has_disk(const struct assembly *assembly, unsigned position);

/* Gives the domain, which has its disks, its snapshots. -ENOMEM, or what drawing a serial number gives. */
int assembly_add_snapshots(struct assembly *assembly);

/* Makes `state`, once the domain has its disks and snapshots. -ENOMEM. */
int assembly_make_state(struct assembly *assembly);
