// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Taking a snapshot. Of an inactive domain; what an active one does otherwise is in create_running.c.
 *
 *     plan      which disks, in which way (operation/snapshot_choice.h); names; room
 *     make      overlays under temporary names, while images that get internal snapshots are being opened
 *     journal   what is to be undone from here on
 *     snapshot  internal ones of all disks in one transaction, then the overlays get their names
 *     commit    the state is saved
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "administration/change.h"
#include "administration/files/images.h"
#include "administration/files/internals.h"
#include "administration/files/overlays.h"
#include "administration/files/room.h"
#include "administration/mirror/mirror.h"
#include "administration/request/creation.h"
#include "administration/request/made_up_name.h"
#include "base/cleanup.h"
#include "catalog/catalog_hold.h"
#include "operation/command_text.h"
#include "operation/snapshot_choice.h"
#include "operation/tree_change.h"

static void creation_done(struct creation *creation)
{
    internals_done(&creation->internals);
    memory_file_done(&creation->memory);
    change_end(&creation->change);
    running_end(&creation->running);
    overlays_done(&creation->overlays);
    overlays_done(&creation->mirrors);
    snapshot_choice_done(&creation->choice);
    create_command_done(&creation->command);
    undo_list_done(&creation->undo);
    free(creation->parts);
}

/* ---- The command ---- */

static int read_defaults(const struct domain *domain, struct create_command *command, struct error *err)
{
    const char *text = domain->defaults ? domain->defaults : DEFAULTS_AS_SHIPPED;
    return command_parse_defaults(text, strlen(text), command, err);
}

/* mkdir gives a name, and `defaults` the rest. */
static int take_command(struct creation *creation, struct request *request, struct error *err)
{
    if (request->use_defaults) {
        int r = read_defaults(creation->change.domain, &creation->command, err);
        if (r < 0)
            return r;
        creation->command.name = steal_pointer(request->create.name);
    } else {
        creation->command = request->create;
        request->create = (struct create_command){0};
    }
    if (!creation->command.name) {
        creation->command.name = made_up_name(creation->change.domain, "");
        if (!creation->command.name)
            return error_set(err, ENOMEM, "out of memory");
    }
    return create_command_check(&creation->command, err);
}

/* ---- The plan ---- */

static int describe_disk(const struct change *change, const struct disk *disk, struct choice_disk *choice,
                         struct error *err)
{
    if (!disk->active)
        return error_set(err, EIO, "the image of disk %s can't be read: %s", disk->target,
                         change->domain->problem ? change->domain->problem : disk->source);
    const struct tree_disk *in_tree = tree_find_disk(change->tree, disk->position);
    *choice = (struct choice_disk){
        .target = disk->target,
        .format = disk->active->format,
        .may_be_written = layer_may_be_written(layer_set_find(&change->world.layers, in_tree->active)),
        .preset = disk->snapshot,
        .persistent = disk->persistent,
    };
    if (disk->active->format != IMAGE_FORMAT_QCOW2 || disk->active->remote)
        return 0;
    cleanup_close int fd = -1;
    const struct image_info *info;
    int r = image_open(change, disk->active, &fd, err);
    if (r == 0)
        r = image_read_info(fd, disk->active->path, &info, err);
    if (r < 0)
        return r;
    choice->has_data_file = info->data_name != NULL;
    image_info_unref(info);
    return 0;
}

static int choose(struct creation *creation, struct error *err)
{
    const struct change *change = &creation->change;
    const struct domain *domain = change->domain;
    cleanup_free struct choice_disk *disks = calloc(domain->disk_count + 1, sizeof *disks);
    if (!disks)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < domain->disk_count; i++) {
        int r = describe_disk(change, &domain->disks[i], &disks[i], err);
        if (r < 0)
            return r;
    }
    bool is_active = running_is_active(&creation->running);
    const struct choice_domain choice = {.is_active = is_active,
                                         .has_agent = domain->agent,
                                         .may_switch_files = domain->may_switch_files,
                                         .disks = disks,
                                         .disk_count = domain->disk_count};
    int r = snapshot_choose(&creation->command, &choice, &creation->choice, err);
    if (r == 0 && creation->choice.memory != MEMORY_NO) /* for which QEMU would let go of all its disks */
        r = mirror_refuse(domain, NULL, err);
    for (size_t i = 0; r == 0 && i < domain->disk_count; i++) {
        if (creation->choice.disks[i].kind != DISK_NO)
            r = mirror_refuse(domain, &domain->disks[i], err);
        if (r == 0 && creation->choice.disks[i].mirror && !is_active)
            r = error_set(
                err, EOPNOTSUPP,
                "disk %s can't be mirrored: a mirror follows what a running domain writes, and this one "
                "is not running",
                domain->disks[i].target);
        if (r == 0 && creation->choice.disks[i].mirror && creation->choice.memory != MEMORY_NO)
            r = error_set(
                err, EOPNOTSUPP,
                "disk %s can't be mirrored by a snapshot that saves memory: QEMU lets go of its disks for "
                "a moment then; add disk-only, or write to disks/%s/copy afterwards",
                domain->disks[i].target, domain->disks[i].target);
    }
    return r;
}

