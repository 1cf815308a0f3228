// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What nobody may ever do: EPERM, or EROFS where the mount or the source is read-only; and what is remembered
 * of everything that fails.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "service.h"

const char *refusals_read_only(void)
{
    return "the mount is read-only: the source can't be written, or ro was asked for";
}

void refusals_note(fuse_req_t request, const struct place *place, const char *command, int code,
                   const char *reason)
{
    const struct service *service = service_of(request);
    pid_t pid = fuse_req_ctx(request)->pid;
    if (!place->domain) {
        log_debug("refused %s of pid %d: %s", command, (int)pid, reason);
        return;
    }
    if (!last_errors_add(service->last_errors, place->domain->serial, pid, command, code, reason))
        return;
    cleanup_text struct text line = {0};
    text_printf(&line, "failed: %s: %s (%s)", command, reason, strerrorname_np(code));
    if (!line.failed)
        events_add(service->events, place->domain->serial, line.data);
    log_info("%s: %s of pid %d failed: %s", place->domain->name, command, (int)pid, reason);
}

void refusals_reply(fuse_req_t request, fuse_ino_t directory, const char *verb, const char *name, int code,
                    const char *reason)
{
    const struct service *service = service_of(request);
    cleanup_catalog struct catalog *catalog = catalog_service_get(service->catalog);
    struct place place;
    if (job_tree_resolve(service->administration, catalog, directory, &place) == 0) {
        cleanup_text struct text command = {0};
        text_printf(&command, "%s %s", verb, name);
        refusals_note(request, &place, command.failed ? verb : command.data, code, reason);
    }
    fuse_reply_err(request, code);
}

void refusals_for_ever(fuse_req_t request, fuse_ino_t directory, const char *verb, const char *name)
{
    bool read_only = service_of(request)->content.read_only;
    refusals_reply(request, directory, verb, name, read_only ? EROFS : EPERM,
                   read_only ? refusals_read_only()
                             : "only snapshots can be made, renamed and deleted, and only in snapshots/");
}

static void do_create(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *file)
{
    refusals_for_ever(request, parent, "create", name);
}

static void do_mknod(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode, dev_t device)
{
    refusals_for_ever(request, parent, "mknod", name);
}

static void do_symlink(fuse_req_t request, const char *target, fuse_ino_t parent, const char *name)
{
    refusals_for_ever(request, parent, "symlink", name);
}

static void do_link(fuse_req_t request, fuse_ino_t id, fuse_ino_t new_parent, const char *new_name)
{
    refusals_for_ever(request, new_parent, "link", new_name);
}

/* Opening a control file with O_TRUNC is accepted; nothing else can be set. */
static void do_setattr(fuse_req_t request, fuse_ino_t id, struct stat *attributes, int to_set,
                       struct fuse_file_info *file)
{
    const struct service *service = service_of(request);
    cleanup_catalog struct catalog *catalog = catalog_service_get(service->catalog);
    struct place place;
    int result = job_tree_resolve(service->administration, catalog, id, &place);
    const int times = FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME_NOW |
                      FUSE_SET_ATTR_MTIME_NOW | FUSE_SET_ATTR_CTIME;
    if (result == 0 && place.type == ENTRY_CONTROL && (to_set & ~times) == FUSE_SET_ATTR_SIZE &&
        attributes->st_size == 0) {
        struct stat now;
        double timeout = attributes_of(&service->attributes, &service->content, &place, &now);
        fuse_reply_attr(request, &now, timeout);
        return;
    }
    if (result == 0) {
        result = service->content.read_only || place.type == ENTRY_FROZEN ? -EROFS : -EPERM;
        refusals_note(request, &place, "changing attributes", -result,
                      "owners, modes and times are options of the mount");
    }
    fuse_reply_err(request, -result);
}

void refusals_add(struct fuse_lowlevel_ops *ops)
{
    ops->create = do_create;
    ops->mknod = do_mknod;
    ops->symlink = do_symlink;
    ops->link = do_link;
    ops->setattr = do_setattr;
}
