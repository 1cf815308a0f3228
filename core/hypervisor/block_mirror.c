// SPDX-License-Identifier: LGPL-2.1-or-later
/* See block_mirror.h. */
#include "hypervisor/block_mirror.h"

#include <errno.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "hypervisor/qmp_arguments.h"

int block_mirror_start(const struct block_engine *engine, const struct block_mirror *mirror,
                       struct error *err)
{
    static const char *const syncs[] = {
        [BLOCK_MIRROR_FULL] = "full", [BLOCK_MIRROR_TOP] = "top", [BLOCK_MIRROR_NONE] = "none"};
    if (mirror->speed > INT64_MAX)
        return error_set(err, EINVAL, "%s: nothing is copied so fast", mirror->device);
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&arguments, "device", mirror->device);
    qmp_add_string(&arguments, "target", mirror->target);
    qmp_add_string(&arguments, "sync", syncs[mirror->sync]);
    qmp_add_string(&arguments, "copy-mode", mirror->write_through ? "write-blocking" : "background");
    if (mirror->speed)
        qmp_add(&arguments, "speed", json_object_new_int64((int64_t)mirror->speed));
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    return qmp_job_start(engine->qmp, "blockdev-mirror", arguments, mirror->job_id, QMP_JOB_BLOCK,
                         engine->timeout_ms, err);
}

int block_mirror_await(const struct block_engine *engine, const char *job_id,
                       const struct qmp_job_watch *watch, struct error *err)
{
    enum qmp_job_state state;
    int rc = qmp_job_wait(engine->qmp, job_id, watch, &state, err);
    if (rc < 0 || state == QMP_JOB_READY)
        return rc;
    qmp_job_abort(engine->qmp, job_id, engine->timeout_ms, NULL);
    return error_set(err, ECANCELED, "somebody else has ended the mirror %s", job_id);
}

/* Tells the job to end in some way once it is in step, and waits for its end. */
static int end(const struct block_engine *engine, const char *command, const char *id_member,
               const char *job_id, const struct qmp_job_watch *watch, struct error *err)
{
    int rc = block_mirror_await(engine, job_id, watch, err);
    if (rc < 0)
        return rc;
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&arguments, id_member, job_id);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    rc = qmp_command(engine->qmp, command, arguments, engine->timeout_ms, NULL, err);
    if (rc == 0)
        rc = qmp_job_wait(engine->qmp, job_id, watch, NULL, err);
    return rc < 0 ? rc : qmp_job_dismiss(engine->qmp, job_id, engine->timeout_ms, err);
}

int block_mirror_pivot(const struct block_engine *engine, const char *job_id, const char *target,
                       const struct qmp_job_watch *watch, struct error *err)
{
    int rc = end(engine, "job-complete", "id", job_id, watch, err);
    return rc < 0 ? rc : block_flush(engine, target, NULL, err);
}

int block_mirror_detach(const struct block_engine *engine, const char *job_id, const char *target,
                        const struct qmp_job_watch *watch, struct error *err)
{
    /* job-cancel would end it at once. */
    int rc = end(engine, "block-job-cancel", "device", job_id, watch, err);
    return rc < 0 ? rc : block_flush(engine, target, NULL, err);
}

int block_mirror_drop(const struct block_engine *engine, const char *job_id, struct error *err)
{
    return qmp_job_abort(engine->qmp, job_id, engine->timeout_ms, err);
}
