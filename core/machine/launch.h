// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What a domain is started with: what its definition says, and then each disk as block nodes, and monitors.
 *
 * The active image of a disk is a node with the name of the disk's target, which a -device of the definition
 * names as its drive. Every image of its chain is a node of its own, with its format, on a node of its file:
 * TARGET-1 for what the active one stands on, TARGET-file and TARGET-1-file for the files. So nothing is
 * opened because an image names it, and no format is guessed. Pure.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "base/image_format.h"

struct launch_layer {
    const char *path; /* absolute */
    bool is_device;   /* a block device */
    enum image_format format;
    const char *data_path; /* of its external data file; NULL: none */
};

struct launch_disk {
    const char *target;
    const struct launch_layer *layers; /* the active one first */
    size_t count;
};

/*
 * `launch` is the definition's, `monitors` are paths of sockets, all NULL-terminated. `*argv` is to be freed
 * with launch_free. Errors: EINVAL for a target that can be no node's name, for two that give the same names,
 * and for a `launch` that would have it run in the background; ENOMEM.
 */
int launch_arguments(char *const *launch, const struct launch_disk *disks, size_t disk_count,
                     char *const *monitors, char ***argv, struct error *err);
void launch_free(char **argv);
