// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * One change of one domain, from its plan to the new state:
 *
 *     change_begin      the domain is held, and looked at as it is now
 *       …               `tree` and `world.layers` are changed by the rules of operation/, images are made
 *     change_commit     the state that follows from the tree is saved: with that, it has happened
 *     change_end        whatever was done of one that was not committed is undone
 *
 * One thread. Inside of administration/.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "administration/inside.h"
#include "administration/world.h"
#include "store/journal.h"
#include "store/store.h"

/* A content that no snapshot had before: what the store is to know of it. */
struct fresh_content {
    uint64_t layer, internal; /* ids in the plan */
    struct state_frozen record;
};

/* A layer that was not there before. */
struct fresh_layer {
    uint64_t id;
    char *path;   /* as the store keeps it */
    bool is_made; /* by us */
};

struct running;

struct change {
    struct administration *administration;
    struct work *work;
    struct domain *domain;       /* as it was; a reference */
    struct state_domain *before; /* as it was */
    struct state_domain *state;  /* becomes what is saved */
    struct world world;          /* of this domain alone */
    struct tree *tree;           /* its tree */
    struct state_snapshot fresh; /* a new snapshot's attributes, where `fresh.serial` is not 0 */
    struct fresh_content *contents;
    size_t content_count;
    struct fresh_layer *layers;
    size_t layer_count;
    struct running *running; /* the QEMU that runs it, where a snapshot of that is taken; borrowed */
    uint64_t serial;         /* of the domain */
    uint64_t operation;      /* serial */
    struct journal_operation *journal; /* NULL while nothing is to be undone */
    bool is_held, is_committed;
    bool has_next;             /* change_save_next was called */
    bool is_beyond_undoing;    /* it has happened; only the state has to follow */
    bool images_are_untouched; /* what the journal says of internal snapshots was not begun */
    bool guest_is_left;        /* it may stand still, and is to go on as the journal says */
};

/*
 * Before, the domain goes on that an interrupted operation has left (resume.h).
 *
 * Errors: EROFS; EIO where the domain, its state or its journal is damaged or something of it is gone, with a
 * sentence; ESTALE: it is gone. Ended by change_end also where it fails.
 */
int change_begin(struct administration *administration, struct work *work, uint64_t domain,
                 struct change *change, struct error *err);

/* The same for resume.h: what the domain is to go on with is left alone. */
int change_begin_resuming(struct administration *administration, uint64_t domain, struct change *change,
                          struct error *err);

/* The snapshot; ENOENT with a sentence. */
int change_find(const struct change *change, uint64_t serial, const struct snapshot **snapshot,
                struct error *err);

/*
 * Tells of a layer or content that is new in the plan. Strings are copied; the record is taken over, also on
 * failure. -ENOMEM.
 */
int change_add_layer(struct change *change, uint64_t id, const char *path, bool is_made, struct error *err);
int change_add_content(struct change *change, uint64_t layer, uint64_t internal, struct state_frozen *record,
                       struct error *err);

/* Forgets the contents that were told, and the attributes of a new snapshot, to tell them anew. */
void change_forget_contents(struct change *change);

/*
 * What happens next can't be undone once it has happened: writes down the state that is to come, as the plan
 * is now, for who has to complete it after a crash (undo_running.h). Errors: as store_save_next.
 */
int change_save_next(struct change *change, struct error *err);

/* The path of a layer as the store keeps it, borrowed; NULL: there is no such layer. */
const char *change_layer_path(const struct change *change, uint64_t id);

const char *change_source(const struct change *change);

/*
 * Makes `state` what the tree says (tree_state.c). What snapshots referred to before and none does now
 * becomes hidden. -ENOMEM.
 */
int change_follow_tree(struct change *change, struct error *err);

/*
 * Saves `state`, and shows it. Errors, after which nothing has happened: as catalog_save; ECANCELED. One that
 * comes after it has happened is only logged.
 */
int change_commit(struct change *change, struct error *err);

/* Undoes what was not committed, and frees everything. Takes one that is all zeros. */
void change_end(struct change *change);
