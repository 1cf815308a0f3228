// SPDX-License-Identifier: LGPL-2.1-or-later
/* mkdir and rename in snapshots/: taking and renaming snapshots. rmdir is in removals.c. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "administer.h"
#include "domain/name.h"
#include "operation/command.h"
#include "service.h"

/* Replies to a mkdir with the new directory, which is in the catalog by now. */
static void reply_made(fuse_req_t request, const struct administered *result)
{
    const struct service *service = result->service;
    if (result->code != 0) {
        fuse_reply_err(request, result->code);
        return;
    }
    cleanup_catalog struct catalog *catalog = catalog_service_get(service->catalog);
    struct place place;
    if (tree_resolve(catalog, node_id(NODE_SNAPSHOT, result->serial, SNAPSHOT_DIRECTORY), &place) != 0) {
        fuse_reply_err(request, ENOENT); /* it was deleted again meanwhile */
        return;
    }
    struct fuse_entry_param entry = requests_entry(service, &place);
    fuse_reply_entry(request, &entry);
}

static void reply_code(fuse_req_t request, const struct administered *result)
{
    fuse_reply_err(request, result->code);
}

/* True if the name can be a snapshot's; else the request was answered. */
static bool check_name(fuse_req_t request, fuse_ino_t directory, const char *verb, const char *name)
{
    struct error err = {0};
    int result = snapshot_name_check(name, strlen(name), &err);
    if (result != 0)
        refusals_reply(request, directory, verb, name, -result, err.text);
    return result == 0;
}

static void do_mkdir(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode)
{
    if (!service_is_snapshots(parent) || service_of(request)->content.read_only) {
        refusals_for_ever(request, parent, "mkdir", name);
        return;
    }
    if (!check_name(request, parent, "mkdir", name))
        return;
    struct request asked = {
        .kind = REQUEST_CREATE,
        .domain = node_of(parent).serial,
        .create.name = strdup(name),
        .use_defaults = true,
    };
    if (!asked.create.name) {
        fuse_reply_err(request, ENOMEM);
        return;
    }
    char words[sizeof "mkdir snapshots/" + NAME_BYTES_MAX];
    snprintf(words, sizeof words, "mkdir snapshots/%s", name);
    administer(request, &asked, words,
               &(const struct administer_reply){.send = reply_made, .directory = parent});
}

static const char *rename_refusal(const struct service *service, const struct catalog *catalog,
                                  fuse_ino_t parent, fuse_ino_t new_parent, const char *new_name,
                                  unsigned flags, struct text *text, int *code)
{
    struct place directory, target;
    *code = EPERM;
    if (service->content.read_only) {
        *code = EROFS;
        return refusals_read_only();
    }
    if (!service_is_snapshots(parent) || new_parent != parent)
        return "only snapshots can be renamed, and they stay in snapshots/";
    if (flags & ~(unsigned)RENAME_NOREPLACE)
        return "two snapshots can't change their names at once";
    if (tree_resolve(catalog, parent, &directory) == 0 &&
        tree_lookup(catalog, &directory, new_name, &target) == 0) {
        if (flags & RENAME_NOREPLACE)
            *code = EEXIST;
        text_printf(
            text,
            "there is a snapshot %s already, which would be lost; delete it first, or choose another name",
            new_name);
        return text->failed ? "there is a snapshot of that name already" : text->data;
    }
    return NULL;
}

static void do_rename(fuse_req_t request, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                      const char *new_name, unsigned flags)
{
    struct service *service = service_of(request);
    cleanup_catalog struct catalog *catalog = catalog_service_get(service->catalog);
    int code;
    cleanup_text struct text text = {0};
    const char *reason = rename_refusal(service, catalog, parent, new_parent, new_name, flags, &text, &code);
    if (reason) {
        refusals_reply(request, parent, "rename", name, code, reason);
        return;
    }
    if (!check_name(request, parent, "rename to", new_name))
        return;
    struct place directory, place;
    int result = tree_resolve(catalog, parent, &directory);
    if (result == 0)
        result = tree_lookup(catalog, &directory, name, &place);
    if (result == 0 && !place.snapshot) {
        refusals_for_ever(request, parent, "rename", name);
        return;
    }
    struct request asked = {
        .kind = REQUEST_RENAME,
        .domain = node_of(parent).serial,
        .snapshot = result == 0 ? place.snapshot->serial : 0,
        .name = result == 0 ? strdup(new_name) : NULL,
    };
    if (result == 0 && !asked.name)
        result = -ENOMEM;
    if (result != 0) {
        fuse_reply_err(request, -result);
        return;
    }
    cleanup_text struct text words = {0};
    text_printf(&words, "mv snapshots/%s snapshots/%s", name, new_name);
    administer(request, &asked, words.failed ? "mv" : words.data,
               &(const struct administer_reply){.send = reply_code, .directory = parent});
}

void snapshot_requests_add(struct fuse_lowlevel_ops *ops)
{
    ops->mkdir = do_mkdir;
    ops->rename = do_rename;
}
