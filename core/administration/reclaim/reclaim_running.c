// SPDX-License-Identifier: LGPL-2.1-or-later
/* Changing image files that a running domain's QEMU has open; see reclaim_running.h. */
#include "administration/reclaim/reclaim_running.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "administration/files/images.h"
#include "administration/files/room.h"
#include "administration/frozen_nodes.h"
#include "administration/reclaim/reclaim_files.h"
#include "administration/running.h"
#include "base/cleanup.h"
#include "hypervisor/block_merge.h"
#include "hypervisor/block_snapshot.h"
#include "hypervisor/deadline.h"
#include "hypervisor/free_space.h"
#include "hypervisor/layer_nodes.h"

#define ANSWER_MS 20000 /* for the answer to a command */
#define BORROW_MS 2000  /* until somebody else is done with the monitor: it can wait */
#define LOOK_MS   1000  /* its state is told so often while a job runs */

/* ---- Reaching them ---- */

static const struct domain *find_domain(const struct catalog *catalog, uint64_t serial)
{
    for (size_t i = 0; i < catalog->domain_count; i++)
        if (catalog->domains[i]->serial == serial)
            return catalog->domains[i];
    return NULL;
}

static int look_into(struct reclaim_host *host, enum run_state state, struct error *err)
{
    host->engine = (struct block_engine){.qmp = host->qmp, .timeout_ms = ANSWER_MS};
    int r = running_check_state(state, err);
    if (r == 0)
        r = running_end_leftover(&host->engine, err);
    if (r == 0)
        frozen_nodes_close(&host->engine, host->domain);
    if (r == 0)
        r = block_nodes_query(&host->engine, &host->nodes, err);
    return r;
}

static int add_host(struct reclaim_hosts *hosts, const struct domain *domain, struct error *err)
{
    struct machine *machine = machines_get(hosts->administration->options.machines, domain->serial);
    struct qmp *qmp;
    enum run_state state;
    if (!machine)
        return 0;
    int r = machine_borrow(machine, BORROW_MS, &qmp, &state, err);
    if (r < 0) {
        machine_unref(machine);
        /* Whoever has the monitor's socket, no QEMU runs the domain where nobody writes to its images. */
        bool is_off = r == -ESRCH || (r == -ETIMEDOUT && !running_is_written(domain));
        return is_off ? 0 : error_set(err, EBUSY, "%s", err->text);
    }
    struct reclaim_host *host = &hosts->list[hosts->count++];
    *host = (struct reclaim_host){.domain = domain, .machine = machine, .qmp = qmp};
    return look_into(host, state, err);
}

int reclaim_hosts_begin(struct administration *administration, const struct catalog *catalog,
                        const uint64_t *domains, size_t count, struct reclaim_hosts *hosts, struct error *err)
{
    *hosts = (struct reclaim_hosts){.administration = administration};
    hosts->list = calloc(count + 1, sizeof *hosts->list);
    if (!hosts->list)
        return error_set(err, ENOMEM, "out of memory");
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++) {
        const struct domain *domain = find_domain(catalog, domains[i]);
        if (domain)
            r = add_host(hosts, domain, err);
    }
    return r;
}

void reclaim_hosts_end(struct reclaim_hosts *hosts)
{
    for (size_t i = 0; i < hosts->count; i++) {
        block_nodes_done(&hosts->list[i].nodes);
        machine_return(hosts->list[i].machine, hosts->list[i].qmp);
        machine_unref(hosts->list[i].machine);
    }
    free(hosts->list);
    *hosts = (struct reclaim_hosts){0};
}

bool reclaim_hosts_give_up(struct reclaim_hosts *hosts)
{
    for (size_t i = 0; i < hosts->count; i++) {
        struct reclaim_host *host = &hosts->list[i];
        if (qmp_is_dead(host->qmp) ||
            journal_find_domain(hosts->administration->journal, host->domain->serial) ||
            running_end_leftover(&host->engine, NULL) < 0 || !frozen_nodes_close(&host->engine, host->domain))
            return false;
    }
    return true;
}

/* ---- Files there ---- */

