// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Did anything move since a scan? See scan.h. This is what an idle mount does once a second, so it costs one
 * stat a file, and no open unless a file was written to, or is an overlay made ready for later.
 */
#include <fcntl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "catalog/scan.h"
#include "catalog/scan_images.h"
#include "image/frozen_disk.h"

static bool same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

/* Files of the directory are statted from its descriptor: their names lead nowhere else, whatever is mounted
 * on the path meanwhile. */
static int stat_image(const struct scan *scan, const struct scan_image *image, struct stat *stat)
{
    return image->name ? fstatat(scan->directory, image->name, stat, AT_SYMLINK_NOFOLLOW)
                       : fstatat(AT_FDCWD, image->path, stat, 0);
}

static bool data_moved(const struct scan_image *image)
{
    struct stat stat;
    if (!image->data_path)
        return false;
    if (fstatat(AT_FDCWD, image->data_path, &stat, 0) < 0)
        return true;
    struct file_identity now = file_identity_of(&stat);
    return !file_identity_same_content(&image->data_identity, &now);
}

static bool is_written(const struct scan *scan, const struct scan_image *image)
{
    char *const named[] = {image->path, NULL}; /* opened once, by whoever may */
    cleanup_close int fd = -1;
    return locate_open(scan->locate, named, image->path, &fd, NULL) == 0 && scan_is_written(fd);
}

/* A QEMU that moves over to an overlay, or that ends, changes no file. */
static bool prepared_moved(const struct scan *scan, const struct scan_image *image)
{
    if (is_written(scan, image))
        return true;
    const struct scan_image *below = image->backing;
    for (unsigned depth = 0; !below->is_written && below->is_prepared && depth < CHAIN_DEPTH_MAX; depth++)
        below = below->backing;
    return !is_written(scan, below);
}

static bool image_moved(const struct scan *scan, struct scan_image *image, bool thoroughly)
{
    struct stat stat;
    if (image->is_remote)
        return false;
    if (stat_image(scan, image, &stat) < 0)
        return true;
    struct file_identity now = file_identity_of(&stat);
    if (!file_identity_same_file(&image->identity, &now))
        return true;
    if (image->first->is_backing && data_moved(image))
        return true;
    if (image->is_prepared && prepared_moved(scan, image))
        return true;
    bool same_content = file_identity_same_content(&image->identity, &now);
    if (same_content && same_time(image->ctime, stat.st_ctim) && !image->is_device && !thoroughly &&
        (image->format != IMAGE_FORMAT_QCOW2 || scan_image_is_settled(image)))
        return false;
    /* What is written to although something stands on it must become known as changed. */
    if (image->first->is_backing && !same_content && !image->is_device)
        return true;
    if (image->is_unread) /* scan.again_at says when */
        return false;
    if (image->format == IMAGE_FORMAT_QCOW2) {
        /* A definition may have named it wherever it lies; it was opened once, and is the same file. */
        char *const named[] = {image->path, NULL};
        cleanup_close int fd = -1;
        if (locate_open(scan->locate, named, image->path, &fd, NULL) < 0 ||
            !image_info_is_right(image->info, fd) ||
            (image->is_empty && image_info_is_empty(image->info, fd) == 0))
            return true;
    } else if (now.size != image->identity.size) {
        return true;
    }
    image->identity = now;
    image->ctime = stat.st_ctim;
    image->looked_at = time(NULL);
    return false;
}

/* Also what stands on nothing but such overlays. */
static bool is_prepared(const struct scan_image *image)
{
    for (unsigned depth = 0; image->backing && depth < CHAIN_DEPTH_MAX; depth++, image = image->backing) {
        if (!image->is_empty || image->is_written || image->backing->is_remote)
            return false;
        if (image->backing->is_written)
            return true;
    }
    return false;
}

void scan_mark_prepared(struct scan *scan)
{
    for (size_t i = 0; i < scan->image_count; i++)
        scan->images[i]->is_prepared = is_prepared(scan->images[i]);
}

/*
 * What stands on an image tells that it is frozen only if nothing was written to it after that was seen: the
 * last write of a QEMU may come between the look at the one and the look at the other.
 */
void scan_mark_restless(struct scan *scan)
{
    for (size_t i = 0; i < scan->image_count; i++) {
        struct scan_image *image = scan->images[i];
        struct stat stat;
        if (!image->first->is_backing || image->is_remote || image->is_device ||
            stat_image(scan, image, &stat) < 0)
            continue;
        struct file_identity now = file_identity_of(&stat);
        image->is_restless = !file_identity_same_content(&image->identity, &now) || data_moved(image);
    }
}

static bool definition_moved(const struct scan *scan, const struct scan_definition *definition)
{
    struct stat stat;
    if (fstatat(scan->directory, definition->name, &stat, AT_SYMLINK_NOFOLLOW) < 0)
        return true;
    struct file_identity now = file_identity_of(&stat);
    return !file_identity_same_file(&definition->identity, &now) ||
           !file_identity_same_content(&definition->identity, &now) ||
           !same_time(definition->ctime, stat.st_ctim);
}

/* The ctime of a directory tells of names that came or went, and of who may write to it. One more scan where
 * that was in the same tick in which the last scan read the directory. */
static bool directory_moved(const struct scan *scan, struct timespec ctime, const struct stat *stat)
{
    return !same_time(ctime, stat->st_ctim) ||
           (!scan->is_settled && stat->st_ctim.tv_sec >= scan->started_at - 1 &&
            time(NULL) > scan->started_at + 1);
}

static bool directories_moved(const struct scan *scan)
{
    struct stat now;
    if (fstat(scan->directory, &now) == 0 && directory_moved(scan, scan->directory_ctime, &now))
        return true;
    for (size_t i = 0; i < scan->directory_count; i++)
        if (stat(scan->directories[i].path, &now) < 0 ||
            directory_moved(scan, scan->directories[i].ctime, &now))
            return true;
    return false;
}

/* A clock that was put back must not keep anybody waiting. */
static bool is_time_to_try_again(const struct scan *scan)
{
    time_t now = time(NULL);
    return scan->again_at && (now >= scan->again_at || now < scan->started_at);
}

bool scan_moved(struct scan *scan, bool thoroughly)
{
    if (is_time_to_try_again(scan) || (thoroughly && scan->again_at) || directories_moved(scan))
        return true;
    for (size_t i = 0; i < scan->definition_count; i++)
        if (definition_moved(scan, &scan->definitions[i]))
            return true;
    for (size_t i = 0; i < scan->image_count; i++)
        if (image_moved(scan, scan->images[i], thoroughly))
            return true;
    for (size_t i = 0; i < scan->absent_count; i++) {
        char *const named[] = {scan->absent[i].is_named ? scan->absent[i].path : NULL, NULL};
        cleanup_close int fd = -1;
        if (locate_open(scan->locate, named, scan->absent[i].path, &fd, NULL) != scan->absent[i].error)
            return true;
    }
    return false;
}
