// SPDX-License-Identifier: LGPL-2.1-or-later
/* A snapshot that is being taken. Inside of create.c and create_running.c. */
#pragma once

#include "administration/change.h"
#include "administration/files/internals.h"
#include "administration/files/overlays.h"
#include "administration/memory/memory_file.h"
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
    struct overlays mirrors; /* copies of these overlays, which its QEMU keeps in step */
    struct internals internals;
    struct memory_file memory;        /* of MEMORY_EXTERNAL */
    struct memory_save_before before; /* what the guest did */
    struct undo_list undo;
    uint64_t serial;
    bool is_quiesced;
};

/* The snapshot's attributes and contents, as the files are now, for the state that is saved. */
int creation_note(struct creation *creation, struct error *err);

/* ---- Mirrors of new overlays (create_mirrors.c) ---- */

/* Plans one for `disk`, at `path`. Errors: as overlays_add and mirror_check_stranger. */
int creation_add_mirror(struct creation *creation, const struct disk *disk, const char *path,
                        struct error *err);

/* Makes their files; notes them, what is to be undone, and what the state is to know. */
int creation_make_mirrors(struct creation *creation, struct error *err);
int creation_note_mirrors(struct creation *creation, struct error *err);

/* Gives them their names, and sees whether the QEMU can open them. */
int creation_open_mirrors(struct creation *creation, struct error *err);

/* Has the guest stood still for the instant of the snapshot, so that they have everything since? */
static inline bool creation_stands_still(const struct creation *creation)
{
    return creation->mirrors.count > 0 && creation->running.state == RUN_STATE_RUNNING;
}

/* Starts them, while the guest stands still. What fails is told, and changes nothing of the snapshot. `node`
 * gives the node of the new overlay of a disk. */
typedef void creation_overlay_node(const struct creation *creation, unsigned disk, char name[32]);
void creation_start_mirrors(struct creation *creation, creation_overlay_node *node);

/* Shows them as jobs, once the snapshot is there. */
void creation_show_mirrors(struct creation *creation);

/*
 * Takes it of a running domain, whose disks are found: the files are made, the journal and the state that is
 * to come are written, and then it happens to all disks in one transaction. Errors, after which everything is
 * undone by change_end: as overlays_make, block_overlay_open, block_snapshot_take, guest_agent_freeze.
 */
int creation_make_running(struct creation *creation, struct error *err);

/* ---- create_memory.c ---- */

/* Where the memory is to be saved, and is there room? Errors: as memory_save_look, memory_file_plan; ENOSPC.
 */
int creation_plan_memory(struct creation *creation, struct error *err);

/*
 * Memory and disks at one instant. Errors, as of memory_save.h, memory_internal.h and creation_take; where
 * the disks can't come back, it is a snapshot without memory instead.
 */
int creation_take_with_memory_file(struct creation *creation, struct error *err);
int creation_take_with_memory_inside(struct creation *creation, struct error *err);

/* ---- create_running.c, for create_memory.c ---- */

/* Takes the snapshot of all its disks, or of those that go on in overlays alone, in one transaction. Errors:
 * as block_snapshot_take. */
int creation_take(struct creation *creation, struct error *err);
int creation_take_overlays(struct creation *creation, struct error *err);

/* A guest that was stopped could not be told to go on: that is tried again at the end, by what the journal
 * says. */
void creation_leaves_guest(struct creation *creation, const struct error *why);
