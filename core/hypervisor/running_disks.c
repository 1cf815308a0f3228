// SPDX-License-Identifier: LGPL-2.1-or-later
/* See running_disks.h. */
#include "hypervisor/running_disks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "hypervisor/image_claim.h"

/* Nodes of the file itself have it open for writing as well. */
static bool is_of(const struct block_node *node, const struct running_disk *disk, const struct stat *wanted)
{
    return !node->read_only && strcmp(node->driver, image_format_name(disk->format)) == 0 &&
           block_node_is_file(node, wanted);
}

int running_disk_check_open(const struct block_engine *engine, const char *path, const struct stat *file,
                            struct error *err)
{
    if (image_claim_is_open(qmp_peer(engine->qmp), file) != 0)
        return 0;
    return error_set(
        err, ENODEV,
        "the QEMU that runs has another file open than %s is now, which was replaced or moved while "
        "the domain ran; what it writes goes to the other one, and is lost when it ends, unless "
        "that is brought back to its name before",
        path);
}

static int find(const struct block_engine *engine, const struct block_nodes *nodes, struct running_disk *disk,
                struct error *err)
{
    const struct block_node *found = NULL;
    struct stat wanted;
    if (fstat(disk->fd, &wanted) < 0)
        return error_set(err, errno, "%s: %m", disk->path);
    for (size_t i = 0; i < nodes->count; i++) {
        if (!is_of(&nodes->nodes[i], disk, &wanted))
            continue;
        if (found)
            return error_set(err, EINVAL, "the QEMU that runs has %s open twice, as %s and %s", disk->path,
                             found->name, nodes->nodes[i].name);
        found = &nodes->nodes[i];
    }
    if (!found)
        return error_set(
            err, ENODEV,
            "the QEMU that runs does not write to %s, which is the image of disk %s: it was started "
            "with another one",
            disk->path, disk->target);
    int r = running_disk_check_open(engine, disk->path, &wanted, err);
    if (r < 0)
        return r;
    disk->node = strdup(found->name);
    return disk->node ? 0 : error_set(err, ENOMEM, "out of memory");
}

int running_disks_find(const struct block_engine *engine, struct running_disk *disks, size_t count,
                       struct error *err)
{
    struct block_nodes nodes;
    int rc = block_nodes_query(engine, &nodes, err);
    if (rc < 0)
        return rc;
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = find(engine, &nodes, &disks[i], err);
    block_nodes_done(&nodes);
    return rc;
}

void running_disks_done(struct running_disk *disks, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(disks[i].node);
}
