// SPDX-License-Identifier: LGPL-2.1-or-later
/* See memory_back.h. */
#include "administration/memory/memory_back.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "administration/files/images.h"
#include "administration/files/room.h"
#include "administration/files/temporary.h"
#include "base/cleanup.h"
#include "image/vm_state.h"
#include "io/compression_pipe.h"

/* ---- Where it is ---- */

static int open_file(struct memory_back *memory, const struct change *change,
                     const struct saved_memory *saved, struct error *err)
{
    struct stat stat;
    int r = image_open(change, &saved->layer, &memory->fd, err);
    if (r < 0)
        return r;
    if (fstat(memory->fd, &stat) < 0)
        return error_set(err, errno, "%s: %m", saved->layer.path);
    const struct file_identity now = file_identity_of(&stat);
    if (!file_identity_same_content(&now, &saved->layer.identity))
        return error_set(err, EIO, "%s was changed by someone else since the memory was saved in it",
                         saved->layer.path);
    return 0;
}

static const struct frozen *image_of(const struct snapshot *snapshot)
{
    for (size_t i = 0; i < snapshot->frozen_count; i++)
        if (snapshot->frozen[i].internal && snapshot->frozen[i].internal->vm_state_size)
            return &snapshot->frozen[i];
    return NULL;
}

/* A file that nobody else sees, and that goes with us. */
static int open_nameless(const struct change *change, struct error *err)
{
    const char *directory = change_source(change);
    int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
        return fd < 0 ? error_set(err, errno, "%s: %m", directory) : fd;
    cleanup_free char *path = NULL;
    char name[OVERLAY_NAME_SIZE];
    temporary_name(change->administration, change->operation, TEMPORARY_STATE, name);
    if (asprintf(&path, "%s/%s", directory, name) < 0)
        return path = NULL, error_set(err, ENOMEM, "out of memory");
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_set(err, errno, "%s: %m", directory);
    unlink(path);
    return fd;
}

/* While the domain still runs, if it does: what can't be read is found before anything is done. */
static int copy_out_of_image(struct memory_back *memory, const struct change *change, struct error *err)
{
    const struct administration *administration = change->administration;
    const struct frozen *frozen = image_of(memory->snapshot);
    struct work_watch work = {change->administration, change->work, 0, 50};
    if (!frozen)
        return error_set(err, EIO, "the memory of snapshot %s is not in its images", memory->snapshot->name);
    int fd = open_nameless(change, err);
    if (fd < 0)
        return fd;
    memory->fd = fd;
    int r = room_for_bytes(fd, change_source(change), frozen->internal->vm_state_size, err);
    if (r == 0)
        r = vm_state_copy(administration->options.locate, change->domain, frozen, fd,
                          change->work ? work_progress : NULL, &work, err);
    if (r == -ECANCELED)
        r = error_set(err, EINTR, "it was cancelled, and everything is as it was");
    if (r == 0 && lseek(fd, 0, SEEK_SET) < 0)
        r = error_set(err, errno, "%s: %m", change_source(change));
    return r;
}

int memory_back_find(struct memory_back *memory, const struct change *change, const struct snapshot *snapshot,
                     struct error *err)
{
    *memory = MEMORY_BACK_NONE;
    if (!snapshot_has_memory(snapshot))
        return 0;
    memory->snapshot = snapshot;
    return snapshot->memory ? open_file(memory, change, snapshot->memory, err)
                            : copy_out_of_image(memory, change, err);
}

enum start_wait memory_back_wait(const struct memory_back *memory)
{
    return memory->fd >= 0 ? START_INCOMING : START_STOPPED;
}

char *const *memory_back_launch(const struct memory_back *memory, const struct domain *domain)
{
    return memory->snapshot && memory->snapshot->launch ? memory->snapshot->launch : domain->launch;
}

bool memory_back_machine_changed(const struct domain *domain, const struct snapshot *snapshot)
{
    size_t i = 0;
    if (!snapshot->launch || !domain->launch)
        return false;
    while (snapshot->launch[i] && domain->launch[i] && strcmp(snapshot->launch[i], domain->launch[i]) == 0)
        i++;
    return snapshot->launch[i] || domain->launch[i];
}

/* ---- Bringing it back ---- */

static int load_compressed(const struct memory_back *memory, struct start *start, struct error *err)
{
    struct compression_pipe *pipe;
    int fd = -1;
    struct error why = {0};
    int r = compression_pipe_from_file(memory->fd, memory->snapshot->memory->compression, &pipe, &fd, err);
    if (r < 0)
        return r;
    r = start_load(start, fd, pipe, err);
    close(fd);
    if (r < 0)
        compression_pipe_abort(pipe, &why);
    else
        compression_pipe_end(pipe, &why);
    if (!why.code || why.code == EPIPE) /* EPIPE: QEMU has read no more */
        return r;
    start_take_back(start->machine, NULL);
    return error_set(err, why.code == EINVAL ? EIO : why.code, "the memory can't be loaded: %s: %s",
                     memory->snapshot->memory->layer.path, why.text);
}

int memory_back_load(const struct memory_back *memory, struct start *start, struct error *err)
{
    if (!memory->snapshot)
        return 0;
    const struct saved_memory *saved = memory->snapshot->memory;
    return saved && saved->compression != COMPRESS_NONE ? load_compressed(memory, start, err)
                                                        : start_load(start, memory->fd, NULL, err);
}

void memory_back_done(struct memory_back *memory)
{
    if (memory->snapshot && memory->fd >= 0)
        close(memory->fd);
    *memory = MEMORY_BACK_NONE;
}
