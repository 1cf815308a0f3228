// SPDX-License-Identifier: LGPL-2.1-or-later
/* See vm_state.h. */
#include "image/vm_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "image/chain.h"
#include "image/frozen_disk_chain.h"

#define PIECE_BYTES (1024 * 1024)
#define CACHE_BYTES (8 * 1024 * 1024)

static int write_all(int fd, const unsigned char *bytes, size_t length)
{
    while (length) {
        ssize_t count = write(fd, bytes, length);
        if (count < 0 && errno != EINTR)
            return -errno;
        if (count > 0) {
            bytes += count;
            length -= (size_t)count;
        }
    }
    return 0;
}

/* Only the image itself: nothing of a backing file can be behind the end of the disk. */
static int open_image(const struct locate *locate, const struct domain *domain, const struct frozen *frozen,
                      struct chain *chain, struct error *err)
{
    const struct layer *layer = frozen->layer;
    cleanup(image_reference_done) struct image_reference backing = {0};
    bool may_change = layer->active || layer->touched;
    const struct layer_request request = {
        .locate = locate,
        .named = domain->named_files,
        .path = layer->path,
        .format = layer->format,
        .internal = frozen->internal,
        .vm_state = true,
        .expected = may_change ? NULL : &layer->identity,
        .expected_data = &layer->data_identity,
    };
    if (layer->changed && !may_change)
        return error_set(err, EIO, "%s: changed by someone else since it was frozen", layer->path);
    chain->layers = calloc(1, sizeof(struct layer_reader *));
    if (!chain->layers)
        return error_set(err, ENOMEM, "out of memory");
    int r = layer_reader_open(&request, &chain->layers[0], &backing, err);
    chain->count = r == 0;
    return r;
}

static int copy(struct frozen_disk *disk, uint64_t from, const char *path, int fd,
                vm_state_progress *progress, void *opaque, struct error *err)
{
    uint64_t end = frozen_disk_size(disk);
    cleanup_free unsigned char *piece = malloc(PIECE_BYTES);
    if (!piece)
        return error_set(err, ENOMEM, "out of memory");
    for (uint64_t at = from; at < end;) {
        ssize_t count = frozen_disk_read(disk, at, piece, min_u64(PIECE_BYTES, end - at), READ_ONCE);
        if (count <= 0)
            return error_set(err, count < 0 ? (int)-count : EIO, "the memory in %s can't be read: %s", path,
                             count < 0 ? strerror((int)-count) : "it is cut off");
        int r = write_all(fd, piece, (size_t)count);
        if (r < 0)
            return error_set(err, -r, "the memory in %s can't be copied: %s", path, strerror(-r));
        at += (uint64_t)count;
        if (progress && !progress(opaque, at - from, end - from))
            return error_set(err, ECANCELED, "bringing its memory back was cancelled");
    }
    return 0;
}

int vm_state_copy(const struct locate *locate, const struct domain *domain, const struct frozen *frozen,
                  int fd, vm_state_progress *progress, void *opaque, struct error *err)
{
    cleanup(chain_done) struct chain chain = {0};
    struct frozen_disk *disk = NULL;
    int r = open_image(locate, domain, frozen, &chain, err);
    if (r < 0)
        return r;
    const struct frozen_disk_env env = {.locate = locate, .cache = cache_new(CACHE_BYTES)};
    if (!env.cache)
        return error_set(err, ENOMEM, "out of memory");
    r = frozen_disk_new(&env, &chain, &disk);
    if (r == 0)
        r = copy(disk, frozen_disk_size(disk) - frozen->internal->vm_state_size, frozen->layer->path, fd,
                 progress, opaque, err);
    else
        error_set(err, -r, "out of memory");
    if (disk)
        frozen_disk_free(disk);
    cache_free(env.cache);
    return r;
}
