// SPDX-License-Identifier: LGPL-2.1-or-later
/* See compression_pipe.h. */
#include "io/compression_pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "base/bytes.h"
#include "base/cleanup.h"

#define PIECE_BYTES (256 * 1024)

/* Memory is compressed while a guest waits, so fast rather than small. */
#define GZIP_LEVEL 1
#define ZSTD_LEVEL 1

#define GZIP_WINDOW (15 + 16) /* of zlib: the largest, with a gzip header and trailer */

struct compression_pipe {
    pthread_t thread;
    enum memory_compression compression;
    bool compresses;
    int in, out; /* one is the file, the other our end of the pipe */
    int stop;    /* an eventfd: readable when it is to leave off */
    atomic_bool is_stopped;
    _Atomic uint64_t bytes;
    int error; /* of the thread, an errno; to be read when it has ended */
    unsigned char input[PIECE_BYTES], output[PIECE_BYTES];
};

/* ---- Moving bytes ---- */

/* Waits for the pipe, or to be stopped. */
static int await(const struct compression_pipe *pipe, int fd, short events)
{
    struct pollfd fds[] = {{.fd = fd, .events = events}, {.fd = pipe->stop, .events = POLLIN}};
    while (poll(fds, 2, -1) < 0)
        if (errno != EINTR)
            return -errno;
    return fds[1].revents ? -ECANCELED : 0;
}

