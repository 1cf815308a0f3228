// SPDX-License-Identifier: LGPL-2.1-or-later
/* Requests about open control files: open, read, write, flush, release. What is common to all files is in
 * file_requests.c, which hands over what is about these. */
#pragma once

#include "fuse.h"
#include "tree.h"

void control_requests_open(fuse_req_t request, const struct place *place, const struct fuse_file_info *file);
void control_requests_read(fuse_req_t request, size_t size, uint64_t offset, uint64_t handle);
void control_requests_write(fuse_req_t request, const struct place *place, const char *bytes, size_t size,
                            uint64_t offset, uint64_t handle);
void control_requests_flush(fuse_req_t request, fuse_ino_t id, uint64_t handle);
void control_requests_release(fuse_req_t request, fuse_ino_t id, uint64_t handle);
