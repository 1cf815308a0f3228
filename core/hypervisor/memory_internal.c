// SPDX-License-Identifier: LGPL-2.1-or-later
/* See memory_internal.h. */
#include "hypervisor/memory_internal.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "hypervisor/block_snapshot.h"
#include "hypervisor/qmp_arguments.h"
#include "hypervisor/run_state.h"

static bool tell_only(void *opaque, uint64_t current, uint64_t total)
{
    const struct qmp_job_watch *watch = opaque;
    watch->progress(watch->opaque, current, total);
    return true;
}

static int run_job(struct qmp *qmp, const struct memory_internal *snapshot, const struct qmp_job_watch *watch,
                   struct error *err)
{
    struct json_object *devices = json_object_new_array();
    for (size_t i = 0; i < snapshot->device_count; i++)
        qmp_append(&devices, json_object_new_string(snapshot->devices[i]));
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add(&arguments, "devices", devices);
    qmp_add_string(&arguments, "tag", snapshot->tag);
    qmp_add_string(&arguments, "vmstate", snapshot->vmstate);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    const struct qmp_job_watch patient = {
        .progress = watch->progress ? tell_only : NULL,
        .opaque = (void *)watch,
        .timeout_ms = watch->stall_ms ? watch->stall_ms : QMP_JOB_STALL_MS,
        .stall_ms = watch->stall_ms,
    };
    return qmp_job_run(qmp, "snapshot-save", arguments, snapshot->job_id, QMP_JOB_PLAIN, &patient, err);
}

/* QEMU does not always let a guest go on after a failure. */
static int go_on(struct qmp *qmp, int timeout_ms, struct error *err)
{
    struct run_state_answer now;
    int rc = run_state_query_status(qmp, timeout_ms, &now, err);
    if (rc < 0 || now.running || now.state != RUN_STATE_PAUSED)
        return rc;
    return run_state_continue(qmp, timeout_ms, err);
}

int memory_internal_save(struct qmp *qmp, const struct memory_internal *snapshot,
                         const struct qmp_job_watch *watch, struct error *err)
{
    struct run_state_answer before;
    int rc = block_snapshot_check_tag(snapshot->tag, err);
    if (rc == 0)
        rc = run_state_query_status(qmp, watch->timeout_ms, &before, err);
    if (rc < 0)
        return rc;
    rc = run_job(qmp, snapshot, watch, err);
    if (before.running && !qmp_is_dead(qmp)) {
        int going = go_on(qmp, watch->timeout_ms, rc < 0 ? NULL : err);
        rc = rc < 0 ? rc : going;
    }
    return rc;
}
