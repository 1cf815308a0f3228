// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Taking a snapshot of a running domain: everything is made ready while it runs, and then its QEMU does it
 * for all disks in one transaction. Where a disk goes on in another file afterwards, that can't be taken
 * back: the state that follows is written down before, and whoever comes after a crash completes it
 * (undo_running.h).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "administration/request/creation.h"
#include "administration/thaws.h"
#include "administration/undo/undo.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "hypervisor/block_overlay.h"
#include "hypervisor/block_snapshot.h"
#include "hypervisor/guest_agent.h"

#define FREEZE_MS 10000 /* for all file systems; then it is given up */
#define THAW_MS   5000

/* The nodes of an overlay: no name is ever used twice in one QEMU. */
struct names {
    char node[32], file[32];
};

static void name_nodes(const struct creation *creation, const struct overlay *overlay, struct names *names)
{
    snprintf(names->node, sizeof names->node, "vs%" PRIu64 "-%u", creation->change.operation, overlay->disk);
    snprintf(names->file, sizeof names->file, "vs%" PRIu64 "-%u-f", creation->change.operation,
             overlay->disk);
}

static void name_overlay(const struct creation *creation, unsigned disk, char name[32])
{
    const struct overlay overlay = {.disk = disk};
    struct names names;
    name_nodes(creation, &overlay, &names);
    memcpy(name, names.node, sizeof names.node);
}

static const char *target_of(const struct creation *creation, unsigned position)
{
    const struct domain *domain = creation->change.domain;
    for (size_t i = 0; i < domain->disk_count; i++)
        if (domain->disks[i].position == position)
            return domain->disks[i].target;
    return "";
}

/* ---- The overlays in its QEMU ---- */

static int open_overlays(const struct creation *creation, size_t *opened, struct error *err)
{
    for (size_t i = 0; i < creation->overlays.count; i++) {
        const struct overlay *overlay = &creation->overlays.list[i];
        struct names names;
        cleanup_free char *path = NULL;
        name_nodes(creation, overlay, &names);
        if (asprintf(&path, "%s/%s", overlay->directory_path, overlay->final) < 0)
            return path = NULL, error_set(err, ENOMEM, "out of memory");
        int r = block_overlay_open(&creation->running.engine, names.node, names.file, path, err);
        if (r < 0)
            return r;
        *opened = i + 1;
    }
    crash_point("opened");
    return 0;
}

/* What can't be closed stays open there, under names that nobody uses again. */
static void close_overlays(const struct creation *creation, size_t opened)
{
    for (size_t i = 0; i < opened; i++) {
        struct names names;
        name_nodes(creation, &creation->overlays.list[i], &names);
        block_overlay_close(&creation->running.engine, names.node, NULL);
    }
}

/* ---- A guest that was stopped ---- */

void creation_leaves_guest(struct creation *creation, const struct error *why)
{
    log_warning("%s does not go on as before yet: %s", creation->change.domain->name, why->text);
    creation->change.guest_is_left = true;
}

/* ---- Frozen file systems ---- */

/* Over a new connection, at once or later: never fails the snapshot. The journal says so until then. */
static void owe_thaw(const struct creation *creation)
{
    const struct domain *domain = creation->change.domain;
    const struct thaw_owed owed = {.domain = domain->serial,
                                   .agent = domain->agent,
                                   .monitor = creation->running.monitor,
                                   .socket = thaws_identify(creation->running.monitor)};
    thaws_owe(creation->change.administration->thaws, &owed);
}

/* `*agent` is set where they are frozen. */
static int freeze(const struct creation *creation, struct guest_agent **agent, struct error *err)
{
    const struct domain *domain = creation->change.domain;
    struct guest_agent *made = NULL;
    struct error why;
    bool owes_thaw = false;
    int r = 0;
    if (creation->choice.quiesce == QUIESCE_NO)
        return 0;
    if (creation->running.state != RUN_STATE_RUNNING)
        r = error_set(&why, EOPNOTSUPP, "the domain is paused, so that its agent can't answer");
    if (r == 0)
        r = thaws_pay(creation->change.administration->thaws, domain->serial, &why);
    if (r == 0)
        r = guest_agent_connect(domain->agent, domain->name, THAW_MS, &made, &why);
    if (r == 0)
        r = guest_agent_freeze(made, FREEZE_MS, NULL, &owes_thaw, &why);
    if (r == 0) {
        *agent = made;
        crash_point("frozen");
        return 0;
    }
    guest_agent_free(made);
    if (owes_thaw)
        owe_thaw(creation);
    if (creation->choice.quiesce == QUIESCE_REQUIRE)
        return error_set(err, -r, "the guest's file systems can't be frozen: %s", why.text);
    administration_event(creation->change.administration, domain->serial,
                         "the file systems of %s are not frozen for the snapshot: %s", domain->name,
                         why.text);
    return 0;
}

/* Over a new connection where the old one is of no use. */
static void thaw(const struct creation *creation, struct guest_agent *agent)
{
    struct error why;
    if (!agent)
        return;
    int r = guest_agent_thaw(agent, THAW_MS, NULL, &why);
    guest_agent_free(agent);
    if (r < 0)
        owe_thaw(creation);
}

/* ---- The instant ---- */

