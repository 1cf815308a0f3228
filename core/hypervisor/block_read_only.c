// SPDX-License-Identifier: LGPL-2.1-or-later
/* See block_read_only.h. */
#include "hypervisor/block_read_only.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/image_format.h"
#include "format/json_parse.h"
#include "hypervisor/qmp_arguments.h"

/* The one node that has the file itself open; NULL: there is none, or several. */
static const char *find_file(const struct block_nodes *nodes, const struct block_node *node)
{
    const char *found = NULL;
    for (size_t i = 0; i < nodes->count; i++) {
        const struct block_node *one = &nodes->nodes[i];
        if (strcmp(one->filename, node->filename) != 0 ||
            (strcmp(one->driver, "file") != 0 && strcmp(one->driver, "host_device") != 0))
            continue;
        if (found)
            return NULL;
        found = one->name;
    }
    return found;
}

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

int block_make_read_only(const struct block_engine *engine, const struct block_nodes *nodes,
                         const struct block_node *node, const char *backing, struct error *err)
{
    const char *file = find_file(nodes, node);
    if (!file)
        return error_set(err, EOPNOTSUPP, "what the block node %s lies on is not known", node->name);
    struct json_object *list = json_object_new_array();
    qmp_append(&list, options_of(node, file, backing));
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add(&arguments, "options", list);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    return qmp_command(engine->qmp, "blockdev-reopen", arguments, engine->timeout_ms, NULL, err);
}
