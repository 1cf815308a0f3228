// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Guests that were told to freeze their file systems, and did not answer when they were told to thaw them:
 * they are told so again and again, by a thread of its own, since all others may be busy for long, until they
 * answer or their QEMU has ended. While the operation that froze them is under way its journal says that they
 * are to be thawed; before that is gone the store says so (store/thaw_owed.h), for who comes after us.
 *
 * Only a guest that we have told to freeze is thawed, and only in the QEMU that it ran in then.
 *
 * Any thread may call.
 */
#pragma once

#include "administration/inside.h"
#include "store/thaw_owed.h"

/* With what the store has of predecessors. No thread runs yet. Errors: ENOMEM, EIO. */
int thaws_new(struct administration *administration, struct thaws **thaws, struct error *err);

/* Starts the thread (after a daemon's last fork). */
int thaws_start(struct thaws *thaws, struct error *err);

/* Ends the thread; waits for an answer that it waits for, no longer than that may take. Takes NULL, as
 * thaws_free. */
void thaws_stop(struct thaws *thaws);
void thaws_free(struct thaws *thaws);

/*
 * Has the guest of `domain` thawed, which was told to freeze, by the agent at this socket, in the QEMU whose
 * monitor has that one ("": not known): tries it at once, and where that fails it is told of in the log and
 * the domain's events, written down, and done later.
 */
void thaws_owe(struct thaws *thaws, const struct thaw_owed *owed);

/*
 * Before a guest is frozen: what was frozen before is thawed. 0 also where nothing is owed. Errors: as
 * guest_agent_thaw; it is tried again later.
 */
int thaws_pay(struct thaws *thaws, uint64_t domain, struct error *err);

/* What tells the QEMU from the next one: the socket of its monitor, which is made anew; zeros: not known. */
struct file_identity thaws_identify(const char *monitor);
