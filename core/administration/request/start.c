// SPDX-License-Identifier: LGPL-2.1-or-later
/* Starting a domain's QEMU; see start.h. */
#include "administration/request/start.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "administration/files/images.h"
#include "base/cleanup.h"
#include "hypervisor/image_claim.h"
#include "hypervisor/memory_load.h"
#include "hypervisor/run_state.h"
#include "image/locate.h"
#include "machine/launch.h"

#define ANSWER_MS 20000
#define DEATH_MS  10000

/* ---- What it is started with ---- */

static void drop_claims(struct start *start)
{
    for (size_t i = 0; i < start->claim_count; i++)
        if (start->claims[i] >= 0)
            close(start->claims[i]);
    start->claim_count = 0;
}

void start_done(struct start *start)
{
    drop_claims(start);
    for (size_t i = 0; i < start->disk_count; i++)
        free((void *)start->disks[i].layers);
    for (size_t i = 0; i < start->data_count; i++)
        free(start->data_paths[i]);
    for (char **monitor = start->monitors; *monitor; monitor++)
        free(*monitor);
    launch_free(start->argv);
    transients_done(start->transients, start->transient_count);
    free(start->data_paths);
    free(start->claims);
    free(start->disks);
    *start = (struct start){0};
}

/* Where the clusters of the image lie, if not in itself. */
static int find_data(struct start *start, const struct layer *layer, int fd, const char **path,
                     struct error *err)
{
    const struct image_info *info;
    struct image_reference data = {0};
    int r = image_read_info(fd, layer->path, &info, err);
    if (r < 0)
        return r;
    if (info->data_name)
        r = locate_reference(start->change->administration->options.locate, layer->path, info->data_name,
                             "raw", &data, err);
    image_info_unref(info);
    if (r < 0 || !data.path)
        return r;
    char **grown = realloc(start->data_paths, (start->data_count + 1) * sizeof *grown);
    char *copy = grown ? strdup(data.path) : NULL;
    image_reference_done(&data);
    if (grown)
        start->data_paths = grown;
    if (!copy)
        return error_set(err, ENOMEM, "out of memory");
    *path = grown[start->data_count++] = copy;
    /* It must be one that may be opened. */
    cleanup_close int data_fd = -1;
    return locate_open(start->change->administration->options.locate, start->change->domain->named_files,
                       copy, &data_fd, err);
}

static int describe_layer(struct start *start, const struct layer *layer, struct launch_layer *described,
                          struct error *err)
{
    cleanup_close int fd = -1;
    struct stat stat;
    *described = (struct launch_layer){.path = layer->path, .format = layer->format};
    if (layer->active && !layer->remote && layer->identity.inode == 0) /* it is about to be made */
        return 0;
    int r = image_open(start->change, layer, &fd, err);
    if (r == 0 && fstat(fd, &stat) < 0)
        r = error_set(err, errno, "%s: %m", layer->path);
    if (r < 0)
        return r;
    described->is_device = S_ISBLK(stat.st_mode);
    if (layer->changed)
        start->changed = layer->path;
    if (layer->active && !start->is_claimed) {
        r = image_claim_take(layer->path, fd, &start->claims[start->claim_count], err);
        if (r < 0)
            return r;
        start->claim_count++;
    }
    return layer->format == IMAGE_FORMAT_QCOW2 ? find_data(start, layer, fd, &described->data_path, err) : 0;
}

/* What the guest writes goes into an overlay that goes with its QEMU. */
static int add_transient(struct start *start, const struct disk *disk, struct launch_layer *described,
                         struct error *err)
{
    if (disk->active->remote)
        return error_set(err, EOPNOTSUPP, "%s lies on the network, where this version changes nothing",
                         disk->active->path);
    struct transient *transient = &start->transients[start->transient_count++];
    int r = transient_plan(transient, start->change, disk->active, disk->position, err);
    *described = (struct launch_layer){.path = transient->path, .format = IMAGE_FORMAT_QCOW2};
    return r;
}

