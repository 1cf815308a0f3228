// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Names, attributes, listings, links: answered from the catalog alone, without opening an image or waiting.
 *
 * What stands for nothing any more is ENOENT here, not ESTALE: a shell that stands in the directory of a
 * snapshot that was deleted is told just that.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "passthrough.h"
#include "service.h"

struct fuse_entry_param requests_entry(const struct service *service, const struct place *place)
{
    struct fuse_entry_param entry = {
        .ino = place->id,
        .generation = generations_of(service->generations, place->id),
        .entry_timeout = job_tree_is_fleeting(place) ? 0 : KEEP_LONG_SEC,
    };
    entry.attr_timeout = attributes_of(&service->attributes, &service->content, place, &entry.attr);
    return entry;
}

static int resolve(const struct service *service, const struct catalog *catalog, uint64_t id,
                   struct place *place)
{
    int result = job_tree_resolve(service->administration, catalog, id, place);
    return result == -ESTALE ? -ENOENT : result;
}

static void do_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    const struct service *service = service_of(request);
    cleanup_catalog struct catalog *catalog = catalog_service_get(service->catalog);
    struct place directory, place;
    int result = resolve(service, catalog, parent, &directory);
    if (result == 0)
        result = job_tree_lookup(service->administration, catalog, &directory, name, &place);
    if (result != 0) {
        fuse_reply_err(request, -result);
        return;
    }
    struct fuse_entry_param entry = requests_entry(service, &place);
    fuse_reply_entry(request, &entry);
}

static void do_getattr(fuse_req_t request, fuse_ino_t id, struct fuse_file_info *file)
{
    const struct service *service = service_of(request);
    cleanup_catalog struct catalog *catalog = catalog_service_get(service->catalog);
    struct place place;
    int result = resolve(service_of(request), catalog, id, &place);
    if (result != 0) {
        fuse_reply_err(request, -result);
        return;
    }
    struct stat attributes;
    double timeout = attributes_of(&service->attributes, &service->content, &place, &attributes);
    fuse_reply_attr(request, &attributes, timeout);
}

static void do_readlink(fuse_req_t request, fuse_ino_t id)
{
    cleanup_catalog struct catalog *catalog = catalog_service_get(service_of(request)->catalog);
    struct place place;
    int result = resolve(service_of(request), catalog, id, &place);
    if (result == 0 && place.type != ENTRY_LINK)
        result = -EINVAL;
    if (result != 0) {
        fuse_reply_err(request, -result);
        return;
    }
    cleanup_text struct text target = {0};
    tree_link_target(&place, &target);
    if (target.failed)
        fuse_reply_err(request, ENOMEM);
    else
        fuse_reply_readlink(request, target.data);
}

/* Directories have no open state: the kernel keeps their listings until we invalidate them. */
static void do_opendir(fuse_req_t request, fuse_ino_t id, struct fuse_file_info *file)
{
    fuse_reply_err(request, ENOSYS);
}

struct directory_reply {
    fuse_req_t request;
    const struct service *service;
    bool with_attributes;
    char *buffer;
    size_t size, used;
};

/* Cookies of `.` and `..`, which come before what tree_list lists: its own cookies follow, this much higher.
 */
#define DOTS 2

static int add_entry(struct directory_reply *reply, const char *name, const struct fuse_entry_param *entry,
                     uint64_t next)
{
    char *at = reply->buffer + reply->used;
    size_t room = reply->size - reply->used;
    size_t length = reply->with_attributes
                        ? fuse_add_direntry_plus(reply->request, at, room, name, entry, (off_t)next)
                        : fuse_add_direntry(reply->request, at, room, name, &entry->attr, (off_t)next);
    if (length > room)
        return 1;
    reply->used += length;
    return 0;
}

