// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What must survive: SOURCE/.vmsnapfs/, with a version, a lock, a counter of serial numbers, and one state
 * file for each domain, so that a change in one domain writes one small file, however many there are.
 *
 *     .vmsnapfs/version            "1\n"; a newer one is only read
 *     .vmsnapfs/lock               locked by the writable mount; holds "HOST PID\n"
 *     .vmsnapfs/serials            the next serial number that was not reserved yet; reserved in blocks
 *     .vmsnapfs/reserve            room for writing state files on a full disk; see reserve.h
 *     .vmsnapfs/domains/N.json     the state of the domain with serial N
 *     .vmsnapfs/domains/N.restart  what it is to go on with, in or after an operation; see restart.h
 *     .vmsnapfs/domains/N.thaw     its guest is to thaw its file systems; see thaw_owed.h
 *     .vmsnapfs/journal/N.json     the operation that runs on it; see journal.h
 *
 * Files are replaced whole: a temporary file, fsync, rename, fsync of the directory. Where the source is
 * read-only there is no store: nothing is written, and serial numbers are hashes of names
 * (store_serial_hashed).
 *
 * The store, and the directory that it lies in, must belong to root or the mounting user, and nobody else may
 * write to them; else it is not used (EPERM; where read-only, it is as if it were not there).
 *
 * One thread at a time may call, but for what is said.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "domain/domain.h"

/* Serials use 48 bits. Those from the counter are below SERIAL_HASHED; hashed ones have that bit set. */
#define SERIAL_BITS   48
#define SERIAL_HASHED (UINT64_C(1) << 47)

struct store;

/* What the store knows of one frozen disk of a snapshot. */
struct state_frozen {
    char *target;
    unsigned position; /* of the disk */
    char *layer;       /* path of the layer, relative to the source where it lies in it */
    bool internal;
    char *internal_id;        /* NULL where not internal */
    uint64_t l1_table_offset; /* of the internal snapshot */
    uint32_t date_sec, date_nsec;
    uint64_t allocated;                  /* ALLOCATED_UNKNOWN while not counted */
    struct file_identity layer_identity; /* as it was when it was frozen (external only) */
    struct file_identity data_identity;  /* of its external data file, likewise; zeros if it has none */
    struct file_identity
        overlay_identity; /* of the overlay that made it frozen, as first seen: only device and inode count */
    bool is_settled;      /* the overlay is surely in use: from now on a write to the layer is none of the
                             domain's (external only) */
};

/* Memory that was saved to a file. */
struct state_memory {
    char *path; /* as in state_frozen; NULL: none */
    enum memory_compression compression;
    struct file_identity identity; /* as it was saved */
};

struct state_snapshot {
    uint64_t serial;
    char *name;
    struct state_frozen *frozen;
    size_t frozen_count;

    /* Of an administered domain; of others the images tell all that is known. */
    uint64_t parent; /* serial; 0: a root */
    int64_t created_sec;
    uint32_t created_nsec;
    enum snapshot_state state;
    enum consistency consistency;
    bool is_protected;
    char *description; /* NULL: none */
    struct state_memory memory;
    char **launch; /* the definition's when memory was saved; NULL-terminated; NULL: not known */
};

struct state_disk {
    unsigned position;
    char *target;
    char *
        active; /* path of the layer that the domain writes to, as in state_frozen; NULL: as the files show */
    char *original; /* path of the file that was active when the domain was first administered; NULL where
                       that may not be written */
};

/* How far a copy is that a running QEMU keeps in step with a disk. */
enum mirror_phase {
    MIRROR_COPIES,  /* its job runs, or is about to be started */
    MIRROR_PIVOTS,  /* the QEMU was, or is being, told to go on in the copy */
    MIRROR_PIVOTED, /* it does, and the state says so; only the guest is still to be resumed */
    MIRROR_ENDS,    /* the QEMU was, or is being, told to let go of it, in step: then it stays */
};

