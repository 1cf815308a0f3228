// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Decompression of one qcow2 cluster; see decompress.h.
 *
 * Deflate goes through libdeflate, which is about three times as fast as zlib, and where that refuses a
 * stream zlib gives a second opinion: QEMU reads with zlib, which hands out what was decoded before the
 * stream broke off, and takes a cluster that came out whole for good. A stream that would go on to give more
 * than a cluster is refused here, though QEMU takes its beginning.
 *
 * A zstd cluster may be made of several frames, as QEMU reads them. They are decoded straight into the
 * output, so that what a frame says of its window never makes anybody allocate one.
 */
#include "io/decompress.h"

#include <errno.h>
#include <libdeflate.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

/* The decompressors of one thread, each made when it is first wanted. */
struct decompressors {
    struct libdeflate_decompressor *deflate;
    ZSTD_DCtx *zstd;
};

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool key_is_there;

static void decompressors_free(void *opaque)
{
    struct decompressors *own = opaque;
    libdeflate_free_decompressor(own->deflate);
    ZSTD_freeDCtx(own->zstd);
    free(own);
}

static void make_key(void)
{
    key_is_there = pthread_key_create(&key, decompressors_free) == 0;
}

/* NULL where memory ran out. */
static struct decompressors *own_decompressors(void)
{
    pthread_once(&key_once, make_key);
    if (!key_is_there)
        return NULL;
    struct decompressors *own = pthread_getspecific(key);
    if (own)
        return own;
    own = calloc(1, sizeof *own);
    if (own && pthread_setspecific(key, own) != 0) {
        free(own);
        own = NULL;
    }
    return own;
}

/* What zlib makes of a stream that libdeflate refused: 0 if exactly `output_size` bytes come out of it before
 * it ends, breaks off or stops making sense. */
static int inflate_as_qemu_does(const void *input, size_t input_size, void *output, size_t output_size)
{
    if (input_size > UINT_MAX || output_size > UINT_MAX)
        return -EIO;
    z_stream stream = {
        .next_in = (unsigned char *)(uintptr_t)input, /* never written to; zlib's field is not const */
        .avail_in = (uInt)input_size,
        .next_out = output,
        .avail_out = (uInt)output_size,
    };
    if (inflateInit2(&stream, -MAX_WBITS) != Z_OK)
        return -ENOMEM;
    int rc = inflate(&stream, Z_FINISH);
    bool filled = stream.avail_out == 0;
    if (rc != Z_STREAM_END && filled) {
        unsigned char more;
        stream.next_out = &more;
        stream.avail_out = 1;
        rc = inflate(&stream, Z_FINISH);
        filled = stream.avail_out == 1 && rc != Z_MEM_ERROR;
    }
    inflateEnd(&stream);
    return filled ? 0 : -EIO;
}

static int decompress_deflate(struct decompressors *own, const void *input, size_t input_size, void *output,
                              size_t output_size)
{
    if (!own->deflate)
        own->deflate = libdeflate_alloc_decompressor();
    if (!own->deflate)
        return -ENOMEM;
    size_t used, made;
    if (libdeflate_deflate_decompress_ex(own->deflate, input, input_size, output, output_size, &used,
                                         &made) == LIBDEFLATE_SUCCESS &&
        made == output_size)
        return 0;
    return inflate_as_qemu_does(input, input_size, output, output_size);
}

static int decompress_zstd(struct decompressors *own, const void *input, size_t input_size, void *output,
                           size_t output_size)
{
    if (!own->zstd)
        own->zstd = ZSTD_createDCtx();
    if (!own->zstd)
        return -ENOMEM;
    const char *from = input;
    char *to = output;
    while (output_size > 0) {
        size_t frame = ZSTD_findFrameCompressedSize(from, input_size);
        if (ZSTD_isError(frame) || frame == 0)
            return -EIO;
        size_t made = ZSTD_decompressDCtx(own->zstd, to, output_size, from, frame);
        if (ZSTD_isError(made))
            return -EIO;
        from += frame;
        input_size -= frame;
        to += made;
        output_size -= made;
    }
    return 0;
}

int decompress_cluster(enum compression type, const void *input, size_t input_size, void *output,
                       size_t output_size)
{
    struct decompressors *own = own_decompressors();
    if (!own)
        return -ENOMEM;
    switch (type) {
    case COMPRESSION_DEFLATE:
        return decompress_deflate(own, input, input_size, output, output_size);
    case COMPRESSION_ZSTD:
        return decompress_zstd(own, input, input_size, output, output_size);
    }
    return -EIO;
}
