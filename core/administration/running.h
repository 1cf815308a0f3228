// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The QEMU that runs the domain of a change: whether there is one, its monitor, for this change alone, and
 * which of its block nodes are the domain's disks.
 */
#pragma once

#include "administration/change.h"
#include "hypervisor/running_disks.h"
#include "machine/machine.h"

struct running {
    struct machine *machine;
    struct qmp *qmp;  /* NULL: the domain is not active */
    bool has_crashed; /* then: it ended without being asked to, and was not started since */
    enum run_state state;
    struct block_engine engine;
    char *monitor;              /* the path of its socket; "": not known */
    struct running_disk *disks; /* those that were added */
    size_t disk_count;
};

/*
 * The job that merges layers in a QEMU while it runs (reclaim_running.h). There is at most one in each, of
 * whoever has the domain's lane; so one that is found by somebody who has the lane is a predecessor's, who
 * was killed, or lost the connection.
 */
#define RUNNING_MERGE_JOB "vmsnapfs-merge"

/* Ends what a predecessor has left there. Errors: as qmp_job_abort. */
int running_end_leftover(const struct block_engine *engine, struct error *err);

/* The path of the monitor, for who has to find the QEMU after a crash; "": not known. The caller frees. */
int running_find_monitor(const struct domain *domain, const struct machine *machine, char **path,
                         struct error *err);

/* Has any process an active image of the domain open for writing? */
bool running_is_written(const struct domain *domain);

/* EBUSY in states in which nothing is to be done to its disks. */
int running_check_state(enum run_state state, struct error *err);

/*
 * Asks whether it runs, and has its monitor until running_end. Errors: EBUSY while it is shutting down,
 * migrating, being saved or restored (X5); ETIMEDOUT where its QEMU does not answer, and has an image open.
 */
int running_begin(const struct change *change, struct running *running, struct error *err);

/* True where there is a QEMU, whose guest runs or is paused. */
static inline bool running_is_active(const struct running *running)
{
    return running->qmp != NULL;
}

/* Adds a disk to those that running_find is to find; errors as image_open. */
int running_add(struct running *running, const struct change *change, const struct disk *disk,
                struct error *err);

/* Finds the nodes of all that were added; errors as running_disks_find. */
int running_find(struct running *running, struct error *err);

/*
 * Before its memory is saved, which is to go on with its disks: are the files of all of them those that it
 * has open? What it does not know at all is not asked for. Errors: ENODEV, as running_disk_check_open; of
 * image_open and block_nodes_query.
 */
int running_check_files(const struct running *running, const struct change *change, struct error *err);

/* The node of a disk that was found; NULL: it was not looked for. Borrowed. */
const char *running_node(const struct running *running, const char *target);

/* Gives the connection back before the end, so that somebody else can have one; there is no QEMU from then
 * on. */
void running_return(struct running *running);

void running_end(struct running *running);