/* Such a copy. Saved before anything of it is there, so that whoever comes after a crash finds it. */
struct state_mirror {
    unsigned position; /* of the disk */
    char *path;        /* of the copy, as in state_frozen */
    enum image_format format;
    uint64_t operation; /* its job and its nodes in the QEMU are called after this */
    uint64_t device, inode;
    enum mirror_phase phase;
    bool is_made;    /* by vmsnapfs: what is dropped is unlinked */
    bool is_shallow; /* it lies on what the disk's active layer lies on */
    bool resumes;    /* the guest was stopped for a moment, and is to run on */
};

struct state_domain {
    uint64_t serial;
    char *name;
    char *uuid;               /* may be NULL */
    char **files;             /* sources of its disks when last seen, relative where they lie in the source;
                                 NULL-terminated */
    struct state_disk *disks; /* all that ever were */
    size_t disk_count;
    struct state_snapshot *snapshots;
    size_t snapshot_count;

    /*
     * A domain is administered from the first change that was asked for until nothing is left of it. Paths
     * are as in state_frozen.
     */
    bool is_administered;
    uint64_t current;            /* serial; 0: none */
    uint64_t operation;          /* serial of the last journaled operation whose result this is */
    uint64_t guard;              /* serial of the snapshot that a revert has begun with, which is to go again
                                    unless the revert happens; 0: none */
    struct state_frozen *hidden; /* contents that were those of deleted snapshots: layers that something
                                    stands on, and internal snapshots that are to be dropped */
    size_t hidden_count;
    char **made;    /* files that vmsnapfs made; NULL-terminated; may be NULL */
    char **reused;  /* overlays of the user's that were used as they are; likewise */
    char **touched; /* frozen layers that vmsnapfs is writing to: they need not be as they were frozen;
                       likewise */
    struct state_memory *unneeded; /* memory that no snapshot has any more: the files are to be removed */
    size_t unneeded_count;
    char *defaults; /* what a bare mkdir does, as a person wrote it; NULL: as shipped */
    char **raw;     /* those of `made` and `reused` that are raw, and not qcow2; likewise */
    char **left;    /* files that disks began with, and were moved away from: internal snapshots may still be
                       taken    out of them; likewise */
    struct state_mirror *mirrors; /* at most one for each disk */
    size_t mirror_count;
};

void state_domain_free(struct state_domain *state);
void state_snapshot_done(struct state_snapshot *snapshot);
void state_frozen_done(struct state_frozen *frozen);

/* Copies, all the caller's. -ENOMEM. */
int state_domain_copy(const struct state_domain *from, struct state_domain **copy);
int state_snapshot_copy(const struct state_snapshot *from, struct state_snapshot *copy);
int state_frozen_copy(const struct state_frozen *from, struct state_frozen *copy);

/* Adds it to what is `unneeded`, if it is not there; the memory is copied. -ENOMEM. */
int state_add_unneeded(struct state_domain *state, const struct state_memory *memory);

/* Takes the one at `index` out of what is `unneeded`. */
void state_remove_unneeded(struct state_domain *state, size_t index);

/* NULL if there is none. */
struct state_mirror *state_find_mirror(const struct state_domain *state, unsigned position);

/* Copies the mirror into the list, or takes that of a disk out of it. -ENOMEM */
int state_add_mirror(struct state_domain *state, const struct state_mirror *mirror);
void state_remove_mirror(struct state_domain *state, unsigned position);

/* NULL if there is none. */
struct state_snapshot *state_find_snapshot(const struct state_domain *state, uint64_t serial);
struct state_disk *state_find_disk(const struct state_domain *state, unsigned position);

/* Lists of paths, as `made`: is it in, put it in if it is not (-ENOMEM), take it out if it is. */
bool state_paths_have(char *const *paths, const char *path);
int state_paths_add(char ***paths, const char *path);
void state_paths_remove(char **paths, const char *path);
int state_paths_copy(char *const *from, char ***copy); /* -ENOMEM; the copy is never NULL */
void state_paths_free(char ***paths);                  /* for a variable of that type; NULL in it is fine */

