// SPDX-License-Identifier: LGPL-2.1-or-later
/* See block_graph.h. */
#include "hypervisor/block_graph.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "format/json_parse.h"

static struct json_object *list_in(struct json_object *object, const char *key)
{
    struct json_object *list;
    return json_object_is_type(object, json_type_object) && json_object_object_get_ex(object, key, &list) &&
                   json_object_is_type(list, json_type_array)
               ? list
               : NULL;
}

/* The name of the node of that number; NULL: it is none, but a device or a job. */
static const char *name_of(struct json_object *nodes, struct json_object *number)
{
    for (size_t i = 0; i < json_object_array_length(nodes); i++) {
        struct json_object *node = json_object_array_get_idx(nodes, i), *id;
        const char *type = json_string_in(node, "type");
        if (type && strcmp(type, "block-driver") == 0 && json_object_object_get_ex(node, "id", &id) &&
            json_object_equal(id, number))
            return json_string_in(node, "name");
    }
    return NULL;
}

/* Those between nodes are added. -ENOMEM. */
static int read_edge(struct block_graph *graph, struct json_object *nodes, struct json_object *object)
{
    struct json_object *parent, *child;
    const char *role = json_string_in(object, "name");
    if (!role || !json_object_object_get_ex(object, "parent", &parent) ||
        !json_object_object_get_ex(object, "child", &child))
        return 0;
    const char *parent_name = name_of(nodes, parent), *child_name = name_of(nodes, child);
    if (!parent_name || !child_name)
        return 0;
    struct block_edge *edge = &graph->edges[graph->count++];
    *edge =
        (struct block_edge){.parent = strdup(parent_name), .child = strdup(child_name), .role = strdup(role)};
    return edge->parent && edge->child && edge->role ? 0 : -ENOMEM;
}

int block_graph_query(const struct block_engine *engine, struct block_graph *graph, struct error *err)
{
    cleanup_json struct json_object *said = NULL;
    int rc = qmp_command(engine->qmp, "x-debug-query-block-graph", NULL, engine->timeout_ms, &said, err);
    if (rc < 0)
        return rc;
    struct json_object *nodes = list_in(said, "nodes"), *edges = list_in(said, "edges");
    if (!nodes || !edges)
        return error_set(err, EPROTO, "x-debug-query-block-graph gave no graph");
    size_t count = json_object_array_length(edges);
    struct block_graph made = {.edges = calloc(count + 1, sizeof *made.edges)};
    rc = made.edges ? 0 : -ENOMEM;
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = read_edge(&made, nodes, json_object_array_get_idx(edges, i));
    if (rc < 0) {
        block_graph_done(&made);
        return error_set(err, -rc, "out of memory");
    }
    *graph = made;
    return 0;
}

void block_graph_done(struct block_graph *graph)
{
    for (size_t i = 0; i < graph->count; i++) {
        free(graph->edges[i].parent);
        free(graph->edges[i].child);
        free(graph->edges[i].role);
    }
    free(graph->edges);
    *graph = (struct block_graph){0};
}

const char *block_graph_child(const struct block_graph *graph, const char *parent, const char *role)
{
    for (size_t i = 0; i < graph->count; i++)
        if (strcmp(graph->edges[i].parent, parent) == 0 && strcmp(graph->edges[i].role, role) == 0)
            return graph->edges[i].child;
    return NULL;
}
