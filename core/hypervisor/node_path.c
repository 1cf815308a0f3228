// SPDX-License-Identifier: LGPL-2.1-or-later
/* See node_path.h. */
#include "hypervisor/node_path.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "hypervisor/block_graph.h"

#define JSON_PREFIX "json:"
#define CUT_OFF     "..." /* at the end of a name (QEMU's block.c, bdrv_refresh_filename) */

static const struct json_limits limits = {.bytes = 1 << 20, .depth = 64, .values = 10000};

/* The file at the bottom of what a format, a filter or a protocol was opened with; borrowed. */
static const char *filename_in(struct json_object *options)
{
    struct json_object *value;
    for (unsigned depth = 0; depth < 64 && json_object_is_type(options, json_type_object); depth++) {
        if (json_object_object_get_ex(options, "filename", &value) ||
            json_object_object_get_ex(options, "file.filename", &value))
            return json_string_of(value);
        if (!json_object_object_get_ex(options, "file", &value))
            return NULL;
        options = value;
    }
    return NULL;
}

static bool is_json(const char *name)
{
    return strncmp(name, JSON_PREFIX, sizeof JSON_PREFIX - 1) == 0;
}

static bool is_cut_off(const char *name)
{
    size_t length = strlen(name), end = sizeof CUT_OFF - 1;
    return is_json(name) && length > end && strcmp(name + length - end, CUT_OFF) == 0;
}

/* `*path` is NULL where the name is no file's. -ENOMEM. */
static int path_in_name(const char *name, char **path)
{
    cleanup_json struct json_object *options = NULL;
    const char *found = *name == '/' ? name : NULL;
    *path = NULL;
    if (is_json(name)) {
        const char *text = name + sizeof JSON_PREFIX - 1;
        int r = json_parse(text, strlen(text), &limits, JSON_STANDARD, &options, NULL);
        if (r < 0)
            return r == -ENOMEM ? r : 0;
        found = filename_in(options);
    }
    if (!found || *found != '/')
        return 0;
    *path = strdup(found);
    return *path ? 0 : -ENOMEM;
}

/* Of the nearest one below it that has one; borrowed. */
static const char *path_below(const struct block_graph *graph, const struct block_nodes *nodes,
                              const struct block_node *node)
{
    for (size_t i = 0; node && !node->path && i < nodes->count; i++) {
        const char *below = block_graph_child(graph, node->name, "file");
        node = below ? block_nodes_find(nodes, below) : NULL;
    }
    return node ? node->path : NULL;
}

/* Those whose names are cut off. A QEMU that does not tell leaves them without. */
static int ask(const struct block_engine *engine, struct block_nodes *nodes, struct error *err)
{
    struct block_graph graph;
    int rc = block_graph_query(engine, &graph, err);
    if (rc < 0)
        return rc == -ENOMEM || qmp_is_dead(engine->qmp) ? rc : 0;
    for (size_t i = 0; rc == 0 && i < nodes->count; i++) {
        struct block_node *node = &nodes->nodes[i];
        const char *path = is_cut_off(node->filename) ? path_below(&graph, nodes, node) : NULL;
        if (path && !node->path && !(node->path = strdup(path)))
            rc = error_set(err, ENOMEM, "out of memory");
    }
    block_graph_done(&graph);
    return rc;
}

int node_paths_find(const struct block_engine *engine, struct block_nodes *nodes, struct error *err)
{
    bool has_cut_off = false;
    for (size_t i = 0; i < nodes->count; i++) {
        struct block_node *node = &nodes->nodes[i];
        has_cut_off |= is_cut_off(node->filename);
        if (path_in_name(node->filename, &node->path) < 0)
            return error_set(err, ENOMEM, "out of memory");
    }
    return has_cut_off ? ask(engine, nodes, err) : 0;
}
