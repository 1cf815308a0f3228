// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Starting the QEMU of a domain that a change holds: with its disks as they are now, or as they are about to
 * be. What can be refused is refused by start_prepare, before anything is done.
 *
 * One thread. Inside of administration/.
 */
#pragma once

#include "administration/change.h"
#include "administration/files/transient.h"
#include "io/compression_pipe.h"
#include "machine/launch.h"
#include "machine/machine.h"

enum start_wait {
    START_RUNS,     /* the guest runs at once, unless its definition's launch says otherwise */
    START_STOPPED,  /* it stands still before its first instruction */
    START_INCOMING, /* it waits for memory (memory_load.h), and stands still with that */
};

struct start_spec {
    const struct disk *disks; /* an active layer without an identity is about to be made */
    size_t disk_count;
    char *const *launch; /* what the machine is; NULL-terminated */
    enum start_wait wait;
    bool is_claimed; /* who calls sees to it that nobody has the images open by then */
};

struct start {
    const struct change *change; /* borrowed */
    struct machine *machine;     /* borrowed */
    struct launch_disk *disks;
    size_t disk_count;
    struct transient *transients; /* of disks that are not persistent */
    size_t transient_count;
    char **data_paths; /* that the layers borrow */
    size_t data_count;
    int *claims;
    size_t claim_count;
    bool is_claimed;
    char *monitors[4];
    char **argv;
    const char *changed; /* a layer that somebody wrote to after it was frozen; borrowed */
};

/*
 * All but the spec's own strings and layers is copied or borrowed until start_done, which is to be called
 * also after a failure. Errors: EBUSY where somebody writes to an image, with who; EOPNOTSUPP for a disk that
 * lies on the network; EINVAL for a launch that can't be (launch.h); EIO, ENOENT, EPERM
 * for an image that can't be opened; ENOMEM.
 */
int start_prepare(struct start *start, const struct change *change, struct machine *machine,
                  const struct start_spec *spec, struct error *err);

/* Starts it, and waits until it answers. Errors: as machine_launch, transients_make; after one it does not
 * run. */
int start_launch(struct start *start, struct error *err);

/*
 * Of one that was started with START_INCOMING: loads the memory from `fd` (memory_load.h), which `pipe`,
 * where it is not NULL, decompresses. Errors: as memory_load, with what QEMU said of it; EINTR; the QEMU has
 * ended then.
 */
int start_load(struct start *start, int fd, const struct compression_pipe *pipe, struct error *err);

void start_done(struct start *start);

/* Has a QEMU that stands still run. Errors: as machine_borrow and run_state_continue. */
int start_continue(struct machine *machine, struct error *err);

/* Ends at once a QEMU that was started and is not wanted, and waits for its end. ETIMEDOUT. */
int start_take_back(struct machine *machine, struct error *err);

/* Why a domain without `launch` is not started; EOPNOTSUPP. */
int start_refuse_foreign(const struct domain *domain, struct error *err);
