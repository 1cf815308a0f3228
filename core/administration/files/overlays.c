// SPDX-License-Identifier: LGPL-2.1-or-later
/* New overlays; see overlays.h. */
#include "administration/files/overlays.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "administration/files/images.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "catalog/discover.h"
#include "hypervisor/image_claim.h"

static int out_of_memory(struct error *err)
{
    return error_set(err, ENOMEM, "out of memory");
}

/* ---- Where and how called ---- */

static int choose_name(struct overlays *overlays, const struct change *change, struct overlay *overlay,
                       const char *snapshot, struct error *err)
{
    cleanup_free const char **taken = calloc(overlays->count + 1, sizeof *taken);
    size_t count = 0;
    if (!taken)
        return out_of_memory(err);
    for (size_t i = 0; i < overlays->count; i++)
        if (strcmp(overlays->list[i].directory_path, overlay->directory_path) == 0)
            taken[count++] = overlays->list[i].final;
    const char *slash = strrchr(overlay->below->path, '/');
    return overlay_name_choose(overlay->directory, slash ? slash + 1 : overlay->below->path, snapshot,
                               change->operation, taken, count, overlay->final, err);
}

static int take_path(struct overlay *overlay, const struct overlay_place *place, struct error *err)
{
    struct stat stat;
    int r = image_check_name(place->path, overlay->final, err);
    if (r < 0)
        return r;
    bool is_there = fstatat(overlay->directory, overlay->final, &stat, AT_SYMLINK_NOFOLLOW) == 0;
    if (is_there && !place->reuse)
        return error_set(err, EEXIST, "%s is there already; %s", place->path,
                         place->blank ? "reuse uses such a file as it is"
                                      : "reuse-external, or reuse for a copy, uses such a file as it is");
    return 0;
}

/* ---- Adding ---- */

static int fill(struct overlays *overlays, struct change *change, struct overlay *overlay,
                const struct overlay_place *place, struct error *err)
{
    int r = image_open(change, overlay->below, &overlay->below_fd, err);
    if (r == 0 && !place->is_written)
        r = image_claim_take(overlay->below->path, overlay->below_fd, &overlay->claim, err);
    if (r == 0)
        r = image_open_directory(change, place->path ? place->path : overlay->below->path,
                                 &overlay->directory_path, &overlay->directory, err);
    if (r == 0)
        r = place->path ? take_path(overlay, place, err)
                        : choose_name(overlays, change, overlay, place->snapshot, err);
    if (r < 0)
        return r;
    cleanup_free char *path = NULL;
    if (asprintf(&path, "%s/%s", overlay->directory_path, overlay->final) < 0)
        return path = NULL, out_of_memory(err);
    overlay->is_reused = place->reuse && place->path;
    if (overlay->is_reused)
        r = overlay_check_reused(change, overlay, path, place, err);
    return r < 0 || place->aside
               ? r
               : change_add_layer(change, overlay->layer, path_in_store(change_source(change), path),
                                  !overlay->is_reused, err);
}

int overlays_add(struct overlays *overlays, struct change *change, const struct layer *below, unsigned disk,
                 uint64_t id, const struct overlay_place *place, struct error *err)
{
    struct overlay *grown = realloc(overlays->list, (overlays->count + 1) * sizeof *grown);
    if (!grown)
        return out_of_memory(err);
    overlays->list = grown;
    struct overlay *overlay = &grown[overlays->count];
    *overlay = (struct overlay){.below = below,
                                .layer = id,
                                .disk = disk,
                                .below_fd = -1,
                                .claim = -1,
                                .directory = -1,
                                .reused_fd = -1,
                                .reused_claim = -1};
    overlay->is_copy = place->copy || place->blank == IMAGE_FORMAT_RAW;
    overlay->blank = place->blank;
    overlay->size = place->size;
    overlay->internal = place->internal;
    size_t index = overlays->first + overlays->count;
    temporary_name(change->administration, change->operation, index, overlay->temporary);
    int r = fill(overlays, change, overlay, place, err);
    overlays->count++; /* also where it failed: something is open */
    return r;
}

/* ---- Making ---- */

/* Overlays come first in the list of files; then the copies. */
static int make_files(struct overlays *overlays, struct error *err)
{
    size_t whole = overlays->file_count - overlays->copy_count;
    int r = whole ? overlay_files_make(overlays->files, whole, err) : 0;
    overlays->is_made = r == 0;
    for (size_t i = whole; r == 0 && i < overlays->file_count; i++)
        r = overlay_file_begin(&overlays->files[i], err);
    return r;
}

