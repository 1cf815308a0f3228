// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What an administrator asks for, as values: the commands of the control files, whatever they were written
 * as. command_text.h fills them from words; documents (XML, JSON, xl configuration) fill the same structs.
 *
 * A command says nothing of the domain that it is for. Whether it can be done there is decided by
 * snapshot_choice.h and tree_change.h. Pure functions; any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/image_format.h"
#include "domain/domain.h"

/* Of a description, in bytes. */
#define DESCRIPTION_BYTES_MAX (16 * 1024)

/* "Omitted" is not "no": the table of snapshot_choice.h tells them apart. */
enum memory_choice { MEMORY_OMITTED, MEMORY_NO, MEMORY_INTERNAL, MEMORY_EXTERNAL };
enum disk_choice { DISK_OMITTED, DISK_NO, DISK_INTERNAL, DISK_EXTERNAL };
enum quiesce { QUIESCE_NO, QUIESCE_TRY, QUIESCE_REQUIRE };

/* What is asked for one disk. */
struct create_disk {
    char *target;
    enum disk_choice choice;
    char *path;   /* of the new overlay, absolute; NULL: made up. Only with DISK_EXTERNAL */
    char *mirror; /* of the mirror of the new overlay, absolute; NULL: none */
};

struct create_command {
    char *name;        /* NULL: made up by the caller, from the time */
    char *description; /* NULL: none given */
    enum memory_choice memory;
    char *memory_file; /* absolute; NULL: made up. Only with MEMORY_EXTERNAL */
    enum memory_compression compression;
    enum quiesce quiesce;
    bool live;                 /* memory is saved while the guest runs on */
    bool disk_only;            /* no memory */
    bool reuse_external;       /* the overlays exist already, and are used as they are */
    bool paused;               /* the domain is left paused after it */
    struct create_disk *disks; /* those that are named; each target once */
    size_t disk_count;
};

/* The state that a revert leads to. */
enum revert_state { REVERT_AS_SAVED, REVERT_RUNNING, REVERT_PAUSED, REVERT_SHUTOFF };

struct revert_command {
    enum revert_state state;
    bool guard; /* take a snapshot of the present first */
    bool force;
};

enum delete_kind {
    DELETE_ONE,           /* the snapshot; its children become its parent's */
    DELETE_CHILDREN,      /* it and all its descendants */
    DELETE_CHILDREN_ONLY, /* the descendants */
    DELETE_MERGE,         /* the parent takes over its state */
    DELETE_MERGE_FORCE,   /* the same, discarding the parent's other children */
    DELETE_DISCARD,       /* it and its changes */
    DELETE_DISCARD_FORCE, /* it and all its descendants; the domain goes back to the parent */
    DELETE_KIND_COUNT,
};

struct clone_command {
    char *name; /* of the new domain */
    bool full;  /* copies, instead of overlays */
};

enum power_verb {
    POWER_START,
    POWER_SHUTDOWN, /* the guest is asked */
    POWER_DESTROY,  /* at once, as if the plug was pulled */
    POWER_PAUSE,
    POWER_RESUME,
    POWER_RESET,
    POWER_VERB_COUNT,
};

struct power_command {
    enum power_verb verb;
    char *snapshot; /* POWER_START: from this one; NULL: from the present state */
};

/* Of a disk of a running domain, into a file that its QEMU keeps in step then. */
struct copy_command {
    char *path;               /* absolute */
    char *base;               /* what lies above this layer is copied, absolute; NULL: see `shallow` */
    enum image_format format; /* raw or qcow2; IMAGE_FORMAT_UNKNOWN: as the disk's */
    bool shallow;             /* the top layer only: the copy lies on what that lies on. Else everything */
    bool reuse;               /* the file exists already, and is used as it is */
    uint64_t bandwidth;       /* bytes a second; 0: any */
};

void copy_command_done(struct copy_command *command);
void power_command_done(struct power_command *command);
void create_command_done(struct create_command *command);
void clone_command_done(struct clone_command *command);

/*
 * What can be said of a command without knowing the domain: names and paths are legal, no target or file
 * stands in it twice, files are named only for what goes into files. Every parser ends with it. Errors:
 * EINVAL, ENAMETOOLONG, with a sentence.
 */
int create_command_check(const struct create_command *command, struct error *err);

/* What can't stand in `defaults`, since it is for one snapshot only: a name and files. EINVAL. */
int create_command_check_defaults(const struct create_command *command, struct error *err);

/* A snapshot's name, of `length` bytes: EINVAL, ENAMETOOLONG with a sentence that says what is wrong. */
int snapshot_name_check(const char *name, size_t length, struct error *err);

/* A domain's name, from which NAME.json must still be a file name; errors as snapshot_name_check. */
int domain_name_check(const char *name, size_t length, struct error *err);

/* A description: UTF-8, without control characters other than tab and newline, not too long. EINVAL. */
int description_check(const char *description, size_t length, struct error *err);

/* The words of the control file `delete`. Static. */
const char *delete_kind_name(enum delete_kind kind);

/* The words of the control file `power`. Static. */
const char *power_verb_name(enum power_verb verb);

const char *disk_choice_name(enum disk_choice choice);
