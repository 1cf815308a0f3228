// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The states of the domains that know the files of a step that gives space back. They are held from
 * reclaim_states_begin to reclaim_states_done. Inside of reclaim_work.h.
 */
#pragma once

#include "administration/inside.h"
#include "administration/world.h"
#include "store/store.h"

struct reclaim_states {
    struct administration *administration;
    struct state_domain **states;
    struct state_domain **kept; /* copies, as reclaim_states_keep made them; NULL: none */
    uint64_t *held;
    size_t count, held_count;
    bool is_changed; /* since they were saved and shown */
};

/* Holds the domains and looks at them. Errors: as catalog_refresh. */
int reclaim_states_begin(struct reclaim_states *states, const uint64_t *domains, size_t count,
                         struct error *err);
void reclaim_states_done(struct reclaim_states *states);

/* Notes, durably, that the file is about to be written to: frozen, it need not be as it was, and whoever
 * starts after a crash looks after it (tidying.h). */
int reclaim_states_touch(struct reclaim_states *states, const char *path, struct error *err);

/* It is being written to still: notes that again, after reclaim_states_repoint; not durably. */
int reclaim_states_touch_again(struct reclaim_states *states, const char *path, struct error *err);

/* Nothing is written any more, and the step was not done, or not all of it: what was touched is frozen as it
 * is now, and what was done is saved and shown. */
int reclaim_states_give_up(struct reclaim_states *states, const struct world *world, struct error *err);

/* The file has been written to, and is frozen as it is now. */
int reclaim_states_settle(struct reclaim_states *states, const struct world *world, const char *path,
                          struct error *err);

/* What was `layer` is `into` from now on, which is as it is now; `layer` itself stays known until it is
 * unlinked. */
int reclaim_states_repoint(struct reclaim_states *states, const struct world *world, const char *layer,
                           const char *into, struct error *err);

/* The file is gone; an internal snapshot is gone. */
void reclaim_states_forget(struct reclaim_states *states, const char *path);
void reclaim_states_forget_internal(struct reclaim_states *states, const char *path,
                                    const struct internal_snapshot *internal);

/* Saves and shows all of them. A domain of which nothing is left to administer is administered no more. */
int reclaim_states_save(struct reclaim_states *states, struct error *err);

/* Saves all of them, and shows nothing: for an instant in which somebody waits. */
int reclaim_states_store(struct reclaim_states *states, struct error *err);

/* Shows them as they were saved last. */
void reclaim_states_show(struct reclaim_states *states);

/*
 * Remembers the states as they are, to go back to them in memory where what follows could not be saved: else
 * they would be saved by who gives up. -ENOMEM with a text.
 */
int reclaim_states_keep(struct reclaim_states *states, struct error *err);
void reclaim_states_go_back(struct reclaim_states *states);

/* Somebody else may have saved them: what is saved is here. What can't be read stays. */
void reclaim_states_read_again(struct reclaim_states *states);

/* Somebody else has saved them: what is here is not saved any more. */
void reclaim_states_let_go(struct reclaim_states *states);

/* Are all domains known well enough to tell who needs what? */
bool reclaim_is_complete(struct administration *administration, const struct catalog *catalog);
