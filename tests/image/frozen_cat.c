// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * frozen_cat: an image, or an internal snapshot in it, read as a frozen disk, without FUSE. For the tests
 * that compare what the reader gives with what qemu-img gives; not installed.
 *
 *     frozen_cat [-a ALLOWDIR[:DIR]] [-s SNAPSHOT] [-f FORMAT] [-b BACKINGFORMAT] [-m] [-o] [-C CACHE]
 *                [-t THREADS] [-c CHUNK] FILE > OUT
 *
 * -m prints where data is, as a JSON list of {start, length, data}, found with SEEK_DATA and SEEK_HOLE.
 * -o reads with the hint READ_ONCE. CACHE and CHUNK are bytes. SNAPSHOT is an id, or else a tag. FORMAT is
 * qcow2 if not told. The source is the directory of FILE.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "image/frozen_disk.h"
#include "image/qcow2_snapshot.h"

#define ALLOWED_MAX 64
#define THREADS_MAX 64

struct options {
    char *allowed[ALLOWED_MAX];
    size_t allowed_count;
    const char *snapshot;
    enum image_format format;
    enum image_format backing_format;
    bool map;
    bool once;
    unsigned threads;
    uint64_t chunk;
    uint64_t cache;
    const char *file;
};

/* What the reading threads share. */
struct copy {
    struct frozen_disk *disk;
    uint64_t size;
    uint64_t chunk;
    enum read_hint hint;
    bool seekable; /* the output */
    _Atomic uint64_t next;
    pthread_mutex_t lock; /* protects what follows */
    pthread_cond_t turn;
    uint64_t written; /* to an output that is not seekable */
    int error;
};

static int usage(void)
{
    fputs(
        "usage: frozen_cat [-a DIR[:DIR]] [-s SNAPSHOT] [-f FORMAT] [-b BACKINGFORMAT] [-m] [-o] [-C CACHE]\n"
        "                  [-t THREADS] [-c CHUNK] FILE\n",
        stderr);
    return 2;
}

static bool parse_size(const char *text, uint64_t *size)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 0);
    if (errno || end == text || *end || value == 0)
        return false;
    *size = value;
    return true;
}

static bool parse_options(int argc, char **argv, struct options *options)
{
    *options = (struct options){.format = IMAGE_FORMAT_QCOW2, .threads = 1, .chunk = MIB, .cache = 64 * MIB};
    uint64_t threads = 1;
    int letter;
    while ((letter = getopt(argc, argv, "a:s:f:b:mot:c:C:")) >= 0) {
        bool good = true;
        switch (letter) {
        case 'a':
            for (char *rest = optarg, *dir; (dir = strsep(&rest, ":")) != NULL;)
                if (*dir && options->allowed_count < ALLOWED_MAX)
                    options->allowed[options->allowed_count++] = dir;
            break;
        case 's':
            options->snapshot = optarg;
            break;
        case 'f':
            options->format = image_format_from_name(optarg);
            good = options->format != IMAGE_FORMAT_UNKNOWN;
            break;
        case 'b':
            options->backing_format = image_format_from_name(optarg);
            good = options->backing_format != IMAGE_FORMAT_UNKNOWN;
            break;
        case 'm':
            options->map = true;
            break;
        case 'o':
            options->once = true;
            break;
        case 't':
            good = parse_size(optarg, &threads) && threads <= THREADS_MAX;
            break;
        case 'c':
            good = parse_size(optarg, &options->chunk) && options->chunk <= GIB;
            break;
        case 'C':
            good = parse_size(optarg, &options->cache);
            break;
        default:
            good = false;
        }
        if (!good)
            return false;
    }
    options->threads = (unsigned)threads;
    options->file = argv[optind];
    return optind + 1 == argc;
}

/* The internal snapshot with this id; taken out of the table, the caller frees it. Not with this tag: where
 * an image is damaged, another snapshot's tag may be that id. */
static int find_internal(const struct locate *locate, const char *path, const char *wanted,
                         struct internal_snapshot **internal, struct error *err)
{
    cleanup_close int fd = -1;
    int rc = locate_open(locate, NULL, path, &fd, err);
    if (rc < 0)
        return rc;
    struct byte_source source = byte_source_fd(fd);
    cleanup(qcow2_header_done) struct qcow2_header header = {0};
    rc = qcow2_header_read(&source, &header, err);
    if (rc < 0)
        return rc;
    cleanup(qcow2_snapshots_done) struct qcow2_snapshots snapshots = {0};
    int damage = 0;
    rc = qcow2_snapshots_read(&source, &header, &snapshots, &damage, err);
    if (rc < 0)
        return rc;
    struct internal_snapshot **found = NULL;
    for (size_t i = 0; i < snapshots.count; i++)
        if (strcmp(snapshots.entries[i]->id, wanted) == 0)
            found = &snapshots.entries[i];
    if (!found)
        return error_set(err, ENOENT, "%s: no internal snapshot \"%s\"", path, wanted);
    *internal = steal_pointer(*found);
    return 0;
}

/* A domain with this one disk; its backing files are whatever the image says. */
static int open_disk(const struct options *options, const char *path, const struct frozen_disk_env *env,
                     struct frozen_disk **disk, struct error *err)
{
    struct stat stat_now;
    if (stat(path, &stat_now) < 0)
        return error_set(err, errno, "%s: %s", path, strerror(errno));
    struct layer layer = {
        .path = (char *)path,
        .format = options->format,
        .identity = file_identity_of(&stat_now),
        .active = options->snapshot != NULL,
    };
    struct domain domain = {0};
    struct frozen frozen = {.layer = &layer};
    if (options->snapshot) {
        int rc = find_internal(env->locate, path, options->snapshot, &frozen.internal, err);
        if (rc < 0)
            return rc;
    }
    int rc = frozen_disk_open(env, &domain, &frozen, disk, err);
    internal_snapshot_free(frozen.internal);
    return rc;
}

