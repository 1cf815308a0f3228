// SPDX-License-Identifier: LGPL-2.1-or-later
/* See memory_back.h. */
#include "administration/memory_back.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "administration/images.h"
#include "base/cleanup.h"
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

static int find_in_images(struct memory_back *memory, struct error *err)
{
    const struct snapshot *snapshot = memory->snapshot;
    memory->devices = calloc(snapshot->frozen_count + 1, sizeof *memory->devices);
    if (!memory->devices)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < snapshot->frozen_count; i++) {
        const struct frozen *frozen = &snapshot->frozen[i];
        if (!frozen->internal)
            continue;
        if (frozen->internal->vm_state_size) {
            memory->tag = frozen->internal->name;
            memory->vmstate = frozen->disk->target;
        }
        if (frozen->layer != frozen->disk->active)
            return error_set(
                err, EOPNOTSUPP,
                "the memory of snapshot %s lies in %s, which the domain does not write to any "
                "more, where QEMU can't load it from; write shutoff to bring back its disks alone",
                snapshot->name, frozen->layer->path);
        memory->devices[memory->device_count++] = frozen->disk->target;
    }
    return memory->tag
               ? 0
               : error_set(err, EIO, "the memory of snapshot %s is not in its images", snapshot->name);
}

int memory_back_find(struct memory_back *memory, const struct change *change, const struct snapshot *snapshot,
                     struct error *err)
{
    *memory = MEMORY_BACK_NONE;
    if (!snapshot_has_memory(snapshot))
        return 0;
    memory->snapshot = snapshot;
    return snapshot->memory ? open_file(memory, change, snapshot->memory, err) : find_in_images(memory, err);
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
    if (memory->fd < 0) {
        const struct memory_internal internal = {.job_id = "vmsnapfs-load",
                                                 .tag = memory->tag,
                                                 .vmstate = memory->vmstate,
                                                 .devices = memory->devices,
                                                 .device_count = memory->device_count};
        return start_load_internal(start, &internal, err);
    }
    return memory->snapshot->memory->compression == COMPRESS_NONE ? start_load(start, memory->fd, NULL, err)
                                                                  : load_compressed(memory, start, err);
}

void memory_back_done(struct memory_back *memory)
{
    if (memory->snapshot && memory->fd >= 0)
        close(memory->fd);
    free(memory->devices);
    *memory = MEMORY_BACK_NONE;
}
