// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Copies of disks that the QEMU of a running domain keeps in step, until the domain goes on in one (pivot) or
 * lets go of it (abort).
 *
 * There is no journal of them: what was begun stands in the domain's state (struct state_mirror) from before
 * anything of it is there until nothing is left to do, and the QEMU tells what is true of it. Settling brings
 * both together: after a crash, when the QEMU has ended, and when the job has failed. Each part of it can be
 * repeated.
 *
 *     copy    the state knows of the copy, its file gets its name, QEMU opens it and starts the job
 *     pivot   the guest stands still from before the QEMU moves until the state says so: whichever of both
 *             files is taken after a crash, it has all that the guest has written
 *     abort   in step, the file holds what the disk held at that instant; else it is unlinked
 *
 * Inside of administration/. To be called by whoever owns the domain's lane.
 */
#pragma once

#include "administration/change.h"
#include "administration/running.h"

/* What they are called in the QEMU. */
struct mirror_names {
    char job[40], node[32], file[32];
};
void mirror_name(uint64_t operation, unsigned disk, struct mirror_names *names);

/* What is being done to the copies of one domain. */
struct mirroring {
    struct change change;
    struct running running;
};

/* Looks at the domain and its QEMU; errors as change_begin and running_begin. Ended also where it fails. */
int mirroring_begin(struct administration *administration, struct work *work, uint64_t domain,
                    struct mirroring *mirroring, struct error *err);
void mirroring_end(struct mirroring *mirroring);

/* The disk, and its copy in the state. Errors: ENOENT; ESTALE where there is no such disk any more. */
int mirroring_disk(const struct mirroring *mirroring, unsigned position, const struct disk **disk,
                   struct error *err);
int mirroring_find(const struct mirroring *mirroring, unsigned position, struct state_mirror **mirror,
                   struct error *err);

/* Saves the state as it is now, and shows it. Errors: as catalog_save. */
int mirror_save(struct change *change, struct error *err);

/* The absolute path of a copy; the caller frees. NULL: out of memory. */
char *mirror_path(const struct change *change, const struct state_mirror *mirror);

/* EBUSY with a sentence where `disk` is being copied; NULL: where any disk of the domain is. */
int mirror_refuse(const struct domain *domain, const struct disk *disk, struct error *err);

/*
 * Opens the file of a copy in the QEMU, and starts its job. `device` is the node that is copied; `backing`
 * what the copy lies on, NULL: nothing. `bandwidth` in bytes a second, 0: any. Errors, after which there is
 * neither node nor job, unless the QEMU died: as qmp_command.
 */
int mirror_start(const struct block_engine *engine, const struct state_mirror *mirror, const char *path,
                 const char *device, const char *backing, uint64_t bandwidth, struct error *err);

/* Does the guest write to the copy itself by now? Errors: as qmp_command. */
int mirror_has_moved(const struct running *running, const struct state_mirror *mirror, bool *has_moved,
                     struct error *err);

/* Lets the guest run on, where it was stopped for a copy. */
int mirror_resume(const struct running *running, struct error *err);

/*
 * Ends the job if there is one, unlinks the copy if we made it, and forgets it. `why` is for people. Errors:
 * as block_mirror_drop, mirror_save: then it is still known.
 */
int mirror_drop(struct mirroring *mirroring, unsigned position, const char *why, struct error *err);

/* Closes the copy in the QEMU, and forgets it; its file stays. */
int mirror_keep(struct mirroring *mirroring, unsigned position, struct error *err);

/*
 * The QEMU has moved to the copy: the old nodes are closed, and the state says so, durably. Errors: as
 * change_commit; then the guest must not run on.
 */
int mirror_finish_pivot(struct mirroring *mirroring, unsigned position, struct error *err);

/* What is left to do then: resumes the guest, and forgets the copy as such. */
int mirror_end_pivot(struct mirroring *mirroring, unsigned position, struct error *err);

/*
 * Brings what the state says of copies together with what the QEMU does. 0 also where there are none. Errors,
 * after which that is to be tried again: where the QEMU does not answer, or the state can't be saved.
 */
int mirror_settle(struct administration *administration, uint64_t domain, struct error *err);
