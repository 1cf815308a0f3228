// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Merging two neighbouring layers of a disk that no QEMU has open, in a daemon of stopped_images.h. What the
 * upper over the lower reads as is the same before, during, and after, whenever anything is killed, and what
 * was killed can be repeated.
 *
 * Only layers of which the upper, and what stands on it, is the one reader may be merged down: what others
 * read through the lower changes. Who that is, is the caller's business. The same threads as for
 * stopped_images.h; after a deadly error of qmp.h the daemon can only be ended.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "hypervisor/qmp_job.h"
#include "hypervisor/stopped_images.h"

/*
 * Writes what the image `upper` has itself into the one that is its backing, the lower, which is opened
 * `writable`; the upper need not be, and its file is not changed. Afterwards, durably, the lower alone reads
 * as the upper over it did, with the upper's virtual size; the upper is closed, and its file needed no more.
 * `watch` may be NULL.
 * Errors: ECANCELED by `watch`; EINVAL where there is no backing, or images stand on the upper; EOPNOTSUPP
 * for sizes that QEMU can't give the lower safely (a format with clusters, whose size is no multiple of them,
 * that is to grow: QEMU 7.2 would show what lay behind its end when it was larger once), or at all (a
 * device); such can be merged up; ENOSPC, EROFS, EIO; as qmp_job_wait. After an error the lower alone reads
 * as neither, but the upper over it as before.
 */
int stopped_merge_down(struct stopped_images *images, size_t upper, const struct qmp_job_watch *watch,
                       struct error *err);

/*
 * Writes into the image `upper`, opened `writable`, what it reads through its backing alone, the lower, so
 * that it stands on that one's backing next, or on none: its header then says `base_name`, which is NULL for
 * none, with that image's format. Its virtual size stays. Durable. What is `*changed`, and errors, as
 * block_stream; EINVAL where there is no backing.
 */
int stopped_merge_up(struct stopped_images *images, size_t upper, const char *base_name,
                     const struct qmp_job_watch *watch, bool *changed, struct error *err);
