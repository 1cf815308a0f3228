// SPDX-License-Identifier: LGPL-2.1-or-later
/* See block_snapshot.h. */
#include "hypervisor/block_snapshot.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "hypervisor/qmp_arguments.h"

static void append_action(struct json_object **actions, const char *type, struct json_object *data)
{
    struct json_object *action = json_object_new_object();
    qmp_add_string(&action, "type", type);
    qmp_add(&action, "data", data);
    qmp_append(actions, action);
}

/* Takes over the actions. One alone is the command of the same name, which is a shorter line (qmp.h). */
static int transact(const struct block_engine *engine, struct json_object *actions, struct error *err)
{
    cleanup_json struct json_object *arguments = json_object_new_object();
    const char *command = "transaction";
    if (actions && json_object_array_length(actions) == 1) {
        struct json_object *action = json_object_array_get_idx(actions, 0);
        command = json_string_in(action, "type");
        json_object_put(arguments);
        arguments = json_object_get(json_object_object_get(action, "data"));
    } else {
        qmp_add(&arguments, "actions", json_object_get(actions));
    }
    int rc = arguments ? qmp_command(engine->qmp, command, arguments, engine->timeout_ms, NULL, err)
                       : error_set(err, ENOMEM, "out of memory");
    json_object_put(actions);
    return rc;
}

int block_snapshot_check_tag(const char *tag, struct error *err)
{
    if (tag[strspn(tag, "0123456789")] == '\0')
        return error_set(err, EINVAL,
                         "a snapshot's tag needs something that is no digit: QEMU takes \"%s\" for an id",
                         tag);
    if (strlen(tag) > BLOCK_TAG_BYTES_MAX)
        return error_set(err, ENAMETOOLONG, "a snapshot's tag has at most %d bytes", BLOCK_TAG_BYTES_MAX);
    return 0;
}

int block_snapshot_take(const struct block_engine *engine, const struct block_snapshot *snapshot,
                        struct error *err)
{
    int rc = snapshot->node_count ? block_snapshot_check_tag(snapshot->tag, err) : 0;
    if (rc < 0)
        return rc;
    struct json_object *actions = json_object_new_array();
    for (size_t i = 0; i < snapshot->node_count; i++) {
        struct json_object *data = json_object_new_object();
        qmp_add_string(&data, "device", snapshot->nodes[i]);
        qmp_add_string(&data, "name", snapshot->tag);
        append_action(&actions, "blockdev-snapshot-internal-sync", data);
    }
    for (size_t i = 0; i < snapshot->pair_count; i++) {
        struct json_object *data = json_object_new_object();
        qmp_add_string(&data, "node", snapshot->pairs[i].node);
        qmp_add_string(&data, "overlay", snapshot->pairs[i].overlay);
        append_action(&actions, "blockdev-snapshot", data);
    }
    return transact(engine, actions, err);
}

int block_snapshot_internal(const struct block_engine *engine, const char *const *node_names, size_t count,
                            const char *tag, struct error *err)
{
    const struct block_snapshot snapshot = {.tag = tag, .nodes = node_names, .node_count = count};
    return block_snapshot_take(engine, &snapshot, err);
}

int block_snapshot_delete(const struct block_engine *engine, const char *node_name, const char *id,
                          const char *tag, struct error *err)
{
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&arguments, "device", node_name);
    qmp_add_string(&arguments, "name", tag);
    if (id)
        qmp_add_string(&arguments, "id", id);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    return qmp_command(engine->qmp, "blockdev-snapshot-delete-internal-sync", arguments, engine->timeout_ms,
                       NULL, err);
}

/* The snapshots of the node in what query-named-block-nodes gave; NULL: it has none. -ENODEV, without a text.
 */
static int snapshots_of(struct json_object *nodes, const char *node_name, struct json_object **snapshots)
{
    for (size_t i = 0; i < json_object_array_length(nodes); i++) {
        struct json_object *node = json_object_array_get_idx(nodes, i), *image = NULL, *list = NULL;
        const char *name = json_string_in(node, "node-name");
        if (!name || strcmp(name, node_name) != 0)
            continue;
        if (json_object_object_get_ex(node, "image", &image) && json_object_is_type(image, json_type_object))
            json_object_object_get_ex(image, "snapshots", &list);
        *snapshots = json_object_is_type(list, json_type_array) ? list : NULL;
        return 0;
    }
    return -ENODEV;
}

int block_snapshot_find(const struct block_engine *engine, const char *node_name, const char *tag, char **id,
                        struct error *err)
{
    cleanup_json struct json_object *arguments = json_object_new_object(), *nodes = NULL;
    qmp_add_bool(&arguments, "flat", true);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    int rc = qmp_command(engine->qmp, "query-named-block-nodes", arguments, engine->timeout_ms, &nodes, err);
    if (rc < 0)
        return rc;
    if (!json_object_is_type(nodes, json_type_array))
        return error_set(err, EPROTO, "query-named-block-nodes gave no list");
    struct json_object *snapshots = NULL;
    if (snapshots_of(nodes, node_name, &snapshots) < 0)
        return error_set(err, ENODEV, "there is no block node %s", node_name);
    for (size_t i = 0; snapshots && i < json_object_array_length(snapshots); i++) {
        struct json_object *snapshot = json_object_array_get_idx(snapshots, i);
        const char *name = json_string_in(snapshot, "name"), *found = json_string_in(snapshot, "id");
        if (!name || !found || strcmp(name, tag) != 0)
            continue;
        char *copy = strdup(found);
        if (!copy)
            return error_set(err, ENOMEM, "out of memory");
        *id = copy;
        return 0;
    }
    return error_set(err, ENOENT, "the node %s has no snapshot \"%s\"", node_name, tag);
}

int block_snapshot_external(const struct block_engine *engine, const struct block_snapshot_pair *pairs,
                            size_t count, struct error *err)
{
    const struct block_snapshot snapshot = {.pairs = pairs, .pair_count = count};
    return block_snapshot_take(engine, &snapshot, err);
}
