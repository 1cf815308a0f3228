// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The memory of a domain that is about to be ended, in a file beside its first disk: so that it can go on
 * where it was if what it is ended for fails. Inside of administration/.
 */
#pragma once

#include "administration/change.h"
#include "administration/running.h"
#include "store/restart.h"

/*
 * Saves it, and notes in the store how the domain goes on (`restart`, of which all else is filled in). The
 * guest stands still then, and can only be ended, or go on by resume_pending. Errors, after which it is to go
 * on by that as well: ENOSPC before anything is done; EINTR; as memory_save_begin, memory_save_copy and
 * memory_save_finish; what writing gives.
 */
int put_aside(struct change *change, struct running *running, struct restart *restart, struct error *err);
