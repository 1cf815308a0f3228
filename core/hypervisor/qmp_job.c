// SPDX-License-Identifier: LGPL-2.1-or-later
/* See qmp_job.h. A job's state is asked for by query-jobs; events only say when to ask again. */
#include "hypervisor/qmp_job.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/monotonic.h"
#include "format/json_parse.h"
#include "hypervisor/deadline.h"
#include "hypervisor/qmp_arguments.h"
#include "hypervisor/qmp_message.h"

#define ASK_AGAIN_MS 200

struct job_status {
    bool concluded, pending, ready;
    uint64_t current, total;
    bool failed;
    char problem[ERROR_TEXT_MAX / 2];
};

static bool read_status(struct json_object *job, struct job_status *status)
{
    const char *word = json_string_in(job, "status");
    if (!word)
        return false;
    struct json_object *error;
    *status = (struct job_status){
        .concluded = strcmp(word, "concluded") == 0,
        .pending = strcmp(word, "pending") == 0,
        .ready = strcmp(word, "ready") == 0,
        .current = json_number_in(job, "current-progress"),
        .total = json_number_in(job, "total-progress"),
        .failed = json_object_object_get_ex(job, "error", &error),
    };
    if (status->failed) {
        const char *text = json_string_of(error);
        qmp_clean_text(text ? text : "it does not say why", status->problem, sizeof status->problem);
    }
    return true;
}

/* -ENOENT, without a text, where the job is not listed. */
static int query(struct qmp *client, const char *id, int timeout_ms, struct job_status *status,
                 struct error *err)
{
    cleanup_json struct json_object *jobs = NULL;
    int rc = qmp_command(client, "query-jobs", NULL, timeout_ms, &jobs, err);
    if (rc < 0)
        return rc;
    if (!json_object_is_type(jobs, json_type_array))
        return error_set(err, EPROTO, "query-jobs gave no list");
    for (size_t i = 0; i < json_object_array_length(jobs); i++) {
        struct json_object *job = json_object_array_get_idx(jobs, i);
        const char *found = json_object_is_type(job, json_type_object) ? json_string_in(job, "id") : NULL;
        if (found && strcmp(found, id) == 0)
            return read_status(job, status) ? 0 : error_set(err, EPROTO, "query-jobs gave no status");
    }
    return -ENOENT;
}

int qmp_job_look(struct qmp *client, const char *id, int timeout_ms, struct qmp_job_report *report,
                 struct error *err)
{
    struct job_status status;
    int rc = query(client, id, timeout_ms, &status, err);
    if (rc < 0)
        return rc;
    *report = (struct qmp_job_report){.is_over = status.concluded,
                                      .is_ready = status.ready,
                                      .current = status.current,
                                      .total = status.total};
    if (status.failed)
        memcpy(report->problem, status.problem, sizeof report->problem);
    return 0;
}

static bool is_about(const char *name, struct json_object *data, void *opaque)
{
    const char *id = data ? json_string_in(data, "id") : NULL;
    return strcmp(name, "JOB_STATUS_CHANGE") == 0 && id && strcmp(id, opaque) == 0;
}

/* Until something may have changed, or for a moment; takes all that was said about it. Of a client that dies
 * here, the next query says so. */
static void await_change(struct qmp *client, const char *id)
{
    int rc = qmp_event_wait(client, is_about, (void *)id, ASK_AGAIN_MS, NULL, NULL);
    while (rc == 0)
        rc = qmp_event_wait(client, is_about, (void *)id, 0, NULL, NULL);
}

static int simple(struct qmp *client, const char *command, const char *id, int timeout_ms, struct error *err)
{
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&arguments, "id", id);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    return qmp_command(client, command, arguments, timeout_ms, NULL, err);
}

int qmp_job_start(struct qmp *client, const char *command, struct json_object *arguments, const char *id,
                  enum qmp_job_kind kind, int timeout_ms, struct error *err)
{
    cleanup_json struct json_object *all = json_object_new_object();
    json_object_object_foreach(arguments, key, value)
    {
        qmp_add(&all, key, json_object_get(value));
    }
    qmp_add_string(&all, "job-id", id);
    if (kind != QMP_JOB_PLAIN) { /* the others never dismiss themselves, and have no choice */
        qmp_add_bool(&all, "auto-finalize", kind == QMP_JOB_BLOCK);
        qmp_add_bool(&all, "auto-dismiss", false);
    }
    if (!all)
        return error_set(err, ENOMEM, "out of memory");
    return qmp_command(client, command, all, timeout_ms, NULL, err);
}

int qmp_job_finalize(struct qmp *client, const char *id, int timeout_ms, struct error *err)
{
    return simple(client, "job-finalize", id, timeout_ms, err);
}

int qmp_job_complete(struct qmp *client, const char *id, int timeout_ms, struct error *err)
{
    return simple(client, "job-complete", id, timeout_ms, err);
}