static int plan_tree(struct creation *creation, struct error *err)
{
    struct change *change = &creation->change;
    const struct domain *domain = change->domain;
    creation->parts = calloc(domain->disk_count + 1, sizeof *creation->parts);
    if (!creation->parts)
        return error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < domain->disk_count; i++)
        creation->parts[creation->part_count++] = (struct tree_part){
            .disk = domain->disks[i].position,
            .kind = creation->choice.disks[i].kind,
            .reused = creation->command.reuse_external && creation->choice.disks[i].path,
        };
    int r = catalog_next_serial(change->administration->catalog, &creation->serial, err);
    if (r == 0 && change->work->request->is_guard)
        change->state->guard = creation->serial;
    return r < 0 ? r
                 : tree_create(change->tree, &change->world.layers, creation->serial, creation->command.name,
                               creation->choice.memory != MEMORY_NO, creation->parts, creation->part_count,
                               err);
}

static int find_nodes(struct creation *creation, struct error *err)
{
    const struct domain *domain = creation->change.domain;
    int r = 0;
    if (!running_is_active(&creation->running))
        return 0;
    for (size_t i = 0; r == 0 && i < domain->disk_count; i++)
        if (creation->choice.disks[i].kind != DISK_NO)
            r = running_add(&creation->running, &creation->change, &domain->disks[i], err);
    if (r == 0)
        r = running_find(&creation->running, err);
    if (r == 0 && creation->choice.memory != MEMORY_NO)
        r = running_check_files(&creation->running, &creation->change, err);
    return r;
}

/* Images and overlays of the disks that are included. */
static int plan_files(struct creation *creation, struct error *err)
{
    struct change *change = &creation->change;
    const struct domain *domain = change->domain;
    int r = 0;
    for (size_t i = 0; r == 0 && i < domain->disk_count; i++) {
        const struct disk *disk = &domain->disks[i];
        const struct disk_part *part = &creation->choice.disks[i];
        const struct overlay_place place = {.path = part->path,
                                            .snapshot = creation->command.name,
                                            .reuse = creation->command.reuse_external,
                                            .is_written = running_is_active(&creation->running)};
        if (part->kind == DISK_EXTERNAL)
            r = overlays_add(&creation->overlays, change, disk->active, disk->position,
                             tree_find_disk(change->tree, disk->position)->active, &place, err);
        if (r == 0 && part->mirror)
            r = creation_add_mirror(creation, disk, part->mirror, err);
        if (r == 0 && part->kind == DISK_INTERNAL)
            r = internals_add(&creation->internals, change, disk, err);
    }
    if (r == 0)
        r = internals_choose_tag(&creation->internals, creation->command.name, change->operation, err);
    return r < 0 ? r : room_for_snapshot(&creation->overlays, &creation->internals, err);
}

/* ---- What the store is to know ---- */

static const struct content *content_of(const struct creation *creation, unsigned disk)
{
    return tree_snapshot_content(tree_find(creation->change.tree, creation->serial), disk);
}

static int note_contents(struct creation *creation, struct error *err)
{
    static char no_id[] = "";
    static const struct internal_snapshot planned = {.id = no_id}; /* while it is not there yet */
    struct change *change = &creation->change;
    struct state_frozen record;
    int r = 0;
    for (size_t i = 0; r == 0 && i < creation->overlays.count; i++) {
        const struct overlay *overlay = &creation->overlays.list[i];
        r = image_record_layer(change, overlay->disk, overlay->below, overlay->below_fd,
                               overlay_fd(&creation->overlays, overlay), &record, err);
        if (r == 0)
            r = change_add_content(change, content_of(creation, overlay->disk)->layer, 0, &record, err);
    }
    for (size_t i = 0; r == 0 && i < creation->internals.count; i++) {
        const struct internal_image *image = &creation->internals.list[i];
        const struct content *content = content_of(creation, image->disk->position);
        r = image_record_internal(change, image->disk->position, image->disk->active,
                                  image->made ? image->made : &planned, &record, err);
        if (r == 0)
            r = change_add_content(change, content->layer, content->internal, &record, err);
    }
    return r;
}