static void add_file(struct overlays *overlays, const struct overlay *overlay, uint64_t size)
{
    overlays->files[overlays->file_count++] = (struct overlay_file){
        .directory = overlay->directory,
        .temporary_name = overlay->temporary,
        .final_name = overlay->final,
        .below = overlay->below_fd,
        .backing_name = overlay->blank ? NULL : overlay->below->path,
        .backing_format = overlay->blank ? NULL : image_format_name(overlay->below->format),
        .size_bytes = size,
        .fd = -1,
    };
}

int overlays_make(struct overlays *overlays, struct error *err)
{
    overlays->files = calloc(overlays->count + 1, sizeof *overlays->files);
    if (!overlays->files)
        return out_of_memory(err);
    for (size_t i = 0; i < overlays->count; i++) {
        const struct overlay *overlay = &overlays->list[i];
        uint64_t size;
        if (!align_up_checked(overlay->size ? overlay->size : overlay->below->size, 512, &size))
            return error_set(err, EINVAL, "%s is too long", overlay->below->path);
        if (!overlay->is_reused && !overlay->is_copy)
            add_file(overlays, overlay, size);
    }
    for (size_t i = 0; i < overlays->count; i++)
        if (overlays->list[i].is_copy && !overlays->list[i].is_reused) {
            add_file(overlays, &overlays->list[i], 0);
            overlays->copy_count++;
        }
    int r = make_files(overlays, err);
    for (size_t i = 0; r == 0 && i < overlays->count; i++) {
        const struct overlay *overlay = &overlays->list[i];
        if (overlay->blank == IMAGE_FORMAT_RAW && !overlay->is_reused &&
            ftruncate(overlay_fd(overlays, overlay), (off_t)overlay->size) < 0)
            r = error_set(err, errno, "%s/%s: %m", overlay->directory_path, overlay->final);
    }
    return r;
}

static struct overlay_file *file_of(const struct overlays *overlays, const struct overlay *overlay)
{
    for (size_t i = 0; i < overlays->file_count; i++)
        if (overlays->files[i].temporary_name == overlay->temporary)
            return &overlays->files[i];
    return NULL;
}

void overlays_note(const struct overlays *overlays, struct undo_list *list)
{
    for (size_t i = 0; i < overlays->count; i++) {
        const struct overlay *overlay = &overlays->list[i];
        const struct overlay_file *file = file_of(overlays, overlay);
        if (file)
            undo_add_file(list, overlay->directory_path, overlay->temporary, overlay->final, &file->mark);
    }
}

void overlays_note_identity(const struct overlays *overlays, struct undo_list *list)
{
    for (size_t i = 0; i < overlays->count; i++) {
        const struct overlay *overlay = &overlays->list[i];
        cleanup_free char *path = NULL;
        struct stat file;
        if (asprintf(&path, "%s/%s", overlay->directory_path, overlay->final) < 0) {
            path = NULL;
            list->failed = true;
        } else if (fstat(overlay_fd(overlays, overlay), &file) == 0) {
            undo_add_overlay(list, path, overlay->below->path, overlay->below->format, &file);
        } else {
            list->failed = true;
        }
    }
}

int overlays_publish(struct overlays *overlays, struct error *err)
{
    int r = overlays->file_count ? overlay_files_publish(overlays->files, overlays->file_count, err) : 0;
    crash_point("published");
    return r;
}

int overlay_fd(const struct overlays *overlays, const struct overlay *overlay)
{
    const struct overlay_file *file = file_of(overlays, overlay);
    return file ? file->fd : overlay->reused_fd;
}

void overlays_done(struct overlays *overlays)
{
    for (size_t i = 0; overlays->is_made && i < overlays->file_count; i++) {
        const struct overlay_file *file = &overlays->files[i];
        unlinkat(file->directory, file->temporary_name, 0); /* it is there only if it was never published */
    }
    overlay_files_close(overlays->files, overlays->file_count);
    for (size_t i = 0; i < overlays->count; i++) {
        struct overlay *overlay = &overlays->list[i];
        int *const fds[] = {&overlay->below_fd, &overlay->claim, &overlay->directory, &overlay->reused_fd,
                            &overlay->reused_claim};
        for (size_t j = 0; j < sizeof fds / sizeof *fds; j++)
            if (*fds[j] >= 0)
                close(*fds[j]);
        free(overlay->directory_path);
    }
    free(overlays->list);
    free(overlays->files);
    *overlays = (struct overlays){0};
}
