// SPDX-License-Identifier: LGPL-2.1-or-later
/* The images of a scan, and from each to what it stands on. Inside of scan.h. */
#pragma once

#include "catalog/scan.h"

/*
 * Opens `path` and adds it as an image of `format`, or finds the one that is there already. Failing to open
 * it is no failure here: `*image` stays NULL and `why` tells. -ENOMEM.
 */
int scan_images_open(struct scan *scan, const struct scan *before, char *const *named, const char *path,
                     enum image_format format, struct scan_image **image, struct error *why);

/*
 * Adds the disk `name` on the network, which a definition names, or finds the one that is there already.
 * Nothing is connected to. Where it may not be used, or not in that format, `*image` stays NULL and `why`
 * tells. -ENOMEM.
 */
int scan_images_add_remote(struct scan *scan, char *const *named, const char *name, enum image_format format,
                           struct scan_image **image, struct error *why);

/* A file `name` of the directory `path` that may hold a qcow2 image, unless a definition names it. -ENOMEM.
 */
int scan_images_add_candidate(struct scan *scan, const struct scan *before, const char *directory,
                              const char *name);

/* Finds what every image stands on, and adds it. -ENOMEM. */
int scan_images_resolve(struct scan *scan, const struct scan *before);

/*
 * Something could not be read, for the first time in the scan that began at `since`, and may be readable a
 * moment later: another scan is due after as long a time as it has been like that, within bounds.
 */
void scan_try_again(struct scan *scan, time_t since);

/* The same for what no image and no definition tells of, where `error` (a negative errno) may pass. */
void scan_note_unread(struct scan *scan, const struct scan *before, int error);

/* Fills in is_prepared and is_restless; the last steps of a scan. */
void scan_mark_prepared(struct scan *scan);
void scan_mark_restless(struct scan *scan);

/* Does a QEMU have the open file open for writing? Nothing is locked. */
bool scan_is_written(int fd);

/*
 * The chain from `top` down. Where the next image lies outside the directories that may be read, but `named`
 * (may be NULL) has it, it is opened and added; one on the network is only gone to where `named` has it.
 * Never fails for what an image says: `chain->problem` tells why it ends early. -ENOMEM.
 */
int scan_images_follow(struct scan *scan, const struct scan *before, char *const *named,
                       struct scan_image *top, struct scan_chain *chain);

/* The same without opening anything. */
int scan_chain_follow(char *const *named, struct scan_image *top, struct scan_chain *chain);
void scan_chain_done(struct scan_chain *chain);

/* What the last scan (may be NULL) knew of the same file, by the same path and format; NULL: nothing. */
const struct scan_image *scan_image_before(const struct scan *before, const struct scan_image *image);

/* A file of these bytes and times is not read again while looked_at is well after its last change. */
bool scan_image_is_settled(const struct scan_image *image);

void scan_image_free(struct scan_image *image);