static ssize_t read_some(const struct compression_pipe *pipe, void *buffer, size_t size)
{
    for (;;) {
        if (atomic_load(&pipe->is_stopped))
            return -ECANCELED;
        ssize_t count = read(pipe->in, buffer, size);
        if (count >= 0)
            return count;
        if (errno == EAGAIN) {
            int r = await(pipe, pipe->in, POLLIN);
            if (r < 0)
                return r;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
}

static int write_all(const struct compression_pipe *pipe, const void *buffer, size_t size)
{
    const unsigned char *at = buffer;
    while (size) {
        if (atomic_load(&pipe->is_stopped))
            return -ECANCELED;
        ssize_t count = write(pipe->out, at, size);
        if (count > 0) {
            at += count;
            size -= (size_t)count;
        } else if (count < 0 && errno == EAGAIN) {
            int r = await(pipe, pipe->out, POLLOUT);
            if (r < 0)
                return r;
        } else if (count < 0 && errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

/* ---- gzip ---- */

static int gzip_compress(struct compression_pipe *pipe, z_stream *stream)
{
    bool is_last = false;
    while (!is_last) {
        ssize_t count = read_some(pipe, pipe->input, PIECE_BYTES);
        if (count < 0)
            return (int)count;
        is_last = count == 0;
        atomic_fetch_add(&pipe->bytes, (uint64_t)count);
        stream->next_in = pipe->input;
        stream->avail_in = (uInt)count;
        do {
            stream->next_out = pipe->output;
            stream->avail_out = PIECE_BYTES;
            deflate(stream, is_last ? Z_FINISH : Z_NO_FLUSH);
            int r = write_all(pipe, pipe->output, PIECE_BYTES - stream->avail_out);
            if (r < 0)
                return r;
        } while (stream->avail_out == 0);
    }
    return 0;
}

static int run_gzip_compress(struct compression_pipe *pipe)
{
    z_stream stream = {0};
    if (deflateInit2(&stream, GZIP_LEVEL, Z_DEFLATED, GZIP_WINDOW, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return -ENOMEM;
    int r = gzip_compress(pipe, &stream);
    deflateEnd(&stream);
    return r;
}

static int gzip_decompress(struct compression_pipe *pipe, z_stream *stream)
{
    for (int status = Z_OK; status != Z_STREAM_END;) {
        ssize_t count = read_some(pipe, pipe->input, PIECE_BYTES);
        if (count <= 0)
            return count < 0 ? (int)count : -EINVAL;
        stream->next_in = pipe->input;
        stream->avail_in = (uInt)count;
        do {
            stream->next_out = pipe->output;
            stream->avail_out = PIECE_BYTES;
            status = inflate(stream, Z_NO_FLUSH);
            if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
                return status == Z_MEM_ERROR ? -ENOMEM : -EINVAL;
            size_t given = PIECE_BYTES - stream->avail_out;
            atomic_fetch_add(&pipe->bytes, given);
            int r = write_all(pipe, pipe->output, given);
            if (r < 0)
                return r;
        } while (stream->avail_out == 0 && status != Z_STREAM_END);
    }
    return 0;
}

static int run_gzip_decompress(struct compression_pipe *pipe)
{
    z_stream stream = {0};
    if (inflateInit2(&stream, GZIP_WINDOW) != Z_OK)
        return -ENOMEM;
    int r = gzip_decompress(pipe, &stream);
    inflateEnd(&stream);
    return r;
}

/* ---- zstd ---- */

static int zstd_compress(struct compression_pipe *pipe, ZSTD_CCtx *context)
{
    bool is_last = false;
    while (!is_last) {
        ssize_t count = read_some(pipe, pipe->input, PIECE_BYTES);
        if (count < 0)
            return (int)count;
        is_last = count == 0;
        atomic_fetch_add(&pipe->bytes, (uint64_t)count);
        ZSTD_inBuffer in = {.src = pipe->input, .size = (size_t)count};
        size_t left;
        do {
            ZSTD_outBuffer out = {.dst = pipe->output, .size = PIECE_BYTES};
            left = ZSTD_compressStream2(context, &out, &in, is_last ? ZSTD_e_end : ZSTD_e_continue);
            if (ZSTD_isError(left))
                return -EIO;
            int r = write_all(pipe, pipe->output, out.pos);
            if (r < 0)
                return r;
        } while (is_last ? left > 0 : in.pos < in.size);
    }
    return 0;
}

static int run_zstd_compress(struct compression_pipe *pipe)
{
    ZSTD_CCtx *context = ZSTD_createCCtx();
    if (!context)
        return -ENOMEM;
    ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, ZSTD_LEVEL);
    ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
    int r = zstd_compress(pipe, context);
    ZSTD_freeCCtx(context);
    return r;
}

static int zstd_decompress(struct compression_pipe *pipe, ZSTD_DCtx *context)
{
    size_t left = 1; /* 0: at the end of a frame */
    for (;;) {
        ssize_t count = read_some(pipe, pipe->input, PIECE_BYTES);
        if (count <= 0)
            return count < 0 ? (int)count : left ? -EINVAL : 0;
        ZSTD_inBuffer in = {.src = pipe->input, .size = (size_t)count};
        bool is_full = false;
        while (in.pos < in.size || is_full) {
            ZSTD_outBuffer out = {.dst = pipe->output, .size = PIECE_BYTES};
            left = ZSTD_decompressStream(context, &out, &in);
            if (ZSTD_isError(left))
                return -EINVAL;
            is_full = out.pos == out.size && left > 0;
            atomic_fetch_add(&pipe->bytes, out.pos);
            int r = write_all(pipe, pipe->output, out.pos);
            if (r < 0)
                return r;
        }
    }
}

static int run_zstd_decompress(struct compression_pipe *pipe)
{
    ZSTD_DCtx *context = ZSTD_createDCtx();
    if (!context)
        return -ENOMEM;
    int r = zstd_decompress(pipe, context);
    ZSTD_freeDCtx(context);
    return r;
}

/* ---- The thread ---- */

/* The other process sees at once that nothing goes through any more. */
static void close_pipe(struct compression_pipe *pipe)
{
    int *end = pipe->compresses ? &pipe->in : &pipe->out;
    close(*end);
    *end = -1;
}

static void *run(void *opaque)
{
    struct compression_pipe *pipe = opaque;
    int r;
    if (pipe->compression == COMPRESS_GZIP)
        r = pipe->compresses ? run_gzip_compress(pipe) : run_gzip_decompress(pipe);
    else
        r = pipe->compresses ? run_zstd_compress(pipe) : run_zstd_decompress(pipe);
    pipe->error = -r;
    close_pipe(pipe);
    return NULL;
}

/* Writing to a pipe that nobody reads is to be an error, and no end of the program. */
static int start_thread(struct compression_pipe *pipe)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&pipe->thread, NULL, run, pipe);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -r;
}

static int start(int file, enum memory_compression compression, bool compresses,
                 struct compression_pipe **result, int *fd, struct error *err)
{
    struct compression_pipe *made = calloc(1, sizeof *made);
    int ends[2];
    if (!made)
        return error_set(err, ENOMEM, "out of memory");
    made->compression = compression;
    made->compresses = compresses;
    made->stop = eventfd(0, EFD_CLOEXEC);
    if (made->stop < 0 || pipe2(ends, O_CLOEXEC) < 0) {
        int code = errno;
        if (made->stop >= 0)
            close(made->stop);
        free(made);
        return error_set(err, code, "a pipe can't be made: %s", strerror(code));
    }
    int ours = compresses ? 0 : 1;
    fcntl(ends[ours], F_SETFL, O_NONBLOCK); /* the other end blocks, as the other process wants it */
    fcntl(ends[ours], F_SETPIPE_SZ, 1 << 20);
    made->in = compresses ? ends[0] : file;
    made->out = compresses ? file : ends[1];
    int r = start_thread(made);
    if (r < 0) {
        close(ends[0]);
        close(ends[1]);
        close(made->stop);
        free(made);
        return error_set(err, -r, "a thread can't be made: %s", strerror(-r));
    }
    *result = made;
    *fd = ends[1 - ours];
    return 0;
}

int compression_pipe_to_file(int file, enum memory_compression compression, struct compression_pipe **pipe,
                             int *fd, struct error *err)
{
    return start(file, compression, true, pipe, fd, err);
}

int compression_pipe_from_file(int file, enum memory_compression compression, struct compression_pipe **pipe,
                               int *fd, struct error *err)
{
    return start(file, compression, false, pipe, fd, err);
}

uint64_t compression_pipe_bytes(const struct compression_pipe *pipe)
{
    return atomic_load(&pipe->bytes);
}

static int end(struct compression_pipe *pipe)
{
    pthread_join(pipe->thread, NULL);
    int code = pipe->error;
    close(pipe->stop);
    free(pipe);
    return code;
}

static void tell(bool compresses, int code, struct error *err)
{
    if (!compresses && code == EINVAL)
        error_set(err, EINVAL, "the file is damaged, or not whole");
    else
        error_set(err, code, "%s: %s", compresses ? "compressing" : "decompressing", strerror(code));
}

int compression_pipe_end(struct compression_pipe *pipe, struct error *err)
{
    if (!pipe)
        return 0;
    bool compresses = pipe->compresses;
    int code = end(pipe);
    if (code)
        tell(compresses, code, err);
    return -code;
}

void compression_pipe_abort(struct compression_pipe *pipe, struct error *why)
{
    if (!pipe)
        return;
    bool compresses = pipe->compresses;
    atomic_store(&pipe->is_stopped, true);
    eventfd_write(pipe->stop, 1);
    int code = end(pipe);
    if (code && code != ECANCELED)
        tell(compresses, code, why);
}
