// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Having a domain go on whose QEMU an operation has ended, or started, and that was interrupted or has failed
 * (store/restart.h): where the operation has happened, in the state that it was to lead to; where not, from
 * where it was, with the memory that was put aside before its QEMU was ended.
 *
 * What can't go on stays shut off, with its disks as they are, and an event says why, and where its memory is
 * kept if that could not be loaded. Memory is never loaded
 * twice: before a guest runs with it, that is written down. Inside of administration/.
 */
#pragma once

#include "administration/inside.h"
#include "machine/machine.h"
#include "store/restart.h"

/*
 * To be called by whoever owns the domain's lane, between changes. 0: it goes on, or there was nothing to do;
 * 1: it stays shut off, and `err` says why. Errors, after which it is tried again before its next change:
 * ETIMEDOUT, its QEMU does not answer; EINTR, the program ends; those of change_begin.
 */
int resume_pending(struct administration *administration, uint64_t domain, struct error *err);

/*
 * The domain's guest was ended on request: nothing is to go on any more, and memory that was put aside for
 * that is removed. By whoever owns the lane. 0 also where nothing was to go on; else it may still be started
 * again. Errors: as domain_file_read, for a record that is damaged; as resume_forget.
 */
int resume_drop(struct administration *administration, uint64_t domain, struct error *err);

/* Has all of them go on, in their lanes. At start. */
void resume_all(struct administration *administration);

/*
 * An operation that the journal has, and that has not happened, is about to be undone: ends the QEMU that it
 * may have started on the disks that are to be undone. Errors: as machines_end_guest.
 */
int resume_clear_way(struct administration *administration, uint64_t domain, uint64_t operation,
                     struct error *err);

/* Its guest is about to run: the memory that it has must never be loaded again. Errors: as
 * store_save_restart. */
int resume_note_run(struct administration *administration, struct restart *restart, struct error *err);

/* All is done: removes the memory that was put aside, and then `restart`. */
int resume_forget(struct administration *administration, const struct restart *restart, struct error *err);
