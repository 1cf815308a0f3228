// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The names of image formats, as QEMU spells its block drivers.
 *
 * A format is told by a definition, by the image that refers to a file, or by a file's ending; never by its
 * content: a guest can write any header into a raw disk.
 */
#pragma once

#include <stdbool.h>

enum image_format {
    IMAGE_FORMAT_UNKNOWN,
    IMAGE_FORMAT_RAW,
    IMAGE_FORMAT_QCOW2,
    /* The rest is read through a helper. */
    IMAGE_FORMAT_VMDK,
    IMAGE_FORMAT_VHDX,
    IMAGE_FORMAT_VPC, /* .vhd */
    IMAGE_FORMAT_VDI,
    IMAGE_FORMAT_PARALLELS,
    IMAGE_FORMAT_QED,
    IMAGE_FORMAT_QCOW,
    IMAGE_FORMAT_CLOOP,
    IMAGE_FORMAT_BOCHS,
    IMAGE_FORMAT_DMG,
    IMAGE_FORMAT_LUKS, /* known by name, so that it can be refused as encrypted */
    IMAGE_FORMAT_COUNT,
};

/* QEMU's name of the format; "unknown" for IMAGE_FORMAT_UNKNOWN. Static. */
const char *image_format_name(enum image_format format);

/* IMAGE_FORMAT_UNKNOWN where the name (may be NULL) is none that we know. "vhd" is taken for "vpc". */
enum image_format image_format_from_name(const char *name);

/* The format that a file's ending tells where nothing else does: .qcow2, .raw and .img only. */
enum image_format image_format_from_ending(const char *path);

/* True for formats whose images can name a backing file, as QEMU's drivers know it. */
bool image_format_knows_backing(enum image_format format);

/* True for raw and qcow2, which the reader here reads itself. */
bool image_format_is_native(enum image_format format);
