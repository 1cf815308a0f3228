// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Notices when a file is read from front to back, as a backup does, so that what was read once can be given
 * back: a backup must not push the host's own working set out of the page cache. Requests come a little out
 * of order, since the kernel reads ahead with several at a time. A plain value under its owner's lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct stream {
    uint64_t next; /* where the next read of the stream is expected, bytes */
    uint64_t run;  /* bytes read in order so far */
    uint64_t kept; /* from here to `next` the kernel may still hold what was read */
    uint64_t held; /* bytes read in order since something was dropped last */
    bool is_long;
};

/*
 * Notes a read. With `skips` a read that lies further ahead goes on with the stream: whoever asks for holes
 * does not read them. True once it belongs to a long stream. Then `*drop_length`, if not 0, bytes at
 * `*drop_offset` lie far enough behind it to be dropped.
 */
bool stream_note(struct stream *stream, uint64_t offset, uint64_t size, bool skips, uint64_t *drop_offset,
                 uint64_t *drop_length);

/* Notes bytes that the stream's reader gets without a read that anybody sees. */
void stream_add(struct stream *stream, uint64_t size);
