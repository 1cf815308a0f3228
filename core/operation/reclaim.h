// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What can be given back of the files that snapshots, domains and clones once needed: one step at a time.
 *
 * Who needs a layer: snapshots that refer to it or to an internal snapshot in it, domains that write to it,
 * and the layers on top of it, of whatever domain, known or not.
 *
 *   - Needed by nobody: unlinked, if vmsnapfs made it and it is not where a domain begins; else left where it
 *     is. (A clone begins in a file that was made for it, until it goes on in a copy.)
 *   - Needed by one layer on top and by nothing else: merged with it. Into the lower one, if that is the file
 *     that the domain began with; into the upper one, if that is; else the smaller into the larger. Only if
 * the file that goes is one that may be unlinked: otherwise merging would free nothing.
 *   - Needed by several layers on top: stays, unseen.
 *   - A domain without snapshots that ended on another file than it began with (it went back to an internal
 *     snapshot that had to be copied out): copied home, when nobody needs the first file any more. That takes
 * room, if not for long.
 *
 * An internal snapshot reads through its file to the layers below. So a layer with internal snapshots is
 * merged neither way, and what lies below it stays.
 *
 * Each step makes files or internal snapshots fewer, so that it ends. What was planned may be wrong when it
 * is done; reclaim_check is the last word, to be asked right before a file is written or unlinked. Whether
 * somebody reads through a layer is not asked here: such a step is one that waits, and is seen to wait.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "operation/layer_set.h"
#include "operation/tree.h"

/* All domains, and all their layers. */
struct reclaim_world {
    struct tree **trees;
    size_t tree_count;
    struct layer_set *layers;
    bool is_complete; /* false: some domain's state could not be read. Then who needs what is not known, and
                         nothing is reclaimed */
};

enum layer_fate {
    LAYER_SEEN,        /* a snapshot or a domain refers to it */
    LAYER_UNSEEN,      /* only layers on top need it, and it stays */
    LAYER_INTO_CHILD,  /* to be merged into the only layer on top, and unlinked */
    LAYER_INTO_PARENT, /* the only layer on top is to be merged into it, and unlinked */
    LAYER_UNLINK,      /* needed by nobody */
    LAYER_LEFT,        /* needed by nobody, and not ours to unlink */
};

/* Needed by several domains, or by files that are of no known one. */
#define DOMAIN_SEVERAL UINT64_MAX

struct layer_survey {
    uint64_t layer;
    enum layer_fate fate;
    const char *reason; /* of LAYER_UNSEEN, for people: why it is not merged. Static */
    size_t whole;       /* snapshots that are the whole layer */
    size_t internal;    /* contents that are internal snapshots in it */
    size_t internals;   /* internal snapshots in it, needed or not */
    size_t writers;     /* domains' disks that write to it */
    size_t children;    /* layers on top that stay */
    uint64_t only_child;
    uint64_t domain; /* serial of the one that needs it; 0: none; DOMAIN_SEVERAL */
    bool writers_may_switch;
    bool children_may_be_written;
};

/* What a step does with its `layer`, `into` and `internal`. */
enum reclaim_kind {
    RECLAIM_NOTHING,
    RECLAIM_DROP_INTERNAL, /* takes `internal` out of `layer` */
    RECLAIM_UNLINK,
    RECLAIM_INTO_PARENT, /* writes its content into `into`, below it, on which lies then what lay on it */
    RECLAIM_INTO_CHILD,  /* writes what `into`, on top, has not itself into that, which lies on its backing */
    RECLAIM_COPY_HOME,   /* writes it, with all that lies below it, over `into`, which is active then */
};

/* In all kinds but RECLAIM_DROP_INTERNAL the file of `layer` is unlinked at the end. */
struct reclaim_step {
    enum reclaim_kind kind;
    uint64_t layer;
    uint64_t into;
    uint64_t internal;
};

/* `*survey`: of each layer, in the order of the set; the caller frees. -ENOMEM */
int reclaim_survey(const struct reclaim_world *world, struct layer_survey **survey);

typedef bool reclaim_visitor(void *opaque, const struct reclaim_step *step);

/*
 * The next step, or RECLAIM_NOTHING. Those that could be next are offered to `visit` (NULL: takes the first),
 * the cheapest kinds first, until it takes one: so what must wait, for room or for somebody who has the file
 * open, holds up nothing else. -ENOMEM
 */
int reclaim_next(const struct reclaim_world *world, reclaim_visitor *visit, void *opaque,
                 struct reclaim_step *step);

/* May it be done, as things are now? EPERM with a sentence if not, ENOMEM. */
int reclaim_check(const struct reclaim_world *world, const struct reclaim_step *step, struct error *err);

/* Trees and layers as they are after the step. Checks first; errors as reclaim_check, and nothing changed. */
int reclaim_apply(struct reclaim_world *world, const struct reclaim_step *step, struct error *err);