static int stat_layer(struct administration *administration, const struct world *world, const char *path,
                      struct stat *file, struct error *err)
{
    cleanup_close int fd = -1;
    int r = reclaim_open(administration, world, path, &fd, err);
    if (r == 0 && fstat(fd, file) < 0)
        r = error_set(err, errno, "%s: %m", path);
    return r;
}

/* A chain under an overlay that only its QEMU knows (transient.h) is let be. */
static bool is_transient(const struct reclaim_host *host, const char *path)
{
    for (size_t i = 0; i < host->domain->disk_count; i++) {
        const struct disk *disk = &host->domain->disks[i];
        for (const struct layer *layer = disk->active; layer && !disk->persistent; layer = layer->backing)
            if (strcmp(layer->path, path) == 0)
                return true;
    }
    return false;
}

int reclaim_hosts_find(struct reclaim_hosts *hosts, const struct world *world, const char *path,
                       const char *into, struct reclaim_host **host, struct error *err)
{
    struct stat file, other = {0};
    struct reclaim_host *found = NULL;
    *host = NULL;
    if (hosts->count == 0)
        return 0;
    int r = stat_layer(hosts->administration, world, path, &file, err);
    if (r == 0 && into)
        r = stat_layer(hosts->administration, world, into, &other, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < hosts->count; i++) {
        struct reclaim_host *one = &hosts->list[i];
        bool has_file = layer_nodes_have(&one->nodes, &file);
        bool has_other = into && layer_nodes_have(&one->nodes, &other);
        if (!has_file && !has_other)
            continue;
        if (is_transient(one, path) || (into && is_transient(one, into)))
            return error_set(err, EBUSY, "%s runs on it, with a disk that is not persistent",
                             one->domain->name);
        if (found)
            return error_set(err, EBUSY, "the domains %s and %s run on it", found->domain->name,
                             one->domain->name);
        if (into && has_file != has_other)
            return error_set(err, EBUSY, "%s runs on one of the two layers alone", one->domain->name);
        found = one;
    }
    *host = found;
    return 0;
}

int reclaim_hosts_close(struct reclaim_hosts *hosts, const struct world *world, const char *path,
                        struct error *err)
{
    struct stat file;
    if (hosts->count == 0 || (access(path, F_OK) < 0 && errno == ENOENT))
        return 0;
    int r = stat_layer(hosts->administration, world, path, &file, err);
    for (size_t i = 0; r == 0 && i < hosts->count; i++)
        r = layer_nodes_close(&hosts->list[i].engine, &file, path, err);
    return r;
}

/* ---- Chains of its domain ---- */

/* Where a chain of the host's domain has the layer. */
struct place {
    const struct layer *active, *overlay, *layer; /* `overlay` NULL: it is the active one */
};

static bool find_place(const struct reclaim_host *host, const char *path, struct place *place)
{
    for (size_t i = 0; i < host->domain->disk_count; i++) {
        const struct layer *above = NULL;
        for (const struct layer *layer = host->domain->disks[i].active; layer;
             above = layer, layer = layer->backing)
            if (strcmp(layer->path, path) == 0) {
                *place = (struct place){host->domain->disks[i].active, above, layer};
                return true;
            }
    }
    return false;
}

bool reclaim_host_is_active(const struct reclaim_host *host, const char *path)
{
    struct place place = {0};
    return find_place(host, path, &place) && !place.overlay;
}

const char *reclaim_host_overlay(const struct reclaim_host *host, const char *path)
{
    struct place place = {0};
    return find_place(host, path, &place) && place.overlay ? place.overlay->path : NULL;
}

static int place_in(const struct reclaim_host *host, const char *path, struct place *place, struct error *err)
{
    return find_place(host, path, place)
               ? 0
               : error_set(err, EBUSY, "%s has %s open, which is in no chain of its disks",
                           host->domain->name, path);
}

static int find_node(const struct reclaim_host *host, struct administration *administration,
                     const struct world *world, const struct layer *layer, const struct block_node **node,
                     struct error *err)
{
    struct stat file;
    int r = stat_layer(administration, world, layer->path, &file, err);
    if (r == 0)
        r = layer_nodes_find(&host->nodes, &file, layer->path, layer->format, node, err);
    if (r == 0)
        r = running_disk_check_open(&host->engine, layer->path, &file, err);
    return r == -ENODEV ? error_set(err, EBUSY, "%s", err->text) : r;
}

