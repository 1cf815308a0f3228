// SPDX-License-Identifier: LGPL-2.1-or-later
/* The domains of the present catalog and their states; see members.h. */
#include "catalog/members.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "catalog/compare.h"

static int note_hashed(struct members *members, const struct state_domain *state, struct error *err)
{
    for (size_t i = 0; i < state->snapshot_count; i++)
        if (state->snapshots[i].serial >= SERIAL_HASHED &&
            number_set_add(&members->hashed, state->snapshots[i].serial) < 0)
            return error_set(err, ENOMEM, "%s", strerror(ENOMEM));
    return 0;
}

int members_init(struct members *members, struct store *store, struct error *err)
{
    struct members made = {.store = store};
    int r = store_load(store, &made.absent, &made.absent_count, err);
    for (size_t i = 0; r == 0 && i < made.absent_count; i++)
        r = note_hashed(&made, made.absent[i], err);
    if (r < 0) {
        members_done(&made);
        return r;
    }
    *members = made;
    return 0;
}

static void member_done(struct member *member)
{
    domain_unref(member->domain);
    state_domain_free(member->state);
}

void members_done(struct members *members)
{
    for (size_t i = 0; i < members->count; i++)
        member_done(&members->list[i]);
    for (size_t i = 0; i < members->absent_count; i++)
        state_domain_free(members->absent[i]);
    free(members->list);
    free(members->absent);
    number_set_done(&members->hashed);
    *members = (struct members){0};
}

struct state_domain **members_states(const struct members *members, size_t *count)
{
    struct state_domain **states = calloc(members->count + members->absent_count + 1, sizeof *states);
    if (!states)
        return NULL;
    for (size_t i = 0; i < members->count; i++)
        states[i] = members->list[i].state;
    if (members->absent_count)
        memcpy(states + members->count, members->absent, members->absent_count * sizeof *states);
    *count = members->count + members->absent_count;
    return states;
}

/* ---- Serial numbers ---- */

/*
 * Where the counter can't be used (a read-only store, a full disk), a hash. None is given twice while we run:
 * the kernel may still have pages of what had it.
 */
static int next_serial(void *opaque, const char *kind, const char *domain, const char *name, uint64_t *serial)
{
    struct members *members = opaque;
    struct error why;
    if (!members->hashing && !store_is_read_only(members->store)) {
        if (store_next_serial(members->store, serial, &why) == 0)
            return 0;
        log_warning("%s; its serial number is a hash instead", why.text);
    }
    for (unsigned attempt = 0;; attempt++) {
        uint64_t hashed = store_serial_hashed(kind, domain, name, attempt);
        if (number_set_has(&members->hashed, hashed))
            continue;
        *serial = hashed;
        return number_set_add(&members->hashed, hashed);
    }
}

/* ---- Updating ---- */

struct member *members_find(struct members *members, uint64_t serial)
{
    for (size_t i = 0; i < members->count; i++)
        if (members->list[i].domain->serial == serial)
            return &members->list[i];
    return NULL;
}

/* Makes the new member of a draft. If its domain is still the same, that object is used again. */
static int make_member(struct members *members, const char *source, struct draft *draft, size_t *room,
                       struct member *member, bool *changed)
{
    const char *damage = store_damage(members->store);
    members->hashing = damage && (!draft->state || draft->state->serial >= SERIAL_HASHED);
    if (members->hashing)
        draft_problem(
            draft,
            "the store is damaged (%s in .vmsnapfs/domains), maybe where it told of this domain, so "
            "its inode numbers are made up, and nothing of it can be changed",
            damage);
    const struct assembly_input input = {
        .source = source, .next_serial = next_serial, .opaque = members, .room = room};
    struct domain *domain;
    struct state_domain *state;
    int r = assemble(&input, draft, &domain, &state);
    if (r < 0)
        return r;
    domain->is_guessed = members->hashing;
    struct member *before = members_find(members, domain->serial);
    if (before && domain_is_same(before->domain, domain)) {
        domain_unref(domain);
        domain = domain_ref(before->domain);
    } else {
        *changed = true;
    }
    bool unsaved = draft->state ? !state_is_same(draft->state, state) || (before && before->unsaved) : true;
    *member = (struct member){.domain = domain, .state = state, .unsaved = unsaved};
    if (before)
        member->changed_at = before->changed_at;
    return 0;
}

static struct member *member_of_state(struct members *members, const struct state_domain *state)
{
    for (size_t i = 0; state && i < members->count; i++)
        if (members->list[i].state == state)
            return &members->list[i];
    return NULL;
}

