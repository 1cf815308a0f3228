// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The memory of a snapshot, on its way back into a QEMU that is started for it: out of its file, or out of
 * the image that holds it. Inside of administration/.
 */
#pragma once

#include "administration/change.h"
#include "administration/request/start.h"

struct memory_back {
    const struct snapshot *snapshot; /* borrowed; NULL: there is no memory to bring back */
    int fd;                          /* of its file, or of a copy of what lies in an image */
};

#define MEMORY_BACK_NONE ((struct memory_back){.fd = -1})

/*
 * Finds it; nothing where the snapshot has none. What lies in an image is copied out, which takes its time:
 * QEMU itself finds it only in an image that it writes to. Errors: EIO where its file is another one than was
 * saved; those of image_open and vm_state_copy; ENOSPC; EINTR.
 */
int memory_back_find(struct memory_back *memory, const struct change *change, const struct snapshot *snapshot,
                     struct error *err);

/* How the QEMU has to be started, and as which machine: what it was when the memory was saved, or, where that
 * is not known, what the definition says. */
enum start_wait memory_back_wait(const struct memory_back *memory);
char *const *memory_back_launch(const struct memory_back *memory, const struct domain *domain);

/* Has the definition another machine than the memory was saved of? */
bool memory_back_machine_changed(const struct domain *domain, const struct snapshot *snapshot);

/* Loads it, if there is any, into the QEMU that was started; it stands still then. Errors: as start_load;
 * EIO for a compressed file that is damaged. The QEMU has ended then. */
int memory_back_load(const struct memory_back *memory, struct start *start, struct error *err);

void memory_back_done(struct memory_back *memory);
