// SPDX-License-Identifier: LGPL-2.1-or-later
/* The table of what a snapshot consists of; see snapshot_choice.h. */
#include "operation/snapshot_choice.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

/* Sets of what stands in a command: a row holds for each of them. */
#define M_OMITTED  (1u << MEMORY_OMITTED)
#define M_NO       (1u << MEMORY_NO)
#define M_INTERNAL (1u << MEMORY_INTERNAL)
#define M_EXTERNAL (1u << MEMORY_EXTERNAL)
#define D_OMITTED  (1u << DISK_OMITTED)
#define D_NO       (1u << DISK_NO) /* all of them */
#define D_INTERNAL (1u << DISK_INTERNAL)
#define D_EXTERNAL (1u << DISK_EXTERNAL)
#define D_ANY      (D_OMITTED | D_NO | D_INTERNAL | D_EXTERNAL)
#define ONLY_NO    1u
#define ONLY_YES   2u
#define ONLY_ANY   (ONLY_NO | ONLY_YES)

/* Results beyond the kinds of memory themselves. */
enum outcome {
    NO,       /* memory no */
    INTERNAL, /* memory internal */
    EXTERNAL, /* memory external */
    IN_ONE,   /* memory and disks internal, in one; where a disk can't, memory and disks external */
    NOTHING,  /* refused: nothing to snapshot */
    NO_MEMORY,
    CONTRADICTION,
    NO_HOME,
};

/* The disks' column has no result of its own: a disk that is named is as it says, and one that is not is its
 * default (or, IN_ONE, as the memory). */
static const struct row {
    bool is_active;
    unsigned memory, disks, disk_only;
    enum outcome outcome;
} table[] = {
    /* 1*/ {false, M_OMITTED | M_NO, D_OMITTED, ONLY_ANY, NO},
    /* 2*/ {false, M_OMITTED | M_NO, D_NO, ONLY_ANY, NOTHING},
    /* 3*/ {false, M_OMITTED | M_NO, D_INTERNAL, ONLY_ANY, NO},
    /* 4*/ {false, M_OMITTED | M_NO, D_EXTERNAL, ONLY_ANY, NO},
    /* 5*/ {false, M_INTERNAL | M_EXTERNAL, D_ANY, ONLY_ANY, NO_MEMORY},
    /* 6*/ {true, M_OMITTED, D_OMITTED, ONLY_NO, IN_ONE},
    /* 7*/ {true, M_OMITTED, D_OMITTED, ONLY_YES, NO},
    /* 8*/ {true, M_OMITTED, D_NO, ONLY_NO, EXTERNAL},
    /* 9*/ {true, M_OMITTED, D_EXTERNAL, ONLY_NO, EXTERNAL},
    /*10*/ {true, M_OMITTED, D_NO, ONLY_YES, NOTHING},
    /*11*/ {true, M_OMITTED, D_EXTERNAL, ONLY_YES, NO},
    /*12*/ {true, M_OMITTED, D_INTERNAL, ONLY_NO, INTERNAL},
    /*13*/ {true, M_OMITTED | M_NO, D_INTERNAL, ONLY_YES, NO},
    /*14*/ {true, M_NO, D_OMITTED, ONLY_ANY, NO},
    /*15*/ {true, M_NO, D_NO, ONLY_ANY, NOTHING},
    /*16*/ {true, M_NO, D_INTERNAL, ONLY_ANY, NO},
    /*17*/ {true, M_NO, D_EXTERNAL, ONLY_ANY, NO},
    /*18*/ {true, M_INTERNAL | M_EXTERNAL, D_ANY, ONLY_YES, CONTRADICTION},
    /*19*/ {true, M_INTERNAL, D_OMITTED | D_INTERNAL, ONLY_NO, INTERNAL},
    /*20*/ {true, M_INTERNAL, D_NO | D_EXTERNAL, ONLY_NO, NO_HOME},
    /*21*/ {true, M_EXTERNAL, D_OMITTED, ONLY_NO, EXTERNAL},
    /*22*/ {true, M_EXTERNAL, D_NO, ONLY_NO, EXTERNAL},
    /*23*/ {true, M_EXTERNAL, D_INTERNAL, ONLY_NO, EXTERNAL},
    /*24*/ {true, M_EXTERNAL, D_EXTERNAL, ONLY_NO, EXTERNAL},
};