/*
 * Opens the store in the directory `source` (absolute), making it if it is not there and `read_only` is
 * false, and locks it. With `read_only`, or where the directory can't be written (EROFS, EACCES), what is
 * there is read, nothing is locked or written, and store_is_read_only tells so; so it does where there is no
 * room for a new store. Errors: EBUSY with the holder's host and pid (after two seconds, since a daemon that
 * was unmounted may still be ending); EPERM (owner or mode of the store); EIO. A newer version than ours is
 * opened read-only, with a warning in the log.
 */
int store_open(const char *source, bool read_only, struct store **store, struct error *err);

/* Unlocks. Nothing that was saved is lost without it. */
void store_close(struct store *store);

bool store_is_read_only(const struct store *store);

/* Tells this store from all others; 0 where it is read-only (identity.h). */
uint64_t store_identity(const struct store *store);

/* The directory for journal_open, borrowed; -1 where nothing can be written and there is none. */
int store_journal_directory(const struct store *store);

/*
 * Loads all domains' states: `*states` is an array of `*count` pointers, all the caller's. A state file that
 * can't be read is skipped, with a line in the log, and never overwritten: store_save of that serial gives
 * EIO. May be called again in a read-only store, which may also have been made meanwhile.
 */
int store_load(struct store *store, struct state_domain ***states, size_t *count, struct error *err);

/*
 * Of a read-only store, which another mount may be writing to: would store_load find anything else than it
 * did last? Of a store that we write false: nobody else does. Any thread may call this, and
 * store_state_has_moved, beside all others; they wait for storage.
 */
bool store_has_moved(struct store *store);

/* What store_load found last is what others are shown by now. */
void store_is_shown(struct store *store);

/* Has one domain's state moved since it was shown? One that is gone has not. `serial` may be a hashed one:
 * then of all states. */
bool store_state_has_moved(struct store *store, uint64_t serial);

/*
 * After store_load: the names of the state files that could not be read, for people, or NULL. A domain that
 * has no state may then be one of theirs, and gets no number from the counter. Borrowed.
 */
const char *store_damage(const struct store *store);

/* The state of one domain as its file has it; the caller's. Errors: ENOENT; EIO, EINVAL and others for a file
 * that can't be read. */
int store_read(struct store *store, uint64_t serial, struct state_domain **state, struct error *err);

/* Replaces the state of one domain, durably. EROFS in a read-only store; ENOSPC, EIO. */
int store_save(struct store *store, const struct state_domain *state, struct error *err);

/* Saves several with as few waits for the disk as possible. On failure some may have been saved. */
int store_save_all(struct store *store, const struct state_domain *const *states, size_t count,
                   struct error *err);

/* Removes the state of a domain that is gone for good. */
int store_remove(struct store *store, uint64_t serial, struct error *err);

/*
 * A state that is to replace the domain's, kept beside it, durably, while something is under way that can't
 * be undone once it has happened. Errors: as store_save; of store_read_next also ENOENT and as store_read.
 */
int store_save_next(struct store *store, const struct state_domain *state, struct error *err);
int store_read_next(struct store *store, uint64_t serial, struct state_domain **state, struct error *err);

/* Forgets it; not durably: who finds it again has to know that it is over. */
void store_remove_next(struct store *store, uint64_t serial);

/*
 * The next serial number, never given before, also not before a crash. Only in a writable store; errors as
 * store_save.
 */
int store_next_serial(struct store *store, uint64_t *serial, struct error *err);

/*
 * The serial number of a thing in a read-only source: a hash of its kind and names, with SERIAL_HASHED set.
 * `attempt` is 0, then 1, 2, … while the caller finds that the number is taken. Pure.
 */
uint64_t store_serial_hashed(const char *kind, const char *domain, const char *name, unsigned attempt);
