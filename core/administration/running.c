// SPDX-License-Identifier: LGPL-2.1-or-later
/* The QEMU of a change's domain; see running.h. */
#include "administration/running.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "administration/files/images.h"
#include "administration/frozen_nodes.h"
#include "base/cleanup.h"
#include "hypervisor/image_locks.h"
#include "hypervisor/layer_nodes.h"
#include "hypervisor/qmp_job.h"
#include "machine/machines.h"

/* For the answer to each command, and for somebody else to give the monitor back. */
#define ANSWER_MS 20000

/* How long it may take until a QEMU that others have started is found by its socket. */
#define COME_MS      2500
#define COME_STEP_MS 50

int running_check_state(enum run_state state, struct error *err)
{
    switch (state) {
    case RUN_STATE_SHUTTING_DOWN:
        return error_set(err, EBUSY, "the domain is shutting down");
    case RUN_STATE_MIGRATING:
        return error_set(err, EBUSY, "the domain is being migrated, saved or restored");
    default:
        return 0;
    }
}

int running_find_monitor(const struct domain *domain, const struct machine *machine, char **path,
                         struct error *err)
{
    const char *told = domain->qmp;
    char *monitors[3] = {NULL};
    if (!told && machine_monitors(machine, monitors, NULL) == 0)
        told = monitors[0];
    char *copy = strdup(told ? told : "");
    for (char **monitor = monitors; *monitor; monitor++)
        free(*monitor);
    if (!copy)
        return error_set(err, ENOMEM, "out of memory");
    *path = copy;
    return 0;
}

bool running_is_written(const struct domain *domain)
{
    image_locks_forget();
    for (size_t i = 0; i < domain->disk_count; i++) {
        const struct layer *active = domain->disks[i].active;
        if (active && !active->remote && image_locks_written(active->identity.device, active->identity.inode))
            return true;
    }
    return false;
}

int running_end_leftover(const struct block_engine *engine, struct error *err)
{
    return qmp_job_abort(engine->qmp, RUNNING_MERGE_JOB, engine->timeout_ms, err);
}

/* One that others have started a moment ago was not looked for yet. */
static int borrow(const struct change *change, struct running *running, struct error *err)
{
    int r = -ESRCH;
    for (int waited = 0; r == -ESRCH; waited += COME_STEP_MS) {
        r = machine_borrow(running->machine, ANSWER_MS, &running->qmp, &running->state, err);
        if (r != -ESRCH || waited >= COME_MS || !running_is_written(change->domain))
            break;
        poll(NULL, 0, COME_STEP_MS);
    }
    return r;
}

int running_begin(const struct change *change, struct running *running, struct error *err)
{
    *running = (struct running){.state = RUN_STATE_SHUTOFF};
    running->machine = machines_get(change->administration->options.machines, change->serial);
    if (!running->machine)
        return 0;
    int r = borrow(change, running, err);
    if (r == -ESRCH) {
        struct machine_report report;
        machine_report(running->machine, &report);
        running->has_crashed = report.contact == MACHINE_OFF && report.state == RUN_STATE_CRASHED;
        return 0;
    }
    /* Whoever has the monitor's socket, no QEMU runs the domain. */
    if (r == -ETIMEDOUT && !running_is_written(change->domain))
        return 0;
    if (r < 0)
        return r;
    running->engine = (struct block_engine){.qmp = running->qmp, .timeout_ms = ANSWER_MS};
    r = running_check_state(running->state, err);
    if (r == 0)
        r = running_end_leftover(&running->engine, err);
    if (r == 0 && domain_has_touched(change->domain)) /* only such a layer may be open for writing below */
        frozen_nodes_close(&running->engine, change->domain);
    return r < 0 ? r : running_find_monitor(change->domain, running->machine, &running->monitor, err);
}

int running_add(struct running *running, const struct change *change, const struct disk *disk,
                struct error *err)
{
    struct running_disk *grown = realloc(running->disks, (running->disk_count + 1) * sizeof *grown);
    if (!grown)
        return error_set(err, ENOMEM, "out of memory");
    running->disks = grown;
    struct running_disk *added = &grown[running->disk_count++];
    *added = (struct running_disk){
        .target = disk->target, .path = disk->active->path, .format = disk->active->format, .fd = -1};
    return image_open(change, disk->active, &added->fd, err);
}

int running_find(struct running *running, struct error *err)
{
    return running_disks_find(&running->engine, running->disks, running->disk_count, err);
}

int running_check_files(const struct running *running, const struct change *change, struct error *err)
{
    const struct domain *domain = change->domain;
    cleanup(block_nodes_done) struct block_nodes nodes = {0};
    int r = block_nodes_query(&running->engine, &nodes, err);
    for (size_t i = 0; r == 0 && i < domain->disk_count; i++) {
        const struct layer *active = domain->disks[i].active;
        cleanup_close int fd = -1;
        struct stat file;
        if (!active || active->remote)
            continue;
        r = image_open(change, active, &fd, err);
        if (r == 0 && fstat(fd, &file) < 0)
            r = error_set(err, errno, "%s: %m", active->path);
        if (r == 0 && layer_nodes_have(&nodes, &file))
            r = running_disk_check_open(&running->engine, active->path, &file, err);
    }
    return r;
}

const char *running_node(const struct running *running, const char *target)
{
    for (size_t i = 0; i < running->disk_count; i++)
        if (strcmp(running->disks[i].target, target) == 0)
            return running->disks[i].node;
    return NULL;
}

void running_return(struct running *running)
{
    if (running->qmp)
        machine_return(running->machine, running->qmp);
    running->qmp = running->engine.qmp = NULL;
}

void running_end(struct running *running)
{
    for (size_t i = 0; i < running->disk_count; i++)
        if (running->disks[i].fd >= 0)
            close(running->disks[i].fd);
    running_disks_done(running->disks, running->disk_count);
    free(running->disks);
    free(running->monitor);
    running_return(running);
    machine_unref(running->machine);
    *running = (struct running){0};
}