static const char nothing_text[] =
    "nothing to snapshot: no disk is included and no memory is saved; name a disk, as in disk=%s:internal";
static const char no_home_text[] =
    "internal memory needs an internal disk snapshot to live in, and no disk has one; use memory=external";

const char *snapshot_choice_switch_text(void)
{
    return "whoever starts the domain must know that another file is active then, or would write into the "
           "frozen one and destroy it: the definition needs \"launch\", so that vmsnapfs starts it, or "
           "\"follows\": true, which says that its start script uses what disks/TARGET/source names";
}

static bool can_internal(const struct choice_disk *disk)
{
    return disk->format == IMAGE_FORMAT_QCOW2 && !disk->has_data_file;
}

static const struct create_disk *named(const struct create_command *command, const char *target)
{
    for (size_t i = 0; i < command->disk_count; i++)
        if (strcmp(command->disks[i].target, target) == 0)
            return &command->disks[i];
    return NULL;
}

/* What the command, and where it is silent the preset, says; DISK_OMITTED where both leave it open. */
static enum disk_choice asked_of(const struct choice_disk *disk, const struct create_disk *wanted)
{
    static const enum disk_choice presets[] = {
        [PRESET_DEFAULT] = DISK_OMITTED,
        [PRESET_NO] = DISK_NO,
        [PRESET_INTERNAL] = DISK_INTERNAL,
        [PRESET_EXTERNAL] = DISK_EXTERNAL,
    };
    if (wanted && wanted->choice != DISK_OMITTED)
        return wanted->choice;
    if (disk->preset == PRESET_DEFAULT && !disk->persistent)
        return DISK_NO;
    return presets[disk->preset];
}

static enum disk_choice default_of(const struct choice_disk *disk)
{
    return can_internal(disk) && disk->may_be_written ? DISK_INTERNAL : DISK_EXTERNAL;
}

/* Which kinds there would be, with the disks that are left open as their default is. */
struct kinds {
    bool any_named, any_internal, any_external;
};

static struct kinds kinds_of(const struct create_command *command, const struct choice_domain *domain)
{
    struct kinds kinds = {0};
    for (size_t i = 0; i < domain->disk_count; i++) {
        const struct choice_disk *disk = &domain->disks[i];
        const struct create_disk *wanted = named(command, disk->target);
        enum disk_choice kind = asked_of(disk, wanted);
        if (kind == DISK_OMITTED)
            kind = default_of(disk);
        kinds.any_named |= wanted && wanted->choice != DISK_OMITTED;
        kinds.any_internal |= kind == DISK_INTERNAL;
        kinds.any_external |= kind == DISK_EXTERNAL;
    }
    return kinds;
}

/* The column "disk" of the table. */
static enum disk_choice column_of(const struct kinds *kinds, enum memory_choice memory)
{
    if (!kinds->any_named)
        return DISK_OMITTED;
    if (!kinds->any_internal && !kinds->any_external)
        return DISK_NO;
    if (memory == MEMORY_INTERNAL)
        return kinds->any_internal ? DISK_INTERNAL : DISK_EXTERNAL;
    return kinds->any_external ? DISK_EXTERNAL : DISK_INTERNAL;
}

static const struct row *find_row(bool is_active, enum memory_choice memory, enum disk_choice disks,
                                  bool disk_only)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].is_active == is_active && (table[i].memory & 1u << memory) &&
            (table[i].disks & 1u << disks) && (table[i].disk_only & (disk_only ? ONLY_YES : ONLY_NO)))
            return &table[i];
    return NULL;
}

/* Every disk that the command names must be there. */
static int check_targets(const struct create_command *command, const struct choice_domain *domain,
                         struct error *err)
{
    for (size_t i = 0; i < command->disk_count; i++) {
        const char *target = command->disks[i].target;
        bool found = false;
        for (size_t j = 0; j < domain->disk_count && !found; j++)
            found = strcmp(domain->disks[j].target, target) == 0;
        if (found)
            continue;
        char known[200] = "";
        for (size_t j = 0; j < domain->disk_count; j++) {
            size_t used = strlen(known), more = strlen(domain->disks[j].target);
            if (used + more + 3 > sizeof known)
                break;
            if (used)
                strcat(known, ", ");
            strcat(known, domain->disks[j].target);
        }
        return error_set(err, ENOENT, "the domain has no disk %.100s; it has %s", target,
                         *known ? known : "none");
    }
    return 0;
}

