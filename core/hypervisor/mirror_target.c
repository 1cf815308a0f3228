// SPDX-License-Identifier: LGPL-2.1-or-later
/* See mirror_target.h. */
#include "hypervisor/mirror_target.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "hypervisor/qmp_arguments.h"

int mirror_target_open(const struct block_engine *engine, const struct mirror_target *target,
                       struct error *err)
{
    cleanup_json struct json_object *file = json_object_new_object(), *node = json_object_new_object();
    qmp_add_string(&file, "driver", "file");
    qmp_add_string(&file, "node-name", target->file_node);
    qmp_add_string(&file, "filename", target->path);
    qmp_add_string(&file, "discard", "unmap");
    qmp_add_string(&node, "driver", image_format_name(target->format));
    qmp_add_string(&node, "node-name", target->node);
    qmp_add_string(&node, "file", target->file_node);
    qmp_add_string(&node, "discard", "unmap");
    if (target->backing)
        qmp_add_string(&node, "backing", target->backing);
    else if (node && target->format == IMAGE_FORMAT_QCOW2 &&
             json_object_object_add(node, "backing", NULL) < 0)
        return error_set(err, ENOMEM, "out of memory");
    int rc = block_node_add(engine, file, err);
    if (rc < 0)
        return rc;
    rc = block_node_add(engine, node, err);
    if (rc < 0)
        block_node_delete(engine, target->file_node, NULL);
    return rc;
}

void mirror_target_close(const struct block_engine *engine, const char *node, const char *file_node)
{
    block_node_delete(engine, node, NULL);
    block_node_delete(engine, file_node, NULL);
}

int mirror_find_backing(const struct block_engine *engine, const struct stat *file, enum image_format format,
                        unsigned depth, char **node, struct error *err)
{
    struct block_nodes nodes;
    int rc = block_nodes_query_depths(engine, &nodes, err);
    if (rc < 0)
        return rc;
    char *found = NULL;
    rc = error_set(err, ENODEV, "the QEMU that runs has no block node of what the disk's image lies on");
    for (size_t i = 0; !found && i < nodes.count; i++) {
        const struct block_node *one = &nodes.nodes[i];
        if (!one->read_only || one->depth != depth || strcmp(one->driver, image_format_name(format)) != 0 ||
            !block_node_is_file(one, file))
            continue;
        found = strdup(one->name);
        rc = found ? 0 : error_set(err, ENOMEM, "out of memory");
    }
    block_nodes_done(&nodes);
    if (rc == 0)
        *node = found;
    return rc;
}

int mirror_is_disk(const struct block_engine *engine, const char *node, bool *is_disk, struct error *err)
{
    cleanup_json struct json_object *list = NULL;
    int rc = qmp_command(engine->qmp, "query-block", NULL, engine->timeout_ms, &list, err);
    if (rc < 0)
        return rc;
    if (!json_object_is_type(list, json_type_array))
        return error_set(err, EPROTO, "query-block gave no list");
    bool found = false;
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *device = json_object_array_get_idx(list, i), *inserted;
        if (!json_object_is_type(device, json_type_object) ||
            !json_object_object_get_ex(device, "inserted", &inserted) ||
            !json_object_is_type(inserted, json_type_object))
            continue;
        const char *name = json_string_in(inserted, "node-name");
        found |= name && strcmp(name, node) == 0;
    }
    *is_disk = found;
    return 0;
}

/* True: at least one went. */
static bool close_some(const struct block_engine *engine, const struct stat *files, size_t count)
{
    struct block_nodes nodes;
    bool any = false;
    if (block_nodes_query(engine, &nodes, NULL) < 0)
        return false;
    for (size_t i = 0; i < nodes.count; i++)
        for (size_t j = 0; j < count; j++)
            if (block_node_is_file(&nodes.nodes[i], &files[j])) {
                any |= block_node_delete(engine, nodes.nodes[i].name, NULL) == 0;
                break;
            }
    block_nodes_done(&nodes);
    return any;
}

void mirror_close_unused(const struct block_engine *engine, const struct stat *files, size_t count)
{
    /* Each round closes what lay on top; what could not be closed for what was on it goes in the next. */
    for (size_t round = 0; round < 2 * count + 1 && !qmp_is_dead(engine->qmp); round++)
        if (!close_some(engine, files, count))
            return;
}
