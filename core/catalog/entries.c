// SPDX-License-Identifier: LGPL-2.1-or-later
/* What is frozen on the disks of a domain; see entries.h. */
#include "catalog/entries.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/endings.h"
#include "domain/name.h"
#include "format/network_name.h"

const struct scan_image *entry_image(const struct draft *draft, const struct entry *entry)
{
    return draft->disks[entry->disk].layers[entry->depth].image;
}

static bool is_active(const struct draft_disk *disk, size_t depth)
{
    return disk->chain.count && depth == 0;
}

bool entry_is_active(const struct draft *draft, const struct entry *entry)
{
    return is_active(&draft->disks[entry->disk], entry->depth);
}

const struct scan_image *entry_overlay(const struct draft *draft, const struct entry *entry)
{
    const struct draft_disk *disk = &draft->disks[entry->disk];
    for (size_t i = 0; i < disk->layer_count; i++)
        if (disk->layers[i].backing == entry->depth)
            return disk->layers[i].image;
    return NULL;
}

static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/*
 * virsh takes the last ending off the frozen file's name and puts the snapshot's name there instead:
 * web1.qcow2, web1.v1.0. Where the overlay's name is not made like that, only its last ending may be a name.
 */
static char *layer_snapshot_name(const char *layer_path, const char *overlay_path)
{
    const char *layer = file_name(layer_path), *overlay = file_name(overlay_path);
    size_t stem = (size_t)(ending_start(layer) - layer);
    const char *ending = ending_start(overlay);
    if (*ending && ending[1] && ending_of(overlay) == ENDING_MEANINGLESS) {
        const char *name = strncmp(layer, overlay, stem) == 0 && overlay[stem] == '.' && overlay[stem + 1]
                               ? overlay + stem + 1
                               : ending + 1;
        return name_make_legal(name, strlen(name));
    }
    return name_make_legal(layer, stem);
}

char *entry_name(const struct draft *draft, const struct entry *entry)
{
    if (entry->internal)
        return name_make_legal(entry->internal->name, strlen(entry->internal->name));
    const struct scan_image *image = entry_image(draft, entry);
    cleanup(network_name_done) struct network_name network = {0};
    if (image->is_remote && network_name_parse(image->path, &network, NULL) < 0)
        return NULL; /* it was parsed before: there is no memory */
    const struct scan_image *overlay = entry_overlay(draft, entry);
    return layer_snapshot_name(image->is_remote ? network.label : image->path, overlay ? overlay->path : "");
}

/* ---- What was frozen, and is it still that? ---- */

/* A device may have another number after a boot; both files have then moved to it together. */
static bool same_overlay(const struct state_frozen *known, const struct file_identity *layer,
                         const struct file_identity *overlay)
{
    return known->overlay_identity.inode == overlay->inode &&
           (known->overlay_identity.device == overlay->device ||
            (known->layer_identity.inode == layer->inode && known->layer_identity.device != layer->device));
}

/* Has the layer the bytes that the store knows of it? An external data file that was not known yet is taken
 * as it is. */
static bool same_bytes(const struct state_frozen *known, const struct scan_image *image)
{
    return file_identity_same_content(&known->layer_identity, &image->identity) &&
           (known->data_identity.inode == 0 ||
            file_identity_same_content(&known->data_identity, &image->data_identity));
}

static bool is_time_of(const struct file_identity *identity, struct timespec time)
{
    return identity->mtime_sec == time.tv_sec && identity->mtime_nsec == (uint32_t)time.tv_nsec;
}

/*
 * Is what the store knows of a layer of this path about this freezing of it? If the bytes are the same, it
 * is, wherever the files were moved or copied to. If they are not, then only if the same overlay lies on it
 * and has been in use; with another one, the layer has been written to by its own domain in between, and was
 * frozen again.
 */
static bool same_freezing(const struct state_frozen *known, const struct scan_image *image,
                          const struct scan_image *overlay)
{
    if (!overlay)
        return same_bytes(known, image);
    if (image->is_remote) /* it has no times: the overlay is all that tells */
        return known->overlay_identity.inode == overlay->identity.inode &&
               (overlay->birth.tv_sec == 0 || is_time_of(&known->layer_identity, overlay->birth));
    return image->is_device || /* the times of a device's node say nothing */
           same_bytes(known, image) ||
           (known->is_settled && same_overlay(known, &image->identity, &overlay->identity));
}

/*
 * How long a disk on the network was when it was frozen is not known before somebody connects to it. Until
 * then, what an overlay had at first, which is what its backing file had, unless somebody wanted it
 * otherwise.
 */
