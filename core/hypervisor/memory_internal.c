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

static int run_job(struct qmp *qmp, const char *command, const struct memory_internal *snapshot,
                   const char *vmstate, const struct qmp_job_watch *watch, struct error *err)
{
    struct json_object *devices = json_object_new_array();
    for (size_t i = 0; i < snapshot->device_count; i++)
        qmp_append(&devices, json_object_new_string(snapshot->devices[i]));
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add(&arguments, "devices", devices);
    qmp_add_string(&arguments, "tag", snapshot->tag);
    if (vmstate)
        qmp_add_string(&arguments, "vmstate", vmstate);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    const struct qmp_job_watch patient = {
        .progress = watch->progress ? tell_only : NULL,
        .opaque = (void *)watch,
        .timeout_ms = watch->stall_ms ? watch->stall_ms : QMP_JOB_STALL_MS,
        .stall_ms = watch->stall_ms,
    };
    return qmp_job_run(qmp, command, arguments, snapshot->job_id, QMP_JOB_PLAIN, &patient, err);
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
    rc = run_job(qmp, "snapshot-save", snapshot, snapshot->vmstate, watch, err);
    if (before.running && !qmp_is_dead(qmp)) {
        int going = go_on(qmp, watch->timeout_ms, rc < 0 ? NULL : err);
        rc = rc < 0 ? rc : going;
    }
    return rc;
}

/* True for what QEMU looks at before it changes anything. Whatever else it says may have come later. */
static bool was_refused(const char *text)
{
    static const char *const refusals[] = {
        "does not exist in one or more devices",
        "disk-only snapshot",
        "does not support snapshots",
        "No block device node",
        "vmstate block device",
        "device is required",
        "migration process in progress",
        "CommandNotFound",
    };
    if (strstr(text, "Could not load snapshot") || strstr(text, "while loading VM state"))
        return false;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++)
        if (strstr(text, refusals[i]))
            return true;
    return false;
}

int memory_internal_load(struct qmp *qmp, const struct memory_internal *snapshot,
                         const struct qmp_job_watch *watch, bool *broken, struct error *err)
{
    struct run_state_answer before;
    int rc = block_snapshot_check_tag(snapshot->tag, err);
    if (rc == 0)
        rc = run_state_query_status(qmp, watch->timeout_ms, &before, err);
    if (rc < 0)
        return rc;
    struct error why = {0};
    rc = run_job(qmp, "snapshot-load", snapshot, snapshot->vmstate, watch, &why);
    if (rc == 0) {
        if (before.running)
            return go_on(qmp, watch->timeout_ms, err);
        return run_state_stop(qmp, watch->timeout_ms, err);
    }
    if (qmp_is_dead(qmp) || !was_refused(why.text)) {
        *broken = true;
        if (!qmp_is_dead(qmp))
            run_state_stop(qmp, watch->timeout_ms, NULL);
        return error_set(err, why.code, "%s", why.text);
    }
    if (before.running && go_on(qmp, watch->timeout_ms, err) < 0)
        return error_prefix(err, "after \"%.200s\"", why.text);
    int code = strstr(why.text, "disk-only snapshot") ? ENOENT : why.code;
    return error_set(err, code, "%s", why.text);
}

int memory_internal_delete(struct qmp *qmp, const struct memory_internal *snapshot,
                           const struct qmp_job_watch *watch, struct error *err)
{
    int rc = block_snapshot_check_tag(snapshot->tag, err);
    return rc < 0 ? rc : run_job(qmp, "snapshot-delete", snapshot, NULL, watch, err);
}
