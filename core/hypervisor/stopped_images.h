// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The images of disks that no QEMU has open, as block nodes in a storage daemon of our own.
 *
 * Images are given as open descriptors, checked by the caller; the daemon opens exactly these files anew, in
 * QEMU's usual way, with its locks. Nothing is opened because an image names it: each backing and data file
 * is one that is given here, or there is none. The daemon reaches these files only, and those that are not
 * `writable` it can't write to.
 *
 * One thread at a time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "base/image_format.h"
#include "hypervisor/block_nodes.h"

struct stopped_image {
    const char *name; /* for texts */
    int fd;           /* a regular file or block device, open in any mode */
    enum image_format format;
    bool writable;
    int backing; /* where in the array its backing image is, before or after it; -1: none, whatever it says */
    int data_fd; /* its external data file, as writable as itself; -1: none */
};

struct stopped_images_spec {
    const struct stopped_image *images; /* borrowed, until stopped_images_end */
    size_t count;
    int timeout_ms; /* for the start, each command, and the end */
};

struct stopped_images;

/*
 * Starts the daemon, which opens the images while the caller does something else. To be followed by
 * stopped_images_await, and by stopped_images_end in any case. Errors: EINVAL for a graph that is none; as
 * storage_daemon_launch.
 */
int stopped_images_launch(const struct stopped_images_spec *spec, struct stopped_images **images,
                          struct error *err);

/*
 * Returns when the images are open, and locked as QEMU locks them. Errors: EBUSY where somebody else has one
 * open, with who that may be; EINVAL for what an image's own header says; as storage_daemon_await.
 */
int stopped_images_await(struct stopped_images *images, struct error *err);

/* Both; what can't be opened is ended. */
int stopped_images_begin(const struct stopped_images_spec *spec, struct stopped_images **images,
                         struct error *err);

/* What the commands in block_*.h take; borrowed. */
const struct block_engine *stopped_images_engine(const struct stopped_images *images);

/* The node of an image, with its format: "n0" for the first; borrowed. */
const char *stopped_images_node(const struct stopped_images *images, size_t index);

/* The node that is the image's backing; NULL: none. */
const char *stopped_images_backing_node(const struct stopped_images *images, size_t index);

/* Where in the array the image's backing is; -1: none. */
int stopped_images_backing(const struct stopped_images *images, size_t index);

/* Closes one image that is no other's backing, before the end; its node is gone. Errors: as
 * storage_daemon_delete_node. */
int stopped_images_close(struct stopped_images *images, size_t index, struct error *err);

/* Puts the images' names where a text of QEMU's has the paths by which it knows them. */
void stopped_images_clean(const struct stopped_images *images, struct error *err);

/* Has the daemon begin to flush and close all images, which stopped_images_end waits for; nothing else can be
 * done with them then. */
void stopped_images_begin_end(struct stopped_images *images);

/*
 * Has the daemon flush and close all images, waits for its end, and frees. Takes NULL. Errors: as
 * storage_daemon_stop.
 */
int stopped_images_end(struct stopped_images *images, struct error *err);

/*
 * After stopped_images_begin_end, where what was done is flushed: returns as soon as none of the images is
 * open there any more, and does not wait for the daemon's end. False: it did not close them, and was killed.
 */
bool stopped_images_leave(struct stopped_images *images);

/* stopped_images_end where the outcome does not matter; for cleanup(). */
void stopped_images_drop(struct stopped_images **images);
