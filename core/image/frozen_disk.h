// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A frozen disk, open for reading: a chain of layers seen as one raw disk that never changes.
 *
 * Any thread may read; reads run in parallel. The map of the chain is resolved once per region and kept in
 * the cache, so that a deep chain reads as fast as a single layer. What other programs may write to (the
 * image that holds an internal snapshot; a layer that should be frozen) is checked after the bytes were read
 * and before they are handed out.
 */
#pragma once

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"
#include "domain/domain.h"
#include "image/locate.h"
#include "io/cache.h"
#include "io/workers.h"

#define CHAIN_DEPTH_MAX 512 /* images in one chain; more is refused, as are loops */

struct frozen_disk;

/* What all frozen disks share; made once at start. Borrowed by the disks. */
struct frozen_disk_env {
    const struct locate *locate;
    /* Another mount may administer the images: whole layers that are open are locked against that, and what
     * it is just changing is waited for. */
    bool locks;
    struct cache *cache;
    struct workers *workers; /* for decompression; NULL: threads that read do it all */
    /* Told when a layer on the network turns out to have another size than the domain says; any thread. NULL:
     * nobody wants to know. */
    void (*size_learned)(void *opaque, const char *network_name, uint64_t size);
    void *size_learned_opaque;
};

/*
 * Opens the chain of `frozen`, which is one of `domain`'s (both only needed during the call). Errors: those
 * of layer_reader_open; ELOOP for a chain that is a loop or deeper than CHAIN_DEPTH_MAX; EAGAIN for a frozen
 * layer on the network that is longer or shorter than the domain says: whoever has been told the length would
 * read too much or too little; with `locks` EBUSY, another mount is changing a layer and does not come to an
 * end.
 */
int frozen_disk_open(const struct frozen_disk_env *env, const struct domain *domain,
                     const struct frozen *frozen, struct frozen_disk **disk, struct error *err);

/* No read may be under way. */
void frozen_disk_free(struct frozen_disk *disk);

/* Virtual size, bytes. */
uint64_t frozen_disk_size(const struct frozen_disk *disk);

/* True if opening or reading it can take long (a helper reads for us): read it from a thread that may block.
 */
bool frozen_disk_is_slow(const struct frozen_disk *disk);

/*
 * The program ends: whoever waits for a helper fails soon, as does whoever would begin to. Any thread, once.
 */
void frozen_disks_end(void);

enum read_hint {
    READ_KEEP, /* somebody may read it again */
    READ_ONCE, /* a long sequential read: what was not in the host's page cache before need not stay in it */
};

/*
 * Reads up to `length` bytes at `offset` into `buffer`: all of them, or what there is before the end of the
 * disk; never a part of that: to the kernel a short count is the end of the file, and a copy would end there
 * without an error, while after EIO it asks again page by page. Returns the number of bytes, 0 at or beyond
 * the end; -EIO (the place is in the log), -ESTALE, -ENOMEM.
 */
ssize_t frozen_disk_read(struct frozen_disk *disk, uint64_t offset, void *buffer, size_t length,
                         enum read_hint hint);

/*
 * SEEK_DATA and SEEK_HOLE as lseek(2) has them: what reads as zeros without being stored is a hole, and there
 * is a hole at the end. Returns the offset; -ENXIO beyond the end or where no data follows; -EIO, -EINVAL.
 */
int64_t frozen_disk_seek(struct frozen_disk *disk, uint64_t offset, int whence);

/*
 * Where the piece of data ends that begins at `offset`, after a hole or at the disk's beginning; 0 if none
 * begins there, or it is longer than `limit` bytes, or a table could not be read.
 */
uint64_t frozen_disk_piece_end(struct frozen_disk *disk, uint64_t offset, uint64_t limit);

/*
 * Guest bytes that are data (what SEEK_DATA and SEEK_HOLE would tell). Reads all tables; may take long.
 * -ECANCELED soon after `*stop` (may be NULL) became true.
 */
int frozen_disk_count_allocated(struct frozen_disk *disk, const atomic_bool *stop, uint64_t *bytes);

/*
 * The descriptor that the kernel can read this disk from by itself: a raw regular file whose length is the
 * virtual size and that is unchanged since it was frozen; with `locks`, only one that could be locked. -1 for
 * everything else. Borrowed.
 */
int frozen_disk_passthrough_fd(const struct frozen_disk *disk);