static uint64_t remote_size(const struct scan_image *image, const struct scan_image *overlay,
                            const struct state_frozen *known)
{
    if (image->size)
        return image->size;
    if (known && known->layer_identity.size)
        return known->layer_identity.size;
    const struct internal_snapshot *first = NULL;
    for (size_t i = 0; overlay->info && i < overlay->info->snapshot_count; i++) {
        const struct internal_snapshot *one = overlay->info->snapshots[i];
        if (!first || one->date_sec < first->date_sec ||
            (one->date_sec == first->date_sec && one->date_nsec < first->date_nsec))
            first = one;
    }
    return first ? first->disk_size : overlay->size;
}

/* A disk on the network was frozen when the overlay on it was made. */
static struct freeze remote_freeze(const struct scan_image *image, const struct scan_image *overlay,
                                   const struct state_frozen *known)
{
    struct freeze freeze = {.overlay = overlay->identity, .is_settled = true};
    freeze.layer.size = remote_size(image, overlay, known);
    if (overlay->birth.tv_sec) {
        freeze.layer.mtime_sec = overlay->birth.tv_sec;
        freeze.layer.mtime_nsec = (uint32_t)overlay->birth.tv_nsec;
    } else {
        freeze.layer.mtime_sec = known ? known->layer_identity.mtime_sec : overlay->identity.mtime_sec;
        freeze.layer.mtime_nsec = known ? known->layer_identity.mtime_nsec : overlay->identity.mtime_nsec;
    }
    return freeze;
}

/*
 * An overlay can exist some time before the domain moves over to it: libvirt makes the files first, and saves
 * the memory in between, while the guest goes on writing to what will be the frozen layer. So while a QEMU
 * has the layer open for writing and the overlay has no cluster of its own, or the layer was written to after
 * that was looked at, nothing is settled: what is written then is the domain's, and makes it another snapshot
 * (same_freezing).
 */
struct freeze entry_freeze(const struct draft *draft, const struct entry *entry)
{
    const struct scan_image *image = entry_image(draft, entry), *overlay = entry_overlay(draft, entry);
    const struct state_frozen *known = entry->known_frozen;
    if (image->is_remote && overlay)
        return remote_freeze(image, overlay, known);
    struct freeze freeze = {
        .layer = image->identity,
        .data = image->data_identity,
        .is_settled = (known && known->is_settled) || !overlay ||
                      (!image->is_restless && (entry->depth > 1 || !overlay->is_empty || !image->is_written)),
    };
    if (overlay)
        freeze.overlay = overlay->identity;
    else if (known)
        freeze.overlay = known->overlay_identity;
    if (entry->is_touched)
        return freeze;
    if (known && !image->is_device && !same_bytes(known, image)) {
        freeze.layer = known->layer_identity;
        freeze.data = known->data_identity;
        freeze.is_changed = true;
    }
    return freeze;
}

/* ---- Matching with the store ---- */

struct known {
    const struct state_snapshot *snapshot; /* NULL: of one that was deleted */
    const struct state_frozen *frozen;
};

static int compare_place(unsigned a_position, const char *a_layer, const char *a_id, unsigned b_position,
                         const char *b_layer, const char *b_id)
{
    if (a_position != b_position)
        return a_position < b_position ? -1 : 1;
    int order = strcmp(a_layer, b_layer);
    return order ? order : strcmp(a_id, b_id);
}

/* Internal snapshots by their id; layers by an id that none has. */
static const char *id_of(const struct state_frozen *frozen)
{
    return frozen->internal ? frozen->internal_id : "";
}

static int compare_known(const void *left, const void *right)
{
    const struct state_frozen *a = ((const struct known *)left)->frozen;
    const struct state_frozen *b = ((const struct known *)right)->frozen;
    int order = compare_place(a->position, a->layer, id_of(a), b->position, b->layer, id_of(b));
    return order ? order : (int)a->internal - (int)b->internal;
}

static struct known *sort_known(const struct state_domain *state, size_t *count)
{
    size_t total = state ? state->hidden_count : 0;
    for (size_t i = 0; state && i < state->snapshot_count; i++)
        total += state->snapshots[i].frozen_count;
    struct known *list = calloc(total ? total : 1, sizeof *list);
    if (!list)
        return NULL;
    *count = 0;
    for (size_t i = 0; state && i < state->snapshot_count; i++)
        for (size_t j = 0; j < state->snapshots[i].frozen_count; j++)
            list[(*count)++] = (struct known){&state->snapshots[i], &state->snapshots[i].frozen[j]};
    for (size_t i = 0; state && i < state->hidden_count; i++)
        list[(*count)++] = (struct known){NULL, &state->hidden[i]};
    if (total)
        qsort(list, total, sizeof *list, compare_known);
    return list;
}

static bool is_same(const struct draft *draft, const struct entry *entry, const struct state_frozen *frozen)
{
    const struct internal_snapshot *internal = entry->internal;
    /* Who administers a domain knows its layers by their names, whatever was done to them. */
    if (!internal && !frozen->internal && draft->state->is_administered)
        return true;
    if (internal)
        return frozen->internal && frozen->l1_table_offset == internal->l1_table_offset &&
               frozen->date_sec == internal->date_sec && frozen->date_nsec == internal->date_nsec;
    return !frozen->internal && same_freezing(frozen, entry_image(draft, entry), entry_overlay(draft, entry));
}

