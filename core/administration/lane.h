// SPDX-License-Identifier: LGPL-2.1-or-later
/* Lanes for background work: a domain belongs to whoever has made its lane busy. Inside of administration/.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct administration;
struct lane;

/* The lane of the domain, made if there is none; NULL: out of memory. With the lock held. */
struct lane *lane_get_locked(struct administration *administration, uint64_t domain);

/* The lane is nobody's any more. True: the reclaimer is to be woken, without the lock. */
bool lane_give_back_locked(struct lane *lane);

/* Makes the lanes of all these domains busy, if none of them is and no request waits in one. Else the
 * reclaimer is woken when one is given back. */
bool lanes_try_take(struct administration *administration, const uint64_t *domains, size_t count);
void lanes_give_back(struct administration *administration, const uint64_t *domains, size_t count);