/* Can the disk have that kind of snapshot? */
static int check_kind(const struct choice_domain *domain, const struct choice_disk *disk,
                      enum disk_choice kind, bool is_preset, struct error *err)
{
    const char *target = disk->target;
    if (kind == DISK_NO)
        return 0;
    if (!disk->persistent && domain->is_active)
        return error_set(err, EOPNOTSUPP,
                         "disk %s is not persistent: what the domain writes to it now is thrown away at "
                         "power-off, and can't be kept in a snapshot; %s disk=%s:no",
                         target, is_preset ? "set \"snapshot\": \"no\" in the definition, or use" : "use",
                         target);
    if (kind == DISK_INTERNAL && !can_internal(disk))
        return error_set(err, EOPNOTSUPP,
                         "disk %s can't hold an internal snapshot%s: %s; use disk=%s:external or "
                         "disk=%s:no",
                         target, is_preset ? ", which its definition asks for" : "",
                         disk->has_data_file ? "its data lies in a file of its own"
                                             : "only the format qcow2 can",
                         target, target);
    if (kind == DISK_INTERNAL && !disk->may_be_written)
        return error_set(err, EPERM,
                         "disk %s can't have an internal snapshot: its active file is neither one that "
                         "vmsnapfs made nor the one that was active when the domain was first administered, "
                         "and others may depend on it; use disk=%s:external",
                         target, target);
    if (kind == DISK_EXTERNAL && !domain->may_switch_files)
        return error_set(err, EPERM, "disk %s can't have an external snapshot: %s", target,
                         snapshot_choice_switch_text());
    return 0;
}

static int check_part(const struct create_command *command, const struct create_disk *wanted,
                      const char *target, enum disk_choice kind, struct error *err)
{
    if (wanted && wanted->mirror && kind != DISK_EXTERNAL)
        return error_set(err, EINVAL,
                         "disk %s can't have a mirror: that is a second copy of a new overlay, and its "
                         "snapshot is %s; add disk=%s:external",
                         target, disk_choice_name(kind), target);
    if (command->reuse_external && kind == DISK_EXTERNAL && !(wanted && wanted->path))
        return error_set(err, EINVAL,
                         "reuse-external needs the overlay's path for each external disk: "
                         "disk=%s:external:PATH",
                         target);
    return 0;
}

/* Live, compressed and quiesced: can an active domain's snapshot be taken so? */
static int check_manner(const struct create_command *command, const struct choice_domain *domain,
                        enum memory_choice memory, struct error *err)
{
    if (!domain->is_active)
        return 0;
    if (memory == MEMORY_NO && (command->live || command->compression != COMPRESS_NONE))
        return error_set(err, EINVAL,
                         "\"%s\" says how memory is saved, and no memory is to be saved; leave it out, or "
                         "use memory=external",
                         command->live ? "live" : "compress=");
    if (memory == MEMORY_INTERNAL && command->live)
        return error_set(err, EOPNOTSUPP,
                         "internal memory can't be saved while the guest runs on; use memory=external");
    if (memory == MEMORY_INTERNAL && command->compression != COMPRESS_NONE)
        return error_set(err, EOPNOTSUPP, "internal memory can't be compressed; use memory=external");
    if (memory != MEMORY_NO && command->quiesce == QUIESCE_REQUIRE)
        return error_set(
            err, EINVAL,
            "quiesce=require is for snapshots without memory, whose disks alone have to be right; "
            "leave it out, or add disk-only");
    if (command->quiesce == QUIESCE_REQUIRE && !domain->has_agent)
        return error_set(err, EOPNOTSUPP,
                         "quiesce=require needs the guest agent, and the definition names no \"agent\" "
                         "socket; use quiesce=try");
    return 0;
}