/* ---- Waiting for a job ---- */

struct host_watch {
    struct work_watch work;
    struct reclaim_host *host;
    int64_t look_at;
};

/* Nobody else hears of the guest while the monitor is ours. */
static bool progress(void *opaque, uint64_t current, uint64_t total)
{
    struct host_watch *watch = opaque;
    if (deadline_left_ms(watch->look_at) == 0) {
        machine_look(watch->host->machine, watch->host->qmp, NULL, NULL);
        watch->look_at = deadline_in(LOOK_MS);
    }
    return work_progress(&watch->work, current, total);
}

static struct host_watch watch_of(struct reclaim_host *host, struct administration *administration,
                                  struct work *work)
{
    return (struct host_watch){.work = {.administration = administration, .work = work, .to = 100},
                               .host = host,
                               .look_at = deadline_in(LOOK_MS)};
}

static int as_interrupted(int r, struct error *err)
{
    return r == -ECANCELED ? error_set(err, EINTR, "it makes way for something else") : r;
}

/* Is there room for what is in `from` in the file system of `into`? */
static int ask_for_room(struct administration *administration, const struct world *world, const char *from,
                        const char *into, struct error *err)
{
    cleanup_close int from_fd = -1, into_fd = -1;
    int r = reclaim_open(administration, world, from, &from_fd, err);
    if (r == 0)
        r = reclaim_open(administration, world, into, &into_fd, err);
    return r < 0 ? r : room_for_bytes(into_fd, into, free_space_taken(from_fd), err);
}

/* ---- The steps ---- */

int reclaim_host_drop(struct reclaim_host *host, struct administration *administration,
                      const struct world *world, const char *path, const struct internal_snapshot *internal,
                      struct error *err)
{
    cleanup_close int fd = -1;
    const struct image_info *info;
    const struct block_node *node;
    struct place place = {0};
    int r = place_in(host, path, &place, err);
    if (r == 0)
        r = find_node(host, administration, world, place.layer, &node, err);
    if (r == 0 && node->read_only)
        r = error_set(err, EBUSY, "%s runs on %s, which it has open for reading", host->domain->name, path);
    if (r == 0)
        r = reclaim_open(administration, world, path, &fd, err);
    if (r == 0)
        r = image_read_info(fd, path, &info, err);
    if (r < 0)
        return r;
    bool is_there = false;
    for (size_t i = 0; i < info->snapshot_count; i++)
        is_there |= internal_snapshot_equal(info->snapshots[i], internal);
    image_info_unref(info);
    if (!is_there)
        return 0;
    r = block_snapshot_delete(&host->engine, node->name, internal->id, internal->name, err);
    return r == -ENOENT ? 0 : r;
}

int reclaim_host_merge_down(struct reclaim_host *host, struct administration *administration,
                            const struct world *world, struct work *work, const char *upper,
                            const char *lower, int (*copied)(void *opaque, struct error *err), void *opaque,
                            struct error *err)
{
    const struct block_node *active, *overlay, *top, *base;
    struct place place = {0};
    int r = place_in(host, upper, &place, err);
    if (r < 0)
        return r;
    if (!place.overlay || !place.layer->backing || strcmp(place.layer->backing->path, lower) != 0)
        return error_set(err, EPERM, "%s does not stand on %s any more", upper, lower);
    r = find_node(host, administration, world, place.active, &active, err);
    if (r == 0)
        r = find_node(host, administration, world, place.overlay, &overlay, err);
    if (r == 0)
        r = find_node(host, administration, world, place.layer, &top, err);
    if (r == 0)
        r = find_node(host, administration, world, place.layer->backing, &base, err);
    if (r == 0)
        r = ask_for_room(administration, world, upper, lower, err);
    if (r < 0)
        return r;
    struct host_watch watching = watch_of(host, administration, work);
    const struct qmp_job_watch watch = {.progress = progress, .opaque = &watching, .timeout_ms = ANSWER_MS};
    const struct block_commit commit = {
        .job_id = RUNNING_MERGE_JOB,
        .device = active->name,
        .overlay = overlay->name,
        .top = top->name,
        .base = base->name,
        .base_name = lower,
        .copied = copied,
        .opaque = opaque,
    };
    bool changed = false;
    return as_interrupted(block_commit(&host->engine, &commit, &watch, &changed, err), err);
}

