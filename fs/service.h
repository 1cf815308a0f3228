// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What the request handlers work with, made once by session.c. The handlers: requests.c (names, attributes,
 * listings), file_requests.c (open, read, seek, write), which hands some over to control_requests.c and
 * event_requests.c; snapshot_requests.c (mkdir, rename), removals.c (unlink, rmdir) and refusals.c (what
 * nobody may ever do).
 */
#pragma once

#include <stdatomic.h>

#include "administration/administration.h"
#include "attributes.h"
#include "catalog/catalog.h"
#include "content.h"
#include "control_files.h"
#include "events.h"
#include "fuse.h"
#include "generations.h"
#include "image/frozen_disk.h"
#include "invalidator.h"
#include "io/drop_behind.h"
#include "job_tree.h"
#include "last_error.h"
#include "open_disks.h"
#include "read_ahead.h"
#include "removal_guard.h"
#include "slow_lane.h"
#include "text_handles.h"

struct service {
    struct catalog_service *catalog;
    struct administration *administration;
    struct machines *machines;
    struct frozen_disk_env env;
    struct attribute_options attributes;
    struct content_source content;
    struct last_errors *last_errors;
    struct events *events;
    struct control_files *controls;
    struct removal_guard *guard;
    struct generations *generations;
    struct open_disks *disks;
    struct text_handles *texts;
    struct read_ahead *ahead;
    struct slow_lane *slow;
    struct invalidator *invalidator;
    struct drop_behind *drop_behind; /* for what the kernel reads by itself */
    int source_fd;                   /* of the source directory, for statfs */
    atomic_bool ending;              /* what takes long gives up */
};

/* The service of a request. */
static inline struct service *service_of(fuse_req_t request)
{
    return fuse_req_userdata(request);
}

static inline void service_drop_catalog_(struct catalog **catalog)
{
    catalog_put(*catalog);
}

/* For a variable that holds what catalog_service_get gave. */
#define cleanup_catalog cleanup(service_drop_catalog_)

/*
 * File handles are a kind and a number, and mean nothing to who does not know it. Frozen disks have 0: they
 * are found by their node id.
 */
enum handle_kind { HANDLE_NONE, HANDLE_TEXT, HANDLE_CONTROL, HANDLE_EVENTS };

#define HANDLE_KIND_SHIFT 60

static inline uint64_t service_handle(enum handle_kind kind, uint64_t number)
{
    return (uint64_t)kind << HANDLE_KIND_SHIFT | number;
}

static inline enum handle_kind service_handle_kind(uint64_t handle)
{
    return (enum handle_kind)(handle >> HANDLE_KIND_SHIFT);
}

static inline uint64_t service_handle_number(uint64_t handle)
{
    return handle & ((UINT64_C(1) << HANDLE_KIND_SHIFT) - 1);
}

/* Adds the handlers of one file to the table. */
void requests_add(struct fuse_lowlevel_ops *ops);
void file_requests_add(struct fuse_lowlevel_ops *ops);
void snapshot_requests_add(struct fuse_lowlevel_ops *ops);
void removals_add(struct fuse_lowlevel_ops *ops);
void refusals_add(struct fuse_lowlevel_ops *ops);

/* What a look-up of the place is answered with. */
struct fuse_entry_param requests_entry(const struct service *service, const struct place *place);

/* Remembers in last_error and events of the place's domain what whoever asks was refused before it came to
 * the administration (which tells of failures itself), and logs it. What a process is refused again and again
 * for the same reason, as rm -r is, is told once. */
void refusals_note(fuse_req_t request, const struct place *place, const char *command, int code,
                   const char *reason);

/* Notes that `verb` of `name` in the directory was refused, and replies. `code` is a positive errno. */
void refusals_reply(fuse_req_t request, fuse_ino_t directory, const char *verb, const char *name, int code,
                    const char *reason);

/* Refuses what nobody may ever do; with EROFS where nothing can be changed. */
void refusals_for_ever(fuse_req_t request, fuse_ino_t directory, const char *verb, const char *name);

/* Why nothing can be changed on this mount. Static. */
const char *refusals_read_only(void);

/* True for the directory snapshots/ of a domain, where administration happens. */
static inline bool service_is_snapshots(fuse_ino_t id)
{
    struct node node = node_of(id);
    return node.kind == NODE_DOMAIN && node.position == DOMAIN_SNAPSHOTS;
}
