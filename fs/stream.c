// SPDX-License-Identifier: LGPL-2.1-or-later
/* Long sequential reads; see stream.h. */
#include "stream.h"

#include "base/bytes.h"

#define LONG_STREAM (64 * MIB) /* shorter ones are left to the kernel */
#define OUT_OF_ORDER                                                                                         \
    (8 * MIB)                /* how far requests of one stream may lie apart; what is this close is kept     \
                              */
#define DROP_STEP (32 * MIB) /* dropped at a time */

bool stream_note(struct stream *stream, uint64_t offset, uint64_t size, bool skips, uint64_t *drop_offset,
                 uint64_t *drop_length)
{
    uint64_t end = offset + size;
    *drop_length = 0;
    if ((offset > stream->next + OUT_OF_ORDER && !skips) || end + OUT_OF_ORDER < stream->next) {
        *stream = (struct stream){.next = end, .run = size, .kept = offset, .held = size};
        return false;
    }
    stream->next = max_u64(stream->next, end);
    stream->run += size;
    stream->held += size;
    stream->is_long = stream->run >= LONG_STREAM;
    if (stream->is_long && stream->held >= DROP_STEP + OUT_OF_ORDER) {
        *drop_offset = stream->kept;
        *drop_length = stream->next - OUT_OF_ORDER - stream->kept;
        stream->kept += *drop_length;
        stream->held = OUT_OF_ORDER;
    }
    return stream->is_long;
}

void stream_add(struct stream *stream, uint64_t size)
{
    stream->run += size;
    stream->held += size;
}