/* Is its member to stay as it is, whatever the scan shows? */
static bool is_fixed(const struct member *member, uint64_t changes)
{
    return member && (member->held || member->changed_at > changes);
}

static bool has_state(const struct member *list, size_t count, const struct state_domain *state)
{
    for (size_t i = 0; i < count; i++)
        if (list[i].state == state)
            return true;
    return false;
}

static bool is_used(const struct discovery *discovery, const struct state_domain *state)
{
    for (size_t i = 0; i < discovery->count; i++)
        if (discovery->drafts[i].state == state)
            return true;
    return false;
}

static bool has_name(const struct member *list, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i].domain->name, name) == 0)
            return true;
    return false;
}

static int compare_members(const void *left, const void *right)
{
    return strcmp(((const struct member *)left)->domain->name, ((const struct member *)right)->domain->name);
}

/* Forgets the states that are too many: those of the lowest serials. Only when mounting, so that a source
 * whose files are gone for a while does not lose its numbers. */
static void forget_absent(struct members *members)
{
    while (members->absent_count > MEMBERS_ABSENT_MAX) {
        size_t oldest = 0;
        for (size_t i = 1; i < members->absent_count; i++)
            if (members->absent[i]->serial < members->absent[oldest]->serial)
                oldest = i;
        if (!store_is_read_only(members->store) && members->absent[oldest]->serial < SERIAL_HASHED) {
            struct error why;
            if (store_remove(members->store, members->absent[oldest]->serial, &why) < 0)
                log_warning("%s", why.text);
        }
        state_domain_free(members->absent[oldest]);
        members->absent[oldest] = members->absent[--members->absent_count];
    }
}

/* The new list: members that stay as they are, and those that are made of drafts. */
static int make_members(struct members *members, const char *source, struct discovery *discovery,
                        uint64_t changes, struct member *list, size_t *made, bool *changed, bool *passed_over)
{
    size_t room = ASSEMBLY_ENTRIES_MAX;
    for (size_t i = 0; i < members->count; i++) {
        if (!is_fixed(&members->list[i], changes))
            continue;
        list[*made] = members->list[i];
        domain_ref(list[(*made)++].domain);
        *passed_over = true;
    }
    const size_t fixed = *made;
    for (size_t i = 0; i < discovery->count; i++) {
        struct draft *draft = &discovery->drafts[i];
        if (is_fixed(member_of_state(members, draft->state), changes) || has_name(list, fixed, draft->name))
            continue;
        int r = make_member(members, source, draft, &room, &list[*made], changed);
        if (r < 0)
            return r;
        (*made)++;
    }
    return 0;
}

int members_update(struct members *members, const char *source, struct discovery *discovery, uint64_t changes,
                   bool *changed, bool *passed_over, struct error *err)
{
    size_t all = members->count + members->absent_count;
    struct member *list = calloc(discovery->count + members->count + 1, sizeof *list);
    struct state_domain **absent = calloc(all + 1, sizeof *absent);
    size_t made = 0, absent_count = 0;
    bool any = false, passed = false;
    int r = list && absent ? make_members(members, source, discovery, changes, list, &made, &any, &passed)
                           : -ENOMEM;
    if (r < 0) {
        for (size_t i = 0; list && i < made; i++) {
            domain_unref(list[i].domain);
            if (!member_of_state(members, list[i].state))
                state_domain_free(list[i].state);
        }
        free(list);
        free(absent);
        return error_set(err, -r, "%s", strerror(-r));
    }
    if (made)
        qsort(list, made, sizeof *list, compare_members);
    for (size_t i = 0; i < all; i++) {
        struct state_domain *state =
            i < members->count ? members->list[i].state : members->absent[i - members->count];
        if (has_state(list, made, state))
            continue;
        if (is_used(discovery, state))
            state_domain_free(state);
        else
            absent[absent_count++] = state;
    }
    any |= made != members->count;
    for (size_t i = 0; i < members->count; i++)
        domain_unref(members->list[i].domain);
    free(members->list);
    free(members->absent);
    members->list = list;
    members->count = made;
    members->absent = absent;
    members->absent_count = absent_count;
    if (!members->updated)
        forget_absent(members);
    members->updated = true;
    *changed = any;
    *passed_over = passed;
    return 0;
}

int members_replace(struct members *members, const char *source, struct draft *draft, struct member *member,
                    bool is_told, bool *changed, struct error *err)
{
    size_t room = ASSEMBLY_ENTRIES_MAX;
    struct member made;
    int r = make_member(members, source, draft, &room, &made, changed);
    if (r < 0)
        return error_set(err, -r, "%s", strerror(-r));
    made.held = member->held;
    if (is_told)
        made.unsaved = !state_is_same(draft->state, made.state);
    domain_unref(member->domain);
    state_domain_free(member->state);
    *member = made;
    return 0;
}

