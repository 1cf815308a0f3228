// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The QEMU of one domain, as it is known here: which state it is in, and the one connection to its monitor.
 *
 * While there is a QEMU, a thread of the machine's keeps the connection, hears its events, and publishes the
 * state, which anybody reads without waiting. Who wants to send commands borrows the connection and has it
 * alone until it is returned. A connection that is lost is made again; the state is then asked, never
 * assumed. While there is none, there is no thread, and whoever owns the machine (machines.h) has it look
 * from time to time.
 *
 * A QEMU that does not answer, or whose monitor another client has, holds up nobody but its own thread: it is
 * MACHINE_SILENT, with the reason, and borrowing fails at once.
 *
 * Any thread may call, but for what is said.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "hypervisor/qmp.h"
#include "hypervisor/run_state.h"

/* For the answer to a question about the state; what takes longer is no answer. */
#define MACHINE_ANSWER_MS 5000

enum machine_contact {
    MACHINE_UNKNOWN,   /* nobody has looked yet, or it is being connected to */
    MACHINE_OFF,       /* there is no QEMU that we know how to reach */
    MACHINE_SILENT,    /* there is one, and it does not answer: `state` is not known */
    MACHINE_CONNECTED, /* `state` is what it said last */
};

struct machine_report {
    enum machine_contact contact;
    enum run_state state;         /* MACHINE_OFF: shut off or crashed */
    bool is_there;                /* a QEMU of ours lives, also where nothing else is known of it yet */
    char problem[ERROR_TEXT_MAX]; /* why it does not answer, or crashed; empty: nothing to say */
};

struct machine;

/*
 * Something about the machine changed: `line` for people, NULL where only the report did. Called without
 * locks, from the machine's thread or from who changed it. Must not wait.
 */
typedef void machine_changed(void *opaque, uint64_t domain, const char *line);

struct machine_options {
    uint64_t domain; /* serial */
    const char *name;
    const char *directory;    /* for a guest that we start (runtime.h); NULL: there is no place for it */
    machine_changed *changed; /* may be NULL */
    void *opaque;
};

/* One reference; strings are copied. NULL where memory ran out. */
struct machine *machine_new(const struct machine_options *options);
struct machine *machine_ref(struct machine *machine);

/* The last one ends the thread and waits for it. Takes NULL. */
void machine_unref(struct machine *machine);

uint64_t machine_domain(const struct machine *machine);

/* Where the monitor of a QEMU is that others run; NULL: nowhere. Does not wait. -ENOMEM. */
int machine_set_monitor(struct machine *machine, const char *path);

/* Looks for its QEMU where none is known; if there is one the thread takes over. Does not wait for it. */
void machine_visit(struct machine *machine);

/* Lets go of the QEMU, which goes on: the thread ends soon, and visits find nothing any more. Does not wait.
 */
void machine_stop(struct machine *machine);

void machine_report(struct machine *machine, struct machine_report *report);

/*
 * The connection to its monitor, for this caller alone until machine_return, which must come. The state that
 * the QEMU is in by then is asked first; `state` may be NULL. Errors: ESRCH, there is no QEMU; ETIMEDOUT, it
 * does not answer, or somebody else had the connection for all of `timeout_ms`; ECONNRESET, it ended.
 */
int machine_borrow(struct machine *machine, int timeout_ms, struct qmp **qmp, enum run_state *state,
                   struct error *err);
void machine_return(struct machine *machine, struct qmp *qmp);

/* For who has borrowed: asks the state anew, and publishes it. Errors: as qmp_command. */
int machine_look(struct machine *machine, struct qmp *qmp, enum run_state *state, struct error *err);

/* Called now and then while something is waited for; true: give up. */
typedef bool machine_cancelled(void *opaque);

/*
 * Starts a QEMU with these arguments (launch.h), in the directory `working`, and waits until it answers. It
 * is not ours to end, but by being asked to: it goes on when we end, and is found by the next of us. Errors:
 * EBUSY, it runs already, or somebody else has its images; EINTR, cancelled; ETIMEDOUT, it never answered;
 * what guest_start gives; else what it said before it ended, with the errno that this comes to. After an
 * error it does not run.
 */
int machine_launch(struct machine *machine, char *const *argv, const char *working,
                   machine_cancelled *cancelled, void *opaque, struct error *err);

/* Where the sockets of a launch will be: guest_monitors. EOPNOTSUPP: there is no place for them. */
int machine_monitors(const struct machine *machine, char *monitors[3], struct error *err);

/* Its end, whatever it is, was asked for: it is no crash. */
void machine_expect_end(struct machine *machine);
void machine_forget_end(struct machine *machine); /* and is not any more */

/* Did we start the QEMU that runs, and does its command begin with these words (a definition's launch)? */
bool machine_was_started_with(struct machine *machine, char *const *launch);

/* Did we start the QEMU that is there now? */
bool machine_is_ours(struct machine *machine);

/* What the last QEMU of ours said before it ended; empty if nothing, or if that is not known. */
void machine_last_words(struct machine *machine, char *text, size_t size);

/* Kills a QEMU that we started. EOPNOTSUPP: others did. Its end has to be waited for. */
int machine_kill(struct machine *machine, struct error *err);

/* Waits until there is no QEMU any more. ETIMEDOUT: there still is. */
int machine_await_off(struct machine *machine, int timeout_ms, struct error *err);
