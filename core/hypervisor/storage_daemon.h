// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A qemu-storage-daemon of our own: QEMU's block layer for domains that are not running, driven by QMP.
 *
 * It runs confined (helper/sandbox.h): it reaches the files that it is given and no others, whatever the
 * images in it say, and ends when we do. The QMP connection is a socketpair, so nobody else can talk to it.
 * It opens block nodes as blockdev-add takes them (QEMU's qapi/block-core.json, BlockdevOptions), each file
 * and each format a node of its own, so that nothing is opened because an image names it.
 *
 * Started without nodes it holds no image and no lock. What it can reach is settled at its start. Nodes that
 * are known then are opened by its command line, since its monitor takes 5 us for each byte that is sent
 * (7.2).
 *
 * In QEMU 7.2 it crashes over a blockdev-snapshot-sync that is to make the overlay itself: make the overlay
 * first (block_overlay.h) and use block_snapshot_external.
 *
 * One thread at a time.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"
#include "hypervisor/qmp.h"

#define STORAGE_DAEMON_FIRST_FD 4 /* after the monitor's */

struct storage_daemon;

struct storage_daemon_spec {
    /*
     * Files and block devices (directories: with all below) that it may read, and those that it may write,
     * too; NULL-terminated, NULL: none. Each must exist. What counts is the file that the path leads to now:
     * another one that takes its name later is not reached. A caller who has the file open and checked
     * gives /proc/self/fd/N.
     */
    const char *const *read_paths;
    const char *const *write_paths;
    /*
     * Descriptors that it gets, for reading too; the first is number STORAGE_DAEMON_FIRST_FD in it, so that a
     * "filename" of /proc/self/fd/N, with that number, is exactly this file, whatever its name leads to.
     */
    const int *pass_fds;
    size_t pass_fd_count;
    /*
     * Opened in this order; borrowed. For each:
     *   "node-name"  as block_node_name_is_legal wants it
     *   "driver"     for "file" and "host_device" with an absolute "filename"; for others with "file" (and
     *                "data-file" where there is one) by node name
     *   "backing"    null or a node name; not to be left out with formats that know backing files
     */
    struct json_object *const *nodes;
    size_t node_count;
    size_t memory_bytes;   /* that it may allocate; 0: any */
    int timeout_ms;        /* for its start and the opening of all nodes */
    bool without_landlock; /* see sandbox_spec */
};

/*
 * Starts it, and does not wait for it: it takes some milliseconds, in which the caller can do something else.
 * To be followed by storage_daemon_await, and by storage_daemon_stop in any case. Errors: EINVAL for a node
 * that is not spelled out; ENOENT (not installed, or no such path) and EOPNOTSUPP (no Landlock) from
 * sandbox_start.
 */
int storage_daemon_launch(const struct storage_daemon_spec *spec, struct storage_daemon **daemon,
                          struct error *err);

/*
 * Returns when all nodes of the spec are open. Errors: EBUSY where another process uses an image, and others
 * as qmp_errno tells them from QEMU's text; ETIMEDOUT; ECONNRESET where it ended, with what it said.
 */
int storage_daemon_await(struct storage_daemon *daemon, int timeout_ms, struct error *err);

/* The node that could not be opened, after storage_daemon_await has failed; "": it was not for that.
 * Borrowed.
 */
const char *storage_daemon_failed_node(const struct storage_daemon *daemon);

/* Both; what fails to start is stopped. */
int storage_daemon_start(const struct storage_daemon_spec *spec, struct storage_daemon **daemon,
                         struct error *err);

/* The client that drives it; borrowed. When the daemon ends, its errors say how that came. */
struct qmp *storage_daemon_qmp(struct storage_daemon *daemon);
pid_t storage_daemon_pid(const struct storage_daemon *daemon);

/* Opens one more node, of files that were given at the start; closes one. Errors: EINVAL for a node that is
 * not spelled out; what qmp_command gives; EBUSY for closing one that others use. */
int storage_daemon_add_node(struct storage_daemon *daemon, struct json_object *node, int timeout_ms,
                            struct error *err);
int storage_daemon_delete_node(struct storage_daemon *daemon, const char *node_name, int timeout_ms,
                               struct error *err);

/*
 * Writes out all that QEMU keeps of a writable node in memory, and flushes its file. `backing` is the node
 * that is the backing of this one now; NULL: none. (The storage daemon has no command for that;
 * blockdev-reopen with the options that the node has does it, and reports failure.) Errors: ENODEV for a node
 * that was not opened by storage_daemon_start or _add_node; EIO and others.
 */
int storage_daemon_flush(struct storage_daemon *daemon, const char *node_name, const char *backing,
                         int timeout_ms, struct error *err);

/*
 * Has it begin to close its images and to end, which storage_daemon_stop waits for. Nothing else can be asked
 * of it then. What goes wrong here storage_daemon_stop tells.
 */
void storage_daemon_begin_stop(struct storage_daemon *daemon, int timeout_ms);

/*
 * After storage_daemon_begin_stop, for images whose content is flushed: waits until it has closed them, which
 * `is_open` tells, and not for its end. Frees the daemon; false where it did not close them in that time, or
 * was not told to, and was killed.
 */
bool storage_daemon_leave(struct storage_daemon *daemon, bool (*is_open)(void *opaque), void *opaque,
                          int timeout_ms);

/*
 * Has it close its images and end, and waits; kills it after `timeout_ms`. Frees in any case; takes NULL.
 * Errors: ETIMEDOUT where it had to be killed, EIO where it had ended before or ends with an error. Images
 * that were open for writing then can have leaks, which is no damage.
 */
int storage_daemon_stop(struct storage_daemon *daemon, int timeout_ms, struct error *err);

/* True for what QEMU takes as a node's name: a letter, then up to 30 letters, digits, '-', '.' and '_'. */
bool block_node_name_is_legal(const char *name);