static int describe_disk(struct start *start, const struct disk *disk, struct error *err)
{
    if (!disk->active)
        return error_set(err, EIO, "the image of disk %s can't be read: %s", disk->target,
                         start->change->domain->problem ? start->change->domain->problem : disk->source);
    size_t depth = !disk->persistent;
    for (const struct layer *layer = disk->active; layer; layer = layer->backing)
        depth++;
    struct launch_layer *layers = calloc(depth, sizeof *layers);
    if (!layers)
        return error_set(err, ENOMEM, "out of memory");
    start->disks[start->disk_count++] =
        (struct launch_disk){.target = disk->target, .layers = layers, .count = depth};
    int r = disk->persistent ? 0 : add_transient(start, disk, layers++, err);
    for (const struct layer *layer = disk->active; r == 0 && layer; layer = layer->backing)
        r = describe_layer(start, layer, layers++, err);
    return r;
}

/* A definition that names its monitor too gets one there, unless its launch makes it. */
static int add_named_monitor(struct start *start, char *const *launch, struct error *err)
{
    const struct domain *domain = start->change->domain;
    for (char *const *argument = launch; domain->qmp && *argument; argument++)
        if (strstr(*argument, domain->qmp))
            return 0;
    size_t count = 0;
    while (start->monitors[count])
        count++;
    if (domain->qmp && !(start->monitors[count] = strdup(domain->qmp)))
        return error_set(err, ENOMEM, "out of memory");
    return 0;
}

/* What comes after the launch of a definition. */
static int add_wait(struct start *start, enum start_wait wait, struct error *err)
{
    static const char *const words[] = {"-S", "-incoming", "defer"};
    const size_t wanted = wait == START_INCOMING ? 3 : wait == START_STOPPED ? 1 : 0;
    size_t count = 0;
    while (start->argv[count])
        count++;
    char **grown = realloc(start->argv, (count + wanted + 1) * sizeof *grown);
    if (!grown)
        return error_set(err, ENOMEM, "out of memory");
    start->argv = grown;
    for (size_t i = 0; i < wanted; i++) {
        grown[count + i + 1] = NULL;
        grown[count + i] = strdup(words[i]);
        if (!grown[count + i])
            return error_set(err, ENOMEM, "out of memory");
    }
    return 0;
}

int start_prepare(struct start *start, const struct change *change, struct machine *machine,
                  const struct start_spec *spec, struct error *err)
{
    *start = (struct start){.change = change, .machine = machine, .is_claimed = spec->is_claimed};
    start->disks = calloc(spec->disk_count + 1, sizeof *start->disks);
    start->claims = calloc(spec->disk_count + 1, sizeof *start->claims);
    start->transients = calloc(spec->disk_count + 1, sizeof *start->transients);
    if (!start->disks || !start->claims || !start->transients)
        return error_set(err, ENOMEM, "out of memory");
    int r = 0;
    for (size_t i = 0; r == 0 && i < spec->disk_count; i++)
        r = describe_disk(start, &spec->disks[i], err);
    if (r == 0)
        r = machine_monitors(machine, start->monitors, err);
    if (r == 0)
        r = add_named_monitor(start, spec->launch, err);
    if (r == 0)
        r = launch_arguments(spec->launch, start->disks, start->disk_count, start->monitors, &start->argv,
                             err);
    return r < 0 ? r : add_wait(start, spec->wait, err);
}

/* ---- Starting it ---- */

static bool is_cancelled(void *opaque)
{
    const struct change *change = opaque;
    return work_is_cancelled(change->administration, change->work);
}

int start_launch(struct start *start, struct error *err)
{
    int r = transients_make(start->transients, start->transient_count, start->change, err);
    if (r < 0)
        return r;
    drop_claims(start); /* QEMU takes its own locks */
    return machine_launch(start->machine, start->argv, change_source(start->change), is_cancelled,
                          (void *)start->change, err);
}

