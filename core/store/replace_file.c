// SPDX-License-Identifier: LGPL-2.1-or-later
/* Replacing small files whole; see replace_file.h. */
#include "store/replace_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

#define TEMPORARY_ENDING ".tmp"

struct temporary {
    char name[256];
    int fd;
};

static int write_all(const struct file_calls *calls, int fd, const char *bytes, size_t length)
{
    while (length) {
        ssize_t written = calls->write(calls->layer, fd, bytes, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -errno;
        if (written == 0)
            return -EIO;
        bytes += written;
        length -= (size_t)written;
    }
    return 0;
}

static int write_temporary(const struct file_calls *calls, int directory, const struct replacement *file,
                           struct temporary *temporary)
{
    int length = snprintf(temporary->name, sizeof temporary->name, "%s" TEMPORARY_ENDING, file->name);
    if (length < 0 || (size_t)length >= sizeof temporary->name)
        return -ENAMETOOLONG;
    temporary->fd = calls->open(calls->layer, directory, temporary->name);
    if (temporary->fd < 0)
        return -errno;
    int r = write_all(calls, temporary->fd, file->bytes, file->length);
    /* Starts the writing of all files before the first one is waited for: a journaling file system then
     * commits them together. Only a hint, so its result does not matter. */
    if (r == 0)
        sync_file_range(temporary->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    return r;
}

int replace_files_through(const struct file_calls *calls, int directory, const struct replacement *files,
                          size_t count, struct error *err)
{
    assert(count <= REPLACE_FILES_MAX);
    struct temporary temporaries[REPLACE_FILES_MAX];
    size_t made = 0, renamed = 0, at = 0;
    int r = 0;

    for (at = 0; r == 0 && at < count; at++) {
        temporaries[at].fd = -1;
        r = write_temporary(calls, directory, &files[at], &temporaries[at]);
        if (temporaries[at].fd >= 0)
            made++;
    }
    for (size_t i = 0; r == 0 && i < count; i++) {
        at = i + 1;
        if (calls->fsync(calls->layer, temporaries[i].fd) < 0)
            r = -errno;
    }
    for (size_t i = 0; r == 0 && i < count; i++) {
        at = i + 1;
        if (calls->rename(calls->layer, directory, temporaries[i].name, files[i].name) < 0)
            r = -errno;
        else
            renamed++;
    }
    if (renamed && calls->fsync_directory(calls->layer, directory) < 0 && r == 0)
        r = -errno;
    for (size_t i = 0; i < made; i++) {
        close(temporaries[i].fd);
        if (i >= renamed)
            calls->unlink(calls->layer, directory, temporaries[i].name);
    }
    return r < 0 ? error_set(err, -r, "%s: %s", files[at - 1].name, strerror(-r)) : 0;
}

int replace_files(int directory, const struct replacement *files, size_t count, struct error *err)
{
    return replace_files_through(&file_calls_system, directory, files, count, err);
}

int replace_file(int directory, const char *name, const void *bytes, size_t length, struct error *err)
{
    const struct replacement file = {.name = name, .bytes = bytes, .length = length};
    return replace_files(directory, &file, 1, err);
}

int replace_file_read(int directory, const char *name, size_t bytes_max, char **bytes, size_t *length,
                      struct error *err)
{
    cleanup_close int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    struct stat stat;
    if (fd < 0 || fstat(fd, &stat) < 0)
        return error_set(err, errno, "%s", strerror(errno));
    if (!S_ISREG(stat.st_mode))
        return error_set(err, EINVAL, "it is no regular file");
    if ((uint64_t)stat.st_size > bytes_max)
        return error_set(err, E2BIG, "it is longer than %zu MiB", bytes_max / (1024 * 1024));
    size_t size = (size_t)stat.st_size;
    cleanup_free char *read = malloc(size + 1);
    if (!read)
        return error_set(err, ENOMEM, "%s", strerror(ENOMEM));
    for (size_t have = 0; have < size;) {
        ssize_t got = pread(fd, read + have, size - have, (off_t)have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return error_set(err, EIO, "%s", got < 0 ? strerror(errno) : "it became shorter");
        have += (size_t)got;
    }
    read[size] = '\0';
    *bytes = steal_pointer(read);
    *length = size;
    return 0;
}

static bool ends_with(const char *name, const char *ending)
{
    size_t length = strlen(name), ending_length = strlen(ending);
    return length > ending_length && strcmp(name + length - ending_length, ending) == 0;
}

void replace_file_clean(int directory)
{
    cleanup_close int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    cleanup_closedir DIR *dir = fdopendir(fd);
    if (!dir)
        return;
    steal_fd(&fd);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (ends_with(entry->d_name, TEMPORARY_ENDING))
            unlinkat(directory, entry->d_name, 0);
}
