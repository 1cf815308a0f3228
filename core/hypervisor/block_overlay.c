// SPDX-License-Identifier: LGPL-2.1-or-later
/* See block_overlay.h. */
#include "hypervisor/block_overlay.h"

#include <errno.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "hypervisor/qmp_arguments.h"

/*
 * A QEMU reads commands byte by byte, slowly (some 5 us each): so the node of the file is part of the command
 * that opens the overlay. It has a name, since it is told of in errors, and goes with the other one.
 */
int block_overlay_open(const struct block_engine *engine, const char *name, const char *file_name,
                       const char *path, struct error *err)
{
    cleanup_json struct json_object *node = json_object_new_object();
    struct json_object *file = json_object_new_object();
    qmp_add_string(&file, "driver", "file");
    qmp_add_string(&file, "node-name", file_name);
    qmp_add_string(&file, "filename", path);
    qmp_add_string(&file, "discard", "unmap");
    qmp_add_string(&node, "driver", "qcow2");
    qmp_add_string(&node, "node-name", name);
    qmp_add(&node, "file", file);
    qmp_add_string(&node, "discard", "unmap");
    if (!node || json_object_object_add(node, "backing", NULL) < 0)
        return error_set(err, ENOMEM, "out of memory");
    return block_node_add(engine, node, err);
}

int block_overlay_close(const struct block_engine *engine, const char *name, struct error *err)
{
    return block_node_delete(engine, name, err);
}
