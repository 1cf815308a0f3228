// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A new domain from a snapshot: overlays on its frozen layers, or copies; a state in the store, by which it
 * has happened; and NAME.json in the source. Everything lies in the source, called after the new domain.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "administration/change.h"
#include "administration/files/images.h"
#include "administration/files/overlays.h"
#include "administration/files/temporary.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "base/text.h"
#include "catalog/catalog_hold.h"
#include "catalog/discover.h"
#include "format/definition_write.h"
#include "image/new_file.h"
#include "operation/tree_change.h"

struct cloning {
    struct change change;
    const struct snapshot *snapshot;
    const char *name;
    uint64_t serial; /* of the new domain */
    char uuid[37];
    struct tree tree;
    struct overlays overlays;
    struct undo_list undo;
    struct state_domain *state;
    char definition[NAME_MAX + 1], temporary[OVERLAY_NAME_SIZE];
    int directory, definition_fd;
    bool is_expected, is_published;
};

static void cloning_done(struct cloning *cloning)
{
    struct catalog_service *catalog =
        cloning->change.administration ? cloning->change.administration->catalog : NULL;
    bool failed = !cloning->change.is_committed;
    change_end(&cloning->change);
    overlays_done(&cloning->overlays);
    if (cloning->definition_fd >= 0 && !cloning->is_published)
        unlinkat(cloning->directory, cloning->temporary, 0);
    if (cloning->definition_fd >= 0)
        close(cloning->definition_fd);
    if (cloning->directory >= 0)
        close(cloning->directory);
    if (cloning->is_expected && failed) {
        catalog_unexpect(catalog, cloning->serial);
        catalog_look(catalog);
    }
    undo_list_done(&cloning->undo);
    tree_done(&cloning->tree);
    state_domain_free(cloning->state);
}

static int out_of_memory(struct error *err)
{
    return error_set(err, ENOMEM, "out of memory");
}

