// SPDX-License-Identifier: LGPL-2.1-or-later
/* See block_merge.h. */
#include "hypervisor/block_merge.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "hypervisor/qmp_arguments.h"

struct merge {
    const char *command, *job_id;
    struct json_object *arguments;
    const char *written, *written_backing; /* the node that takes the data, and its backing until then */
    const char *header, *header_backing; /* the node whose header is changed, and its backing from then on */
    int (*copied)(void *opaque, struct error *err); /* may be NULL */
    void *opaque;
};

/* All is copied: flushes it and lets the job change the graph. */
static int finish(const struct block_engine *engine, const struct merge *merge,
                  const struct qmp_job_watch *watch, bool *changed, struct error *err)
{
    int rc = block_flush(engine, merge->written, merge->written_backing, err);
    if (rc == 0 && merge->copied)
        rc = merge->copied(merge->opaque, err);
    if (rc < 0) {
        qmp_job_abort(engine->qmp, merge->job_id, engine->timeout_ms, NULL);
        return rc;
    }
    *changed = true;
    rc = qmp_job_finalize(engine->qmp, merge->job_id, engine->timeout_ms, err);
    if (rc < 0) {
        qmp_job_abort(engine->qmp, merge->job_id, engine->timeout_ms, NULL);
        return rc;
    }
    rc = qmp_job_wait(engine->qmp, merge->job_id, watch, NULL, err);
    if (rc < 0)
        return rc;
    rc = block_flush(engine, merge->header, merge->header_backing, err);
    int dismissed = qmp_job_dismiss(engine->qmp, merge->job_id, engine->timeout_ms, rc < 0 ? NULL : err);
    return rc < 0 ? rc : dismissed;
}

static int run(const struct block_engine *engine, const struct merge *merge,
               const struct qmp_job_watch *watch, bool *changed, struct error *err)
{
    if (!merge->arguments)
        return error_set(err, ENOMEM, "out of memory");
    int rc = qmp_job_start(engine->qmp, merge->command, merge->arguments, merge->job_id,
                           QMP_JOB_BLOCK_PENDING, engine->timeout_ms, err);
    if (rc < 0)
        return rc;
    enum qmp_job_state state;
    rc = qmp_job_wait(engine->qmp, merge->job_id, watch, &state, err);
    if (rc < 0)
        return rc;
    if (state == QMP_JOB_WAITING)
        return finish(engine, merge, watch, changed, err);
    *changed = true;
    qmp_job_abort(engine->qmp, merge->job_id, engine->timeout_ms, NULL);
    return error_set(err, EPROTO, "%s did not wait before it changed the graph", merge->command);
}

static int find_nodes(const struct block_nodes *nodes, const char *const *names,
                      const struct block_node **found, size_t count, struct error *err)
{
    for (size_t i = 0; i < count; i++) {
        found[i] = block_nodes_find(nodes, names[i]);
        if (!found[i])
            return error_set(err, ENODEV, "there is no block node %s", names[i]);
    }
    return 0;
}

int block_merge_check_growth(const struct block_nodes *nodes, const char *from, const char *into,
                             struct error *err)
{
    const struct block_node *found[2];
    int rc = find_nodes(nodes, (const char *const[]){from, into}, found, 2, err);
    if (rc < 0)
        return rc;
    uint64_t size = found[1]->virtual_size, cluster = found[1]->cluster_size;
    if (found[0]->virtual_size > size && cluster && size % cluster)
        return error_set(err, EOPNOTSUPP,
                         "a layer of %" PRIu64 " bytes can't be merged into one of %" PRIu64
                         ", which is no whole number of clusters",
                         found[0]->virtual_size, size);
    return 0;
}

