// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Which state files of a store were read, and what they were: for a store that another mount writes to. Each
 * is replaced as a whole, so that one that is still the same file has the same content. Inside of store.c.
 *
 * Any thread may ask; one at a time changes it.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/file_identity.h"

struct seen_state {
    uint64_t serial;
    struct file_identity file;
};

struct seen_list {
    struct seen_state *states; /* by serial */
    size_t count;
};

struct seen_states {
    pthread_mutex_t lock; /* a leaf; protects the rest */
    struct seen_list read;
    struct seen_list shown; /* of those, what is shown to others by now */
    int directory;          /* another descriptor of "domains"; -1: not there */
};

void seen_states_init(struct seen_states *seen);
void seen_states_done(struct seen_states *seen);

/* These were read: `states` is taken over, and sorted; `directory` is borrowed. */
void seen_states_set(struct seen_states *seen, struct seen_state *states, size_t count, int directory);

/* What was read last is what is shown from now on. Where memory runs out it stays what it was. */
void seen_states_show(struct seen_states *seen);

/* Is a state file, statted as `file`, the one that was read? */
bool seen_states_have(struct seen_states *seen, uint64_t serial, const struct file_identity *file);

/* Was there a directory? */
bool seen_states_are_known(struct seen_states *seen);

/* Are there others in the directory than were read (or, with `shown`, are shown), or is it gone? False where
 * there was no directory. */
bool seen_states_moved(struct seen_states *seen, bool shown);

/* Has that one another file than the one that is shown? One that is gone has not. */
bool seen_state_moved(struct seen_states *seen, uint64_t serial);

/* "17.json" to 17; 0 for every other name. */
uint64_t seen_states_serial(const char *name);
