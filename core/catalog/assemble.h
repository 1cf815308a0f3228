// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * From what a scan shows and what the store knows, to domains with their snapshots, and to what the store is
 * to know from now on. Pure, but for serial numbers, which are asked for.
 *
 * How snapshots that other tools made appear (contract, "Names"): on each disk, an internal snapshot has its
 * tag as name; a frozen layer has the ending of the overlay on top of it, else the name of its own file.
 * What has the same name on several disks is one snapshot. A name that is taken on a disk gets `~` and the
 * internal snapshot's id, or a number. A name once given stays (the store knows it).
 */
#pragma once

#include <stddef.h>

#include "catalog/discover.h"
#include "domain/domain.h"

/*
 * Draws a serial number that nothing else has or had. The strings say what for: a kind, the domain's uuid or
 * name, and what tells the thing apart in it. 0 or a negative errno.
 */
typedef int (*serial_source)(void *opaque, const char *kind, const char *domain, const char *name,
                             uint64_t *serial);

/* Internal snapshots of all domains together: an image can have 65536, and any number of clones. */
#define ASSEMBLY_ENTRIES_MAX (256 * 1024)

struct assembly_input {
    const char *source; /* absolute path; what lies in it has relative names in the store */
    serial_source next_serial;
    void *opaque;
    size_t *room; /* how many more internal snapshots there may be; counted down */
};

/*
 * Makes the domain of a draft, sealed, with one reference, and its new state, whose snapshots are sorted by
 * serial; both the caller's. Sentences may be added to the draft's problem. -ENOMEM, and what next_serial
 * gives.
 */
int assemble(const struct assembly_input *input, struct draft *draft, struct domain **domain,
             struct state_domain **state);
