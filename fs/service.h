// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What the request handlers work with, made once by session.c. The handlers come in three files: requests.c
 * (names, attributes, listings), file_requests.c (open, read, seek) and refusals.c (everything that would
 * change something).
 */
#pragma once

#include <stdatomic.h>

#include "attributes.h"
#include "catalog/catalog.h"
#include "content.h"
#include "fuse.h"
#include "image/frozen_disk.h"
#include "invalidator.h"
#include "io/drop_behind.h"
#include "last_error.h"
#include "open_disks.h"
#include "read_ahead.h"
#include "slow_lane.h"
#include "text_handles.h"

struct service {
    struct catalog_service *catalog;
    struct frozen_disk_env env;
    struct attribute_options attributes;
    struct content_source content;
    struct last_errors *last_errors;
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

/* Adds the handlers of one file to the table. */
void requests_add(struct fuse_lowlevel_ops *ops);
void file_requests_add(struct fuse_lowlevel_ops *ops);
void refusals_add(struct fuse_lowlevel_ops *ops);

/* Remembers a refusal in last_error of the place's domain (none: only in the log at debug level). */
void refusals_note(fuse_req_t request, const struct place *place, const char *command, int code,
                   const char *reason);

/* What a write to a control file is answered with; errno > 0, and why. */
int refusals_control(const struct service *service, const struct place *place, const char **reason);
