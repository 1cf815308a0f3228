// SPDX-License-Identifier: LGPL-2.1-or-later
/* See block_read_only.h. */
#include "hypervisor/block_read_only.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/image_format.h"
#include "format/json_parse.h"
#include "hypervisor/block_graph.h"
#include "hypervisor/qmp_arguments.h"

static struct json_object *options_of(const struct block_node *node, const char *file, const char *backing)
{
    enum image_format format = image_format_from_name(node->driver);
    struct json_object *cache = json_object_new_object(), *options = json_object_new_object();
    qmp_add_bool(&cache, "direct", node->is_direct);
    qmp_add_bool(&cache, "no-flush", node->never_flushes);
    qmp_add_string(&options, "driver", node->driver);
    qmp_add_string(&options, "node-name", node->name);
    qmp_add_bool(&options, "read-only", true);
    qmp_add_string(&options, "file", file);
    qmp_add_string(&options, "discard", "unmap");
    qmp_add_string(&options, "detect-zeroes", node->detect_zeroes);
    qmp_add(&options, "cache", cache);
    if (backing)
        qmp_add_string(&options, "backing", backing);
    else if (options && image_format_knows_backing(format) &&
             json_object_object_add(options, "backing", NULL) < 0) {
        json_object_put(options);
        return NULL;
    }
    return options;
}

int block_make_read_only(const struct block_engine *engine, const struct block_node *node, struct error *err)
{
    if (strcmp(node->driver, image_format_name(IMAGE_FORMAT_RAW)) == 0 && *node->filename != '/')
        return error_set(err, EOPNOTSUPP, "the block node %s may be a part of a file, which can't be told",
                         node->name);
    cleanup(block_graph_done) struct block_graph graph = {0};
    int rc = block_graph_query(engine, &graph, err);
    if (rc < 0)
        return rc;
    const char *file = block_graph_child(&graph, node->name, "file");
    if (!file)
        return error_set(err, EOPNOTSUPP, "what the block node %s lies on is not known", node->name);
    struct json_object *list = json_object_new_array();
    qmp_append(&list, options_of(node, file, block_graph_child(&graph, node->name, "backing")));
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add(&arguments, "options", list);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    return qmp_command(engine->qmp, "blockdev-reopen", arguments, engine->timeout_ms, NULL, err);
}
