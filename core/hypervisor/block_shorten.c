// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * See block_shorten.h. Nothing but a job discards a part of a node: a mirror of a node that has no data to a
 * window over the part (QEMU's block/mirror.c: what is neither data nor zeros in the source is discarded, or
 * zeroed, in the target).
 */
#include "hypervisor/block_shorten.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "format/json_parse.h"
#include "hypervisor/block_mirror.h"
#include "hypervisor/qmp_arguments.h"

#define NOTHING_NODE "nothing"
#define WINDOW_NODE  "tail"
#define JOB_ID       "discard"

static int resize(const struct block_engine *engine, const char *node, uint64_t size, struct error *err)
{
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&arguments, "node-name", node);
    qmp_add(&arguments, "size", json_object_new_int64((int64_t)size));
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    return qmp_command(engine->qmp, "block_resize", arguments, engine->timeout_ms, NULL, err);
}

static int add_nothing(const struct block_engine *engine, uint64_t length, struct error *err)
{
    cleanup_json struct json_object *node = json_object_new_object();
    qmp_add_string(&node, "driver", "null-co");
    qmp_add_string(&node, "node-name", NOTHING_NODE);
    qmp_add(&node, "size", json_object_new_int64((int64_t)length));
    return block_node_add(engine, node, err);
}

static int add_window(const struct block_engine *engine, const char *over, uint64_t offset, uint64_t length,
                      struct error *err)
{
    cleanup_json struct json_object *node = json_object_new_object();
    qmp_add_string(&node, "driver", "raw");
    qmp_add_string(&node, "node-name", WINDOW_NODE);
    qmp_add_string(&node, "file", over);
    qmp_add_string(&node, "discard", "unmap");
    qmp_add(&node, "offset", json_object_new_int64((int64_t)offset));
    qmp_add(&node, "size", json_object_new_int64((int64_t)length));
    return block_node_add(engine, node, err);
}

static int mirror_nothing(const struct block_engine *engine, const struct qmp_job_watch *watch,
                          struct error *err)
{
    const struct block_mirror mirror = {
        .job_id = JOB_ID, .device = NOTHING_NODE, .target = WINDOW_NODE, .sync = BLOCK_MIRROR_FULL};
    int rc = block_mirror_start(engine, &mirror, err);
    if (rc == 0)
        rc = block_mirror_await(engine, JOB_ID, watch, err);
    return rc < 0 ? rc : block_mirror_drop(engine, JOB_ID, err);
}

/* Gives back the clusters of a node, from one on to its end. */
static int discard(const struct block_engine *engine, const struct block_node *node, uint64_t offset,
                   const struct qmp_job_watch *watch, struct error *err)
{
    uint64_t end;
    if (!align_up_checked(node->virtual_size, node->cluster_size, &end))
        return error_set(err, EOPNOTSUPP, "%s is too large", node->name);
    /* Only whole clusters are given back. What the rest of the last one holds is seen by nobody. */
    int rc = end == node->virtual_size ? 0 : resize(engine, node->name, end, err);
    if (rc == 0)
        rc = add_nothing(engine, end - offset, err);
    if (rc < 0)
        return rc;
    rc = add_window(engine, node->name, offset, end - offset, err);
    if (rc == 0) {
        rc = mirror_nothing(engine, watch, err);
        int deleted = block_node_delete(engine, WINDOW_NODE, rc < 0 ? NULL : err);
        rc = rc < 0 ? rc : deleted;
    }
    int deleted = block_node_delete(engine, NOTHING_NODE, rc < 0 ? NULL : err);
    return rc < 0 ? rc : deleted;
}

int block_shorten(const struct block_engine *engine, const char *name, const char *backing, uint64_t size,
                  const struct qmp_job_watch *watch, struct error *err)
{
    cleanup(block_nodes_done) struct block_nodes nodes = {0};
    int rc = block_nodes_query(engine, &nodes, err);
    if (rc < 0)
        return rc;
    const struct block_node *node = block_nodes_find(&nodes, name);
    if (!node)
        return error_set(err, ENODEV, "there is no block node %s", name);
    uint64_t offset;
    bool has_tables = strcmp(node->driver, "qcow2") == 0 && node->cluster_size;
    if (has_tables && align_up_checked(size, node->cluster_size, &offset) && offset < node->virtual_size) {
        rc = discard(engine, node, offset, watch, err);
        if (rc == 0)
            rc = block_flush(engine, name, backing, err);
    }
    if (rc == 0)
        rc = resize(engine, name, size, err);
    return rc < 0 ? rc : block_flush(engine, name, backing, err);
}
