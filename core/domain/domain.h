// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What a domain, a disk, a layer and a snapshot are.
 *
 * Pure data: no I/O, no clock. A domain is built once (catalog/), published, and never changed again, except
 * for the few atomic fields that say so; readers hold a reference and take no lock. Everything inside a
 * domain is owned by it.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/file_identity.h"
#include "base/image_format.h"

/* Disks of one domain, over its whole life: a disk's position is part of node ids (fs/node.h) and never used
 * twice. */
#define DOMAIN_DISKS_MAX 1024

/* struct frozen.allocated while nobody has counted yet. */
#define ALLOCATED_UNKNOWN UINT64_MAX

/* One image of a disk's chain: a file, or a disk on the network. */
struct layer {
    char *path;  /* absolute; the name on the network, as it was written, where `remote` */
    bool remote; /* there is no file: nothing to stat, open, watch or lock, and `path` leads nowhere here */
    enum image_format format;
    struct file_identity
        identity; /* of a frozen layer: as it was when frozen; of the active one: as last seen.
                     Remote: zeros, but for a frozen one its size and the time of freezing */
    struct file_identity data_identity; /* of a frozen layer's external data file; zeros if it has none */
    struct layer *backing;              /* NULL at the bottom; borrowed, owned by the domain */
    uint64_t size; /* virtual, bytes; of a remote one 0 while nobody has connected to it */
    bool active;   /* the domain writes here */
    bool changed;  /* frozen, and yet someone wrote to it: reads give EIO */
    bool made;     /* by vmsnapfs */
    bool original; /* what the domain wrote to when it was first administered, and may be written to still */
    unsigned original_disk; /* the position of that disk; DOMAIN_DISKS_MAX: it was moved elsewhere for good */
    bool touched; /* frozen, and vmsnapfs writes to it, or did when it was killed: `identity` says nothing */
};

/* What finds an internal snapshot again in a qcow2 file's snapshot table (QEMU docs/interop/qcow2.txt,
 * "Snapshots"). The entry is the same one only if all of these are. */
struct internal_snapshot {
    char *id;   /* unique within the file */
    char *name; /* the tag, as it lies in the file */
    uint64_t l1_table_offset;
    uint32_t l1_size; /* entries */
    uint32_t date_sec;
    uint32_t date_nsec;
    uint64_t vm_clock_nsec;
    uint64_t vm_state_size; /* bytes; 0 where no memory was saved */
    uint64_t disk_size;     /* virtual, bytes */
};

enum snapshot_preset { PRESET_DEFAULT, PRESET_NO, PRESET_INTERNAL, PRESET_EXTERNAL };

struct disk {
    unsigned position;        /* < DOMAIN_DISKS_MAX */
    char *target;             /* "vda" */
    char *source;             /* absolute path that the definition names */
    enum image_format format; /* of `source` */
    struct layer *active;     /* top of the chain; NULL where it could not be read, see domain.problem */
    enum snapshot_preset snapshot;
    bool persistent;
    bool is_of_another;        /* `source` is a layer of another disk: nobody may write to it */
    char *mirror;              /* absolute path of the copy that its QEMU keeps in step; NULL: none */
    uint64_t mirror_operation; /* what its job there is called after */
    bool mirror_is_unsettled;  /* something was begun with it that has to be brought to its end */
};

/* A disk's content at a snapshot: a layer as it is, or an internal snapshot in it. */
struct frozen {
    const struct disk *disk; /* NULL where `is_memory` */
    const struct layer *layer;
    struct internal_snapshot *internal; /* NULL: the whole frozen layer; owned */
    uint64_t size;                      /* virtual, bytes */
    bool is_memory; /* no disk: saved memory, which ends where its file does, and not with a sector */
    _Atomic uint64_t allocated; /* guest bytes that hold data, or ALLOCATED_UNKNOWN; may be set once, later */
};

enum snapshot_state {
    SNAPSHOT_STATE_UNKNOWN,
    SNAPSHOT_STATE_RUNNING,
    SNAPSHOT_STATE_PAUSED,
    SNAPSHOT_STATE_SHUTOFF
};

enum consistency { CONSISTENCY_CRASH, CONSISTENCY_CLEAN, CONSISTENCY_QUIESCED, CONSISTENCY_CHECKPOINT };

enum memory_compression { COMPRESS_NONE, COMPRESS_GZIP, COMPRESS_ZSTD };

/* Memory that was saved to a file: a QEMU migration stream, maybe compressed. */
struct saved_memory {
    enum memory_compression compression;
    struct layer layer;   /* the file, as raw bytes; `identity` is as it was saved */
    struct frozen frozen; /* the same for whoever reads frozen disks; its `disk` is NULL */
};

