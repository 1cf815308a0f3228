// SPDX-License-Identifier: LGPL-2.1-or-later
/* The internal snapshots of a change: of all its disks in one transaction, under one tag. */
#pragma once

#include "administration/change.h"
#include "administration/undo/undo.h"
#include "catalog/image_info.h"
#include "hypervisor/stopped_images.h"

struct internal_image {
    const struct disk *disk;
    int fd;
    const struct image_info *info; /* as it is; after internals_snapshot, as it is then */
    const struct internal_snapshot *made;
};

struct internals {
    struct internal_image *list;
    size_t count;
    char tag[256];
    struct stopped_image *nodes;
    struct stopped_images *images; /* open: nobody else can write to them */
    bool is_touched;               /* something may have been done in the images */
    bool is_ending;                /* and it is in the files; their daemon was told to end */
};

/* Adds the active image of a disk. Errors: as image_open and image_read_info. */
int internals_add(struct internals *internals, const struct change *change, const struct disk *disk,
                  struct error *err);

/*
 * The tag is the snapshot's name, where no image has it and no QEMU would take it for an id, else with ~ and
 * the serial number. EEXIST where that is taken, too.
 */
int internals_choose_tag(struct internals *internals, const char *name, uint64_t serial, struct error *err);

/* Has the images opened, while the caller does something else; errors as stopped_images_launch. */
int internals_launch(struct internals *internals, struct error *err);

/* Returns when they are open, for nobody else to write to; errors as stopped_images_await (EBUSY). */
int internals_open(struct internals *internals, struct error *err);
void internals_note(const struct internals *internals, struct undo_list *list);

/*
 * Takes the snapshots and finds what was made. Errors: as block_snapshot_internal. From then on the images
 * are being closed.
 */
int internals_snapshot(struct internals *internals, struct error *err);

/* Finds what somebody else has taken of these images. EIO where one is not there. */
int internals_find(struct internals *internals, struct error *err);

/* Waits until the images are closed. */
void internals_done(struct internals *internals);
