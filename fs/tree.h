// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The shape of the tree: which entries a directory has, what a node id stands for. It knows a catalog and
 * nothing of FUSE, opens no image, and takes no lock: everything is computed from the catalog that the caller
 * holds. What jobs/ holds is not in a catalog: job_tree.h puts both together.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/text.h"
#include "catalog/catalog.h"
#include "node.h"

enum entry_type {
    ENTRY_DIRECTORY,
    ENTRY_FILE,    /* a small text that changes only when the catalog does */
    ENTRY_DYNAMIC, /* a small text that is different each time */
    ENTRY_CONTROL, /* a small text that tells the usage; writing to it is a command */
    ENTRY_LINK,
    ENTRY_FROZEN, /* a frozen disk, or saved memory */
};

/* Fixed entries of directories, by position. Position 0 is the directory itself. */
enum service_entry { SERVICE_DIRECTORY, SERVICE_HELP, SERVICE_LOG, SERVICE_STATS, SERVICE_VERSION };

enum domain_entry {
    DOMAIN_DIRECTORY,
    DOMAIN_CREATE,
    DOMAIN_DEFAULTS,
    DOMAIN_DOMAIN_JSON,
    DOMAIN_LAST_ERROR,
    DOMAIN_POWER,
    DOMAIN_STATE,
    DOMAIN_TREE_TXT,
    DOMAIN_CURRENT,
    DOMAIN_LATEST,
    DOMAIN_DISKS,
    DOMAIN_SNAPSHOTS,
    DOMAIN_TREE,
    DOMAIN_ORDER, /* snapshots/.order */
    DOMAIN_EVENTS,
    DOMAIN_JOBS,
    DOMAIN_ENTRY_COUNT,
};

enum disk_entry {
    DISK_FORMAT,
    DISK_LAYERS,
    DISK_PERSISTENT,
    DISK_SIZE,
    DISK_SNAPSHOT,
    DISK_SOURCE,
    DISK_ABORT,
    DISK_COPY,
    DISK_PIVOT,
    DISK_ENTRY_COUNT,
};

enum snapshot_entry {
    SNAPSHOT_DIRECTORY,
    SNAPSHOT_CLONE,
    SNAPSHOT_CONSISTENCY,
    SNAPSHOT_CREATED,
    SNAPSHOT_DELETE,
    SNAPSHOT_DESCRIPTION,
    SNAPSHOT_MISSING,
    SNAPSHOT_PROTECTED,
    SNAPSHOT_REVERT,
    SNAPSHOT_JSON,
    SNAPSHOT_STATE,
    SNAPSHOT_UNIQUE_BYTES,
    SNAPSHOT_PARENT,
    SNAPSHOT_CHILDREN,
    SNAPSHOT_DISKS,
    SNAPSHOT_MEMORY,
    SNAPSHOT_XML,
    SNAPSHOT_ENTRY_COUNT,
};

enum job_entry { JOB_DIRECTORY, JOB_ENTRY_CANCEL, JOB_ENTRY_PROGRESS, JOB_ENTRY_STATUS, JOB_ENTRY_WHAT };

/* What a node id stands for in a catalog. Pointers are the catalog's. */
struct place {
    uint64_t id;
    struct node node;
    enum entry_type type;
    struct domain *domain;     /* NULL for the root and the service's entries */
    struct snapshot *snapshot; /* NULL where no snapshot is meant */
    struct disk *disk;         /* disks/TARGET and below, and frozen disks */
    struct frozen *frozen;     /* of ENTRY_FROZEN */
};

/* -ESTALE if the id stands for nothing (any more). */
int tree_resolve(const struct catalog *catalog, uint64_t id, struct place *place);

/* The entry `name` of the directory `parent`; -ENOENT, -ENOTDIR. */
int tree_lookup(const struct catalog *catalog, const struct place *parent, const char *name,
                struct place *child);

/* Called for each entry; `next` is the cookie that goes on after it. Anything but 0 ends the listing. */
typedef int (*tree_visitor)(void *opaque, const char *name, const struct place *entry, uint64_t next);

/*
 * Lists the directory from `cookie` on (0: from its beginning), without `.` and `..`: plain files and links
 * before directories, the rest by serial number, so that a listing goes on at the right place whatever came
 * or went meanwhile. -ENOTDIR; what the visitor returned is not passed on.
 */
int tree_list(const struct catalog *catalog, const struct place *directory, uint64_t cookie,
              tree_visitor visitor, void *opaque);

/* The node id of the directory that holds the entry (of `snapshots/` for a snapshot's directory); the root's
 * own. */
uint64_t tree_parent(const struct place *place);

/* Appends the path of a control file, from its domain's directory on: "power", "snapshots/clean/revert". */
void tree_control_path(const struct place *place, struct text *text);

/* Appends where a link leads. */
void tree_link_target(const struct place *place, struct text *text);

/* True where the name of the entry `current` is a link that exists, and so on for those that come and go. */
bool tree_domain_entry_exists(const struct domain *domain, unsigned entry);
