// SPDX-License-Identifier: LGPL-2.1-or-later
/* Requests about the live file `events`: open, read, release, poll. */
#pragma once

#include "fuse.h"
#include "tree.h"

void event_requests_open(fuse_req_t request, const struct place *place, struct fuse_file_info *file);
void event_requests_read(fuse_req_t request, size_t size, uint64_t offset, uint64_t handle);
void event_requests_release(fuse_req_t request, uint64_t handle);

/* Of any file: only this one is ever not ready. */
void event_requests_add(struct fuse_lowlevel_ops *ops);

/* What `struct events` calls for somebody who polls. */
void event_requests_wake(void *waiter, bool happened);
