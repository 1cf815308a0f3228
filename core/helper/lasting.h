// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Programs that outlive us: starting one, and finding it again in another life of ours.
 *
 * A process is known by its number and the time at which it was started, since numbers are used again; and
 * from when it was found by a pidfd, so that a signal never reaches another one. It runs with our own rights
 * and environment, in a session of its own, and has no descriptor of ours.
 *
 * Any thread.
 */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct lasting_process {
    pid_t pid;
    uint64_t started; /* clock ticks after the machine's start (proc(5), starttime) */
    int pidfd;        /* readable from its end on; to be polled and no more */
};

struct lasting_spec {
    const char *const *argv; /* argv[0] is looked up in PATH unless it is absolute; NULL-terminated */
    const char *directory;   /* its working directory */
    int output_fd;           /* its standard output and standard error */
};

/*
 * Called when the process exists, and before it becomes the program: what is needed to find it again has to
 * be written down here. A negative errno, with a text, and it never becomes the program; nor does it if we
 * are killed.
 */
typedef int lasting_note(void *opaque, const struct lasting_process *process, struct error *err);

/* To be given back with lasting_close. Errors: ENOENT, there is no such program; what `note`, fork and exec
 * give. */
int lasting_start(const struct lasting_spec *spec, lasting_note *note, void *opaque,
                  struct lasting_process *process, struct error *err);

/* The process, if it still runs. ESRCH: it has ended, whoever has its number now. */
int lasting_find(pid_t pid, uint64_t started, struct lasting_process *process, struct error *err);

/*
 * False while it runs. Once it has ended `*status` is as waitid(2) gives it; si_pid is 0 where that can't be
 * known, since it was no child of ours. The first call after its end buries it, and only that one tells.
 */
bool lasting_has_ended(const struct lasting_process *process, siginfo_t *status);

/* Has it ended? Buries nobody. */
bool lasting_is_over(const struct lasting_process *process);

/* Sends the signal. ESRCH, EPERM. */
int lasting_signal(const struct lasting_process *process, int number);

/* Lets go of it. Safe to call twice. */
void lasting_close(struct lasting_process *process);