/* Of three neighbours the middle one is to go out. */
static int check_gap(const struct block_nodes *nodes, const char *above, const char *middle,
                     const char *below, struct error *err)
{
    const struct block_node *found[3];
    int rc = find_nodes(nodes, (const char *const[]){above, middle, below}, found, 3, err);
    if (rc < 0)
        return rc;
    uint64_t size = found[1]->virtual_size;
    if (size < found[0]->virtual_size && size < found[2]->virtual_size)
        return error_set(err, EOPNOTSUPP,
                         "a layer of %" PRIu64 " bytes between larger ones, of %" PRIu64 " and %" PRIu64
                         ", can't be merged",
                         size, found[0]->virtual_size, found[2]->virtual_size);
    return 0;
}

int block_commit(const struct block_engine *engine, const struct block_commit *commit,
                 const struct qmp_job_watch *watch, bool *changed, struct error *err)
{
    if (strcmp(commit->top, commit->device) == 0)
        return error_set(err, EINVAL, "%s is the active layer, which is not merged like this", commit->top);
    cleanup(block_nodes_done) struct block_nodes nodes = {0};
    int rc = block_nodes_query(engine, &nodes, err);
    if (rc == 0)
        rc = check_gap(&nodes, commit->overlay, commit->top, commit->base, err);
    if (rc == 0)
        rc = block_merge_check_growth(&nodes, commit->top, commit->base, err);
    if (rc < 0)
        return rc;
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&arguments, "device", commit->device);
    qmp_add_string(&arguments, "top-node", commit->top);
    qmp_add_string(&arguments, "base-node", commit->base);
    qmp_add_string(&arguments, "backing-file", commit->base_name);
    const struct merge merge = {
        .command = "block-commit",
        .job_id = commit->job_id,
        .arguments = arguments,
        .written = commit->base,
        .written_backing = commit->base_backing,
        .header = commit->overlay,
        .header_backing = commit->base,
        .copied = commit->copied,
        .opaque = commit->opaque,
    };
    return run(engine, &merge, watch, changed, err);
}

int block_stream(const struct block_engine *engine, const struct block_stream *stream,
                 const struct qmp_job_watch *watch, bool *changed, struct error *err)
{
    if (!stream->base != !stream->base_name)
        return error_set(err, EINVAL, "%s: a base needs a name for the header", stream->device);
    cleanup(block_nodes_done) struct block_nodes nodes = {0};
    int rc = stream->base ? block_nodes_query(engine, &nodes, err) : 0;
    if (rc == 0 && stream->base)
        rc = check_gap(&nodes, stream->device, stream->backing, stream->base, err);
    if (rc < 0)
        return rc;
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&arguments, "device", stream->device);
    if (stream->base) {
        qmp_add_string(&arguments, "base-node", stream->base);
        qmp_add_string(&arguments, "backing-file", stream->base_name);
    }
    const struct merge merge = {
        .command = "block-stream",
        .job_id = stream->job_id,
        .arguments = arguments,
        .written = stream->device,
        .written_backing = stream->backing,
        .header = stream->device,
        .header_backing = stream->base,
    };
    return run(engine, &merge, watch, changed, err);
}

int block_name_backing(const struct block_engine *engine, const struct block_backing_name *name,
                       struct error *err)
{
    cleanup(block_nodes_done) struct block_nodes nodes = {0};
    int rc = block_nodes_query(engine, &nodes, err);
    if (rc < 0)
        return rc;
    const struct block_node *image = block_nodes_find(&nodes, name->image);
    if (!image)
        return error_set(err, ENODEV, "there is no block node %s", name->image);
    if (strcmp(image->driver, name->backing_format) != 0)
        return error_set(err, EOPNOTSUPP, "QEMU would note that the backing file of %s is %s, but it is %s",
                         name->image, image->driver, name->backing_format);
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&arguments, "device", name->device);
    qmp_add_string(&arguments, "image-node-name", name->image);
    qmp_add_string(&arguments, "backing-file", name->backing_name);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    rc = qmp_command(engine->qmp, "change-backing-file", arguments, engine->timeout_ms, NULL, err);
    return rc < 0 ? rc : block_flush(engine, name->image, name->backing, err);
}
