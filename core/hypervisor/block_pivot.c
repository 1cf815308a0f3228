// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * See block_pivot.h. It is block-commit of an active layer, a mirror: "ready" when it is in step, and, told
 * to complete and not to finalize itself, "pending" with the guest's disk drained and the base flushed
 * (QEMU's block/mirror.c, mirror_run).
 */
#include "hypervisor/block_pivot.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "hypervisor/deadline.h"
#include "hypervisor/qmp_arguments.h"

#define HOLD_MS 20000 /* for a guest that writes all the time; then it is tried again later */
#define LOOK_MS 20

static int check_sizes(const struct block_engine *engine, const struct block_pivot *pivot, struct error *err)
{
    cleanup(block_nodes_done) struct block_nodes nodes = {0};
    int rc = block_nodes_query(engine, &nodes, err);
    if (rc < 0)
        return rc;
    const struct block_node *active = block_nodes_find(&nodes, pivot->active);
    const struct block_node *base = block_nodes_find(&nodes, pivot->base);
    if (!active || !base)
        return error_set(err, ENODEV, "there is no block node %s", active ? pivot->base : pivot->active);
    if (active->virtual_size != base->virtual_size)
        return error_set(err, EOPNOTSUPP,
                         "a disk of %" PRIu64 " bytes can't go on in a layer of %" PRIu64 " while it is used",
                         active->virtual_size, base->virtual_size);
    return 0;
}

int block_pivot_copy(const struct block_engine *engine, const struct block_pivot *pivot,
                     const struct qmp_job_watch *watch, struct error *err)
{
    int rc = check_sizes(engine, pivot, err);
    if (rc < 0)
        return rc;
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&arguments, "device", pivot->active);
    qmp_add_string(&arguments, "base-node", pivot->base);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    rc = qmp_job_start(engine->qmp, "block-commit", arguments, pivot->job_id, QMP_JOB_BLOCK_PENDING,
                       engine->timeout_ms, err);
    if (rc < 0)
        return rc;
    enum qmp_job_state state;
    rc = qmp_job_wait(engine->qmp, pivot->job_id, watch, &state, err);
    if (rc == 0 && state != QMP_JOB_READY) {
        qmp_job_abort(engine->qmp, pivot->job_id, engine->timeout_ms, NULL);
        return error_set(err, EPROTO, "block-commit ended before it was in step");
    }
    return rc;
}

static int give_up(const struct block_engine *engine, const struct block_pivot *pivot, int code,
                   const char *text, struct error *err)
{
    int rc = qmp_job_abort(engine->qmp, pivot->job_id, engine->timeout_ms, err);
    return rc < 0 ? rc : error_set(err, code, "%s", text);
}

static bool is_about_jobs(const char *name, struct json_object *data, void *opaque)
{
    return strcmp(name, "JOB_STATUS_CHANGE") == 0;
}

int block_pivot_hold(const struct block_engine *engine, const struct block_pivot *pivot,
                     const struct qmp_job_watch *watch, struct error *err)
{
    int64_t deadline = deadline_in(HOLD_MS);
    struct error why;
    int rc = qmp_job_complete(engine->qmp, pivot->job_id, engine->timeout_ms, &why);
    if (rc < 0)
        return give_up(engine, pivot, -rc, why.text, err);
    for (;;) {
        enum qmp_job_state state;
        rc = qmp_job_wait(engine->qmp, pivot->job_id, watch, &state, err);
        if (rc < 0 || state == QMP_JOB_WAITING)
            return rc;
        if (state == QMP_JOB_CONCLUDED)
            return give_up(engine, pivot, EPROTO, "block-commit did not wait before it switched over", err);
        if (deadline_left_ms(deadline) == 0)
            return give_up(engine, pivot, ETIMEDOUT, "the guest writes faster than can be copied", err);
        qmp_event_wait(engine->qmp, is_about_jobs, NULL, LOOK_MS, NULL, NULL);
    }
}

int block_pivot_switch(const struct block_engine *engine, const char *job_id, struct error *err)
{
    const struct qmp_job_watch patient = {.timeout_ms = engine->timeout_ms, .stall_ms = engine->timeout_ms};
    int rc = qmp_job_finalize(engine->qmp, job_id, engine->timeout_ms, err);
    if (rc == 0)
        rc = qmp_job_wait(engine->qmp, job_id, &patient, NULL, err);
    return rc < 0 ? rc : qmp_job_dismiss(engine->qmp, job_id, engine->timeout_ms, err);
}
