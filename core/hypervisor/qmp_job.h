// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * QEMU's background jobs (QEMU's qapi/job.json): block-commit, block-stream, blockdev-mirror,
 * blockdev-create, snapshot-save and their like, from their command to their end.
 *
 * A command that is accepted says nothing about its job, and so does an event. A job has succeeded when
 * query-jobs says "concluded" and no "error"; it stays listed until it is dismissed here, so that its end
 * can't be missed. The same threads as for qmp.h.
 */
#pragma once

#include "hypervisor/qmp.h"

#define QMP_JOB_STALL_MS 600000 /* what qmp_job_watch.stall_ms is where it is 0 */

enum qmp_job_kind {
    QMP_JOB_PLAIN,         /* blockdev-create, snapshot-save, -load and -delete */
    QMP_JOB_BLOCK,         /* block-commit, block-stream, blockdev-mirror, blockdev-backup */
    QMP_JOB_BLOCK_PENDING, /* the same, which wait for qmp_job_finalize before they change the graph */
};

enum qmp_job_state {
    QMP_JOB_CONCLUDED, /* at its end, with success */
    QMP_JOB_WAITING,   /* all is copied; waits for qmp_job_finalize ("pending") */
    QMP_JOB_READY,     /* a mirror or active commit that is in step; waits for qmp_job_complete */
};

/*
 * Called while a job is waited for, at least each 200 ms. `current` of `total` is done, in the job's own
 * unit, mostly bytes; both can grow. Returns false to have the job cancelled.
 */
typedef bool qmp_job_progress(void *opaque, uint64_t current, uint64_t total);

struct qmp_job_watch {
    qmp_job_progress *progress; /* may be NULL */
    void *opaque;
    int timeout_ms; /* for the answer to each command */
    int stall_ms;   /* a job that does not move for so long is cancelled; 0: QMP_JOB_STALL_MS */
};

/*
 * Sends the command that makes the job. `arguments` (an object, borrowed) has all but "job-id",
 * "auto-finalize" and "auto-dismiss". Errors: as qmp_command; no job is left then.
 */
int qmp_job_start(struct qmp *client, const char *command, struct json_object *arguments, const char *id,
                  enum qmp_job_kind kind, int timeout_ms, struct error *err);

/*
 * Waits until the job has concluded, or waits for what only the caller can decide. A job that has failed is
 * dismissed; after success, QMP_JOB_CONCLUDED included, it is still there, for qmp_job_dismiss. `state` may
 * be NULL: then it waits for the end only, as is right after qmp_job_finalize and qmp_job_complete. Errors:
 * ECANCELED where `progress` said so and the job had not succeeded by then; ETIMEDOUT for one that stood
 * still and was cancelled (where not even that ends it, the client is dead); what the job failed with, by
 * qmp_errno; ENOENT where there is no such job: somebody else dismissed it, and how it ended is unknown.
 */
int qmp_job_wait(struct qmp *client, const char *id, const struct qmp_job_watch *watch,
                 enum qmp_job_state *state, struct error *err);

/* What a job is at now. */
struct qmp_job_report {
    bool is_over;  /* it has concluded, and waits to be dismissed */
    bool is_ready; /* as QMP_JOB_READY */
    uint64_t current, total;
    char problem[ERROR_TEXT_MAX / 2]; /* why it failed; empty: it has not */
};

/* Does not wait. -ENOENT, without a text, where there is no such job; others as qmp_command. */
int qmp_job_look(struct qmp *client, const char *id, int timeout_ms, struct qmp_job_report *report,
                 struct error *err);

/* Lets a QMP_JOB_WAITING one change the graph. To be followed by qmp_job_wait to the end. */
int qmp_job_finalize(struct qmp *client, const char *id, int timeout_ms, struct error *err);

/* Lets a QMP_JOB_READY one switch over. To be followed by qmp_job_wait to the end. */
int qmp_job_complete(struct qmp *client, const char *id, int timeout_ms, struct error *err);

/*
 * Cancels the job and waits until it is gone. 0 also where it had come to its end already, or there is none.
 * Errors: ETIMEDOUT (the client is dead) and the other deadly ones.
 */
int qmp_job_abort(struct qmp *client, const char *id, int timeout_ms, struct error *err);

/* Forgets a concluded job. Errors: as qmp_command. */
int qmp_job_dismiss(struct qmp *client, const char *id, int timeout_ms, struct error *err);

/* Start, wait, dismiss, for jobs that wait for nobody. Errors: as the three. */
int qmp_job_run(struct qmp *client, const char *command, struct json_object *arguments, const char *id,
                enum qmp_job_kind kind, const struct qmp_job_watch *watch, struct error *err);
