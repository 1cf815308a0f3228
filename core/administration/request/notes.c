// SPDX-License-Identifier: LGPL-2.1-or-later
/* What changes only what the store knows: names, protection, descriptions, defaults. One state file is
 * replaced, so there is nothing to undo. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "administration/change.h"
#include "base/cleanup.h"
#include "operation/command_text.h"
#include "operation/tree_change.h"

static int set_string(char **string, const char *value, struct error *err)
{
    char *copy = value && *value ? strdup(value) : NULL;
    if (!copy && value && *value)
        return error_set(err, ENOMEM, "out of memory");
    free(*string);
    *string = copy;
    return 0;
}

static int describe(struct change *change, uint64_t serial, const char *description, struct error *err)
{
    struct state_snapshot *snapshot = state_find_snapshot(change->state, serial);
    if (!snapshot)
        return error_set(err, ENOENT, "the snapshot is not there any more");
    return set_string(&snapshot->description, description, err);
}

static int set_defaults(struct change *change, const char *text, struct error *err)
{
    struct create_command command = {0};
    int r = command_parse_defaults(text, strlen(text), &command, err);
    if (r < 0)
        return r;
    create_command_done(&command);
    return set_string(&change->state->defaults, text, err);
}

static int note(struct change *change, const struct request *request, struct error *err)
{
    switch (request->kind) {
    case REQUEST_RENAME:
        return tree_rename(change->tree, request->snapshot, request->name, err);
    case REQUEST_PROTECT:
        return tree_protect(change->tree, request->snapshot, request->is_protected, err);
    case REQUEST_DESCRIBE:
        return describe(change, request->snapshot, request->description, err);
    case REQUEST_DEFAULTS:
        return set_defaults(change, request->defaults, err);
    default:
        return error_set(err, EINVAL, "no such request");
    }
}

int carry_out_note(struct administration *administration, struct work *work, struct outcome *outcome,
                   struct error *err)
{
    cleanup(change_end) struct change change = {0};
    const struct request *request = work->request;
    const struct snapshot *snapshot = NULL;
    int r = change_begin(administration, work, request->domain, &change, err);
    if (r == 0 && request->kind != REQUEST_DEFAULTS)
        r = change_find(&change, request->snapshot, &snapshot, err);
    if (r == 0)
        r = note(&change, request, err);
    if (r == 0)
        r = change_follow_tree(&change, err);
    if (r == 0)
        r = change_commit(&change, err);
    if (r < 0)
        return r;
    if (request->kind == REQUEST_RENAME)
        administration_event(administration, request->domain, "renamed snapshot %s to %s", snapshot->name,
                             request->name);
    else if (request->kind == REQUEST_PROTECT)
        administration_event(administration, request->domain, "%s snapshot %s",
                             request->is_protected ? "protected" : "unprotected", snapshot->name);
    else if (request->kind == REQUEST_DESCRIBE)
        administration_event(administration, request->domain, "described snapshot %s", snapshot->name);
    else
        administration_event(administration, request->domain, "changed the defaults");
    return 0;
}
