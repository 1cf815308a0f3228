// SPDX-License-Identifier: LGPL-2.1-or-later
/* See block_nodes.h. */
#include "hypervisor/block_nodes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "hypervisor/node_path.h"
#include "hypervisor/qmp_arguments.h"
#include "hypervisor/qmp_message.h"

/* -EPROTO, without a text, for what is no description of a node. */
static int read_node(struct json_object *object, struct block_node *node)
{
    struct json_object *image, *size, *cluster = NULL, *read_only, *depth = NULL, *cache, *direct = NULL,
                                      *no_flush = NULL;
    const char *name = json_string_in(object, "node-name");
    const char *driver = json_string_in(object, "drv");
    const char *filename = json_string_in(object, "file");
    if (!name || !driver || !filename || !json_object_object_get_ex(object, "image", &image) ||
        !json_object_object_get_ex(image, "virtual-size", &size) ||
        !json_object_is_type(size, json_type_int) || json_object_get_int64(size) < 0 ||
        !json_object_object_get_ex(object, "ro", &read_only) ||
        !json_object_is_type(read_only, json_type_boolean))
        return -EPROTO;
    json_object_object_get_ex(image, "cluster-size", &cluster);
    json_object_object_get_ex(object, "backing_file_depth", &depth);
    if (json_object_object_get_ex(object, "cache", &cache)) {
        json_object_object_get_ex(cache, "direct", &direct);
        json_object_object_get_ex(cache, "no-flush", &no_flush);
    }
    const char *backing = json_string_in(image, "backing-filename");
    const char *zeroes = json_string_in(object, "detect_zeroes");
    *node = (struct block_node){
        .name = strdup(name),
        .driver = strdup(driver),
        .filename = strdup(filename),
        .backing_filename = backing ? strdup(backing) : NULL,
        .virtual_size = (uint64_t)json_object_get_int64(size),
        .cluster_size = json_object_is_type(cluster, json_type_int) && json_object_get_int64(cluster) > 0
                            ? (uint64_t)json_object_get_int64(cluster)
                            : 0,
        .depth = json_object_is_type(depth, json_type_int) && json_object_get_int(depth) > 0
                     ? (unsigned)json_object_get_int(depth)
                     : 0,
        .read_only = json_object_get_boolean(read_only),
        .is_direct = json_object_get_boolean(direct),
        .never_flushes = json_object_get_boolean(no_flush),
    };
    snprintf(node->detect_zeroes, sizeof node->detect_zeroes, "%s", zeroes ? zeroes : "off");
    return node->name && node->driver && node->filename && (!backing || node->backing_filename) ? 0 : -ENOMEM;
}

/* Not flat, QEMU describes each node with all below it. */
static int query(const struct block_engine *engine, bool flat, struct block_nodes *nodes, struct error *err)
{
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_bool(&arguments, "flat", flat);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    cleanup_json struct json_object *list = NULL;
    int rc = qmp_command(engine->qmp, "query-named-block-nodes", arguments, engine->timeout_ms, &list, err);
    if (rc < 0)
        return rc;
    if (!json_object_is_type(list, json_type_array))
        return error_set(err, EPROTO, "query-named-block-nodes gave no list");
    size_t count = json_object_array_length(list);
    struct block_nodes made = {.nodes = calloc(count ? count : 1, sizeof *made.nodes)};
    if (!made.nodes)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < count && rc == 0; i++) {
        struct json_object *object = json_object_array_get_idx(list, i);
        made.count = i + 1;
        rc = json_object_is_type(object, json_type_object) ? read_node(object, &made.nodes[i]) : -EPROTO;
    }
    if (rc < 0)
        error_set(err, -rc, rc == -ENOMEM ? "out of memory" : "query-named-block-nodes gave no node");
    else
        rc = node_paths_find(engine, &made, err);
    if (rc < 0) {
        block_nodes_done(&made);
        return rc;
    }
    *nodes = made;
    return 0;
}

int block_nodes_query(const struct block_engine *engine, struct block_nodes *nodes, struct error *err)
{
    return query(engine, true, nodes, err);
}

int block_nodes_query_depths(const struct block_engine *engine, struct block_nodes *nodes, struct error *err)
{
    return query(engine, false, nodes, err);
}

void block_nodes_done(struct block_nodes *nodes)
{
    for (size_t i = 0; i < nodes->count; i++) {
        free(nodes->nodes[i].name);
        free(nodes->nodes[i].driver);
        free(nodes->nodes[i].filename);
        free(nodes->nodes[i].path);
        free(nodes->nodes[i].backing_filename);
    }
    free(nodes->nodes);
    *nodes = (struct block_nodes){0};
}

const struct block_node *block_nodes_find(const struct block_nodes *nodes, const char *name)
{
    for (size_t i = 0; i < nodes->count; i++)
        if (strcmp(nodes->nodes[i].name, name) == 0)
            return &nodes->nodes[i];
    return NULL;
}

bool block_node_is_file(const struct block_node *node, const struct stat *file)
{
    struct stat found;
    return node->path && stat(node->path, &found) == 0 && found.st_dev == file->st_dev &&
           found.st_ino == file->st_ino;
}

int block_node_add(const struct block_engine *engine, struct json_object *node, struct error *err)
{
    if (!node)
        return error_set(err, ENOMEM, "out of memory");
    return qmp_command(engine->qmp, "blockdev-add", node, engine->timeout_ms, NULL, err);
}

int block_node_delete(const struct block_engine *engine, const char *name, struct error *err)
{
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&arguments, "node-name", name);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    return qmp_command(engine->qmp, "blockdev-del", arguments, engine->timeout_ms, NULL, err);
}

/* A QEMU has the monitor for people, whose answer is a text: empty where all went well. */
static int flush_by_monitor(const struct block_engine *engine, const char *node_name, struct error *err)
{
    char line[64];
    /* It becomes a part of a command line. Nodes that QEMU itself has named begin with "#". */
    if (!block_node_name_is_legal(*node_name == '#' ? node_name + 1 : node_name))
        return error_set(err, EINVAL, "not a block node's name");
    snprintf(line, sizeof line, "qemu-io %s \"flush\"", node_name);
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&arguments, "command-line", line);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    cleanup_json struct json_object *said = NULL;
    int rc = qmp_command(engine->qmp, "human-monitor-command", arguments, engine->timeout_ms, &said, err);
    if (rc < 0)
        return rc;
    const char *text = json_string_of(said);
    if (text && !*text)
        return 0;
    char clean[ERROR_TEXT_MAX / 2];
    qmp_clean_text(text ? text : "no answer", clean, sizeof clean);
    int code = text ? qmp_errno(NULL, text) : EPROTO;
    return error_set(err, code, "the node %s can't be flushed: %s", node_name, clean);
}

int block_flush(const struct block_engine *engine, const char *node_name, const char *backing,
                struct error *err)
{
    if (engine->daemon)
        return storage_daemon_flush(engine->daemon, node_name, backing, engine->timeout_ms, err);
    return flush_by_monitor(engine, node_name, err);
}