/* RFC 4122, version 4. */
static int make_uuid(char uuid[37], struct error *err)
{
    unsigned char b[16];
    if (getrandom(b, sizeof b, 0) != (ssize_t)sizeof b)
        return error_set(err, errno ? errno : EIO, "random numbers: %m");
    b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
    b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
    snprintf(uuid, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
             b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
    return 0;
}

/* ---- The plan ---- */

static int check_name(struct cloning *cloning, struct error *err)
{
    struct catalog *catalog = catalog_service_get(cloning->change.administration->catalog);
    bool is_taken = catalog_find_domain(catalog, cloning->name);
    catalog_put(catalog);
    if (is_taken)
        return error_set(err, EEXIST, "there is a domain %s already", cloning->name);
    if (strlen(cloning->name) > 150) /* its files are called after it */
        return error_set(err, ENAMETOOLONG,
                         "the name of a clone has at most 150 bytes: its files are called after it");
    snprintf(cloning->definition, sizeof cloning->definition, "%s.json", cloning->name);
    struct stat stat;
    if (fstatat(cloning->directory, cloning->definition, &stat, AT_SYMLINK_NOFOLLOW) == 0)
        return error_set(err, EEXIST, "%s/%s is there already", change_source(&cloning->change),
                         cloning->definition);
    return 0;
}

static const struct frozen *frozen_of(const struct cloning *cloning, unsigned position)
{
    for (size_t i = 0; i < cloning->snapshot->frozen_count; i++)
        if (cloning->snapshot->frozen[i].disk->position == position)
            return &cloning->snapshot->frozen[i];
    return NULL;
}

static int plan_disk(struct cloning *cloning, const struct tree_disk *disk, bool full, struct error *err)
{
    const struct frozen *frozen = frozen_of(cloning, disk->position);
    cleanup_free char *path = NULL;
    bool is_only = cloning->tree.disk_count == 1;
    if (!frozen)
        return error_set(err, EIO, "what the snapshot holds of disk %s can't be found", disk->target);
    if (asprintf(&path, "%s/%s%s%s.qcow2", change_source(&cloning->change), cloning->name, is_only ? "" : "-",
                 is_only ? "" : disk->target) < 0)
        return path = NULL, out_of_memory(err);
    const struct overlay_place place = {
        .path = path, .copy = full || frozen->internal, .internal = frozen->internal};
    return overlays_add(&cloning->overlays, &cloning->change, frozen->layer, disk->position, disk->active,
                        &place, err);
}

static int plan(struct cloning *cloning, bool full, struct error *err)
{
    struct change *change = &cloning->change;
    cloning->directory = open(change_source(change), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (cloning->directory < 0)
        return error_set(err, errno, "%s: %m", change_source(change));
    int r = check_name(cloning, err);
    if (r == 0)
        r = make_uuid(cloning->uuid, err);
    if (r == 0)
        r = catalog_next_serial(change->administration->catalog, &cloning->serial, err);
    if (r == 0)
        r = tree_clone(change->tree, &change->world.layers, cloning->snapshot->serial, cloning->serial, full,
                       &cloning->tree, err);
    for (size_t i = 0; r == 0 && i < cloning->tree.disk_count; i++)
        r = plan_disk(cloning, &cloning->tree.disks[i], full, err);
    return r;
}

/* ---- The new domain's state ---- */

/* What the overlay lies on is needed by the clone, and none of its snapshots. */
static int add_hidden(struct cloning *cloning, const struct overlay *overlay, struct error *err)
{
    struct state_domain *state = cloning->state;
    for (const struct layer *layer = overlay->below; layer; layer = layer->backing) {
        struct state_frozen *grown = realloc(state->hidden, (state->hidden_count + 1) * sizeof *grown);
        if (!grown)
            return out_of_memory(err);
        state->hidden = grown;
        cleanup_close int fd = -1;
        int r = image_open(&cloning->change, layer, &fd, err);
        if (r == 0)
            r = image_record_layer(&cloning->change, overlay->disk, layer, fd,
                                   layer == overlay->below ? overlay_fd(&cloning->overlays, overlay) : -1,
                                   &grown[state->hidden_count], err);
        if (r < 0)
            return r;
        state->hidden_count++;
    }
    return 0;
}

static int add_disk(struct cloning *cloning, const struct overlay *overlay, struct error *err)
{
    struct state_domain *state = cloning->state;
    struct state_disk *disk = &state->disks[state->disk_count++];
    const char *path = overlay->final; /* it lies in the source */
    const struct tree_disk *from = tree_find_disk(&cloning->tree, overlay->disk);
    disk->position = overlay->disk;
    disk->target = strdup(from->target);
    disk->active = strdup(path);
    disk->original = strdup(path);
    if (!disk->target || !disk->active || !disk->original || state_paths_add(&state->made, path) < 0)
        return out_of_memory(err);
    return overlay->is_copy ? 0 : add_hidden(cloning, overlay, err);
}

static int make_state(struct cloning *cloning, struct error *err)
{
    struct state_domain *state = calloc(1, sizeof *state);
    cloning->state = state;
    if (!state)
        return out_of_memory(err);
    state->serial = cloning->serial;
    state->operation = cloning->change.operation;
    state->is_administered = true;
    state->name = strdup(cloning->name);
    state->uuid = strdup(cloning->uuid);
    state->disks = calloc(cloning->overlays.count + 1, sizeof *state->disks);
    if (!state->name || !state->uuid || !state->disks)
        return out_of_memory(err);
    int r = 0;
    for (size_t i = 0; r == 0 && i < cloning->overlays.count; i++)
        r = add_disk(cloning, &cloning->overlays.list[i], err);
    return r;
}

/* ---- Its definition ---- */

static int write_definition(const struct cloning *cloning, struct text *text)
{
    const struct overlays *overlays = &cloning->overlays;
    cleanup_free struct definition_disk *disks = calloc(overlays->count + 1, sizeof *disks);
    if (!disks)
        return -ENOMEM;
    const struct definition definition = {.name = (char *)cloning->name,
                                          .uuid = (char *)cloning->uuid,
                                          .disks = disks,
                                          .disk_count = overlays->count,
                                          .follows = cloning->change.domain->may_switch_files};
    for (size_t i = 0; i < overlays->count; i++) {
        const struct disk *disk = frozen_of(cloning, overlays->list[i].disk)->disk;
        disks[i] = (struct definition_disk){.target = disk->target,
                                            .source = overlays->list[i].final,
                                            .format = IMAGE_FORMAT_QCOW2,
                                            .snapshot = disk->snapshot,
                                            .persistent = disk->persistent};
    }
    definition_write(text, &definition);
    return text->failed ? -ENOMEM : 0;
}

static int make_definition(struct cloning *cloning, struct error *err)
{
    cleanup_text struct text text = {0};
    struct new_file_mark mark;
    if (write_definition(cloning, &text) < 0)
        return out_of_memory(err);
    temporary_name(cloning->change.administration, cloning->change.operation, cloning->overlays.count,
                   cloning->temporary);
    cloning->definition_fd = openat(cloning->directory, cloning->temporary,
                                    O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (cloning->definition_fd < 0 || fchmod(cloning->definition_fd, 0644) < 0 ||
        write(cloning->definition_fd, text.data, text.length) != (ssize_t)text.length ||
        fsync(cloning->definition_fd) < 0)
        return error_set(err, errno ? errno : ENOSPC, "%s can't be written: %m", cloning->definition);
    int r = new_file_mark(cloning->definition_fd, &mark, err);
    if (r == 0)
        undo_add_file(&cloning->undo, change_source(&cloning->change), cloning->temporary,
                      cloning->definition, &mark);
    return r;
}

/* ---- All of it ---- */

/* With the state in the store it has happened; the domain shows up with its definition. */
static int commit(struct cloning *cloning, struct error *err)
{
    struct change *change = &cloning->change;
    pthread_mutex_lock(&change->administration->lock);
    bool cancelled = work_is_cancelled(change->administration, change->work);
    change->work->is_committed = !cancelled;
    pthread_mutex_unlock(&change->administration->lock);
    if (cancelled)
        return error_set(err, EINTR, "it was cancelled, and everything was undone");
    int r = catalog_save(change->administration->catalog, cloning->state, err);
    crash_point("cloned");
    if (r == 0)
        change->is_committed = true;
    return r;
}

static int make(struct cloning *cloning, struct error *err)
{
    struct change *change = &cloning->change;
    struct administration *administration = change->administration;
    int r = overlays_make(&cloning->overlays, err);
    if (r == 0)
        r = overlays_copy(&cloning->overlays, change, err);
    if (r == 0)
        r = make_state(cloning, err);
    if (r == 0)
        r = make_definition(cloning, err);
    if (r < 0)
        return r;
    overlays_note(&cloning->overlays, &cloning->undo);
    undo_add_domain(&cloning->undo, cloning->serial);
    r = undo_begin(change, "clone", cloning->serial, &cloning->undo, err);
    if (r == 0)
        r = catalog_expect(administration->catalog, cloning->state, err);
    if (r < 0)
        return r;
    cloning->is_expected = true;
    r = overlays_publish(&cloning->overlays, err);
    if (r == 0)
        r = new_file_publish(cloning->directory, cloning->temporary, cloning->definition, err);
    if (r < 0)
        return r;
    cloning->is_published = true;
    crash_point("defined");
    return commit(cloning, err);
}

int carry_out_clone(struct administration *administration, struct work *work, struct outcome *outcome,
                    struct error *err)
{
    cleanup(cloning_done) struct cloning cloning = {.directory = -1, .definition_fd = -1};
    const struct request *request = work->request;
    cloning.name = request->clone.name;
    int r = change_begin(administration, work, request->domain, &cloning.change, err);
    if (r == 0)
        r = domain_name_check(cloning.name, strlen(cloning.name), err);
    if (r == 0)
        r = change_find(&cloning.change, request->snapshot, &cloning.snapshot, err);
    if (r == 0)
        r = plan(&cloning, request->clone.full, err);
    if (r == 0)
        r = make(&cloning, err);
    if (r < 0)
        return r;
    catalog_look(administration->catalog);
    administration_event(administration, request->domain, "cloned snapshot %s to domain %s",
                         cloning.snapshot->name, cloning.name);
    outcome->serial = cloning.serial;
    if (asprintf(&outcome->text, "cloned to domain %s", cloning.name) < 0)
        outcome->text = NULL;
    return 0;
}
