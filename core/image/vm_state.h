// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The memory inside an internal snapshot, as the stream that QEMU wrote: what a QEMU that waits for incoming
 * memory takes as it takes that of a migration. So memory can be brought back whatever has become of the
 * image since; QEMU itself finds it only in an image that it writes to.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "domain/domain.h"
#include "image/locate.h"

/* Told of bytes; false: leave off. */
typedef bool vm_state_progress(void *opaque, uint64_t current, uint64_t total);

/*
 * Copies it to the file `fd`, at its offset. `frozen` is one of `domain`'s, with an internal snapshot that
 * has memory. Errors: as frozen_disk_open; EIO, ESTALE where it can't be read; what write gives; ECANCELED.
 */
int vm_state_copy(const struct locate *locate, const struct domain *domain, const struct frozen *frozen,
                  int fd, vm_state_progress *progress, void *opaque, struct error *err);
