// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What an image says of the file that it stands on: a path, "file:PATH", "json:{...}" with QEMU's block
 * device options, or the name of a disk on the network (QEMU docs/interop/qcow2.txt, "backing_file_offset";
 * qapi/block-core.json, BlockdevOptions).
 *
 * Only plain files and the names of network_name.h are understood. What else QEMU could be told to do there
 * (json: with a network driver, a part of a file, something else underneath) is refused by name, never left
 * out: the bytes would be wrong. Nothing is opened here; whether it may be is decided by image/locate.h.
 */
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "base/image_format.h"

/* A header of QEMU holds 1023 bytes; a data file's name may be longer. */
#define BACKING_NAME_BYTES_MAX 8192
#define BACKING_NAME_DEPTH_MAX 16 /* objects inside each other in a json: name */
#define BACKING_NAME_KEYS_MAX  64 /* in all objects together */

struct backing_name {
    char *filename;           /* as written, relative or absolute, or the name on the network; never empty */
    enum image_format format; /* of the file; IMAGE_FORMAT_UNKNOWN where nothing tells */
    bool network;             /* `filename` is a name that network_name_parse takes */
};

/*
 * Parses `name`. `format_name` is the format that the image gives beside the name, or NULL; as in QEMU it
 * takes the place of the outermost driver in a json: name. Errors: EINVAL for what is malformed, E2BIG for
 * what is nested too deep, EOPNOTSUPP for what is neither a plain file nor a name on the network, and for an
 * unknown format, ENAMETOOLONG, ENOMEM.
 * On failure `*parsed` is untouched.
 */
int backing_name_parse(const char *name, const char *format_name, struct backing_name *parsed,
                       struct error *err);
void backing_name_done(struct backing_name *parsed);
