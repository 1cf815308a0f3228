// SPDX-License-Identifier: LGPL-2.1-or-later
/* Searching for unknown overlays; see strangers.h. */
#include "administration/reclaim/strangers.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "catalog/image_info.h"

#define FILES_MAX  200000
#define DEPTH_MAX  16
#define QCOW2_HEAD 104 /* bytes of the shortest header that is looked at */

struct search {
    const struct locate *locate;
    struct stat file;
    const char *path;
    strangers_is_known *is_known;
    void *opaque;
    size_t seen;
};

static void fts_drop(FTS **tree)
{
    if (*tree)
        fts_close(*tree);
}

static void info_drop(const struct image_info **info)
{
    image_info_unref(*info);
}

static bool has_magic(int fd)
{
    char magic[4];
    return pread(fd, magic, sizeof magic, 0) == (ssize_t)sizeof magic && memcmp(magic, "QFI\xfb", 4) == 0;
}

static bool leads_to(const struct search *search, const char *image, const char *name, const char *format)
{
    cleanup(image_reference_done) struct image_reference reference = {0};
    struct stat stat_there;
    if (!name)
        return false;
    /* The file counts, whatever its format is said to be. */
    if (locate_reference(search->locate, image, name, format, &reference, NULL) < 0 &&
        locate_reference(search->locate, image, name, "raw", &reference, NULL) < 0)
        return false;
    return !reference.network && stat(reference.path, &stat_there) == 0 &&
           stat_there.st_dev == search->file.st_dev && stat_there.st_ino == search->file.st_ino;
}

static int look_at(struct search *search, const FTSENT *entry, struct error *err)
{
    if (++search->seen > FILES_MAX)
        return error_set(err, E2BIG,
                         "there are more than %d files in the directories that would have to be looked at",
                         FILES_MAX);
    if (entry->fts_statp->st_size < QCOW2_HEAD)
        return 0;
    cleanup_close int fd = open(entry->fts_path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || !has_magic(fd) || (search->is_known && search->is_known(search->opaque, entry->fts_path)))
        return 0;
    cleanup(info_drop) const struct image_info *info = image_info_read(fd, entry->fts_path, NULL);
    if (!info)
        return error_set(err, ENOMEM, "out of memory");
    if (leads_to(search, entry->fts_path, info->backing_name, info->backing_format) ||
        leads_to(search, entry->fts_path, info->data_name, "raw"))
        return error_set(err, EBUSY,
                         search->is_known ? "%s, which is in no domain, stands on %s" : "%s stands on %s",
                         entry->fts_path, search->path);
    return 0;
}

static int walk(struct search *search, const char *root, struct error *err)
{
    char *const paths[] = {(char *)root, NULL};
    cleanup(fts_drop) FTS *tree = fts_open(paths, FTS_PHYSICAL | FTS_XDEV | FTS_NOCHDIR, NULL);
    if (!tree)
        return error_set(err, errno, "%s: %m", root);
    for (FTSENT *entry; (entry = fts_read(tree));) {
        if (entry->fts_info == FTS_D && entry->fts_level > DEPTH_MAX)
            fts_set(tree, entry, FTS_SKIP);
        if (entry->fts_info != FTS_F)
            continue;
        int r = look_at(search, entry, err);
        if (r < 0)
            return r;
    }
    return errno && errno != ENOENT ? error_set(err, errno, "%s: %m", root) : 0;
}

int strangers_search(const struct locate *locate, int fd, const char *path, strangers_is_known *is_known,
                     void *opaque, struct error *err)
{
    struct search search = {.locate = locate, .path = path, .is_known = is_known, .opaque = opaque};
    if (fstat(fd, &search.file) < 0)
        return error_set(err, errno, "%s: %m", path);
    for (const char *const *root = locate_roots(locate); *root; root++) {
        int r = walk(&search, *root, err);
        if (r < 0)
            return r;
    }
    return 0;
}
