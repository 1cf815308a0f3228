// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The machines of all domains that say how they are run. They follow the catalog: whoever publishes one tells
 * of it here. One thread looks from time to time for QEMUs that have come; each that was found has a thread
 * of its own (machine.h).
 *
 * Any thread may call.
 */
#pragma once

#include <stddef.h>

#include "domain/domain.h"
#include "machine/machine.h"

struct machines;

struct machines_options {
    const char *source;       /* absolute path; tells guests of one source from those of others */
    machine_changed *changed; /* may be NULL */
    void *opaque;
};

/* No thread runs yet. Errors: as runtime_new. */
int machines_new(const struct machines_options *options, struct machines **machines, struct error *err);

/* These are the domains now, borrowed for the call. Does not wait. */
void machines_follow(struct machines *machines, struct domain *const *domains, size_t count);

/* Looks for their QEMUs, and starts the thread that does so from now on (after a daemon's last fork). */
int machines_start(struct machines *machines, struct error *err);

/* Lets go of all QEMUs, which go on, and ends the threads. What is borrowed has to be returned first. */
void machines_stop(struct machines *machines);
void machines_free(struct machines *machines); /* stops first; NULL is fine */

/* A reference; NULL where the domain does not say how it is run. `machines` may be NULL. */
struct machine *machines_get(struct machines *machines, uint64_t domain);

/*
 * Ends at once a guest of ours that a predecessor has left, and waits for its end: also before
 * machines_follow has told of its domain. 0 also where there is none. Errors: ETIMEDOUT; as guest_find.
 */
int machines_end_guest(struct machines *machines, uint64_t domain, struct error *err);

/* False, and nothing in the report, where there is no machine. */
bool machines_report(struct machines *machines, uint64_t domain, struct machine_report *report);
