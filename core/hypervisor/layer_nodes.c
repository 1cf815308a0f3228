// SPDX-License-Identifier: LGPL-2.1-or-later
/* See layer_nodes.h. */
#include "hypervisor/layer_nodes.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "hypervisor/qmp_arguments.h"

/* The node of the file itself, on which that of the format lies. */
static bool is_protocol(const struct block_node *node)
{
    return strcmp(node->driver, "file") == 0 || strcmp(node->driver, "host_device") == 0;
}

bool layer_nodes_have(const struct block_nodes *nodes, const struct stat *file)
{
    for (size_t i = 0; i < nodes->count; i++)
        if (block_node_is_file(&nodes->nodes[i], file))
            return true;
    return false;
}

int layer_nodes_find(const struct block_nodes *nodes, const struct stat *file, const char *path,
                     enum image_format format, const struct block_node **node, struct error *err)
{
    const struct block_node *found = NULL;
    for (size_t i = 0; i < nodes->count; i++) {
        const struct block_node *one = &nodes->nodes[i];
        if (strcmp(one->driver, image_format_name(format)) != 0 || !block_node_is_file(one, file))
            continue;
        if (found)
            return error_set(err, EBUSY, "the QEMU that runs has %s open twice, as %s and %s", path,
                             found->name, one->name);
        found = one;
    }
    if (!found)
        return error_set(err, ENODEV, "the QEMU that runs does not have %s open", path);
    *node = found;
    return 0;
}

/* That one is in use is seen afterwards: only a connection that ended counts here. */
static int try_to_close(const struct block_engine *engine, const char *name, struct error *err)
{
    int rc = block_node_delete(engine, name, err);
    return rc < 0 && qmp_is_dead(engine->qmp) ? rc : 0;
}

static int close_those(const struct block_engine *engine, const struct block_nodes *nodes,
                       const struct stat *file, bool protocols, struct error *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < nodes->count; i++) {
        const struct block_node *node = &nodes->nodes[i];
        if (is_protocol(node) == protocols && block_node_is_file(node, file))
            rc = try_to_close(engine, node->name, err);
    }
    return rc;
}

int layer_nodes_close(const struct block_engine *engine, const struct stat *file, const char *path,
                      struct error *err)
{
    cleanup(block_nodes_done) struct block_nodes before = {0}, after = {0};
    int rc = block_nodes_query(engine, &before, err);
    if (rc < 0 || !layer_nodes_have(&before, file))
        return rc;
    rc = close_those(engine, &before, file, false, err);
    if (rc == 0)
        rc = close_those(engine, &before, file, true, err);
    if (rc == 0)
        rc = block_nodes_query(engine, &after, err);
    if (rc == 0 && layer_nodes_have(&after, file))
        rc = error_set(err, EBUSY, "the QEMU that runs still uses %s", path);
    return rc;
}

/* The devices that send each request on its way and hear of its end later. */
static int ask_can_wait(const struct block_engine *engine, const char *device, bool *can_wait,
                        struct error *err)
{
    static const char *const types[] = {"virtio-blk-device", "scsi-hd", "ide-hd", "nvme", "nvme-ns"};
    cleanup_json struct json_object *arguments = json_object_new_object(), *said = NULL;
    qmp_add_string(&arguments, "path", device);
    qmp_add_string(&arguments, "property", "type");
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    int rc = qmp_command(engine->qmp, "qom-get", arguments, engine->timeout_ms, &said, err);
    if (rc < 0)
        return rc;
    const char *type = json_string_of(said);
    *can_wait = false;
    for (size_t i = 0; type && i < sizeof types / sizeof *types; i++)
        *can_wait |= strcmp(type, types[i]) == 0;
    return 0;
}

/* The name of the node of a device's disk, and the device's path; either may be NULL. */
static const char *read_device(struct json_object *device, const char **path)
{
    struct json_object *inserted;
    if (!json_object_is_type(device, json_type_object) ||
        !json_object_object_get_ex(device, "inserted", &inserted) ||
        !json_object_is_type(inserted, json_type_object))
        return NULL;
    *path = json_string_in(device, "qdev");
    return json_string_in(inserted, "node-name");
}

int layer_nodes_is_disk(const struct block_engine *engine, const struct stat *file, bool *is, bool *can_wait,
                        struct error *err)
{
    cleanup_json struct json_object *list = NULL;
    cleanup(block_nodes_done) struct block_nodes nodes = {0};
    int rc = qmp_command(engine->qmp, "query-block", NULL, engine->timeout_ms, &list, err);
    if (rc == 0)
        rc = block_nodes_query(engine, &nodes, err);
    if (rc < 0)
        return rc;
    if (!json_object_is_type(list, json_type_array))
        return error_set(err, EPROTO, "query-block gave no list");
    bool found = false, waits = true;
    for (size_t i = 0; rc == 0 && i < json_object_array_length(list); i++) {
        const char *path = NULL;
        const char *name = read_device(json_object_array_get_idx(list, i), &path);
        const struct block_node *node = name ? block_nodes_find(&nodes, name) : NULL;
        if (!node || !block_node_is_file(node, file))
            continue;
        bool one = false;
        if (can_wait && path)
            rc = ask_can_wait(engine, path, &one, err);
        waits &= one;
        found = true;
    }
    if (rc < 0)
        return rc;
    *is = found;
    if (can_wait)
        *can_wait = found && waits;
    return 0;
}
