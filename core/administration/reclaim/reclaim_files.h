// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What giving space back does to image files. Paths are those of layers of the world. Inside of
 * reclaim_work.h; `work` is asked whether to go on. Errors: EBUSY where somebody else has a file open; ENOSPC
 * before anything is written; EINTR; as the functions of hypervisor/ that do it.
 */
#pragma once

#include "administration/inside.h"
#include "administration/world.h"

/* Opens a layer that the catalog knows, for reading. */
int reclaim_open(struct administration *administration, const struct world *world, const char *path, int *fd,
                 struct error *err);

/* Takes an internal snapshot out of an image. 0 also where it is gone already. */
int reclaim_drop(struct administration *administration, const struct world *world, const char *path,
                 const struct internal_snapshot *internal, struct error *err);

/* Unlinks a file that vmsnapfs made. 0 also where it is gone already. */
int reclaim_unlink(struct administration *administration, const struct world *world, const char *path,
                   struct error *err);

/* Writes into the header of `path` that it stands on `backing`. */
int reclaim_name_backing(struct administration *administration, const struct world *world, const char *path,
                         const char *backing, struct error *err);

/* What the header of a file calls its backing file, for the caller to free; NULL where that can't be read. */
char *reclaim_backing_name(struct administration *administration, const struct world *world,
                           const char *path);

/* Merges `upper` into the layer that it stands on; its own file is not changed. */
int reclaim_merge_down(struct administration *administration, const struct world *world, struct work *work,
                       const char *upper, const char *lower, struct error *err);

/* Takes what `upper` reads through the layer that it stands on into itself, so that it stands on that one's.
 */
int reclaim_merge_up(struct administration *administration, const struct world *world, struct work *work,
                     const char *upper, struct error *err);

/* Copies what `from`, over all below it, reads as into the image `to`, which nobody needs. */
int reclaim_copy(struct administration *administration, const struct world *world, struct work *work,
                 const char *from, const char *to, struct error *err);
