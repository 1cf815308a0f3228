// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * unlink and rmdir. Only rmdir of a snapshot's directory deletes anything. What is in that directory can be
 * "removed" before it, as rm -r does: that succeeds, and does nothing; if the snapshot is protected or open,
 * that already says so. What the kernel forgot comes back with the next look-up.
 *
 * Whoever is refused to unlink what lies elsewhere is after more than a snapshot (removal_guard.h).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "administer.h"
#include "service.h"

/* What is closed is told to us a moment later: who closes a disk and removes its snapshot at once is right.
 */
#define CLOSING_NS    (50L * 1000 * 1000)
#define CLOSING_LOOKS 5

struct removal {
    fuse_req_t request;
    fuse_ino_t parent;
    char *name;
    bool of_directory;
    unsigned looks; /* again at whether it is open */
};

static void removal_free(struct removal *removal)
{
    free(removal->name);
    free(removal);
}

static time_t monotonic_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

static void reply_code(fuse_req_t request, const struct administered *result)
{
    fuse_reply_err(request, result->code);
}

static void delete_snapshot(fuse_req_t request, fuse_ino_t directory, const struct place *place)
{
    const struct request asked = {
        .kind = REQUEST_DELETE,
        .domain = place->domain->serial,
        .snapshot = place->snapshot->serial,
        .delete_kind = DELETE_ONE,
    };
    cleanup_text struct text words = {0};
    text_printf(&words, "rmdir snapshots/%s", place->snapshot->name);
    administer(request, &asked, words.failed ? "rmdir" : words.data,
               &(const struct administer_reply){.send = reply_code, .directory = directory});
}

static void look_again(void *opaque);

/* The snapshot that the place is, or lies in (a link in children/ leads to another one), is there and nothing
 * speaks against it but, perhaps, that it is protected or open. */
static void remove_from_snapshot(struct removal *removal, const struct snapshot *snapshot,
                                 const struct place *place)
{
    struct service *service = service_of(removal->request);
    const char *verb = removal->of_directory ? "rmdir" : "unlink";
    bool is_open = open_disks_has_snapshot(service->disks, snapshot->serial);
    if (snapshot->is_protected) {
        cleanup_text struct text reason = {0};
        text_printf(&reason, "snapshot %s is protected; write 0 to snapshots/%s/protected first",
                    snapshot->name, snapshot->name);
        refusals_reply(removal->request, removal->parent, verb, removal->name, EPERM,
                       reason.failed ? "the snapshot is protected" : reason.data);
    } else if (is_open && removal->looks < CLOSING_LOOKS &&
               slow_lane_submit(service->slow, look_again, removal) == 0) {
        return; /* it is the lane's now */
    } else if (is_open) {
        cleanup_text struct text reason = {0};
        text_printf(&reason, "a disk of snapshot %s is open; fuser -v tells who reads it", snapshot->name);
        refusals_reply(removal->request, removal->parent, verb, removal->name, EBUSY,
                       reason.failed ? "a disk of the snapshot is open" : reason.data);
    } else if (place->node.kind == NODE_SNAPSHOT && place->node.position == SNAPSHOT_DIRECTORY) {
        delete_snapshot(removal->request, removal->parent, place);
    } else {
        if (removal->of_directory)
            generations_next(service->generations, place->id);
        fuse_reply_err(removal->request, 0);
    }
    removal_free(removal);
}

/* Is it something of a snapshot's directory, or that directory itself? */
static bool may_be_removed(const struct place *directory, const struct place *place, bool of_directory)
{
    if (service_is_snapshots(directory->id))
        return of_directory && place->snapshot;
    return directory->node.kind == NODE_SNAPSHOT;
}

static void go_on(struct removal *removal)
{
    struct service *service = service_of(removal->request);
    cleanup_catalog struct catalog *catalog = catalog_service_get(service->catalog);
    const char *verb = removal->of_directory ? "rmdir" : "unlink";
    struct place directory, place;
    int result = job_tree_resolve(service->administration, catalog, removal->parent, &directory);
    if (result == 0)
        result = job_tree_lookup(service->administration, catalog, &directory, removal->name, &place);
    if (result == 0 && (place.type == ENTRY_DIRECTORY) != removal->of_directory)
        result = removal->of_directory ? -ENOTDIR : -EISDIR;
    if (result != 0) {
        fuse_reply_err(removal->request, result == -ESTALE ? ENOENT : -result);
        removal_free(removal);
        return;
    }
    uint64_t domain = directory.domain ? directory.domain->serial : 0;
    pid_t process = removal_guard_process(fuse_req_ctx(removal->request)->pid);
    bool may = may_be_removed(&directory, &place, removal->of_directory);
    if (!may && !removal->of_directory)
        removal_guard_note(service->guard, domain, process, monotonic_now());
    if (!may || service->content.read_only) {
        refusals_for_ever(removal->request, removal->parent, verb, removal->name);
    } else if (removal_guard_refuses(service->guard, domain, process, monotonic_now())) {
        refusals_reply(
            removal->request, removal->parent, verb, removal->name, EPERM,
            "this process tried to remove what can't be removed, so it is refused everything in "
            "this domain for a minute; remove a snapshot with rmdir or rm -r of its own directory");
    } else {
        bool lies_in_one = directory.node.kind == NODE_SNAPSHOT;
        remove_from_snapshot(removal, lies_in_one ? directory.snapshot : place.snapshot, &place);
        return;
    }
    removal_free(removal);
}

static void look_again(void *opaque)
{
    struct removal *removal = opaque;
    nanosleep(&(const struct timespec){.tv_nsec = CLOSING_NS}, NULL);
    removal->looks++;
    go_on(removal);
}

static void begin(fuse_req_t request, fuse_ino_t parent, const char *name, bool of_directory)
{
    struct removal *removal = calloc(1, sizeof *removal);
    char *copy = strdup(name);
    if (!removal || !copy) {
        free(removal);
        free(copy);
        fuse_reply_err(request, ENOMEM);
        return;
    }
    *removal =
        (struct removal){.request = request, .parent = parent, .name = copy, .of_directory = of_directory};
    go_on(removal);
}

static void do_unlink(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    begin(request, parent, name, false);
}

static void do_rmdir(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    begin(request, parent, name, true);
}

void removals_add(struct fuse_lowlevel_ops *ops)
{
    ops->unlink = do_unlink;
    ops->rmdir = do_rmdir;
}
