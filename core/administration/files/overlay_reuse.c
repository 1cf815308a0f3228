// SPDX-License-Identifier: LGPL-2.1-or-later
/* Files that a user has made before, as overlays or to be copied into: may they be used? See overlays.h. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "administration/files/images.h"
#include "administration/files/overlays.h"
#include "administration/reclaim/strangers.h"
#include "base/cleanup.h"
#include "hypervisor/image_claim.h"

static void info_drop(const struct image_info **info)
{
    image_info_unref(*info);
}

/* Is what it says to stand on the very file that is frozen, in that format? */
static int check_backing(const struct change *change, const struct overlay *overlay, const char *path,
                         const struct image_info *info, struct error *err)
{
    cleanup(image_reference_done) struct image_reference reference = {0};
    struct stat said, below;
    if (!info->backing_name)
        return error_set(err, EINVAL,
                         "%s can't be reused: it has no backing file; it has to be an overlay on %s", path,
                         overlay->below->path);
    int r = locate_reference(change->administration->options.locate, path, info->backing_name,
                             info->backing_format, &reference, err);
    if (r < 0)
        return r;
    if (reference.network || stat(reference.path, &said) < 0 || fstat(overlay->below_fd, &below) < 0 ||
        said.st_dev != below.st_dev || said.st_ino != below.st_ino)
        return error_set(err, EINVAL, "%s can't be reused: it lies on %s and not on %s, which is active",
                         path, reference.path, overlay->below->path);
    if (reference.format != overlay->below->format)
        return error_set(err, EINVAL, "%s can't be reused: it says that %s is %s, which is %s", path,
                         overlay->below->path, image_format_name(reference.format),
                         image_format_name(overlay->below->format));
    return 0;
}

/* One that a copy is made into: QEMU wants the very size, and an image of its own. */
static int check_blank(const struct overlay *overlay, const char *path, const struct image_info *info,
                       struct error *err)
{
    if (info->backing_name)
        return error_set(err, EINVAL, "%s can't be reused: it lies on %s, and is to get everything", path,
                         info->backing_name);
    if (info->data_name)
        return error_set(err, EINVAL, "%s can't be reused: its data lie in another file", path);
    return info->size == overlay->size
               ? 0
               : error_set(err, EINVAL,
                           "%s can't be reused: its disk has %llu bytes, and the one to be copied %llu", path,
                           (unsigned long long)info->size, (unsigned long long)overlay->size);
}

static int check_blank_raw(const struct overlay *overlay, const char *path, struct error *err)
{
    struct stat stat;
    if (fstat(overlay->reused_fd, &stat) < 0)
        return error_set(err, errno, "%s: %m", path);
    return (uint64_t)stat.st_size == overlay->size
               ? 0
               : error_set(err, EINVAL,
                           "%s can't be reused: it has %llu bytes, and the disk to be copied %llu", path,
                           (unsigned long long)stat.st_size, (unsigned long long)overlay->size);
}

/* A domain that was made of the overlay alone, since that ends in .qcow2, gives it up; no other does. */
static int check_owner(const struct change *change, const struct overlay *overlay, const char *path,
                       struct error *err)
{
    struct catalog *catalog = catalog_service_get(change->administration->catalog);
    struct stat stat;
    int r = fstat(overlay->reused_fd, &stat) < 0 ? error_set(err, errno, "%s: %m", path) : 0;
    for (size_t i = 0; r == 0 && i < catalog->domain_count; i++) {
        const struct domain *domain = catalog->domains[i];
        if (domain->serial == change->serial)
            domain = change->domain;
        else if (!domain->definition && !domain->is_administered)
            continue;
        for (size_t j = 0; r == 0 && j < domain->layer_count; j++)
            if (!domain->layers[j]->remote && domain->layers[j]->identity.device == stat.st_dev &&
                domain->layers[j]->identity.inode == stat.st_ino)
                r = error_set(err, EPERM, "%s can't be reused: it is an image of %s already", path,
                              domain->name);
    }
    catalog_put(catalog);
    return r;
}

/* What stood on it would get other content as soon as a guest writes. Where there are too many files to look
 * at, the user is believed. */
static int check_free(const struct change *change, const struct overlay *overlay, const char *path,
                      struct error *err)
{
    struct error why;
    int r =
        strangers_search(change->administration->options.locate, overlay->reused_fd, path, NULL, NULL, &why);
    return r == -EBUSY ? error_set(err, EBUSY, "%s can't be reused: %s", path, why.text) : 0;
}

int overlay_check_reused(const struct change *change, struct overlay *overlay, const char *path,
                         const struct overlay_place *place, struct error *err)
{
    int r = locate_open(change->administration->options.locate, NULL, path, &overlay->reused_fd, err);
    if (r < 0)
        return r;
    if (overlay->blank == IMAGE_FORMAT_RAW)
        return check_blank_raw(overlay, path, err);
    cleanup(info_drop) const struct image_info *info = NULL;
    r = image_read_info(overlay->reused_fd, path, &info, err);
    if (r < 0)
        return error_set(err, EINVAL, "%s can't be reused: it is no sound qcow2 image", path);
    if (info->size < overlay->below->size)
        return error_set(err, EINVAL, "%s can't be reused: its disk has %llu bytes, and %s has %llu", path,
                         (unsigned long long)info->size, overlay->below->path,
                         (unsigned long long)overlay->below->size);
    if (info->snapshot_count)
        return error_set(err, EINVAL, "%s can't be reused: it holds internal snapshots", path);
    if (overlay->blank == IMAGE_FORMAT_QCOW2)
        return check_blank(overlay, path, info, err);
    if (overlay->size && info->size != overlay->size)
        return error_set(err, EINVAL,
                         "%s can't be reused: its disk has %llu bytes, and the one to be copied %llu", path,
                         (unsigned long long)info->size, (unsigned long long)overlay->size);
    r = check_backing(change, overlay, path, info, err);
    if (r < 0 || place->aside)
        return r;
    r = check_owner(change, overlay, path, err);
    if (r == 0)
        r = check_free(change, overlay, path, err);
    if (r == 0 && !place->is_written)
        r = image_claim_take(path, overlay->reused_fd, &overlay->reused_claim, err);
    return r;
}
