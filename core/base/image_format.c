// SPDX-License-Identifier: LGPL-2.1-or-later
/* The names of image formats; see image_format.h. */
#include "base/image_format.h"

#include <stddef.h>
#include <string.h>

static const char *const names[IMAGE_FORMAT_COUNT] = {
    [IMAGE_FORMAT_UNKNOWN] = "unknown",
    [IMAGE_FORMAT_RAW] = "raw",
    [IMAGE_FORMAT_QCOW2] = "qcow2",
    [IMAGE_FORMAT_VMDK] = "vmdk",
    [IMAGE_FORMAT_VHDX] = "vhdx",
    [IMAGE_FORMAT_VPC] = "vpc",
    [IMAGE_FORMAT_VDI] = "vdi",
    [IMAGE_FORMAT_QED] = "qed",
    [IMAGE_FORMAT_PARALLELS] = "parallels",
    [IMAGE_FORMAT_QCOW] = "qcow",
    [IMAGE_FORMAT_CLOOP] = "cloop",
    [IMAGE_FORMAT_BOCHS] = "bochs",
    [IMAGE_FORMAT_DMG] = "dmg",
    [IMAGE_FORMAT_LUKS] = "luks",
};

const char *image_format_name(enum image_format format)
{
    return names[format];
}

enum image_format image_format_from_name(const char *name)
{
    if (!name)
        return IMAGE_FORMAT_UNKNOWN;
    if (strcmp(name, "vhd") == 0)
        return IMAGE_FORMAT_VPC;
    for (enum image_format format = IMAGE_FORMAT_RAW; format < IMAGE_FORMAT_COUNT; format++)
        if (strcmp(name, names[format]) == 0)
            return format;
    return IMAGE_FORMAT_UNKNOWN;
}

enum image_format image_format_from_ending(const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *dot = strrchr(slash ? slash + 1 : path, '.');
    if (!dot)
        return IMAGE_FORMAT_UNKNOWN;
    if (strcmp(dot, ".qcow2") == 0)
        return IMAGE_FORMAT_QCOW2;
    if (strcmp(dot, ".raw") == 0 || strcmp(dot, ".img") == 0)
        return IMAGE_FORMAT_RAW;
    return IMAGE_FORMAT_UNKNOWN;
}

bool image_format_is_native(enum image_format format)
{
    return format == IMAGE_FORMAT_RAW || format == IMAGE_FORMAT_QCOW2;
}

bool image_format_knows_backing(enum image_format format)
{
    return format == IMAGE_FORMAT_QCOW2 || format == IMAGE_FORMAT_QCOW || format == IMAGE_FORMAT_QED ||
           format == IMAGE_FORMAT_VMDK;
}
