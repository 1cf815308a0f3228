// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A client of the QEMU guest agent (QEMU's qga/qapi-schema.json), by the socket of its virtio-serial channel:
 * freezing a guest's file systems and thawing them.
 *
 * The channel keeps bytes while no agent runs, for one that may come much later. So each call first makes
 * sure, by guest-sync-delimited with a random number, that an agent answers now, and throws away what is left
 * of earlier talk. A freeze goes out only then, and where its own answer fails to come a thaw is sent after
 * it: whoever carries out the one carries out the other. Who hangs up leaves the guest as it is: after a
 * crash of ours, connect, and thaw.
 *
 * What answers is the guest, and is not trusted: what it sends is bounded in size and number, and nothing
 * waits without bound. An agent can lie about all it does. A paused domain's agent can't answer.
 *
 * One client at a time is connected to a channel; another one waits, and is not answered. One thread at a
 * time.
 */
#pragma once

#include <stdbool.h>

#include "base/error.h"

#define GUEST_AGENT_GARBAGE_BYTES_MAX (1U << 20) /* that are thrown away while an answer is waited for */
#define GUEST_AGENT_LINE_BYTES_MAX    (64U << 10)

struct guest_agent;

/*
 * Connects to the channel's UNIX socket, and asks nothing yet. `name` is what texts of errors call the agent
 * (copied). Errors: ENOENT, ECONNREFUSED (the socket is a dead QEMU's), EACCES, ETIMEDOUT.
 */
int guest_agent_connect(const char *path, const char *name, int timeout_ms, struct guest_agent **agent,
                        struct error *err);

/* The same over a connected stream socket, which is taken over also on failure; `*socket` becomes -1. */
int guest_agent_take(int *socket, const char *name, struct guest_agent **agent, struct error *err);

/* Hangs up; what is frozen stays frozen. Takes NULL. */
void guest_agent_free(struct guest_agent *agent);

/*
 * Of all these `timeout_ms` is for the whole call, and errors are: ETIMEDOUT where no agent answers (in
 * time), after which other calls can be tried; ECONNRESET, EPIPE where QEMU is gone; EPROTO for answers that
 * are none; EOPNOTSUPP where this agent can't, or may not; EIO for what it says failed, with its text.
 */

/* Whether an agent answers. */
int guest_agent_ping(struct guest_agent *agent, int timeout_ms, struct error *err);

/* Whether it has frozen file systems. */
int guest_agent_is_frozen(struct guest_agent *agent, int timeout_ms, bool *frozen, struct error *err);

/*
 * Freezes the guest's file systems, `*count` of them (may be NULL). To be followed by guest_agent_thaw, and
 * soon: whatever in the guest writes waits. Errors: also EBUSY where they were frozen already, by somebody
 * else. After all other errors the guest was never told to freeze, or has thawed, or `*owes_thaw` is true:
 * then it may be frozen, now or later, and is to be thawed over a new connection until it answers.
 */
int guest_agent_freeze(struct guest_agent *agent, int timeout_ms, unsigned *count, bool *owes_thaw,
                       struct error *err);

/*
 * Thaws what is frozen, `*count` file systems (may be NULL). 0 also where none was. After ETIMEDOUT it has
 * been told, and will do so if it answers again.
 */
int guest_agent_thaw(struct guest_agent *agent, int timeout_ms, unsigned *count, struct error *err);