static int add_place(void *opaque, const char *name, const struct place *place, uint64_t next)
{
    struct directory_reply *reply = opaque;
    struct fuse_entry_param entry;
    if (reply->with_attributes) {
        entry = requests_entry(reply->service, place);
    } else {
        static const mode_t modes[] = {
            [ENTRY_DIRECTORY] = S_IFDIR, [ENTRY_FILE] = S_IFREG, [ENTRY_DYNAMIC] = S_IFREG,
            [ENTRY_CONTROL] = S_IFREG,   [ENTRY_LINK] = S_IFLNK, [ENTRY_FROZEN] = S_IFREG,
        };
        entry = (struct fuse_entry_param){.attr = {.st_ino = place->id, .st_mode = modes[place->type]}};
    }
    return add_entry(reply, name, &entry, next + DOTS);
}

static void reply_listing(fuse_req_t request, fuse_ino_t id, size_t size, off_t offset, bool with_attributes)
{
    const struct service *service = service_of(request);
    cleanup_catalog struct catalog *catalog = catalog_service_get(service->catalog);
    struct place directory;
    int result = resolve(service, catalog, id, &directory);
    if (result == 0 && directory.type != ENTRY_DIRECTORY)
        result = -ENOTDIR;
    cleanup_free char *buffer = result == 0 ? malloc(size) : NULL;
    if (result == 0 && !buffer)
        result = -ENOMEM;
    if (result != 0) {
        fuse_reply_err(request, -result);
        return;
    }
    struct directory_reply reply = {request, service, with_attributes, buffer, size, 0};
    uint64_t cookie = (uint64_t)offset;
    /* Node id 0 tells the kernel that these two stand for nothing that it should remember. */
    const struct fuse_entry_param self = {.attr = {.st_ino = id, .st_mode = S_IFDIR}};
    const struct fuse_entry_param up = {.attr = {.st_ino = job_tree_parent(&directory), .st_mode = S_IFDIR}};
    if (cookie < 1 && add_entry(&reply, ".", &self, 1) != 0)
        goto full;
    if (cookie < 2 && add_entry(&reply, "..", &up, 2) != 0)
        goto full;
    job_tree_list(service->administration, catalog, &directory, cookie > DOTS ? cookie - DOTS : 0, add_place,
                  &reply);
full:
    fuse_reply_buf(request, buffer, reply.used);
}

static void do_readdir(fuse_req_t request, fuse_ino_t id, size_t size, off_t offset,
                       struct fuse_file_info *file)
{
    reply_listing(request, id, size, offset, false);
}

static void do_readdirplus(fuse_req_t request, fuse_ino_t id, size_t size, off_t offset,
                           struct fuse_file_info *file)
{
    reply_listing(request, id, size, offset, true);
}

static void do_statfs(fuse_req_t request, fuse_ino_t id)
{
    struct statvfs source;
    if (fstatvfs(service_of(request)->source_fd, &source) != 0) {
        fuse_reply_err(request, errno);
        return;
    }
    source.f_namemax = 255;
    fuse_reply_statfs(request, &source);
}

static void do_init(void *userdata, struct fuse_conn_info *connection)
{
    static const unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS |
                                   FUSE_CAP_ASYNC_DIO | FUSE_CAP_CACHE_SYMLINKS |
                                   FUSE_CAP_NO_OPENDIR_SUPPORT | FUSE_CAP_EXPLICIT_INVAL_DATA |
                                   FUSE_CAP_EXPIRE_ONLY;
    /* What a file has is invalidated by us, never guessed from its times; listings always come with
     * attributes; pread into a buffer measured faster than splice for every kind of read. */
    static const unsigned unwanted = FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_READDIRPLUS_AUTO |
                                     FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE |
                                     FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS | FUSE_CAP_ATOMIC_O_TRUNC;
    connection->want = (connection->want & ~unwanted) | (connection->capable & wanted);
    connection->max_write = 1024 * 1024; /* reads may be as long, too: the kernel derives both from it */
    connection->max_readahead = 1024 * 1024;
    connection->max_background = 64;
    connection->congestion_threshold = 48;
    connection->time_gran = 1;
    passthrough_init(connection);
}

void requests_add(struct fuse_lowlevel_ops *ops)
{
    ops->init = do_init;
    ops->lookup = do_lookup;
    ops->getattr = do_getattr;
    ops->readlink = do_readlink;
    ops->opendir = do_opendir;
    ops->readdir = do_readdir;
    ops->readdirplus = do_readdirplus;
    ops->statfs = do_statfs;
}