int reclaim_host_merge_up(struct reclaim_host *host, struct administration *administration,
                          const struct world *world, struct work *work, const char *upper, struct error *err)
{
    const struct block_node *device, *backing, *base = NULL;
    struct place place = {0};
    int r = place_in(host, upper, &place, err);
    if (r < 0)
        return r;
    const struct layer *lower = place.layer->backing;
    if (!lower)
        return error_set(err, EPERM, "%s stands on nothing any more", upper);
    r = find_node(host, administration, world, place.layer, &device, err);
    if (r == 0)
        r = find_node(host, administration, world, lower, &backing, err);
    if (r == 0 && lower->backing)
        r = find_node(host, administration, world, lower->backing, &base, err);
    if (r == 0)
        r = ask_for_room(administration, world, lower->path, upper, err);
    if (r < 0)
        return r;
    struct host_watch watching = watch_of(host, administration, work);
    const struct qmp_job_watch watch = {.progress = progress, .opaque = &watching, .timeout_ms = ANSWER_MS};
    const struct block_stream stream = {
        .job_id = RUNNING_MERGE_JOB,
        .device = device->name,
        .backing = backing->name,
        .base = base ? base->name : NULL,
        .base_name = base ? lower->backing->path : NULL,
    };
    bool changed = false;
    return as_interrupted(block_stream(&host->engine, &stream, &watch, &changed, err), err);
}

bool reclaim_host_has_disk(struct reclaim_host *host, struct administration *administration,
                           const struct world *world, const char *path)
{
    struct stat file;
    bool is = false;
    return stat_layer(administration, world, path, &file, NULL) == 0 &&
           layer_nodes_is_disk(&host->engine, &file, &is, NULL, NULL) == 0 && is;
}

/* Only of what a device has it can be asked afterwards where that is. */
static int check_disk(const struct reclaim_host *host, struct administration *administration,
                      const struct world *world, const char *path, struct error *err)
{
    struct stat file;
    bool is = false, can_wait = false;
    int r = stat_layer(administration, world, path, &file, err);
    if (r == 0)
        r = layer_nodes_is_disk(&host->engine, &file, &is, &can_wait, err);
    if (r < 0 || can_wait)
        return r;
    return error_set(err, EBUSY, "%s is %s, so that it waits until %s is off", path,
                     is ? "the disk of a device that can't wait" : "no device's disk", host->domain->name);
}

int reclaim_host_hold(struct reclaim_host *host, struct administration *administration,
                      const struct world *world, struct work *work, const char *upper, const char *lower,
                      int (*in_step)(void *opaque, struct error *err), void *opaque, struct error *err)
{
    const struct block_node *active, *base;
    struct place place = {0};
    int r = place_in(host, upper, &place, err);
    if (r < 0)
        return r;
    if (place.overlay || !place.layer->backing || strcmp(place.layer->backing->path, lower) != 0)
        return error_set(err, EPERM, "%s does not stand on %s any more", upper, lower);
    r = find_node(host, administration, world, place.layer, &active, err);
    if (r == 0)
        r = find_node(host, administration, world, place.layer->backing, &base, err);
    if (r == 0)
        r = check_disk(host, administration, world, upper, err);
    if (r == 0)
        r = ask_for_room(administration, world, upper, lower, err);
    if (r < 0)
        return r;
    struct host_watch watching = watch_of(host, administration, work);
    const struct qmp_job_watch watch = {.progress = progress, .opaque = &watching, .timeout_ms = ANSWER_MS};
    const struct block_pivot pivot = {
        .job_id = RUNNING_MERGE_JOB, .active = active->name, .base = base->name};
    r = block_pivot_copy(&host->engine, &pivot, &watch, err);
    if (r < 0)
        return as_interrupted(r, err);
    r = in_step(opaque, err);
    if (r < 0) {
        running_end_leftover(&host->engine, NULL);
        return r;
    }
    return as_interrupted(block_pivot_hold(&host->engine, &pivot, &watch, err), err);
}
