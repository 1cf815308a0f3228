// SPDX-License-Identifier: LGPL-2.1-or-later
/* See frozen_nodes.h. */
#include "administration/frozen_nodes.h"

#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "hypervisor/block_read_only.h"
#include "hypervisor/layer_nodes.h"

static bool is_in(const struct layer *layer, const struct stat *file)
{
    struct stat other;
    return !layer->remote && stat(layer->path, &other) == 0 && other.st_dev == file->st_dev &&
           other.st_ino == file->st_ino;
}

static bool is_active(const struct domain *domain, const struct stat *file)
{
    for (size_t i = 0; i < domain->disk_count; i++)
        if (domain->disks[i].active && is_in(domain->disks[i].active, file))
            return true;
    return false;
}

/* The layer below the active ones that the file is; NULL: none. */
static const struct layer *find_frozen(const struct domain *domain, const struct stat *file)
{
    for (size_t i = 0; i < domain->disk_count; i++) {
        const struct layer *active = domain->disks[i].active;
        for (const struct layer *layer = active ? active->backing : NULL; layer; layer = layer->backing)
            if (is_in(layer, file))
                return layer;
    }
    return NULL;
}

/* Whether the node is one of a frozen layer no more. */
static bool close_node(const struct block_engine *engine, const struct domain *domain,
                       const struct block_node *node)
{
    struct error why;
    struct stat file;
    bool is_disk = false; /* the disk has moved there, and nobody has noted it */
    if (!node->path || stat(node->path, &file) < 0 || is_active(domain, &file))
        return true;
    const struct layer *layer = find_frozen(domain, &file);
    if (!layer || image_format_from_name(node->driver) != layer->format)
        return true;
    int r = layer_nodes_is_disk(engine, &file, &is_disk, NULL, &why);
    if (r == 0 && is_disk)
        return false;
    if (r == 0)
        r = block_make_read_only(engine, node, &why);
    if (r < 0)
        log_info("%s has %s open for writing still: %s", domain->name, layer->path, why.text);
    return r == 0;
}

bool frozen_nodes_close(const struct block_engine *engine, const struct domain *domain)
{
    cleanup(block_nodes_done) struct block_nodes nodes = {0};
    if (block_nodes_query(engine, &nodes, NULL) < 0)
        return false;
    bool all = true;
    for (size_t i = 0; i < nodes.count; i++)
        if (!nodes.nodes[i].read_only)
            all &= close_node(engine, domain, &nodes.nodes[i]);
    return all;
}
