// SPDX-License-Identifier: LGPL-2.1-or-later
/* See machine_disks.h. */
#include "machine/machine_disks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "hypervisor/block_nodes.h"

#define JSON_PREFIX "json:"

/* What QEMU makes up for a node that no plain name describes. */
static const struct json_limits limits = {.bytes = 1 << 20, .depth = 64, .values = 1 << 16};

static const char *string_in(struct json_object *object, const char *key)
{
    struct json_object *value;
    return json_object_object_get_ex(object, key, &value) ? json_string_of(value) : NULL;
}

/* The file that a node of a format, or of a file, is on; the caller frees. NULL: none that has a path. */
static char *path_of(const struct block_node *node)
{
    const char *name = node->filename;
    if (*name == '/')
        return strdup(name);
    if (strncmp(name, JSON_PREFIX, strlen(JSON_PREFIX)) != 0)
        return NULL;
    name += strlen(JSON_PREFIX);
    cleanup_json struct json_object *root = NULL;
    if (json_parse(name, strlen(name), &limits, JSON_LENIENT, &root, NULL) < 0)
        return NULL;
    struct json_object *object = root, *file;
    const char *path = string_in(root, "file.filename");
    /* Filters lie above what they filter, also here. */
    for (unsigned depth = 0; !path && depth < limits.depth; depth++) {
        path = string_in(object, "filename");
        if (path || !json_object_object_get_ex(object, "file", &file) ||
            !json_object_is_type(file, json_type_object))
            break;
        object = file;
    }
    return path && *path == '/' ? strdup(path) : NULL;
}

static bool is_protocol(const struct block_node *node)
{
    return strcmp(node->driver, "file") == 0 || strcmp(node->driver, "host_device") == 0;
}

static bool is_on(const struct file_identity *identity, const struct layer *layer)
{
    return identity->inode && file_identity_same_file(identity, &layer->identity);
}

/* The better one of two that could be it: one that is written to. False where neither is. */
static bool choose(const struct block_node **chosen, const struct block_node *node)
{
    if (!*chosen || ((*chosen)->read_only && !node->read_only))
        *chosen = node;
    else if ((*chosen)->read_only == node->read_only)
        return false;
    return true;
}

static int find_disk(const struct block_nodes *all, const struct file_identity *identities,
                     const struct disk *disk, char **name, struct error *err)
{
    const struct layer *active = disk->active;
    const char *driver = active ? image_format_name(active->format) : "";
    const struct block_node *format = NULL, *protocol = NULL;
    bool clear = true;
    for (size_t i = 0; active && !active->remote && i < all->count; i++) {
        const struct block_node *node = &all->nodes[i];
        if (!is_on(&identities[i], active))
            continue;
        if (strcmp(node->driver, driver) == 0)
            clear = choose(&format, node) && clear;
        else if (is_protocol(node))
            choose(&protocol, node);
    }
    if (!clear)
        return error_set(err, EINVAL, "its QEMU has several block nodes on %s, the image of disk %s",
                         active->path, disk->target);
    /* A raw disk needs no node of a format. */
    if (!format && active && active->format == IMAGE_FORMAT_RAW)
        format = protocol;
    *name = format ? strdup(format->name) : NULL;
    return format && !*name ? error_set(err, ENOMEM, "out of memory") : 0;
}

int machine_disks_find(struct qmp *qmp, int timeout_ms, const struct domain *domain, char ***nodes,
                       struct error *err)
{
    cleanup(block_nodes_done) struct block_nodes all = {0};
    const struct block_engine engine = {.qmp = qmp, .timeout_ms = timeout_ms};
    int rc = block_nodes_query(&engine, &all, err);
    if (rc < 0)
        return rc;
    cleanup_free struct file_identity *identities = calloc(all.count + 1, sizeof *identities);
    char **found = calloc(domain->disk_count + 1, sizeof *found);
    if (!identities || !found) {
        free(found);
        return error_set(err, ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < all.count; i++) {
        struct stat stat_now;
        cleanup_free char *path = path_of(&all.nodes[i]);
        if (path && stat(path, &stat_now) == 0)
            identities[i] = file_identity_of(&stat_now);
    }
    for (size_t i = 0; rc == 0 && i < domain->disk_count; i++)
        rc = find_disk(&all, identities, &domain->disks[i], &found[i], err);
    if (rc < 0)
        machine_disks_free(found, domain);
    else
        *nodes = found;
    return rc;
}

void machine_disks_free(char **nodes, const struct domain *domain)
{
    for (size_t i = 0; nodes && i < domain->disk_count; i++)
        free(nodes[i]);
    free(nodes);
}
