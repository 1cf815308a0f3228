// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The new overlays of a change: where they lie, how they are called, making them, and what the undo list is
 * to know of them. What they are put on is claimed (hypervisor/image_claim.h) until overlays_done, so that
 * nobody writes to it meanwhile.
 */
#pragma once

#include "administration/change.h"
#include "administration/files/temporary.h"
#include "administration/undo/undo.h"
#include "image/overlay_file.h"
#include "image/overlay_name.h"

struct overlay {
    const struct layer *below;
    uint64_t layer; /* its id in the plan */
    unsigned disk;
    int below_fd, claim, directory;
    char *directory_path;
    bool is_reused; /* it is there already */
    int reused_fd, reused_claim;
    bool is_copy;                             /* no overlay: an image of its own, filled by overlays_copy */
    const struct internal_snapshot *internal; /* what is copied: this one in `below`; NULL: the whole layer */
    enum image_format blank;                  /* no overlay: an empty image of this format; UNKNOWN: not so */
    uint64_t size;                            /* virtual, bytes; 0: as `below` */
    char temporary[OVERLAY_NAME_SIZE], final[OVERLAY_NAME_SIZE];
};

struct overlays {
    struct overlay *list;
    struct overlay_file *files;           /* of those that are made */
    size_t count, file_count, copy_count; /* copies are the last of the files */
    bool is_made;
    size_t first; /* the number of its first temporary name in the operation */
};

/* How an overlay is called. Both borrowed. */
struct overlay_place {
    const char *path;     /* absolute, as a person gave it; NULL: */
    const char *snapshot; /* beside what it is put on, called after this */
    bool reuse;           /* the file is there, and is used as it is */
    bool copy;            /* a copy of the content instead of an overlay */
    bool is_written;      /* `below` by the QEMU that runs the domain, which will be told to leave it */
    const struct internal_snapshot *internal; /* with `copy`: of this one */
    bool aside;              /* no layer of the plan: a copy that a QEMU fills (mirror.h). Only with `path` */
    enum image_format blank; /* with `aside`: raw or qcow2, and on nothing; UNKNOWN: an overlay on `below` */
    uint64_t size;           /* with `aside`: virtual, bytes */
};

/*
 * Adds one over `below`, and tells the plan of it: layer `id` for disk `disk`. Errors: EBUSY where somebody
 * writes to `below`, with who; EPERM for a place where it could not be read; EEXIST, ENOENT for a path;
 * EINVAL, EPERM, EBUSY for a file that can't be reused; others of image_open.
 */
int overlays_add(struct overlays *overlays, struct change *change, const struct layer *below, unsigned disk,
                 uint64_t id, const struct overlay_place *place, struct error *err);

/*
 * For overlays_add: opens the file that is to be reused, and looks whether it can be (overlay_reuse.c). An
 * overlay has to stand directly on what is frozen, with nothing on itself; it may be no other domain's, and
 * where the domain does not run nobody has it open for writing, from now until overlays_done.
 */
int overlay_check_reused(const struct change *change, struct overlay *overlay, const char *path,
                         const struct overlay_place *place, struct error *err);

/* Makes the files under temporary names, copies still empty; errors as overlay_files_make. Then they can be
 * noted. */
int overlays_make(struct overlays *overlays, struct error *err);
void overlays_note(const struct overlays *overlays, struct undo_list *list);

/* Notes how they are before any guest writes to them, also those that are reused. */
void overlays_note_identity(const struct overlays *overlays, struct undo_list *list);

/* Fills the copies. Errors: as qemu_img_copy; ENOSPC before anything is written. */
int overlays_copy(struct overlays *overlays, struct change *change, struct error *err);

/* Gives them their names; errors as overlay_files_publish. */
int overlays_publish(struct overlays *overlays, struct error *err);

/* An open descriptor of the overlay, borrowed. */
int overlay_fd(const struct overlays *overlays, const struct overlay *overlay);

/* Closes everything. Files that were made and not noted in a journal are removed. */
void overlays_done(struct overlays *overlays);
