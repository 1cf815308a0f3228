// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Everything that would change something. Administration is not in this version: what it will be is refused
 * with EOPNOTSUPP and a sentence in last_error, what nobody may ever do with EPERM, and everything with EROFS
 * where the mount or the source is read-only.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "domain/name.h"
#include "service.h"

static const char read_only_reason[] =
    "the mount is read-only: the source can't be written, or ro was asked for";
static const char not_yours_reason[] =
    "only snapshots can be made, renamed and deleted, and only in snapshots/";

void refusals_note(fuse_req_t request, const struct place *place, const char *command, int code,
                   const char *reason)
{
    const struct fuse_ctx *context = fuse_req_ctx(request);
    log_debug("refused %s of pid %d: %s", command, (int)context->pid, reason);
    if (place->domain)
        last_errors_add(service_of(request)->last_errors, place->domain->serial, context->pid, command, code,
                        reason);
}

int refusals_control(const struct service *service, const struct place *place, const char **reason)
{
    *reason = service->content.read_only ? read_only_reason : content_refusal();
    return service->content.read_only ? EROFS : EOPNOTSUPP;
}

/* Answers with the error and remembers why. `directory` is where the name is. */
static void refuse(fuse_req_t request, fuse_ino_t directory, const char *verb, const char *name, int code,
                   const char *reason)
{
    cleanup_catalog struct catalog *catalog = catalog_service_get(service_of(request)->catalog);
    struct place place;
    if (tree_resolve(catalog, directory, &place) == 0) {
        cleanup_text struct text command = {0};
        text_printf(&command, "%s %s", verb, name);
        refusals_note(request, &place, command.failed ? verb : command.data, code, reason);
    }
    fuse_reply_err(request, code);
}

/* True for the directory snapshots/ of a domain, where administration happens. */
static bool is_snapshots(fuse_ino_t id)
{
    struct node node = node_of(id);
    return node.kind == NODE_DOMAIN && node.position == DOMAIN_SNAPSHOTS;
}

/* True for the directory of a snapshot, and the directories in it. */
static bool is_in_snapshot(fuse_ino_t id)
{
    return node_of(id).kind == NODE_SNAPSHOT;
}

static void refuse_administration(fuse_req_t request, fuse_ino_t directory, const char *verb,
                                  const char *name)
{
    bool read_only = service_of(request)->content.read_only;
    refuse(request, directory, verb, name, read_only ? EROFS : EOPNOTSUPP,
           read_only ? read_only_reason : content_refusal());
}

static void refuse_for_ever(fuse_req_t request, fuse_ino_t directory, const char *verb, const char *name)
{
    bool read_only = service_of(request)->content.read_only;
    refuse(request, directory, verb, name, read_only ? EROFS : EPERM,
           read_only ? read_only_reason : not_yours_reason);
}

static void do_mkdir(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode)
{
    const char *reason;
    if (!is_snapshots(parent)) {
        refuse_for_ever(request, parent, "mkdir", name);
    } else if (!name_is_legal(name, strlen(name), &reason)) {
        cleanup_text struct text text = {0};
        text_printf(&text, "the name %s", reason);
        refuse(request, parent, "mkdir", name, strlen(name) > NAME_BYTES_MAX ? ENAMETOOLONG : EINVAL,
               text.failed ? reason : text.data);
    } else {
        refuse_administration(request, parent, "mkdir", name);
    }
}

static void do_rmdir(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    if (is_snapshots(parent))
        refuse_administration(request, parent, "rmdir", name);
    else
        refuse_for_ever(request, parent, "rmdir", name);
}

static void do_unlink(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    if (is_in_snapshot(parent))
        refuse_administration(request, parent, "unlink", name);
    else
        refuse_for_ever(request, parent, "unlink", name);
}

static void do_rename(fuse_req_t request, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                      const char *new_name, unsigned flags)
{
    if (is_snapshots(parent) && parent == new_parent)
        refuse_administration(request, parent, "rename", name);
    else
        refuse_for_ever(request, parent, "rename", name);
}

static void do_create(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *file)
{
    refuse_for_ever(request, parent, "create", name);
}

static void do_mknod(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode, dev_t device)
{
    refuse_for_ever(request, parent, "mknod", name);
}

static void do_symlink(fuse_req_t request, const char *target, fuse_ino_t parent, const char *name)
{
    refuse_for_ever(request, parent, "symlink", name);
}

static void do_link(fuse_req_t request, fuse_ino_t id, fuse_ino_t new_parent, const char *new_name)
{
    refuse_for_ever(request, new_parent, "link", new_name);
}

/* Opening a control file with O_TRUNC is accepted; nothing else can be set. */
static void do_setattr(fuse_req_t request, fuse_ino_t id, struct stat *attributes, int to_set,
                       struct fuse_file_info *file)
{
    const struct service *service = service_of(request);
    cleanup_catalog struct catalog *catalog = catalog_service_get(service->catalog);
    struct place place;
    int result = tree_resolve(catalog, id, &place);
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
    ops->mkdir = do_mkdir;
    ops->rmdir = do_rmdir;
    ops->unlink = do_unlink;
    ops->rename = do_rename;
    ops->create = do_create;
    ops->mknod = do_mknod;
    ops->symlink = do_symlink;
    ops->link = do_link;
    ops->setattr = do_setattr;
}