int qmp_job_dismiss(struct qmp *client, const char *id, int timeout_ms, struct error *err)
{
    return simple(client, "job-dismiss", id, timeout_ms, err);
}

/* Cancels, and waits for the end of the job, which is still to be dismissed. -ENOENT, without a text: it is
 * gone. Where `may_be_none`, that is asked first, which takes fewer bytes (qmp.h). */
static int cancel(struct qmp *client, const char *id, bool may_be_none, int timeout_ms,
                  struct job_status *status, struct error *err)
{
    int64_t deadline = deadline_in(timeout_ms);
    int rc = may_be_none ? query(client, id, timeout_ms, status, err) : 0;
    if (rc < 0 || (may_be_none && status->concluded))
        return rc;
    /* Refused where it has come to its end meanwhile: what query-jobs says is what counts. */
    simple(client, "job-cancel", id, timeout_ms, NULL);
    for (;;) {
        rc = query(client, id, timeout_ms, status, err);
        if (rc < 0 || status->concluded)
            return rc;
        if (monotonic_ms() >= deadline)
            return qmp_give_up(client, ETIMEDOUT, "a job was cancelled and did not end", err);
        await_change(client, id);
    }
}

int qmp_job_abort(struct qmp *client, const char *id, int timeout_ms, struct error *err)
{
    struct job_status status;
    int rc = cancel(client, id, true, timeout_ms, &status, err);
    if (rc == 0)
        rc = qmp_job_dismiss(client, id, timeout_ms, err);
    return rc == -ENOENT ? 0 : rc;
}

/* The job has concluded: what came of it. `given_up`: the errno and text of our own for a cancelled one. */
static int conclude(struct qmp *client, const char *id, const struct job_status *status, int timeout_ms,
                    const struct error *given_up, struct error *err)
{
    if (!status->failed)
        return 0;
    int rc = qmp_job_dismiss(client, id, timeout_ms, err);
    if (rc < 0)
        return rc;
    if (given_up)
        return error_set(err, given_up->code, "%s", given_up->text);
    return error_set(err, qmp_errno(NULL, status->problem), "the job %s failed: %s", id, status->problem);
}

static int give_up(struct qmp *client, const char *id, const struct qmp_job_watch *watch,
                   const struct error *why, enum qmp_job_state *state, struct error *err)
{
    struct job_status status;
    int rc = cancel(client, id, false, watch->timeout_ms, &status, err);
    if (rc == -ENOENT)
        return error_set(err, why->code, "%s", why->text);
    if (rc == 0)
        rc = conclude(client, id, &status, watch->timeout_ms, why, err);
    if (rc == 0 && state)
        *state = QMP_JOB_CONCLUDED;
    return rc;
}

int qmp_job_wait(struct qmp *client, const char *id, const struct qmp_job_watch *watch,
                 enum qmp_job_state *state, struct error *err)
{
    int64_t stall_ms = watch->stall_ms ? watch->stall_ms : QMP_JOB_STALL_MS;
    int64_t moved_at = monotonic_ms();
    struct job_status before = {0};
    for (;;) {
        struct job_status status;
        int rc = query(client, id, watch->timeout_ms, &status, err);
        if (rc == -ENOENT)
            return error_set(err, ENOENT, "the job %s is gone, and how it ended is not known", id);
        if (rc < 0)
            return rc;
        bool go_on = !watch->progress || watch->progress(watch->opaque, status.current, status.total);
        if (status.concluded) {
            rc = conclude(client, id, &status, watch->timeout_ms, NULL, err);
            if (rc == 0 && state)
                *state = QMP_JOB_CONCLUDED;
            return rc;
        }
        struct error why = {0};
        if (!go_on) {
            error_set(&why, ECANCELED, "the job %s was cancelled", id);
            return give_up(client, id, watch, &why, state, err);
        }
        if (state && (status.pending || status.ready)) {
            *state = status.pending ? QMP_JOB_WAITING : QMP_JOB_READY;
            return 0;
        }
        if (status.current != before.current || status.total != before.total)
            moved_at = monotonic_ms();
        before = status;
        if (monotonic_ms() - moved_at >= stall_ms) {
            error_set(&why, ETIMEDOUT, "the job %s did not move for %lld ms, and was cancelled", id,
                      (long long)stall_ms);
            return give_up(client, id, watch, &why, state, err);
        }
        await_change(client, id);
    }
}

int qmp_job_run(struct qmp *client, const char *command, struct json_object *arguments, const char *id,
                enum qmp_job_kind kind, const struct qmp_job_watch *watch, struct error *err)
{
    int rc = qmp_job_start(client, command, arguments, id, kind, watch->timeout_ms, err);
    if (rc < 0)
        return rc;
    rc = qmp_job_wait(client, id, watch, NULL, err);
    return rc < 0 ? rc : qmp_job_dismiss(client, id, watch->timeout_ms, err);
}
