// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Starting a helper program (qemu-nbd, qemu-img, the storage daemon) so that it reaches the files that it
 * needs and no others, and ends when we do.
 *
 * The child runs under Landlock (Linux >= 5.13) with read access to the given paths and to what any program
 * needs to run, without sockets of its own but of the kind that is asked for, and without capabilities but
 * those that its files need; it has no descriptor but 0, 1, 2 and the passed ones, an empty environment but
 * for PATH, LANG and HOME, its own session, and PR_SET_PDEATHSIG; when memory runs out the kernel takes it
 * before us. Where the kernel has no Landlock, helpers are refused (EOPNOTSUPP) unless the caller says that
 * it trusts the image.
 *
 * Any thread may call, also one that ends before the helper: all helpers are started by one thread of their
 * own, since PDEATHSIG means the thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

#define SANDBOX_FIRST_FD 3    /* the number that the first of pass_fds has in the child */
#define SANDBOX_FDS_MAX  2048 /* a disk of 2 TB in extents of 2 GB has 1024 */

enum sandbox_network {
    SANDBOX_NO_NETWORK,
    SANDBOX_INTERNET,     /* it may make IPv4 and IPv6 sockets, and read what name resolution needs */
    SANDBOX_UNIX_SOCKETS, /* it may make UNIX sockets, and connect wherever their modes let it */
};

struct sandbox_spec {
    const char *const *argv; /* argv[0] is looked up in PATH unless it is absolute; NULL-terminated */
    const char *const
        *read_paths; /* files or directories, with everything below; NULL-terminated, may be NULL */
    const char *const *read_if_there; /* the same, but those that do not exist are passed over */
    const char *const *write_paths;   /* the same, for reading and writing (a socket's directory) */
    /*
     * Descriptors that the child gets, numbered from SANDBOX_FIRST_FD on in this order. Files and block
     * devices among them may also be opened anew, for reading, as /proc/self/fd/N: so a program that wants a
     * name gets exactly the file that was checked, whatever its name leads to by then.
     */
    const int *pass_fds;
    size_t pass_fd_count;
    size_t memory_bytes; /* that it may allocate (RLIMIT_DATA); 0: any */
    bool take_stdout;    /* what it writes to standard output comes as if it were on standard error */
    bool listen;         /* the first of pass_fds is a listening socket, told as systemd does: LISTEN_FDS=1 */
    enum sandbox_network network;
    const char *home;      /* HOME in its environment; NULL: "/" */
    bool without_landlock; /* run even where the kernel has none: only for images that are trusted */
};

struct helper_process {
    pid_t pid;
    int pidfd;
    int stderr_fd; /* the read end of its standard error, non-blocking */
};

/*
 * Starts the program; on success it runs, confined. Errors: ENOENT (not installed, with the package to
 * install; or a path that is to be readable does not exist), EOPNOTSUPP (no Landlock), what fork and exec
 * give.
 */
int sandbox_start(const struct sandbox_spec *spec, struct helper_process *process, struct error *err);

/* True while it has not ended. */
bool sandbox_running(const struct helper_process *process);

/*
 * Ends and reaps it, and closes the descriptors: SIGTERM, then SIGKILL after `grace_ms`; 0 kills at once. One
 * that does not even end then (its storage hangs) is reaped later, and not waited for.
 * Safe to call twice, and on a process that is all zeros.
 */
void sandbox_end(struct helper_process *process, int grace_ms);

/* The same for one that has nothing more to lose: it is killed, and reaped soon, and not waited for. */
void sandbox_leave(struct helper_process *process);

/*
 * Takes what it said on standard error since the last call: at most `size - 1` bytes, terminated, last
 * newlines cut. To be called before sandbox_end, which throws the rest away.
 */
void sandbox_stderr(const struct helper_process *process, char *buffer, size_t size);
