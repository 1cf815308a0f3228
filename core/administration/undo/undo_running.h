// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Operations on running domains that were interrupted. A disk that goes on in another file can't be brought
 * back: where that has happened the operation is completed, with the state that was written down before
 * (change_save_next); where not, it is undone like others. Its QEMU knows which; where there is none any
 * more, the overlays tell, which a guest has written to or not. Inside of undo.h.
 */
#pragma once

#include <sys/types.h>

#include "administration/inside.h"
#include "machine/machine.h"
#include "store/journal.h"

/* The QEMU of the operation's domain, if there is one. */
struct undo_running {
    struct machine *machine; /* that lends `qmp`; NULL: it is a connection of our own */
    struct qmp *qmp;         /* NULL: there is no QEMU */
};

/* Is it an operation on a running domain? */
bool undo_is_running(const struct journal_record *record);

/* Reaches the QEMU. Errors: ETIMEDOUT and others where there is one that does not answer. */
int undo_running_begin(struct administration *administration, const struct journal_record *record,
                       struct undo_running *running, struct error *err);
void undo_running_end(struct undo_running *running);

/* Thaws what an operation of a predecessor may have left frozen, now or later (thaws.h). */
void undo_running_thaw(struct administration *administration, const struct journal_record *record);

/* Lets the guest run on that the operation has stopped. 0 also where there is no QEMU. */
int undo_running_resume(const struct undo_running *running, struct error *err);

/* Has it happened beyond undoing? 1, 0; negative where that can't be told now. */
int undo_running_has_happened(const struct undo_running *running, const struct journal_record *record,
                              struct error *err);

/*
 * Ends what the operation has begun of saving its memory, and lets the guest do what it did before. Errors:
 * as memory_save_recover.
 */
int undo_running_go_on(const struct undo_running *running, const struct journal_record *record,
                       bool has_happened, struct error *err);

/* Replaces the state by the one that was to come. Errors: as store_read_next and store_save. */
int undo_running_complete(struct administration *administration, const struct journal_record *record,
                          struct error *err);

/*
 * Has the QEMU close the file, this very one, where the operation had it opened there and did not come to
 * using it: it is removed, or, where it is the user's, to be used again. What it does not close stays open
 * there under a name that nobody uses again, and is no reason not to undo the rest.
 */
void undo_running_close(const struct undo_running *running, const char *path, ino_t inode);

/*
 * Takes an internal snapshot out of an image that the QEMU has open. -ENODEV, without a text, where it has
 * not, or there is none.
 */
int undo_running_internal(const struct undo_running *running, const char *path, const char *tag,
                          struct error *err);