static int take(struct creation *creation, size_t internals, struct error *err)
{
    const struct running *running = &creation->running;
    size_t pairs = creation->overlays.count;
    cleanup_free struct names *names = calloc(pairs + 1, sizeof *names);
    cleanup_free struct block_snapshot_pair *list = calloc(pairs + 1, sizeof *list);
    cleanup_free const char **nodes = calloc(internals + 1, sizeof *nodes);
    if (!names || !list || !nodes)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < pairs; i++) {
        const struct overlay *overlay = &creation->overlays.list[i];
        name_nodes(creation, overlay, &names[i]);
        list[i] = (struct block_snapshot_pair){running_node(running, target_of(creation, overlay->disk)),
                                               names[i].node};
    }
    for (size_t i = 0; i < internals; i++)
        nodes[i] = running_node(running, creation->internals.list[i].disk->target);
    const struct block_snapshot snapshot = {.tag = creation->internals.tag,
                                            .nodes = nodes,
                                            .node_count = internals,
                                            .pairs = list,
                                            .pair_count = pairs};
    creation->change.images_are_untouched = false;
    int r = block_snapshot_take(&running->engine, &snapshot, err);
    if (r == -EEXIST)
        creation->change.images_are_untouched = true; /* the tag is another program's */
    /* Not answered: whether it has happened is asked of the QEMU that is there then. */
    bool unknown = r < 0 && qmp_is_dead(running->qmp);
    creation->change.is_beyond_undoing = pairs > 0 && (r == 0 || unknown);
    if (r == 0)
        crash_point("taken");
    return r;
}

int creation_take(struct creation *creation, struct error *err)
{
    return take(creation, creation->internals.count, err);
}

int creation_take_overlays(struct creation *creation, struct error *err)
{
    return take(creation, 0, err);
}

/* A paused guest's agent could not thaw: who is frozen is thawed first, and paused then. */
static int take_quiesced(struct creation *creation, struct error *err)
{
    const struct running *running = &creation->running;
    struct change *change = &creation->change;
    struct guest_agent *agent = NULL;
    struct error why;
    int r = freeze(creation, &agent, err);
    if (r < 0)
        return r;
    creation->is_quiesced = agent;
    bool pause = creation->command.paused && running->state == RUN_STATE_RUNNING, is_paused = false;
    if (work_is_cancelled(change->administration, change->work))
        r = error_set(err, EINTR, "it was interrupted, and everything was undone");
    if (r == 0 && pause && !agent) {
        r = run_state_stop(running->qmp, running->engine.timeout_ms, err);
        is_paused = r == 0;
    }
    bool stands_still = r == 0 && !is_paused && creation_stands_still(creation);
    if (stands_still)
        r = run_state_stop(running->qmp, running->engine.timeout_ms, err);
    if (r == 0)
        r = creation_take(creation, err);
    if (r == 0)
        creation_start_mirrors(creation, name_overlay);
    if (stands_still && !qmp_is_dead(running->qmp) &&
        run_state_continue(running->qmp, running->engine.timeout_ms, &why) < 0)
        creation_leaves_guest(creation, &why);
    thaw(creation, agent);
    if (r == 0 && pause && agent && run_state_stop(running->qmp, running->engine.timeout_ms, &why) < 0)
        log_error("%s could not be paused after its snapshot: %s", change->domain->name, why.text);
    if (r < 0 && is_paused && !change->is_beyond_undoing &&
        run_state_continue(running->qmp, running->engine.timeout_ms, &why) < 0)
        creation_leaves_guest(creation, &why);
    return r;
}

/* ---- All of it ---- */

/* The journal, and the state that is to come where it can't be undone. */
static int write_down(struct creation *creation, struct error *err)
{
    struct change *change = &creation->change;
    int r = creation_note_mirrors(creation, err);
    if (r < 0)
        return r;
    overlays_note(&creation->overlays, &creation->undo);
    overlays_note_identity(&creation->overlays, &creation->undo);
    internals_note(&creation->internals, &creation->undo);
    if (creation->memory.path)
        memory_file_note(&creation->memory, &creation->undo);
    creation->before.running = creation->running.state == RUN_STATE_RUNNING;
    if (creation->choice.memory != MEMORY_NO || creation->command.paused || creation_stands_still(creation))
        undo_add_stop(&creation->undo, &creation->before, creation->command.paused);
    undo_add_running(&creation->undo, creation->running.monitor,
                     creation->choice.quiesce == QUIESCE_NO ? "" : change->domain->agent);
    change->images_are_untouched = true;
    change->running = &creation->running;
    r = undo_begin(change, "create", change->domain->serial, &creation->undo, err);
    if (r == 0 && creation->overlays.count)
        r = creation_note(creation, err);
    if (r == 0 && creation->overlays.count)
        r = change_save_next(change, err);
    return r;
}

static int take_all(struct creation *creation, struct error *err)
{
    switch (creation->choice.memory) {
    case MEMORY_EXTERNAL:
        return creation_take_with_memory_file(creation, err);
    case MEMORY_INTERNAL:
        return creation_take_with_memory_inside(creation, err);
    default:
        return take_quiesced(creation, err);
    }
}

int creation_make_running(struct creation *creation, struct error *err)
{
    struct change *change = &creation->change;
    size_t opened = 0;
    int r = overlays_make(&creation->overlays, err);
    if (r == 0)
        r = creation_make_mirrors(creation, err);
    if (r == 0 && creation->memory.path)
        r = memory_file_make(&creation->memory, err);
    if (r == 0 && work_is_cancelled(change->administration, change->work))
        r = error_set(err, EINTR, "it was interrupted, and everything was undone");
    if (r == 0)
        r = write_down(creation, err);
    if (r == 0)
        r = overlays_publish(&creation->overlays, err);
    if (r == 0)
        r = open_overlays(creation, &opened, err);
    if (r == 0)
        r = creation_open_mirrors(creation, err);
    if (r == 0)
        r = take_all(creation, err);
    if (r < 0 && !change->is_beyond_undoing)
        close_overlays(creation, opened);
    return r < 0 ? r : internals_find(&creation->internals, err);
}
