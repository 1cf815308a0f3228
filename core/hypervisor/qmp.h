// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A client of the QEMU Machine Protocol (QEMU's docs/interop/qmp-spec.rst), for the monitor of a QEMU or of a
 * storage daemon.
 *
 * One command is under way at a time. Events that come meanwhile are queued for qmp_event_wait, within
 * bounds: of too many the oldest are lost and counted, so nothing may depend on an event alone; ask for the
 * state, and take events as the reason to ask again.
 *
 * Nothing waits without bound, and nothing that comes from the other side is trusted. A client dies when the
 * peer closes, breaks the protocol, or leaves a command unanswered for its time: what it is doing is then not
 * known. A dead client fails every call with the errno that it died of and can only be freed.
 *
 * A QEMU reads what it is told byte by byte, in its main loop, and each byte takes it 5 to 7 us (7.2): short
 * commands, and few, are quicker ones.
 *
 * One thread at a time may use a client; only qmp_cut may be called beside it.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define QMP_EVENTS_MAX       1024
#define QMP_EVENTS_BYTES_MAX (256U << 10) /* of their lines */

struct qmp;

struct qmp_version {
    unsigned major, minor, micro;
};

/*
 * Connects to a monitor's UNIX socket and leaves the capabilities mode. `name` is what texts of errors call
 * the peer (copied). `timeout_ms` is for all of it.
 * Errors: ENOENT, ECONNREFUSED (the socket is a dead QEMU's), EACCES; ETIMEDOUT where no greeting comes: QEMU
 * talks to one client at a time, and lets a second one wait; EPROTO where the peer is no QMP monitor.
 */
int qmp_connect(const char *path, const char *name, int timeout_ms, struct qmp **client, struct error *err);

/* The same over a connected stream socket, which is taken over also on failure; `*socket` becomes -1. */
int qmp_take(int *socket, const char *name, int timeout_ms, struct qmp **client, struct error *err);

/*
 * The same in two steps, for a monitor that does not run yet, and whose other end nobody else ever has: what
 * leaves the capabilities mode is put into the socket, where it is read as soon as there is a monitor. (QEMU
 * 7.2 greets first, and then reads what has come.) Errors of the first: what send gives; nothing waits.
 */
int qmp_begin(int socket, struct error *err);
int qmp_take_begun(int *socket, const char *name, int timeout_ms, struct qmp **client, struct error *err);

/* Closes the connection. Takes NULL. */
void qmp_free(struct qmp *client);

/* Ends the connection, so that whatever waits in the client fails with ECONNRESET. Any thread. */
void qmp_cut(struct qmp *client);

/* Makes the client dead, for a caller that finds the peer in a state that can't be known. Returns -code. */
int qmp_give_up(struct qmp *client, int code, const char *text, struct error *err);

/* The descriptor, to be polled together with others, and for nothing else: when it is readable,
 * qmp_event_wait has something to look at. */
int qmp_fd(const struct qmp *client);

bool qmp_is_dead(const struct qmp *client);

/* The process that made the monitor's socket, as the kernel tells (SO_PEERCRED, unix(7)): the QEMU, or who
 * gave it that socket; 0: not known. */
pid_t qmp_peer(const struct qmp *client);
struct qmp_version qmp_version(const struct qmp *client);

/*
 * Who knows why a peer is gone can have it said in the error: called once, when the connection has ended;
 * `text` (`size` bytes, at least one) becomes part of the text, where it is not empty.
 */
typedef void qmp_explain(void *opaque, char *text, size_t size);
void qmp_set_explain(struct qmp *client, qmp_explain *explain, void *opaque);

/*
 * Sends a command and waits for its answer.
 *   arguments  an object, borrowed; NULL: none
 *   reply      what the command returned, to be put with json_object_put (NULL for null); may be NULL itself
 * Errors: what qmp_errno makes of a refusal, with QEMU's text; EINVAL where the arguments are no UTF-8
 * (nothing was sent). Deadly: ETIMEDOUT; ECONNRESET or EPIPE where the peer is gone; EPROTO. After a deadly
 * error it is not known whether the command was carried out.
 */
int qmp_command(struct qmp *client, const char *command, struct json_object *arguments, int timeout_ms,
                struct json_object **reply, struct error *err);

/* The same with a descriptor that the peer gets a duplicate of, as getfd and add-fd want it. */
int qmp_command_fd(struct qmp *client, const char *command, struct json_object *arguments, int fd,
                   int timeout_ms, struct json_object **reply, struct error *err);

/*
 * Sends a command whose answer nobody waits for; the client can only be freed then. Errors: as qmp_command,
 * without refusals.
 */
int qmp_send_last(struct qmp *client, const char *command, int timeout_ms, struct error *err);

/* True for the events that are waited for. `data` is an object, or NULL where the event has none. */
typedef bool qmp_event_filter(const char *name, struct json_object *data, void *opaque);

/*
 * Takes the oldest event that `filter` (NULL: any) is true for, waiting for one; others stay queued. With
 * `timeout_ms` 0 it only looks at what has come.
 *   event  the whole event ("event", "data", "timestamp"), the caller's; may be NULL
 * Errors: ETIMEDOUT, of which the client does not die, and which sets no text where `timeout_ms` is 0; and
 * the deadly ones of qmp_command.
 */
int qmp_event_wait(struct qmp *client, qmp_event_filter *filter, void *opaque, int timeout_ms,
                   struct json_object **event, struct error *err);

/* Forgets the events that are queued. */
void qmp_events_clear(struct qmp *client);

/* How many events were thrown away because nobody took them. */
uint64_t qmp_events_lost(const struct qmp *client);