static int print_map(struct frozen_disk *disk)
{
    uint64_t size = frozen_disk_size(disk);
    const char *separator = "[";
    for (uint64_t offset = 0; offset < size;) {
        int64_t data = frozen_disk_seek(disk, offset, SEEK_DATA);
        if (data < 0 && data != -ENXIO)
            return (int)data;
        bool here = data == (int64_t)offset;
        int64_t end = here ? frozen_disk_seek(disk, offset, SEEK_HOLE) : data < 0 ? (int64_t)size : data;
        if (end < 0)
            return (int)end;
        printf("%s{\"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"data\": %s}", separator, offset,
               (uint64_t)end - offset, here ? "true" : "false");
        separator = ",\n";
        offset = (uint64_t)end;
    }
    printf("%s]\n", *separator == '[' ? "[" : "");
    return 0;
}

static int write_all(const char *buffer, size_t length, int64_t offset)
{
    while (length > 0) {
        ssize_t count =
            offset < 0 ? write(STDOUT_FILENO, buffer, length) : pwrite(STDOUT_FILENO, buffer, length, offset);
        if (count < 0 && errno != EINTR)
            return -errno;
        if (count > 0) {
            buffer += count;
            length -= (size_t)count;
            offset += offset < 0 ? 0 : count;
        }
    }
    return 0;
}

/* Writes a chunk where it belongs, or when its turn has come. */
static int put_chunk(struct copy *copy, uint64_t offset, const char *buffer, size_t length, int rc)
{
    if (rc == 0 && copy->seekable)
        rc = write_all(buffer, length, (int64_t)offset);
    pthread_mutex_lock(&copy->lock);
    while (!copy->seekable && copy->error == 0 && copy->written < offset)
        pthread_cond_wait(&copy->turn, &copy->lock);
    if (rc == 0 && copy->error == 0 && !copy->seekable)
        rc = write_all(buffer, length, -1);
    if (copy->error == 0)
        copy->error = rc;
    rc = copy->error;
    copy->written = offset + length;
    pthread_cond_broadcast(&copy->turn);
    pthread_mutex_unlock(&copy->lock);
    return rc;
}

static void *copy_chunks(void *opaque)
{
    struct copy *copy = opaque;
    cleanup_free char *buffer = malloc(copy->chunk);
    int rc = buffer ? 0 : -ENOMEM;
    for (;;) {
        uint64_t offset = atomic_fetch_add(&copy->next, copy->chunk);
        if (offset >= copy->size)
            return NULL;
        size_t length = min_u64(copy->chunk, copy->size - offset);
        ssize_t count = rc < 0 ? rc : frozen_disk_read(copy->disk, offset, buffer, length, copy->hint);
        if (count >= 0 && (size_t)count != length)
            count = -EPROTO; /* less than there is: a defect of ours */
        if (count < 0)
            fprintf(stderr, "frozen_cat: offset %" PRIu64 ": %s\n", offset, strerror((int)-count));
        if (put_chunk(copy, offset, buffer, length, count < 0 ? (int)count : 0) < 0)
            return NULL;
    }
}

static int copy_disk(struct frozen_disk *disk, const struct options *options)
{
    struct stat stat_now;
    struct copy copy = {
        .disk = disk,
        .size = frozen_disk_size(disk),
        .chunk = options->chunk,
        .hint = options->once ? READ_ONCE : READ_KEEP,
        .seekable = fstat(STDOUT_FILENO, &stat_now) == 0 && S_ISREG(stat_now.st_mode),
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .turn = PTHREAD_COND_INITIALIZER,
    };
    pthread_t threads[THREADS_MAX];
    unsigned started = 0;
    while (started + 1 < options->threads && pthread_create(&threads[started], NULL, copy_chunks, &copy) == 0)
        started++;
    copy_chunks(&copy);
    for (unsigned i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    return copy.error;
}

int main(int argc, char **argv)
{
    struct options options;
    if (!parse_options(argc, argv, &options))
        return usage();
    cleanup_free char *path = realpath(options.file, NULL);
    cleanup_free char *source = path ? strdup(path) : NULL;
    if (!source) {
        perror(options.file);
        return 1;
    }
    char *slash = strrchr(source, '/');
    slash[slash == source] = '\0';

    struct error err = {0};
    struct locate *locate = NULL;
    struct frozen_disk *disk = NULL;
    struct frozen_disk_env env = {.cache = cache_new(options.cache), .workers = workers_new(0)};
    int rc =
        locate_new(source, options.allowed, options.allowed_count, options.backing_format, &locate, &err);
    env.locate = locate;
    if (rc == 0)
        rc = open_disk(&options, path, &env, &disk, &err);
    if (rc < 0)
        fprintf(stderr, "frozen_cat: %s\n", err.text);
    else
        rc = options.map ? print_map(disk) : copy_disk(disk, &options);
    if (rc == 0 && fflush(stdout) != 0)
        rc = -errno;
    frozen_disk_free(disk);
    workers_free(env.workers);
    cache_free(env.cache);
    locate_free(locate);
    return rc < 0 ? 1 : 0;
}
