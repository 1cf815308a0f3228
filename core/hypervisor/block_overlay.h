// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * New overlay files, made so that no file that is there is ever touched, and that a power cut leaves either
 * nothing under the final name or the whole file:
 *
 *     reserve   a temporary name, with O_EXCL    the caller then gives it owner, mode, attributes
 *     create    the qcow2 header and tables      by QEMU, which needs no other file for it
 *     flush     file and directory               the caller then writes his intent
 *     publish   rename to the final name         never over a file that is there
 *
 * Killed anywhere before publish, a file under the temporary name is left, which block_overlay_abandon
 * removes.
 */
#pragma once

#include "hypervisor/block_nodes.h"
#include "hypervisor/qmp_job.h"

/* Makes an empty file, mode 0600. `*fd` is the caller's. Errors: EEXIST and what openat gives. */
int block_overlay_reserve(int directory, const char *temporary_name, int *fd, struct error *err);

struct block_overlay_spec {
    const char *path;         /* absolute; the reserved file. The engine has to be able to write to it */
    const char *backing_name; /* what its header says, at most 1023 bytes; it is not opened. NULL: no overlay,
                                 but an image that lies on nothing */
    const char *backing_format; /* QEMU's name; never to be guessed: NULL is refused with a name */
    uint64_t size_bytes;        /* virtual; a multiple of 512 */
    uint32_t cluster_bytes;     /* 0: QEMU's default */
    const char *job_id;         /* of the job that makes it */
};

/*
 * Makes a reserved file a qcow2 overlay. Nothing of it stays open, and nothing is flushed yet. Errors, after
 * which the file's content is garbage: ENOSPC, EINVAL, ENAMETOOLONG, EACCES; as qmp_job_run.
 */
int block_overlay_create(const struct block_engine *engine, const struct block_overlay_spec *spec,
                         const struct qmp_job_watch *watch, struct error *err);

/* The same for several at once, each with a job id of its own. After an error all are garbage. */
int block_overlay_create_all(const struct block_engine *engine, const struct block_overlay_spec *specs,
                             size_t count, const struct qmp_job_watch *watch, struct error *err);

/* Makes its content, and its temporary name, survive a power cut. Errors: what fsync gives. */
int block_overlay_flush(int directory, int fd, struct error *err);

/*
 * Gives it its name, durably. Can be repeated after a crash: ENOENT says that the temporary name is gone.
 * Errors: EEXIST where there is another file of that name, which stays; what rename and fsync give.
 */
int block_overlay_publish(int directory, const char *temporary_name, const char *name, struct error *err);

/* Removes the temporary file, durably. 0 also where there is none. */
int block_overlay_abandon(int directory, const char *temporary_name, struct error *err);

/*
 * Opens an overlay in a running QEMU, as nodes `name` and, for its file, `file_name`, for
 * block_snapshot_external: it stands on nothing yet. Errors, after which neither is there: EACCES where that
 * QEMU may not open it; as qmp_command.
 */
int block_overlay_open(const struct block_engine *engine, const char *name, const char *file_name,
                       const char *path, struct error *err);

/* Closes one that was not put on top. Errors: EBUSY where it was; as qmp_command. */
int block_overlay_close(const struct block_engine *engine, const char *name, const char *file_name,
                        struct error *err);
