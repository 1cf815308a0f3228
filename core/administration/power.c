// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Starting domains, and what else is asked of the QEMUs that run them.
 *
 * A start goes through the lane of its domain as every change does, and holds the domain in the catalog: so
 * nothing changes its images while they are told to QEMU, which locks them then.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "administration/change.h"
#include "administration/images.h"
#include "administration/mirror.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "hypervisor/image_claim.h"
#include "image/locate.h"
#include "machine/launch.h"

#define BORROW_MS 10000
#define ANSWER_MS 10000
#define DEATH_MS  10000

static void drop_machine(struct machine **machine)
{
    machine_unref(*machine);
}

#define cleanup_machine cleanup(drop_machine)

static int answer(struct outcome *outcome, const char *text, struct error *err)
{
    outcome->text = strdup(text);
    return outcome->text ? 0 : error_set(err, ENOMEM, "out of memory");
}

/* ---- Starting: what it is started with ---- */

struct start {
    struct change change;
    struct launch_disk *disks;
    size_t disk_count;
    char **data_paths; /* that the layers borrow */
    size_t data_count;
    int *claims;
    size_t claim_count;
    char *monitors[4];
    char **argv;
    const char *changed; /* a layer that somebody wrote to after it was frozen; borrowed */
};

static void drop_claims(struct start *start)
{
    for (size_t i = 0; i < start->claim_count; i++)
        if (start->claims[i] >= 0)
            close(start->claims[i]);
    start->claim_count = 0;
}