static void match(const char *source, const struct draft *draft, unsigned position, struct entry *entry,
                  const struct known *list, size_t count)
{
    const char *layer = path_in_store(source, entry_image(draft, entry)->path);
    const char *id = entry->internal ? entry->internal->id : "";
    size_t low = 0, high = count;
    while (low < high) { /* the first that is not before it */
        size_t middle = low + (high - low) / 2;
        const struct state_frozen *frozen = list[middle].frozen;
        if (compare_place(frozen->position, frozen->layer, id_of(frozen), position, layer, id) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < count; low++) {
        const struct state_frozen *frozen = list[low].frozen;
        if (compare_place(frozen->position, frozen->layer, id_of(frozen), position, layer, id) != 0)
            return;
        if (is_same(draft, entry, frozen)) {
            entry->known = list[low].snapshot;
            entry->known_frozen = frozen;
            return;
        }
    }
}

/* How many internal snapshots of the image are shown: all, or none. */
static size_t shown_snapshots(struct draft *draft, const struct scan_image *image, size_t *room)
{
    size_t count = image->info ? image->info->snapshot_count : 0;
    if (count > *room) {
        draft_problem(draft, "the %zu snapshots in %s are not shown: they would be too many in all", count,
                      image->path);
        draft->is_incomplete = true;
        return 0;
    }
    *room -= count;
    return count;
}

static int collect(struct draft *draft, size_t disk, size_t *room, struct entries *entries)
{
    const struct draft_disk *of = &draft->disks[disk];
    for (size_t i = of->layer_count; i-- > 0;) {
        const struct scan_image *image = of->layers[i].image;
        size_t count = shown_snapshots(draft, image, room);
        struct entry *grown = realloc(entries->list, (entries->count + count + 1) * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        entries->list = grown;
        for (size_t j = 0; j < count; j++)
            grown[entries->count++] =
                (struct entry){.disk = disk, .depth = i, .internal = image->info->snapshots[j]};
        if (!is_active(of, i) && !image->size_problem) /* a file of unknown length can't be shown */
            grown[entries->count++] = (struct entry){.disk = disk, .depth = i};
    }
    return 0;
}

static bool is_touched(const char *source, const struct draft *draft, const struct entry *entry)
{
    return !entry->internal && draft->state &&
           state_paths_have(draft->state->touched, path_in_store(source, entry_image(draft, entry)->path));
}

/* An internal snapshot in a layer that only lies below others: it is another domain's, which this one was
 * cloned from. */
static bool is_of_others(const char *source, const struct draft *draft, const struct entry *entry)
{
    const struct state_domain *state = draft->state;
    if (!entry->internal || entry->known_frozen || !state || !state->is_administered)
        return false;
    const char *path = path_in_store(source, entry_image(draft, entry)->path);
    for (size_t i = 0; i < state->hidden_count; i++)
        if (!state->hidden[i].internal && strcmp(state->hidden[i].layer, path) == 0)
            return true;
    return false;
}

/* Takes those of deleted snapshots, and of others, out of the list. */
static int set_hidden_apart(const char *source, const struct draft *draft, struct entries *entries)
{
    size_t kept = 0;
    entries->hidden = calloc(entries->count + 1, sizeof *entries->hidden);
    if (!entries->hidden)
        return -ENOMEM;
    for (size_t i = 0; i < entries->count; i++) {
        const struct entry *entry = &entries->list[i];
        if (entry->known_frozen && !entry->known)
            entries->hidden[entries->hidden_count++] = *entry;
        else if (!is_of_others(source, draft, entry))
            entries->list[kept++] = *entry;
    }
    entries->count = kept;
    return 0;
}

int entries_collect(const char *source, struct draft *draft, const unsigned *positions, size_t *room,
                    struct entries *entries)
{
    struct entries made = {0};
    size_t known_count = 0;
    cleanup_free struct known *known = sort_known(draft->state, &known_count);
    int r = known ? 0 : -ENOMEM;
    for (size_t i = 0; r == 0 && i < draft->disk_count; i++)
        r = collect(draft, i, room, &made);
    if (r < 0) {
        entries_done(&made);
        return r;
    }
    for (size_t i = 0; i < made.count; i++) {
        match(source, draft, positions[made.list[i].disk], &made.list[i], known, known_count);
        made.list[i].is_touched = is_touched(source, draft, &made.list[i]);
    }
    r = set_hidden_apart(source, draft, &made);
    if (r < 0) {
        entries_done(&made);
        return r;
    }
    *entries = made;
    return 0;
}

void entries_done(struct entries *entries)
{
    free(entries->list);
    free(entries->hidden);
    *entries = (struct entries){0};
}
