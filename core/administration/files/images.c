// SPDX-License-Identifier: LGPL-2.1-or-later
/* Image files of a domain; see images.h. */
#include "administration/files/images.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/endings.h"
#include "base/log.h"
#include "catalog/discover.h"
#include "hypervisor/image_claim.h"

int image_open(const struct change *change, const struct layer *layer, int *fd, struct error *err)
{
    if (layer->remote)
        return error_set(err, EOPNOTSUPP, "%s lies on the network, where this version changes nothing",
                         layer->path);
    return locate_open(change->administration->options.locate, change->domain->named_files, layer->path, fd,
                       err);
}

static bool is_below(const char *path, const char *root)
{
    size_t length = strlen(root);
    return strncmp(path, root, length) == 0 && (path[length] == '/' || !path[length]);
}

static bool is_directory(const char *path, const struct stat *stat)
{
    struct stat found;
    return lstat(path, &found) == 0 && found.st_dev == stat->st_dev && found.st_ino == stat->st_ino;
}

int image_open_directory(const struct change *change, const char *path, char **directory_path, int *directory,
                         struct error *err)
{
    const char *slash = strrchr(path, '/');
    char real[PATH_MAX];
    struct stat stat;
    *directory_path = strndup(path, slash == path ? 1 : (size_t)(slash - path));
    if (!*directory_path)
        return error_set(err, ENOMEM, "out of memory");
    *directory = open(*directory_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*directory < 0 || fstat(*directory, &stat) < 0 || !realpath(*directory_path, real))
        return error_set(err, errno, "%s: %m", *directory_path);
    int r = locate_check_kept_out(change->administration->options.locate, *directory, path, err);
    if (r < 0)
        return r;
    /* What the store keeps is a path that leads there by itself, without links that are the user's. */
    for (const char *const *at = locate_roots(change->administration->options.locate); *at; at++) {
        bool is_root = is_directory(*at, &stat);
        if (!is_root && !is_below(real, *at))
            continue;
        char *plain = strdup(is_root ? *at : real);
        if (!plain)
            return error_set(err, ENOMEM, "out of memory");
        free(*directory_path);
        *directory_path = plain;
        return 0;
    }
    return error_set(err, EPERM,
                     "%s: a file there could not be read again: that is neither in the source nor allowed; "
                     "mount with -o allow=%s",
                     path, *directory_path);
}

int image_check_name(const char *path, char name[OVERLAY_NAME_SIZE], struct error *err)
{
    const char *given = strrchr(path, '/') + 1;
    if (!*given || strlen(given) >= OVERLAY_NAME_SIZE)
        return error_set(err, *given ? ENAMETOOLONG : EINVAL, "%s: no name for a file", path);
    enum ending ending = ending_of(given);
    if (ending == ENDING_DEFINITION || ending == ENDING_OTHER_DEFINITION)
        return error_set(err, EINVAL, "%s: a file of that name would be taken for a definition", path);
    if (*given == '.')
        return error_set(err, EINVAL, "%s: names that begin with a dot are for files of vmsnapfs", path);
    strcpy(name, given);
    return 0;
}

int image_read_info(int fd, const char *path, const struct image_info **info, struct error *err)
{
    const struct image_info *read = image_info_read(fd, path, NULL);
    if (!read)
        return error_set(err, ENOMEM, "out of memory");
    if (read->problem) {
        error_set(err, EIO, "%s", read->problem);
        image_info_unref(read);
        return -EIO;
    }
    *info = read;
    return 0;
}

int image_mend_table(int fd, const char *path, const struct qcow2_table_mark *mark, struct error *err)
{
    if (!qcow2_table_is_lost(fd, mark))
        return 0;
    cleanup_close int claim = -1, writable = -1;
    int r = image_claim_take(path, fd, &claim, err);
    if (r < 0 || !qcow2_table_is_lost(fd, mark))
        return r;
    char given[64];
    snprintf(given, sizeof given, "/proc/self/fd/%d", fd);
    writable = open(given, O_RDWR | O_CLOEXEC);
    r = writable < 0 ? -errno : qcow2_table_bring_back(writable, mark);
    if (r < 0)
        return error_set(err, -r, "%s: its snapshot table can't be brought back: %s", path, strerror(-r));
    log_warning("%s: QEMU failed to write its snapshot table; the one before is brought back", path);
    return 0;
}

const struct internal_snapshot *image_find_tag(const struct image_info *info, const char *tag)
{
    for (size_t i = 0; i < info->snapshot_count; i++)
        if (strcmp(info->snapshots[i]->name, tag) == 0)
            return info->snapshots[i];
    return NULL;
}

static const char *target_of(const struct change *change, unsigned disk)
{
    for (size_t i = 0; i < change->domain->disk_count; i++)
        if (change->domain->disks[i].position == disk)
            return change->domain->disks[i].target;
    return "";
}

static int fill_place(const struct change *change, unsigned disk, const struct layer *layer,
                      struct state_frozen *record, struct error *err)
{
    *record = (struct state_frozen){
        .position = disk,
        .allocated = ALLOCATED_UNKNOWN,
        .target = strdup(target_of(change, disk)),
        .layer = strdup(path_in_store(change_source(change), layer->path)),
    };
    if (record->target && record->layer)
        return 0;
    state_frozen_done(record);
    return error_set(err, ENOMEM, "out of memory");
}

int image_record_layer(const struct change *change, unsigned disk, const struct layer *layer, int fd,
                       int overlay, struct state_frozen *record, struct error *err)
{
    struct stat stat, above = {0};
    if (fstat(fd, &stat) < 0 || (overlay >= 0 && fstat(overlay, &above) < 0))
        return error_set(err, errno, "%s: %m", layer->path);
    int r = fill_place(change, disk, layer, record, err);
    if (r < 0)
        return r;
    record->layer_identity = file_identity_of(&stat);
    record->data_identity = layer->data_identity;
    if (overlay >= 0)
        record->overlay_identity = file_identity_of(&above);
    record->is_settled = true;
    return 0;
}

int image_record_internal(const struct change *change, unsigned disk, const struct layer *layer,
                          const struct internal_snapshot *internal, struct state_frozen *record,
                          struct error *err)
{
    int r = fill_place(change, disk, layer, record, err);
    if (r < 0)
        return r;
    record->internal = true;
    record->l1_table_offset = internal->l1_table_offset;
    record->date_sec = internal->date_sec;
    record->date_nsec = internal->date_nsec;
    record->internal_id = strdup(internal->id);
    if (record->internal_id)
        return 0;
    state_frozen_done(record);
    return error_set(err, ENOMEM, "out of memory");
}