/* What QEMU 7.2 has against memory it says only on its standard error, and ends. */
static void tell_last_words(struct machine *machine, struct error *err)
{
    char said[ERROR_TEXT_MAX / 2];
    machine_last_words(machine, said, sizeof said);
    if (*said)
        error_set(err, err->code, "%.200s: %s", err->text, said);
}

struct loading {
    struct work_watch work;
    const struct compression_pipe *pipe; /* NULL: none */
    uint64_t bytes;
    struct timespec moved;
};

/* False also where a pipe has stood still for too long, which nobody else sees. */
static bool loading_goes_on(void *opaque, uint64_t current, uint64_t total)
{
    struct loading *loading = opaque;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t bytes = loading->pipe ? compression_pipe_bytes(loading->pipe) : current;
    if (bytes != loading->bytes || loading->moved.tv_sec == 0)
        loading->moved = now;
    loading->bytes = bytes;
    return work_progress(&loading->work, current, total) &&
           !(loading->pipe && now.tv_sec - loading->moved.tv_sec > QMP_JOB_STALL_MS / 1000);
}

static struct work_watch watch_of(const struct start *start)
{
    return (struct work_watch){
        .administration = start->change->administration, .work = start->change->work, .from = 50, .to = 95};
}

/* It has ended then, or is ended. */
static int refuse_memory(struct start *start, int r, struct error *why, struct error *err)
{
    if (r == -ECONNRESET || r == -EPIPE) { /* it ends by itself, and says why */
        machine_await_off(start->machine, DEATH_MS, NULL);
        why->code = EIO;
    }
    start_take_back(start->machine, NULL);
    tell_last_words(start->machine, why);
    return error_set(err, why->code == ECANCELED ? EINTR : why->code, "the memory can't be loaded: %s",
                     why->text);
}

int start_load(struct start *start, int fd, const struct compression_pipe *pipe, struct error *err)
{
    struct loading loading = {.work = watch_of(start), .pipe = pipe};
    const struct qmp_job_watch watch = {
        .progress = loading_goes_on, .opaque = &loading, .timeout_ms = ANSWER_MS};
    struct qmp *qmp;
    struct error why = {0};
    machine_expect_end(start->machine);
    int r = machine_borrow(start->machine, ANSWER_MS, &qmp, NULL, &why);
    if (r == 0) {
        r = memory_load(qmp, fd, &watch, &why);
        if (r == 0)
            r = machine_look(start->machine, qmp, NULL, &why);
        machine_return(start->machine, qmp);
    }
    if (r < 0)
        return refuse_memory(start, r, &why, err);
    machine_forget_end(start->machine);
    return 0;
}

/* `*is_lost` where the connection was lost over it: whether it runs is not known then. */
static int continue_once(struct machine *machine, bool *is_lost, struct error *err)
{
    struct qmp *qmp;
    *is_lost = true;
    int r = machine_borrow(machine, ANSWER_MS, &qmp, NULL, err);
    if (r < 0)
        return r;
    r = run_state_continue(qmp, ANSWER_MS, err);
    if (r == 0)
        r = machine_look(machine, qmp, NULL, err);
    *is_lost = r < 0 && qmp_is_dead(qmp);
    machine_return(machine, qmp);
    return r;
}

/* To be told twice does it no harm, and to stand still though it was to run, does. */
int start_continue(struct machine *machine, struct error *err)
{
    bool is_lost;
    int r = continue_once(machine, &is_lost, err);
    return r < 0 && is_lost ? continue_once(machine, &is_lost, err) : r;
}

int start_take_back(struct machine *machine, struct error *err)
{
    struct machine_report report;
    machine_report(machine, &report);
    if (report.contact == MACHINE_OFF)
        return 0;
    machine_expect_end(machine);
    int r = machine_kill(machine, err);
    return r < 0 ? r : machine_await_off(machine, DEATH_MS, err);
}

int start_refuse_foreign(const struct domain *domain, struct error *err)
{
    return error_set(err, EOPNOTSUPP,
                     "%s can't be started here: its definition says where its QEMU is (qmp), and not how "
                     "to start it (launch)",
                     domain->name);
}
