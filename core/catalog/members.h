// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The domains of the present catalog, each with its state as the store has it or is to have it, and the
 * states of domains that are not there now. Inside of the catalog, whose lock protects it.
 */
#pragma once

#include "catalog/assemble.h"
#include "catalog/number_set.h"
#include "domain/domain.h"
#include "store/store.h"

struct member {
    struct domain *domain;      /* a reference */
    struct state_domain *state; /* owned; not in the store where its serial is hashed */
    bool unsaved;
    unsigned held;       /* somebody is changing it: looking leaves it as it is */
    uint64_t changed_at; /* members.changes when that ended last */
};

struct members {
    struct store *store; /* borrowed */
    struct member *list; /* by name */
    size_t count;
    struct state_domain **absent; /* of domains that are gone, for when they come back; owned */
    size_t absent_count;
    struct number_set hashed; /* serials that were given and are no counter's */
    bool hashing;             /* this domain gets hashed serials */
    bool save_failed;         /* and was logged */
    bool updated;             /* at least once */
    uint64_t changes;         /* counts each end of a change by somebody else than who looks */
};

/* How many absent domains are remembered from mount to mount; the oldest go. A state is about 200 bytes a
 * snapshot. */
#define MEMBERS_ABSENT_MAX 1024

/* Loads what the store knows. Errors: those of store_load. */
int members_init(struct members *members, struct store *store, struct error *err);
void members_done(struct members *members);

/*
 * Of a read-only store, which another mount may write to: what it says now takes the place of what it said.
 * The domains are the same until the next update. Errors: those of store_load.
 */
int members_reload(struct members *members, struct error *err);

/*
 * Puts what the discovery shows in the place of what was there. Domains that are still the same keep their
 * object; so do those that are held, and those that were changed after `changes` was what is given here,
 * since the scan may be older. `*changed` tells whether any did not, `*passed_over` whether some may have.
 * -ENOMEM, and then nothing has changed.
 */
int members_update(struct members *members, const char *source, struct discovery *discovery, uint64_t changes,
                   bool *changed, bool *passed_over, struct error *err);

/* NULL if there is none. Good until the next update. */
struct member *members_find(struct members *members, uint64_t serial);

/*
 * Puts what a scan of one domain shows in the place of that member, going by the draft's state, which stays
 * the caller's. `is_told`: that is not what the member's state says, but what was saved in its place.
 * `*changed` as above. -ENOMEM.
 */
int members_replace(struct members *members, const char *source, struct draft *draft, struct member *member,
                    bool is_told, bool *changed, struct error *err);

/* What members_replace would put in the member's place, for the caller alone: a reference to the domain, and
 * the state. -ENOMEM. */
int members_imagine(struct members *members, const char *source, struct draft *draft, struct domain **domain,
                    struct state_domain **state, struct error *err);

/* Remembers the state, which is taken over, of a domain that is about to be made. -ENOMEM. */
int members_expect(struct members *members, struct state_domain *state);

/* Forgets it again, where no domain came of it. */
void members_forget(struct members *members, uint64_t serial);

/* All states that the next discovery may find domains for: the present ones' first. The caller frees the
 * array; NULL: out of memory. */
struct state_domain **members_states(const struct members *members, size_t *count);

/* Takes over what was counted meanwhile into the states. */
void members_take_counts(struct members *members);

/* Saves what is not saved. A failure is logged, and tried again the next time. */
void members_save(struct members *members);
