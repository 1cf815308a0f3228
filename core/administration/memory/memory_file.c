// SPDX-License-Identifier: LGPL-2.1-or-later
/* See memory_file.h. */
#include "administration/memory/memory_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "administration/files/images.h"
#include "administration/files/temporary.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "base/endings.h"
#include "catalog/discover.h"

#define SUFFIX ".mem"

/* ---- Where and how called ---- */

static int take_name(struct memory_file *file, const char *path, struct error *err)
{
    struct stat stat;
    int r = image_check_name(path, file->final, err);
    if (r < 0)
        return r;
    if (ending_of(file->final) != ENDING_MEANINGLESS)
        return error_set(err, EINVAL, "%s: a file of that name would be taken for something else than memory",
                         path);
    if (fstatat(file->directory, file->final, &stat, AT_SYMLINK_NOFOLLOW) == 0)
        return error_set(err, EEXIST, "%s is there already", path);
    return 0;
}

static int make_up_name(struct memory_file *file, const struct change *change, const char *snapshot,
                        struct error *err)
{
    cleanup_free char *below = NULL, *what = NULL;
    if (asprintf(&below, "%s" SUFFIX, change->domain->name) < 0)
        return below = NULL, error_set(err, ENOMEM, "out of memory");
    if (asprintf(&what, "%s" SUFFIX, snapshot) < 0)
        return what = NULL, error_set(err, ENOMEM, "out of memory");
    return overlay_name_choose(file->directory, below, what, change->operation, NULL, 0, file->final, err);
}

int memory_file_plan(struct memory_file *file, const struct change *change, const char *path,
                     const char *snapshot, enum memory_compression compression, size_t index,
                     struct error *err)
{
    cleanup_free char *any = NULL;
    if (asprintf(&any, "%s/", change_source(change)) < 0)
        return any = NULL, error_set(err, ENOMEM, "out of memory");
    file->compression = compression;
    temporary_name(change->administration, change->operation, index, file->temporary);
    int r = image_open_directory(change, path ? path : any, &file->directory_path, &file->directory, err);
    if (r == 0)
        r = path ? take_name(file, path, err) : make_up_name(file, change, snapshot, err);
    if (r < 0)
        return r;
    if (asprintf(&file->path, "%s/%s", file->directory_path, file->final) < 0)
        return file->path = NULL, error_set(err, ENOMEM, "out of memory");
    return 0;
}

/* ---- Writing it ---- */

/* What a guest has in its memory is nobody else's business. */
int memory_file_make(struct memory_file *file, struct error *err)
{
    file->fd =
        openat(file->directory, file->temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (file->fd < 0)
        return error_set(err, errno, "%s: %m", file->path);
    file->is_made = true;
    return 0;
}

void memory_file_note(const struct memory_file *file, struct undo_list *list)
{
    struct new_file_mark mark;
    if (new_file_mark(file->fd, &mark, NULL) < 0)
        list->failed = true;
    else
        undo_add_memory(list, file->directory_path, file->temporary, file->final, &mark);
}

int memory_file_open(struct memory_file *file, int *fd, struct error *err)
{
    if (file->compression != COMPRESS_NONE)
        return compression_pipe_to_file(file->fd, file->compression, &file->pipe, fd, err);
    *fd = fcntl(file->fd, F_DUPFD_CLOEXEC, 0);
    return *fd < 0 ? error_set(err, errno, "%s: %m", file->path) : 0;
}

uint64_t memory_file_size(const struct memory_file *file)
{
    struct stat stat;
    return file->fd >= 0 && fstat(file->fd, &stat) == 0 ? (uint64_t)stat.st_size : 0;
}

int memory_file_publish(struct memory_file *file, struct error *err)
{
    struct compression_pipe *pipe = steal_pointer(file->pipe);
    int r = compression_pipe_end(pipe, err);
    if (r < 0)
        return error_prefix(err, "%s", file->path);
    if (fsync(file->fd) < 0)
        return error_set(err, errno, "%s: %m", file->path);
    crash_point("memory-whole");
    if (renameat2(file->directory, file->temporary, file->directory, file->final, RENAME_NOREPLACE) < 0)
        return error_set(err, errno, "%s: %m", file->path);
    if (fsync(file->directory) < 0) {
        r = error_set(err, errno, "%s: %m", file->directory_path);
        unlinkat(file->directory, file->final, 0); /* nobody was told of it, and nobody else removes it */
        return r;
    }
    file->is_made = false;
    crash_point("memory-published");
    return 0;
}

void memory_file_abort(struct memory_file *file, struct error *why)
{
    compression_pipe_abort(file->pipe, why);
    file->pipe = NULL;
}

/* ---- What the store is to know ---- */

int memory_file_record(const struct memory_file *file, const struct change *change,
                       struct state_memory *record, struct error *err)
{
    struct stat stat;
    *record = (struct state_memory){.path = strdup(path_in_store(change_source(change), file->path)),
                                    .compression = file->compression};
    if (!record->path)
        return error_set(err, ENOMEM, "out of memory");
    if (file->fd >= 0 && fstat(file->fd, &stat) == 0)
        record->identity = file_identity_of(&stat);
    return 0;
}

void memory_file_done(struct memory_file *file)
{
    memory_file_abort(file, NULL);
    if (file->is_made) /* it is there under this name only if it came to nothing */
        unlinkat(file->directory, file->temporary, 0);
    if (file->fd >= 0)
        close(file->fd);
    if (file->directory >= 0)
        close(file->directory);
    free(file->directory_path);
    free(file->path);
    *file = MEMORY_FILE_NONE;
}
