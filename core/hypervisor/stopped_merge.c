// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * See stopped_merge.h. Down is block-commit of the active layer, which is a mirror of what the upper has into
 * the lower. When the two are in step it is cancelled, and not completed: nothing writes to the upper, and
 * completing would only change the graph.
 */
#include "hypervisor/stopped_merge.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "hypervisor/block_merge.h"
#include "hypervisor/block_nodes.h"
#include "hypervisor/block_shorten.h"
#include "hypervisor/qmp_arguments.h"

#define JOB_ID "merge"

struct sizes {
    uint64_t upper, lower; /* virtual, bytes */
};

static int find_sizes(const struct block_engine *engine, const char *upper, const char *lower,
                      struct sizes *sizes, struct error *err)
{
    cleanup(block_nodes_done) struct block_nodes nodes = {0};
    int rc = block_nodes_query(engine, &nodes, err);
    if (rc < 0)
        return rc;
    rc = block_merge_check_growth(&nodes, upper, lower, err);
    if (rc == 0)
        *sizes = (struct sizes){block_nodes_find(&nodes, upper)->virtual_size,
                                block_nodes_find(&nodes, lower)->virtual_size};
    return rc;
}

/* The job that brings the lower in step with the upper, to its end. */
static int commit(const struct block_engine *engine, const char *upper, const char *lower,
                  const struct qmp_job_watch *watch, struct error *err)
{
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&arguments, "device", upper);
    qmp_add_string(&arguments, "base-node", lower);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    int rc = qmp_job_start(engine->qmp, "block-commit", arguments, JOB_ID, QMP_JOB_BLOCK_PENDING,
                           engine->timeout_ms, err);
    if (rc < 0)
        return rc;
    enum qmp_job_state state;
    rc = qmp_job_wait(engine->qmp, JOB_ID, watch, &state, err);
    if (rc < 0)
        return rc;
    rc = qmp_job_abort(engine->qmp, JOB_ID, engine->timeout_ms, err);
    if (rc == 0 && state != QMP_JOB_READY)
        return error_set(err, EPROTO, "block-commit ended before it was in step");
    return rc;
}

static int merge_down(struct stopped_images *images, size_t upper, size_t lower,
                      const struct qmp_job_watch *watch, struct error *err)
{
    const struct block_engine *engine = stopped_images_engine(images);
    const char *above = stopped_images_node(images, upper), *below = stopped_images_node(images, lower);
    const char *base = stopped_images_backing_node(images, lower);
    struct sizes sizes = {0};
    int rc = find_sizes(engine, above, below, &sizes, err);
    if (rc == 0)
        rc = commit(engine, above, below, watch, err);
    /* Where something fails from here on, the upper still shows no byte of the lower behind its own end. */
    if (rc == 0)
        rc = stopped_images_close(images, upper, err);
    if (rc < 0)
        return rc;
    return sizes.upper < sizes.lower ? block_shorten(engine, below, base, sizes.upper, watch, err)
                                     : block_flush(engine, below, base, err);
}

int stopped_merge_down(struct stopped_images *images, size_t upper, const struct qmp_job_watch *watch,
                       struct error *err)
{
    const struct qmp_job_watch patient = {.timeout_ms = stopped_images_engine(images)->timeout_ms};
    int lower = stopped_images_backing(images, upper);
    if (lower < 0)
        return error_set(err, EINVAL, "a layer without a backing can't be merged down");
    int rc = merge_down(images, upper, (size_t)lower, watch ? watch : &patient, err);
    if (rc < 0)
        stopped_images_clean(images, err);
    return rc;
}

int stopped_merge_up(struct stopped_images *images, size_t upper, const char *base_name,
                     const struct qmp_job_watch *watch, bool *changed, struct error *err)
{
    const struct block_engine *engine = stopped_images_engine(images);
    const struct qmp_job_watch patient = {.timeout_ms = engine->timeout_ms};
    int lower = stopped_images_backing(images, upper);
    if (lower < 0)
        return error_set(err, EINVAL, "a layer without a backing has nothing to take in");
    const struct block_stream stream = {
        .job_id = JOB_ID,
        .device = stopped_images_node(images, upper),
        .backing = stopped_images_node(images, (size_t)lower),
        .base = stopped_images_backing_node(images, (size_t)lower),
        .base_name = base_name,
    };
    int rc = block_stream(engine, &stream, watch ? watch : &patient, changed, err);
    if (rc < 0)
        stopped_images_clean(images, err);
    return rc;
}