int members_imagine(struct members *members, const char *source, struct draft *draft, struct domain **domain,
                    struct state_domain **state, struct error *err)
{
    size_t room = ASSEMBLY_ENTRIES_MAX;
    bool changed;
    struct member made;
    int r = make_member(members, source, draft, &room, &made, &changed);
    if (r < 0)
        return error_set(err, -r, "%s", strerror(-r));
    *domain = made.domain;
    *state = made.state;
    return 0;
}

int members_expect(struct members *members, struct state_domain *state)
{
    struct state_domain **grown =
        realloc(members->absent, (members->absent_count + 1) * sizeof(struct state_domain *));
    if (!grown)
        return -ENOMEM;
    members->absent = grown;
    grown[members->absent_count++] = state;
    return 0;
}

/* Where the state is to be put: in the place of what was known of that domain, by its number, or, if it had
 * none, by its name. NULL: nothing was. */
static struct state_domain **place_of(struct members *members, const struct state_domain *state)
{
    for (size_t i = 0; i < members->count; i++)
        if (members->list[i].state->serial == state->serial)
            return &members->list[i].state;
    for (size_t i = 0; i < members->absent_count; i++)
        if (members->absent[i]->serial == state->serial)
            return &members->absent[i];
    for (size_t i = 0; i < members->count; i++)
        if (members->list[i].state->serial >= SERIAL_HASHED &&
            strcmp(members->list[i].state->name, state->name) == 0)
            return &members->list[i].state;
    return NULL;
}

int members_reload(struct members *members, struct error *err)
{
    struct state_domain **states = NULL;
    size_t count = 0;
    int r = store_load(members->store, &states, &count, err);
    for (size_t i = 0; i < count; i++) {
        struct state_domain **place = r == 0 ? place_of(members, states[i]) : NULL;
        if (r == 0)
            r = note_hashed(members, states[i], err);
        if (r == 0 && !place && members_expect(members, states[i]) < 0)
            r = error_set(err, ENOMEM, "%s", strerror(ENOMEM));
        if (r < 0) {
            state_domain_free(states[i]);
        } else if (place) {
            state_domain_free(*place);
            *place = states[i];
        }
    }
    free(states);
    return r;
}

void members_forget(struct members *members, uint64_t serial)
{
    for (size_t i = 0; i < members->absent_count; i++)
        if (members->absent[i]->serial == serial) {
            state_domain_free(members->absent[i]);
            members->absent[i] = members->absent[--members->absent_count];
            return;
        }
}

/* ---- Saving ---- */

static void take_counts(struct member *member)
{
    const struct domain *domain = member->domain;
    for (size_t i = 0; i < domain->snapshot_count; i++) {
        const struct snapshot *snapshot = domain->snapshots[i];
        struct state_snapshot *state = NULL;
        for (size_t j = 0; j < snapshot->frozen_count; j++) {
            uint64_t allocated = atomic_load(&snapshot->frozen[j].allocated);
            if (allocated == ALLOCATED_UNKNOWN)
                continue;
            state = state ? state : state_find_snapshot(member->state, snapshot->serial);
            for (size_t k = 0; state && k < state->frozen_count; k++)
                if (state->frozen[k].position == snapshot->frozen[j].disk->position &&
                    state->frozen[k].allocated != allocated) {
                    state->frozen[k].allocated = allocated;
                    member->unsaved = true;
                }
        }
    }
}

void members_take_counts(struct members *members)
{
    for (size_t i = 0; i < members->count; i++)
        take_counts(&members->list[i]);
}

/* Of a domain that is being changed the store may have a newer state already. */
static bool may_be_saved(const struct member *member)
{
    return member->unsaved && !member->held && member->state->serial < SERIAL_HASHED;
}

void members_save(struct members *members)
{
    cleanup_free const struct state_domain **states = calloc(members->count + 1, sizeof *states);
    size_t count = 0;
    if (!states || store_is_read_only(members->store))
        return;
    for (size_t i = 0; i < members->count; i++)
        if (may_be_saved(&members->list[i]))
            states[count++] = members->list[i].state;
    if (count == 0)
        return;
    struct error why;
    if (store_save_all(members->store, states, count, &why) < 0) {
        if (!members->save_failed)
            log_error("%s; it is tried again, but inode numbers may be others after the next mount",
                      why.text);
        members->save_failed = true;
        return;
    }
    members->save_failed = false;
    for (size_t i = 0; i < members->count; i++)
        if (may_be_saved(&members->list[i]))
            members->list[i].unsaved = false;
}
