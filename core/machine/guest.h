// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A QEMU that we started, and that goes on when we end: its process, and its private directory (runtime.h),
 * where the next of us finds it:
 *
 *     record       which process it is
 *     monitor      its QMP monitor for who administers the source
 *     monitor-2    another one, for people
 *     log          what it said, at most a megabyte
 *     command      what it was started with, each word with a zero byte after it
 *
 * There is a record of every process, since it becomes QEMU only after that was written. One thread at a
 * time, but for guest_find.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "helper/lasting.h"

struct guest {
    struct lasting_process process;
    char *directory;
    char *monitor; /* that we talk to */
};

/* How one ended that nobody saw end. */
enum guest_trace { GUEST_NO_TRACE, GUEST_ENDED, GUEST_KILLED };

/*
 * The guest whose directory this is, if it runs; -ESRCH, without a text, if there is none. Then `*trace`
 * tells of one that there was; its directory is removed. Other errors: EPERM, ENOMEM, EIO for a record
 * that can't be read.
 */
int guest_find(const char *directory, struct guest **guest, enum guest_trace *trace, struct error *err);

/* Does it run? Changes nothing; any thread. */
bool guest_is_there(const char *directory);

/* Removes what one left that has ended. */
void guest_sweep(const char *directory);

/* The paths of its sockets, which a launch names: two strings to be freed, then NULL. -ENOMEM. */
int guest_monitors(const char *directory, char *monitors[3]);

/* Starts one: `argv` is what it is started with, `working` where. Errors: as runtime_make and lasting_start.
 */
int guest_start(const char *directory, const char *const *argv, const char *working, struct guest **guest,
                struct error *err);

/* Does what it was started with begin with these words, NULL-terminated? */
bool guest_was_started_with(const struct guest *guest, char *const *words);

/* The last lines that it said, as one line without control characters; empty if it said nothing. */
void guest_said(const struct guest *guest, char *text, size_t size);

/* Keeps what it says from filling the file system. Any thread. */
void guest_shorten_log(const char *directory);

/* It has ended: its directory is removed. */
void guest_bury(const struct guest *guest);

/* Lets go of it; it goes on. Takes NULL. */
void guest_free(struct guest *guest);
