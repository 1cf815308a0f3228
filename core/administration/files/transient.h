// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Overlays for disks that are not persistent: what the guest writes to such a disk goes into a file that has
 * no name any more once QEMU has it open. So it is gone when that QEMU is, however that ended, and whoever
 * is killed in between leaves no more than a temporary file, which the next start removes (leftovers.h).
 * Inside of administration/.
 */
#pragma once

#include "administration/change.h"
#include "administration/files/temporary.h"

struct transient {
    char *path; /* of the overlay, temporary */
    const struct layer *below;
    bool is_made;
};

/* Chooses the path: beside what it lies on. `index` is of no other new file of the change. -ENOMEM. */
int transient_plan(struct transient *transient, const struct change *change, const struct layer *below,
                   unsigned index, struct error *err);

/* Makes them, over layers that are there by now. Errors: as overlay_files_make, image_open. */
int transients_make(struct transient *list, size_t count, const struct change *change, struct error *err);

/* Takes their names away, and frees them. */
void transients_done(struct transient *list, size_t count);