static void start_done(struct start *start)
{
    drop_claims(start);
    for (size_t i = 0; i < start->disk_count; i++)
        free((void *)start->disks[i].layers);
    for (size_t i = 0; i < start->data_count; i++)
        free(start->data_paths[i]);
    for (char **monitor = start->monitors; *monitor; monitor++)
        free(*monitor);
    launch_free(start->argv);
    free(start->data_paths);
    free(start->claims);
    free(start->disks);
    change_end(&start->change);
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
        r = locate_reference(start->change.administration->options.locate, layer->path, info->data_name,
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
    return locate_open(start->change.administration->options.locate, start->change.domain->named_files, copy,
                       &data_fd, err);
}

static int describe_layer(struct start *start, const struct layer *layer, struct launch_layer *described,
                          struct error *err)
{
    cleanup_close int fd = -1;
    struct stat stat;
    *described = (struct launch_layer){.path = layer->path, .format = layer->format};
    int r = image_open(&start->change, layer, &fd, err);
    if (r == 0 && fstat(fd, &stat) < 0)
        r = error_set(err, errno, "%s: %m", layer->path);
    if (r < 0)
        return r;
    described->is_device = S_ISBLK(stat.st_mode);
    if (layer->changed)
        start->changed = layer->path;
    if (layer->active) {
        r = image_claim_take(layer->path, fd, &start->claims[start->claim_count], err);
        if (r < 0)
            return r;
        start->claim_count++;
    }
    return layer->format == IMAGE_FORMAT_QCOW2 ? find_data(start, layer, fd, &described->data_path, err) : 0;
}

static int describe_disk(struct start *start, const struct disk *disk, struct error *err)
{
    if (!disk->active)
        return error_set(err, EIO, "the image of disk %s can't be read: %s", disk->target,
                         start->change.domain->problem ? start->change.domain->problem : disk->source);
    if (!disk->persistent)
        return error_set(err, EOPNOTSUPP,
                         "disk %s is not persistent; starting such a domain is not in this version",
                         disk->target);
    size_t depth = 0;
    for (const struct layer *layer = disk->active; layer; layer = layer->backing)
        depth++;
    struct launch_layer *layers = calloc(depth, sizeof *layers);
    if (!layers)
        return error_set(err, ENOMEM, "out of memory");
    start->disks[start->disk_count++] =
        (struct launch_disk){.target = disk->target, .layers = layers, .count = depth};
    int r = 0;
    for (const struct layer *layer = disk->active; r == 0 && layer; layer = layer->backing)
        r = describe_layer(start, layer, layers++, err);
    return r;
}

/* A definition that names its monitor too gets one there, unless its launch makes it. */
static int add_named_monitor(struct start *start, struct error *err)
{
    const struct domain *domain = start->change.domain;
    for (char **argument = domain->launch; domain->qmp && *argument; argument++)
        if (strstr(*argument, domain->qmp))
            return 0;
    size_t count = 0;
    while (start->monitors[count])
        count++;
    if (domain->qmp && !(start->monitors[count] = strdup(domain->qmp)))
        return error_set(err, ENOMEM, "out of memory");
    return 0;
}

static int prepare(struct start *start, const struct machine *machine, struct error *err)
{
    const struct domain *domain = start->change.domain;
    start->disks = calloc(domain->disk_count + 1, sizeof *start->disks);
    start->claims = calloc(domain->disk_count + 1, sizeof *start->claims);
    if (!start->disks || !start->claims)
        return error_set(err, ENOMEM, "out of memory");
    int r = 0;
    for (size_t i = 0; r == 0 && i < domain->disk_count; i++)
        r = describe_disk(start, &domain->disks[i], err);
    if (r == 0)
        r = machine_monitors(machine, start->monitors, err);
    if (r == 0)
        r = add_named_monitor(start, err);
    return r < 0 ? r
                 : launch_arguments(domain->launch, start->disks, start->disk_count, start->monitors,
                                    &start->argv, err);
}

/* ---- Starting ---- */

static bool is_cancelled(void *opaque)
{
    const struct change *change = opaque;
    return work_is_cancelled(change->administration, change->work);
}

static int refuse_running(struct machine *machine, const char *name, struct error *err)
{
    struct machine_report report;
    machine_report(machine, &report);
    if (report.contact == MACHINE_CONNECTED)
        return error_set(err, EBUSY, "%s is %s already", name, run_state_name(report.state));
    if (report.contact == MACHINE_SILENT)
        return error_set(err, EBUSY, "%s has a QEMU already: %s", name, report.problem);
    return 0;
}

static int power_start(struct administration *administration, struct work *work, struct machine *machine,
                       struct outcome *outcome, struct error *err)
{
    cleanup(start_done) struct start start = {0};
    if (work->request->power.snapshot)
        return error_set(err, EOPNOTSUPP,
                         "starting from a snapshot is not in this version: revert to it, and then start");
    int r = change_begin(administration, work, work->request->domain, &start.change, err);
    if (r < 0)
        return r;
    const struct domain *domain = start.change.domain;
    if (!domain->launch)
        return error_set(err, EOPNOTSUPP,
                         "%s can't be started here: its definition says where its QEMU is (qmp), and not how "
                         "to start it (launch)",
                         domain->name);
    r = refuse_running(machine, domain->name, err);
    if (r == 0)
        r = mirror_refuse(domain, NULL, err);
    if (r == 0)
        r = prepare(&start, machine, err);
    if (r < 0)
        return r;
    drop_claims(&start); /* QEMU takes its own locks */
    r = machine_launch(machine, start.argv, change_source(&start.change), is_cancelled, &start.change, err);
    if (r < 0)
        return r;
    administration_event(administration, work->request->domain, "started");
    if (!start.changed)
        return answer(outcome, "started", err);
    log_warning("%s was started on %s, which was changed by someone else since it was frozen", domain->name,
                start.changed);
    return answer(outcome, "started, on a layer that was changed by someone else since it was frozen", err);
}

/* ---- Ending at once ---- */

static int ask_to_quit(struct machine *machine, struct error *err)
{
    struct qmp *qmp;
    int r = machine_borrow(machine, BORROW_MS, &qmp, NULL, err);
    if (r < 0)
        return r;
    machine_expect_end(machine);
    r = run_state_quit(qmp, ANSWER_MS, err);
    machine_return(machine, qmp);
    return r == 0 ? machine_await_off(machine, DEATH_MS, err) : r;
}

static int power_destroy(struct administration *administration, struct machine *machine,
                         struct outcome *outcome, struct error *err)
{
    struct error why = {0};
    int r = ask_to_quit(machine, &why);
    if (r == -ESRCH)
        return error_set(err, EINVAL, "%s", why.text);
    if (r < 0 && machine_kill(machine, err) == 0)
        r = machine_await_off(machine, DEATH_MS, &why);
    if (r < 0)
        return error_set(err, why.code, "%s", why.text);
    if (mirror_settle(administration, machine_domain(machine), &why) < 0)
        log_info("%s", why.text); /* before the next start, then */
    return answer(outcome, "ended", err);
}

/* ---- What is asked of one that runs ---- */

/* Refuses what can't be done in this state. */
static int check_state(enum power_verb verb, enum run_state state, struct error *err)
{
    const char *name = run_state_name(state);
    switch (state) {
    case RUN_STATE_SHUTTING_DOWN:
    case RUN_STATE_MIGRATING:
        return error_set(err, EBUSY, "the domain is %s; only destroy can be done now", name);
    case RUN_STATE_CRASHED:
        return verb == POWER_RESET
                   ? 0
                   : error_set(err, EINVAL, "the domain has crashed; it can be reset or destroyed");
    case RUN_STATE_RUNNING:
        return verb == POWER_RESUME ? error_set(err, EINVAL, "the domain is running already") : 0;
    case RUN_STATE_PAUSED:
        return verb == POWER_PAUSE ? error_set(err, EINVAL, "the domain is paused already") : 0;
    case RUN_STATE_SHUTOFF:
        break;
    }
    return error_set(err, EINVAL, "the domain is not running");
}

static int send(struct qmp *qmp, enum power_verb verb, enum run_state state, struct error *err)
{
    int r;
    switch (verb) {
    case POWER_SHUTDOWN:
        return run_state_power_down(qmp, ANSWER_MS, err);
    case POWER_PAUSE:
        return run_state_stop(qmp, ANSWER_MS, err);
    case POWER_RESUME:
        return run_state_continue(qmp, ANSWER_MS, err);
    case POWER_RESET:
        r = run_state_reset(qmp, ANSWER_MS, err);
        return r == 0 && state == RUN_STATE_CRASHED ? run_state_continue(qmp, ANSWER_MS, err) : r;
    default:
        return error_set(err, EINVAL, "no such command");
    }
}

static int power_ask(struct machine *machine, enum power_verb verb, struct outcome *outcome,
                     struct error *err)
{
    static const char *const said[POWER_VERB_COUNT] = {
        [POWER_SHUTDOWN] = "the guest was asked to shut down; when it does is its own affair",
        [POWER_PAUSE] = "paused",
        [POWER_RESUME] = "resumed",
        [POWER_RESET] = "reset",
    };
    struct qmp *qmp;
    enum run_state state;
    int r = machine_borrow(machine, BORROW_MS, &qmp, &state, err);
    if (r == -ESRCH)
        return error_set(err, EINVAL, "the domain is not running");
    if (r < 0)
        return r;
    r = check_state(verb, state, err);
    if (r == 0)
        r = send(qmp, verb, state, err);
    if (r == 0)
        r = machine_look(machine, qmp, NULL, err);
    machine_return(machine, qmp);
    return r < 0 ? r : answer(outcome, said[verb], err);
}

/* ---- All of it ---- */

int carry_out_power(struct administration *administration, struct work *work, struct outcome *outcome,
                    struct error *err)
{
    const struct request *request = work->request;
    cleanup_machine struct machine *machine = machines_get(administration->options.machines, request->domain);
    if (!machine)
        return error_set(err, EOPNOTSUPP,
                         "nothing is known of the QEMU that runs this domain: its definition, which must be "
                         "trusted, has neither launch nor qmp");
    switch (request->power.verb) {
    case POWER_START:
        return power_start(administration, work, machine, outcome, err);
    case POWER_DESTROY:
        return power_destroy(administration, machine, outcome, err);
    default:
        return power_ask(machine, request->power.verb, outcome, err);
    }
}
