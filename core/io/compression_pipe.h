// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Compressing what another process writes into a pipe into a file, and the other way round, in a thread of
 * its own: gzip by zlib (RFC 1952), zstd by libzstd (RFC 8878).
 *
 * Whoever waits for the other process sees nothing of what goes wrong here but a pipe that is closed: so it
 * asks compression_pipe_end why, before it takes the other process's word for it.
 */
#pragma once

#include "base/error.h"
#include "domain/domain.h"

struct compression_pipe;

/*
 * Starts compressing what is written to `*fd` (the caller's, to be closed when all is written) into `file`,
 * from its offset on, which stays the caller's and open until compression_pipe_end. `compression` is not
 * COMPRESS_NONE. Errors: ENOMEM, EMFILE, EAGAIN.
 */
int compression_pipe_to_file(int file, enum memory_compression compression, struct compression_pipe **pipe,
                             int *fd, struct error *err);

/* Starts decompressing `file` from its offset on; what is in it is to be read from `*fd`. Errors: likewise.
 */
int compression_pipe_from_file(int file, enum memory_compression compression, struct compression_pipe **pipe,
                               int *fd, struct error *err);

/* Uncompressed bytes that went through so far. Any thread. */
uint64_t compression_pipe_bytes(const struct compression_pipe *pipe);

/*
 * Waits until all is done, and frees it. The caller has closed its end of the pipe, and nobody else has one
 * open for long. NULL is fine. Errors: of the file, ENOSPC and EIO; EINVAL for a file that is damaged or cut
 * off; EPIPE where nobody read on.
 */
int compression_pipe_end(struct compression_pipe *pipe, struct error *err);

/*
 * Leaves off at once, also where another process keeps its end open, and frees it. Where it had failed by
 * itself before, `why` (may be NULL) is set; else it is untouched.
 */
void compression_pipe_abort(struct compression_pipe *pipe, struct error *why);