struct snapshot {
    uint64_t serial;
    char *name;
    struct timespec created;
    struct snapshot *parent;    /* NULL for a root; borrowed */
    struct snapshot **children; /* by serial; borrowed members, owned array */
    size_t child_count;
    struct frozen *frozen; /* one for each disk that it includes, by the disk's order in the domain */
    size_t frozen_count;
    enum snapshot_state state;
    enum consistency consistency;
    size_t lost_disks;           /* that it includes, and the domain has no more */
    uint64_t memory_size;        /* bytes of memory saved inside an image; 0: none */
    struct saved_memory *memory; /* saved to a file; owned; NULL: none */
    char **launch; /* the definition's when memory was saved: what the machine was; NULL-terminated; NULL: not
                      known */
    bool is_protected;
    char *description; /* never NULL */
};

/* An internal snapshot that belonged to a deleted snapshot and is to be taken out of its image. */
struct released {
    const struct disk *disk;
    const struct layer *layer;
    struct internal_snapshot *internal; /* owned */
};

struct domain {
    _Atomic unsigned references;
    uint64_t serial;
    char *name;
    char *uuid;       /* NULL where the definition gives none */
    char *definition; /* absolute path of NAME.json; NULL for an implicit domain */
    char *problem;    /* why part of it can't be shown, for people; NULL if all is well */
    struct disk *disks;
    size_t disk_count;
    struct layer **layers; /* of all its disks; owned */
    size_t layer_count;
    char **named_files;          /* files that a trusted definition names: may be opened wherever they lie;
                                    NULL-terminated */
    struct snapshot **snapshots; /* oldest first; equal times by serial */
    size_t snapshot_count;
    struct snapshot **by_name; /* the same, sorted with strcmp */
    struct snapshot *
        *by_serial; /* the same, sorted by serial: listings go on after a serial, whatever went meanwhile */
    struct snapshot *current; /* NULL: unknown or none */
    struct snapshot *latest;  /* NULL while there is none */
    uint64_t
        guard; /* serial of a snapshot that goes again, unless the revert that it was taken for happens */

    /* How it is run; NULL where its definition, a trusted one, does not say. */
    char *qmp, *agent; /* sockets: the monitor of its QEMU, the guest agent */
    char **launch;     /* what starts it, as an argument vector; NULL-terminated */

    bool may_switch_files; /* whoever starts it learns which file is active (launch, follows) */
    bool is_administered;  /* see state_domain */
    bool is_incomplete;    /* something of it can't be seen now: nothing may be changed */
    bool is_guessed;       /* the store is damaged, maybe where it told which images are active */
    struct released *released;
    size_t released_count;
    struct saved_memory **unneeded; /* that no snapshot has any more: the files are to be removed; owned */
    size_t unneeded_count;
    char *defaults; /* what a bare mkdir does; NULL: as shipped */
};

/* An empty domain with one reference; NULL where memory ran out. */
struct domain *domain_new(void);
struct domain *domain_ref(struct domain *domain);
void domain_unref(struct domain *domain);

/*
 * Brings a domain whose snapshots[] is filled (in any order) into its final form: sorts by age, fills
 * by_name, latest and every snapshot's children. -ENOMEM, or -EEXIST if two snapshots have the same name.
 */
int domain_seal(struct domain *domain);

/* NULL if there is none. */
/* Does vmsnapfs write to any of its frozen layers, or did when it was killed? */
bool domain_has_touched(const struct domain *domain);

struct snapshot *domain_find_snapshot(const struct domain *domain, const char *name);
struct disk *domain_find_disk(const struct domain *domain, const char *target);
struct frozen *snapshot_find_frozen(const struct snapshot *snapshot, const struct disk *disk);

/* Memory saved in the file `path` (absolute), with no other fields set; NULL where memory ran out. */
struct saved_memory *saved_memory_new(const char *path, enum memory_compression compression,
                                      const struct file_identity *identity);
void saved_memory_free(struct saved_memory *memory);

/* Was memory saved, in a file or inside an image? */
static inline bool snapshot_has_memory(const struct snapshot *snapshot)
{
    return snapshot->memory || snapshot->memory_size;
}

/* Does a helper program have to read some layer of it? Then opening and reading it can take long. */
bool frozen_needs_helper(const struct frozen *frozen);

/* NULL where memory ran out. The caller frees. */
struct internal_snapshot *internal_snapshot_copy(const struct internal_snapshot *from);
void internal_snapshot_free(struct internal_snapshot *internal);
bool internal_snapshot_equal(const struct internal_snapshot *a, const struct internal_snapshot *b);

/* The words that the tree shows. Static. */
const char *snapshot_state_name(enum snapshot_state state);
const char *consistency_name(enum consistency consistency);
const char *snapshot_preset_name(enum snapshot_preset preset);
const char *memory_compression_name(enum memory_compression compression);
