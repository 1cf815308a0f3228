// SPDX-License-Identifier: LGPL-2.1-or-later
/* Replacing small files whole; see replace_file.h. */
#include "store/replace_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

#define TEMPORARY_ENDING ".tmp"

struct temporary {
    char name[256];
    int fd;
};

static int write_all(int fd, const char *bytes, size_t length)
{
    while (length) {
        ssize_t written = write(fd, bytes, length);
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

static int write_temporary(int directory, const struct replacement *file, struct temporary *temporary)
{
    int length = snprintf(temporary->name, sizeof temporary->name, "%s" TEMPORARY_ENDING, file->name);
    if (length < 0 || (size_t)length >= sizeof temporary->name)
        return -ENAMETOOLONG;
    temporary->fd =
        openat(directory, temporary->name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (temporary->fd < 0)
        return -errno;
    int r = write_all(temporary->fd, file->bytes, file->length);
    /* Starts the writing of all files before the first one is waited for: a journaling file system then
     * commits them together. Only a hint, so its result does not matter. */
    if (r == 0)
        sync_file_range(temporary->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    return r;
}

int replace_files(int directory, const struct replacement *files, size_t count, struct error *err)
{
    assert(count <= REPLACE_FILES_MAX);
    struct temporary temporaries[REPLACE_FILES_MAX];
    size_t made = 0, renamed = 0, at = 0;
    int r = 0;

    for (at = 0; r == 0 && at < count; at++) {
        temporaries[at].fd = -1;
        r = write_temporary(directory, &files[at], &temporaries[at]);
        if (temporaries[at].fd >= 0)
            made++;
    }
    for (size_t i = 0; r == 0 && i < count; i++) {
        at = i + 1;
        if (fsync(temporaries[i].fd) < 0)
            r = -errno;
    }
    for (size_t i = 0; r == 0 && i < count; i++) {
        at = i + 1;
        if (renameat(directory, temporaries[i].name, directory, files[i].name) < 0)
            r = -errno;
        else
            renamed++;
    }
    if (renamed && fsync(directory) < 0 && r == 0)
        r = -errno;
    for (size_t i = 0; i < made; i++) {
        close(temporaries[i].fd);
        if (i >= renamed)
            unlinkat(directory, temporaries[i].name, 0);
    }
    return r < 0 ? error_set(err, -r, "%s: %s", files[at - 1].name, strerror(-r)) : 0;
}

int replace_file(int directory, const char *name, const void *bytes, size_t length, struct error *err)
{
    const struct replacement file = {.name = name, .bytes = bytes, .length = length};
    return replace_files(directory, &file, 1, err);
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