static int refusal(enum outcome outcome, const struct choice_domain *domain, struct error *err)
{
    const char *example = domain->disk_count ? domain->disks[0].target : "TARGET";
    switch (outcome) {
    case NOTHING:
        return error_set(err, EINVAL, nothing_text, example);
    case NO_MEMORY:
        return error_set(err, EINVAL,
                         "the domain is not active, so there is no memory to save; leave out memory=");
    case CONTRADICTION:
        return error_set(err, EINVAL,
                         "disk-only and memory= contradict each other; leave out one of the two");
    case NO_HOME:
        return error_set(err, EINVAL, "%s", no_home_text);
    case NO:
    case INTERNAL:
    case EXTERNAL:
    case IN_ONE:
        break;
    }
    return 0;
}

static enum memory_choice memory_of(enum outcome outcome, const struct kinds *kinds)
{
    if (outcome == IN_ONE)
        return kinds->any_internal && !kinds->any_external ? MEMORY_INTERNAL : MEMORY_EXTERNAL;
    return outcome == NO ? MEMORY_NO : outcome == INTERNAL ? MEMORY_INTERNAL : MEMORY_EXTERNAL;
}

int snapshot_choose(const struct create_command *command, const struct choice_domain *domain,
                    struct snapshot_choice *choice, struct error *err)
{
    int rc = check_targets(command, domain, err);
    if (rc < 0)
        return rc;
    struct kinds kinds = kinds_of(command, domain);
    const struct row *row =
        find_row(domain->is_active, command->memory, column_of(&kinds, command->memory), command->disk_only);
    if (!row) /* the table has a row for everything, which its test proves */
        return error_set(err, EINVAL, "this combination is not known");
    rc = refusal(row->outcome, domain, err);
    if (rc < 0)
        return rc;

    struct snapshot_choice made = {
        .memory = memory_of(row->outcome, &kinds),
        .row = (unsigned)(row - table) + 1,
        .disks = calloc(domain->disk_count ? domain->disk_count : 1, sizeof *made.disks),
    };
    cleanup_free struct disk_part *parts = made.disks;
    if (!parts)
        return error_set(err, ENOMEM, "out of memory");
    if (domain->is_active && domain->has_agent && made.memory == MEMORY_NO)
        made.quiesce = command->quiesce;
    /* Where nothing is said of either, memory and disks go the same way. */
    bool as_memory = domain->is_active && command->memory == MEMORY_OMITTED && !command->disk_only;
    bool any = false, any_internal = false, any_external = false;
    for (size_t i = 0; i < domain->disk_count; i++) {
        const struct choice_disk *disk = &domain->disks[i];
        const struct create_disk *wanted = named(command, disk->target);
        enum disk_choice kind = asked_of(disk, wanted);
        if (kind == DISK_OMITTED)
            kind = !as_memory                       ? default_of(disk)
                   : made.memory == MEMORY_INTERNAL ? DISK_INTERNAL
                                                    : DISK_EXTERNAL;
        rc = check_kind(domain, disk, kind, !wanted || wanted->choice == DISK_OMITTED, err);
        if (rc == 0)
            rc = check_part(command, wanted, disk->target, kind, err);
        if (rc < 0)
            return rc;
        parts[i] = (struct disk_part){
            .kind = kind, .path = wanted ? wanted->path : NULL, .mirror = wanted ? wanted->mirror : NULL};
        any |= kind != DISK_NO;
        any_internal |= kind == DISK_INTERNAL;
        any_external |= kind == DISK_EXTERNAL;
    }
    /* The presets can leave out every disk too. */
    if (!any && made.memory == MEMORY_NO)
        return refusal(NOTHING, domain, err);
    if (!any_internal && made.memory == MEMORY_INTERNAL)
        return refusal(NO_HOME, domain, err);
    if (command->reuse_external && !any_external)
        return error_set(err, EINVAL, "reuse-external is about overlays, and no disk is external");
    rc = check_manner(command, domain, made.memory, err);
    if (rc < 0)
        return rc;
    made.disks = steal_pointer(parts);
    *choice = made;
    return 0;
}

void snapshot_choice_done(struct snapshot_choice *choice)
{
    free(choice->disks);
    *choice = (struct snapshot_choice){0};
}
