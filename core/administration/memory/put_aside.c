// SPDX-License-Identifier: LGPL-2.1-or-later
/* See put_aside.h. */
#include "administration/memory/put_aside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "administration/files/room.h"
#include "administration/files/temporary.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "hypervisor/memory_save.h"

/* Beside the memory that the guest has: of its devices. */
#define DEVICES_BYTES (64 * UINT64_C(1024) * 1024)

static int choose_place(const struct change *change, char **directory, char **path, struct error *err)
{
    const struct domain *domain = change->domain;
    const struct layer *beside = NULL;
    for (size_t i = 0; !beside && i < domain->disk_count; i++)
        if (domain->disks[i].active && !domain->disks[i].active->remote)
            beside = domain->disks[i].active;
    const char *slash = beside ? strrchr(beside->path, '/') : NULL;
    *directory =
        slash ? strndup(beside->path, (size_t)(slash - beside->path) + 1) : strdup(change_source(change));
    char name[OVERLAY_NAME_SIZE];
    temporary_memory_name(change->administration, change->operation, name);
    if (!*directory || asprintf(path, "%s/%s", *directory, name) < 0)
        return *path = NULL, error_set(err, ENOMEM, "out of memory");
    return 0;
}

static int save(struct change *change, struct running *running, const struct memory_save_before *before,
                int fd, struct error *err)
{
    struct work_watch progress = {
        .administration = change->administration, .work = change->work, .from = 0, .to = 50};
    const struct qmp_job_watch watch = {
        .progress = work_progress, .opaque = &progress, .timeout_ms = running->engine.timeout_ms};
    const struct memory_save_spec spec = {.fd = fd, .live = true, .timeout_ms = running->engine.timeout_ms};
    struct memory_save saving;
    int r = memory_save_begin(running->qmp, &spec, before, &saving, err);
    if (r < 0)
        return r;
    crash_point("saving");
    r = memory_save_copy(&saving, &watch, err);
    if (r == 0)
        r = memory_save_finish(&saving, &watch, err);
    if (r < 0)
        memory_save_cancel(&saving, NULL);
    return r;
}

static int save_durably(struct change *change, struct running *running, struct restart *restart,
                        const struct memory_save_before *before, int directory, struct error *err)
{
    cleanup_close int fd = open(restart->memory, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_set(err, errno, "%s: %m", restart->memory);
    int r = save(change, running, before, fd, err);
    if (r < 0)
        return r;
    if (fsync(fd) < 0 || fsync(directory) < 0)
        return error_set(err, errno, "%s: %m", restart->memory);
    restart->is_saved = true;
    return store_save_restart(change->administration->options.store, restart, err);
}

int put_aside(struct change *change, struct running *running, struct restart *restart, struct error *err)
{
    cleanup_free char *place = NULL;
    struct memory_save_before before;
    int r = choose_place(change, &place, &restart->memory, err);
    if (r == 0)
        r = memory_save_look(running->qmp, running->engine.timeout_ms, &before, err);
    if (r < 0)
        return r;
    cleanup_close int directory = open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return error_set(err, errno, "%s: %m", place);
    uint64_t bytes;
    r = memory_save_size(running->qmp, running->engine.timeout_ms, &bytes, err);
    if (r == 0)
        r = room_for_bytes(directory, place, bytes + DEVICES_BYTES, err);
    if (r < 0)
        return r;
    restart->events = before.settings.events;
    restart->pause_before_switchover = before.settings.pause_before_switchover;
    restart->bandwidth = (uint64_t)before.settings.max_bandwidth;
    /* Before the file is there, so that somebody knows of it. */
    r = store_save_restart(change->administration->options.store, restart, err);
    if (r == 0)
        r = save_durably(change, running, restart, &before, directory, err);
    crash_point("saved");
    return r;
}
