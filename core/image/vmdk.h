// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What a .vmdk file says of other files: its extents and its parent (VMware, "Virtual Disk Format 5.0").
 *
 * Such a file is one of two things: a text, the descriptor, that names the files where the data lie; or a
 * sparse extent, which holds the data and perhaps a descriptor of its own. Here the text is only taken apart,
 * strictly: what QEMU would skip over or understand in another way is refused, since the bytes would be wrong
 * or another file's. No name in it is followed here, and nothing here is a judgement that it may be.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/text.h"
#include "io/byte_source.h"

#define VMDK_DESCRIPTOR_BYTES_MAX ((1 << 20) - 1) /* QEMU's vmdk_read_desc reads no more */
#define VMDK_EXTENTS_MAX          1024            /* 2 TB in files of 2 GB */
#define VMDK_NAME_BYTES_MAX       511             /* QEMU's vmdk_parse_extents takes no more */
#define VMDK_NO_PARENT            UINT32_C(0xffffffff)

struct vmdk_extent {
    uint64_t sectors;     /* of 512 bytes */
    const char *type;     /* FLAT, VMFS, SPARSE, VMFSSPARSE or SESPARSE; static */
    uint64_t flat_offset; /* FLAT: sector in the file where it begins */
    char *name;           /* of its file, as written */
};

struct vmdk {
    bool single;  /* a sparse extent, which is the whole disk by itself: `extents` is empty */
    uint32_t cid; /* content id */
    uint32_t parent_cid;
    char *parent_name; /* as written; NULL where there is no parent */
    struct vmdk_extent *extents;
    size_t extent_count;
};

/*
 * Reads what the file `source` is. On failure `*vmdk` is untouched. Errors: EINVAL for what is no vmdk or
 * malformed; EOPNOTSUPP for kinds of disks and extents that QEMU can't read, and for encrypted ones; E2BIG
 * for more than the limits; ENOMEM, EIO.
 */
int vmdk_read(const struct byte_source *source, struct vmdk *vmdk, struct error *err);
void vmdk_done(struct vmdk *vmdk);

/*
 * Is the file of an extent one that names no files in its turn? A sparse extent with a capacity of 0 is read
 * by QEMU as a descriptor, extent lines and all. EPERM if it is that; EINVAL if it is no sparse extent.
 */
int vmdk_check_sparse(const struct byte_source *source, struct error *err);

/*
 * Appends a descriptor for QEMU that says the same of the content, has no parent, and in which the extent
 * number i is found as /proc/self/fd/(first_fd + i).
 */
void vmdk_rewrite(const struct vmdk *vmdk, unsigned first_fd, struct text *text);