static enum snapshot_state state_of(const struct running *running)
{
    if (!running_is_active(running))
        return SNAPSHOT_STATE_SHUTOFF;
    return running->state == RUN_STATE_RUNNING ? SNAPSHOT_STATE_RUNNING : SNAPSHOT_STATE_PAUSED;
}

static enum consistency consistency_of(const struct creation *creation)
{
    if (!running_is_active(&creation->running) && !creation->running.has_crashed)
        return CONSISTENCY_CLEAN;
    if (creation->choice.memory != MEMORY_NO)
        return CONSISTENCY_CHECKPOINT;
    return creation->is_quiesced ? CONSISTENCY_QUIESCED : CONSISTENCY_CRASH;
}

static int note_memory(struct creation *creation, struct error *err)
{
    struct change *change = &creation->change;
    if (change->domain->launch && state_paths_copy(change->domain->launch, &change->fresh.launch) < 0)
        return error_set(err, ENOMEM, "out of memory");
    return creation->memory.path ? memory_file_record(&creation->memory, change, &change->fresh.memory, err)
                                 : 0;
}

int creation_note(struct creation *creation, struct error *err)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    change_forget_contents(&creation->change);
    creation->change.fresh = (struct state_snapshot){
        .serial = creation->serial,
        .created_sec = now.tv_sec,
        .created_nsec = (uint32_t)now.tv_nsec,
        .state = state_of(&creation->running),
        .consistency = consistency_of(creation),
    };
    const char *description = creation->command.description;
    if (description && !(creation->change.fresh.description = strdup(description)))
        return error_set(err, ENOMEM, "out of memory");
    int r = creation->choice.memory != MEMORY_NO ? note_memory(creation, err) : 0;
    return r < 0 ? r : note_contents(creation, err);
}

/* ---- All of it ---- */

static int make(struct creation *creation, struct error *err)
{
    struct change *change = &creation->change;
    int r = internals_launch(&creation->internals, err);
    if (r == 0)
        r = overlays_make(&creation->overlays, err);
    if (r < 0)
        return r;
    if (work_is_cancelled(change->administration, change->work))
        return error_set(err, EINTR, "it was interrupted, and everything was undone");
    overlays_note(&creation->overlays, &creation->undo);
    internals_note(&creation->internals, &creation->undo);
    r = undo_begin(change, "create", change->domain->serial, &creation->undo, err);
    if (r == 0)
        r = internals_open(&creation->internals, err);
    if (r == 0)
        r = internals_snapshot(&creation->internals, err);
    change->images_are_untouched = !creation->internals.is_touched;
    if (r == 0)
        r = overlays_publish(&creation->overlays, err);
    return r;
}

int carry_out_create(struct administration *administration, struct work *work, struct outcome *outcome,
                     struct error *err)
{
    cleanup(creation_done) struct creation creation = {.memory = MEMORY_FILE_NONE};
    int r = change_begin(administration, work, work->request->domain, &creation.change, err);
    if (r == 0)
        r = take_command(&creation, work->request, err);
    if (r == 0)
        r = running_begin(&creation.change, &creation.running, err);
    if (r == 0)
        r = choose(&creation, err);
    if (r == 0)
        r = plan_tree(&creation, err);
    if (r == 0)
        r = find_nodes(&creation, err);
    if (r == 0)
        r = plan_files(&creation, err);
    if (r == 0)
        r = creation_plan_memory(&creation, err);
    if (r == 0)
        r = running_is_active(&creation.running) ? creation_make_running(&creation, err)
                                                 : make(&creation, err);
    if (r == 0)
        r = creation_note(&creation, err);
    if (r == 0)
        r = change_follow_tree(&creation.change, err);
    if (r == 0)
        r = change_commit(&creation.change, err);
    if (r < 0)
        return r;
    administration_event(administration, work->request->domain, "created snapshot %s", creation.command.name);
    creation_show_mirrors(&creation);
    if (creation.command.reuse_external)
        catalog_look(administration->catalog); /* an overlay may have been shown as a domain of its own */
    outcome->serial = creation.serial;
    const char *quiesced = creation.is_quiesced ? ", with its file systems frozen" : "";
    if (asprintf(&outcome->text, "created snapshot %s%s", creation.command.name, quiesced) < 0)
        outcome->text = NULL;
    return 0;
}
