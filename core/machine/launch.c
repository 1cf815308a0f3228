// SPDX-License-Identifier: LGPL-2.1-or-later
/* See launch.h. */
#include "machine/launch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "format/json_parse.h"
#include "hypervisor/qmp_arguments.h"
#include "hypervisor/storage_daemon.h"

#define NODE_NAME_SIZE 32 /* QEMU's */

struct arguments {
    char **list;
    size_t count;
    struct json_object *nodes; /* names that are taken */
};

static int out_of_memory(struct error *err)
{
    return error_set(err, ENOMEM, "out of memory");
}

/* Takes over the string; NULL: memory had run out. */
static int add(struct arguments *arguments, char *string, struct error *err)
{
    char **grown = realloc(arguments->list, (arguments->count + 2) * sizeof *grown);
    if (grown)
        arguments->list = grown;
    if (!grown || !string) {
        free(string);
        return out_of_memory(err);
    }
    grown[arguments->count++] = string;
    grown[arguments->count] = NULL;
    return 0;
}

static int add_two(struct arguments *arguments, const char *option, char *value, struct error *err)
{
    int rc = add(arguments, strdup(option), err);
    if (rc < 0) {
        free(value);
        return rc;
    }
    return add(arguments, value, err);
}

/* ---- Nodes ---- */

/* The name of a node: TARGET, or of what stands below, and then what it is of that image. */
static int name_node(struct arguments *arguments, const char *target, size_t depth, const char *part,
                     char name[NODE_NAME_SIZE], struct error *err)
{
    char number[24] = "";
    if (depth > 0)
        snprintf(number, sizeof number, "-%zu", depth);
    int length = snprintf(name, NODE_NAME_SIZE, "%s%s%s", target, number, part);
    if (length >= NODE_NAME_SIZE || !block_node_name_is_legal(name))
        return error_set(err, EINVAL,
                         "disk %s: its target can be no name of a QEMU block node: a letter first, then "
                         "letters, digits, hyphens, dots, and not too long",
                         target);
    if (json_object_object_get_ex(arguments->nodes, name, NULL))
        return error_set(err, EINVAL, "disk %s: the block node %s is another disk's already", target, name);
    return json_object_object_add(arguments->nodes, name, NULL) < 0 ? out_of_memory(err) : 0;
}

static int add_node(struct arguments *arguments, struct json_object *node, struct error *err)
{
    const char *text =
        node ? json_object_to_json_string_ext(node, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)
             : NULL;
    return text ? add_two(arguments, "-blockdev", strdup(text), err) : out_of_memory(err);
}

/* A file below the active one is opened for reading, and for writing where a job asks for it. */
static int add_file(struct arguments *arguments, const char *path, bool is_device, bool active,
                    const char *name, struct error *err)
{
    cleanup_json struct json_object *node = json_object_new_object();
    qmp_add_string(&node, "driver", is_device ? "host_device" : "file");
    qmp_add_string(&node, "node-name", name);
    qmp_add_string(&node, "filename", path);
    qmp_add_string(&node, "discard", "unmap");
    if (!active)
        qmp_add_bool(&node, "auto-read-only", true);
    return add_node(arguments, node, err);
}

static int add_layer(struct arguments *arguments, const struct launch_disk *disk, size_t depth,
                     const char *backing, char name[NODE_NAME_SIZE], struct error *err)
{
    const struct launch_layer *layer = &disk->layers[depth];
    char file[NODE_NAME_SIZE], data[NODE_NAME_SIZE] = "";
    bool active = depth == 0;
    int rc = name_node(arguments, disk->target, depth, "", name, err);
    if (rc == 0)
        rc = name_node(arguments, disk->target, depth, "-file", file, err);
    if (rc == 0)
        rc = add_file(arguments, layer->path, layer->is_device, active, file, err);
    if (rc == 0 && layer->data_path)
        rc = name_node(arguments, disk->target, depth, "-data", data, err);
    if (rc == 0 && layer->data_path)
        rc = add_file(arguments, layer->data_path, false, active, data, err);
    if (rc < 0)
        return rc;
    cleanup_json struct json_object *node = json_object_new_object();
    qmp_add_string(&node, "driver", image_format_name(layer->format));
    qmp_add_string(&node, "node-name", name);
    qmp_add_bool(&node, "read-only", !active);
    qmp_add_string(&node, "discard", "unmap");
    qmp_add_string(&node, "file", file);
    if (*data)
        qmp_add_string(&node, "data-file", data);
    if (backing)
        qmp_add_string(&node, "backing", backing);
    else if (image_format_knows_backing(layer->format) && node)
        json_object_object_add(node, "backing", NULL);
    return add_node(arguments, node, err);
}

/* From the bottom to the top: a node is named by those after it. */
static int add_disk(struct arguments *arguments, const struct launch_disk *disk, struct error *err)
{
    char names[2][NODE_NAME_SIZE];
    const char *backing = NULL;
    int rc = 0;
    for (size_t depth = disk->count; rc == 0 && depth-- > 0;) {
        char *name = names[depth % 2];
        rc = add_layer(arguments, disk, depth, backing, name, err);
        backing = name;
    }
    return rc;
}

/* ---- Monitors ---- */

static int add_monitor(struct arguments *arguments, const char *path, size_t number, struct error *err)
{
    cleanup_text struct text chardev = {0}, monitor = {0};
    text_printf(&chardev, "socket,id=vmsnapfs-%zu,server=on,wait=off,path=", number);
    for (const char *at = path; *at; at++)
        text_printf(&chardev, *at == ',' ? ",," : "%c", *at);
    text_printf(&monitor, "chardev=vmsnapfs-%zu,mode=control", number);
    int rc = add_two(arguments, "-chardev", text_steal(&chardev), err);
    return rc < 0 ? rc : add_two(arguments, "-mon", text_steal(&monitor), err);
}

/* ---- All of it ---- */

static void arguments_done(struct arguments *arguments)
{
    launch_free(arguments->list);
    json_object_put(arguments->nodes);
}

int launch_arguments(char *const *launch, const struct launch_disk *disks, size_t disk_count,
                     char *const *monitors, char ***argv, struct error *err)
{
    cleanup(arguments_done) struct arguments arguments = {.nodes = json_object_new_object()};
    int rc = arguments.nodes ? 0 : out_of_memory(err);
    for (char *const *at = launch; rc == 0 && *at; at++) {
        if (strcmp(*at, "-daemonize") == 0 || strcmp(*at, "--daemonize") == 0)
            return error_set(err, EINVAL, "its launch says -daemonize, which would lose sight of it");
        rc = add(&arguments, strdup(*at), err);
    }
    for (size_t i = 0; rc == 0 && i < disk_count; i++)
        rc = add_disk(&arguments, &disks[i], err);
    for (size_t i = 0; rc == 0 && monitors[i]; i++)
        rc = add_monitor(&arguments, monitors[i], i + 1, err);
    if (rc == 0)
        *argv = steal_pointer(arguments.list);
    return rc;
}

void launch_free(char **argv)
{
    for (char **at = argv; at && *at; at++)
        free(*at);
    free(argv);
}
