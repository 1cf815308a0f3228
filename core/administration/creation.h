// SPDX-License-Identifier: LGPL-2.1-or-later
/* A snapshot that is being taken. Inside of create.c and create_running.c. */
#pragma once

#include "administration/change.h"
#include "administration/internals.h"
#include "administration/overlays.h"
#include "administration/running.h"
#include "operation/snapshot_choice.h"
#include "operation/tree_change.h"

struct creation {
    struct change change;
    struct create_command command; /* with what `defaults` says */
    struct snapshot_choice choice;
    struct tree_part *parts;
    size_t part_count;
    struct running running; /* of an active domain */
    struct overlays overlays;
    struct internals internals;
    struct undo_list undo;
    uint64_t serial;
    bool is_quiesced;
};

/* The snapshot's attributes and contents, as the files are now, for the state that is saved. */
int creation_note(struct creation *creation, struct error *err);

/*
 * Takes it of a running domain, whose disks are found: the files are made, the journal and the state that is
 * to come are written, and then it happens to all disks in one transaction. Errors, after which everything is
 * undone by change_end: as overlays_make, block_overlay_open, block_snapshot_take, guest_agent_freeze.
 */
int creation_make_running(struct creation *creation, struct error *err);
