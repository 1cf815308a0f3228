// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Which parts of a snapshot lie where: from a command and the domain to memory no, internal or external, and
 * for each disk no, internal or external; or a refusal.
 *
 * The whole of it is one table of 24 rows (snapshot_choice.c). The rows speak of all disks alike. Where disks
 * differ, each disk that the command names is as it says, and each other one is as in the row "omitted"; the
 * rows are looked up by what decides about memory: external memory if any disk is external, where the
 * command leaves memory open; internal memory if any disk is internal, where it asks for that.
 *
 * How a snapshot is taken (live, paused, compressed, quiesced) matters only for an active domain: an inactive
 * one has no memory, and its file systems are at rest, so that `defaults` serve both.
 *
 * Pure functions; any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "base/image_format.h"
#include "domain/domain.h"
#include "operation/command.h"

/* What is asked of a disk. All borrowed. */
struct choice_disk {
    const char *target;
    enum image_format format; /* of the active layer */
    bool has_data_file;       /* a qcow2 file whose data lies in another file holds no internal snapshots */
    bool may_be_written;      /* the active layer, as layer_may_be_written says */
    enum snapshot_preset preset;
    bool persistent; /* false: its changes are thrown away at power-off, and it is left out by default */
};

struct choice_domain {
    bool is_active;
    bool has_agent;        /* a guest agent's socket is known */
    bool may_switch_files; /* `launch` or `follows`: whoever starts it learns which file is active */
    const struct choice_disk *disks;
    size_t disk_count;
};

struct disk_part {
    enum disk_choice kind; /* never DISK_OMITTED */
    const char *path;      /* of the new overlay, borrowed from the command; NULL: made up */
    const char *mirror;
};

struct snapshot_choice {
    enum memory_choice memory; /* never MEMORY_OMITTED */
    enum quiesce quiesce;      /* QUIESCE_NO where there is no agent to try, or nothing that runs */
    unsigned row;              /* of the table, from 1 */
    struct disk_part *disks;   /* as many, and in the order, as the domain's */
};

/*
 * Errors: EINVAL (nothing to snapshot, contradictions), ENOENT (a disk that is not there), EOPNOTSUPP (what a
 * format or the guest can't), EPERM (a file that may not be written; an external snapshot where nobody would
 * know of the new file), ENOMEM. `command` has passed create_command_check. On failure `*choice` is
 * untouched.
 */
int snapshot_choose(const struct create_command *command, const struct choice_domain *domain,
                    struct snapshot_choice *choice, struct error *err);
void snapshot_choice_done(struct snapshot_choice *choice);

/* Why a domain whose start nobody tells of a new file can't get one: what all such refusals say. Static. */
const char *snapshot_choice_switch_text(void);
