// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Which images belong to the disks of domains that are administered: the store says which one is active and
 * which others hold snapshots, on branches that the active one does not stand on. Inside of discover.h.
 *
 * Another program may have put an overlay on the active image since; then the topmost of these is active.
 */
#pragma once

#include "catalog/discover.h"
#include "catalog/kinship.h"

/* The images of a scan by path. */
struct image_index {
    struct scan_image **buckets;
    size_t bucket_count;      /* a power of two */
    struct scan_image **next; /* by the index of an image */
};

int image_index_init(struct image_index *index, const struct scan *scan); /* -ENOMEM */
void image_index_done(struct image_index *index);

/* The first image at this path as the store keeps it; NULL if there is none. */
struct scan_image *image_index_find(const struct image_index *index, const char *source, const char *path);

/*
 * Marks in `kinship` the files that administered domains have as layers, so that nobody takes them for a
 * domain, or for an overlay of another program.
 */
void administered_mark(const struct kinship *kinship, const struct image_index *index, const char *source,
                       struct state_domain *const *states, size_t state_count);

/* What the state that is known of the draft says of the disk; NULL where it is not administered, or another
 * disk. */
const struct state_disk *administered_disk(const struct draft *draft, const struct draft_disk *disk);

/*
 * Takes the chains from those disks of the draft that the store knows no active image of, and that begin with
 * a layer of another disk, as one of these states tells: nobody may write there. With a problem that says so.
 */
void administered_refuse_layers(const char *source, struct draft *draft, struct state_domain *const *states,
                                size_t count);

/*
 * Gives a disk of a draft, whose state is known and administered, its chain, and a problem where the active
 * image is gone. -ENOMEM.
 */
int administered_chain(const struct kinship *kinship, const struct image_index *index, struct draft *draft,
                       struct draft_disk *disk);

/*
 * Fills in `layers` of a disk that has its chain: that one, then the images beside it that the draft's state
 * knows, with what they stand on. -ENOMEM.
 */
int administered_layers(const struct kinship *kinship, const struct image_index *index, struct draft *draft,
                        struct draft_disk *disk);
