// SPDX-License-Identifier: LGPL-2.1-or-later
/* Commands as values, and what is wrong with one whatever the domain; see command.h. */
#include "operation/command.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "domain/name.h"

#define DEFINITION_ENDING ".json"

void create_command_done(struct create_command *command)
{
    for (size_t i = 0; i < command->disk_count; i++) {
        free(command->disks[i].target);
        free(command->disks[i].path);
        free(command->disks[i].mirror);
    }
    free(command->disks);
    free(command->name);
    free(command->description);
    free(command->memory_file);
    *command = (struct create_command){0};
}

void clone_command_done(struct clone_command *command)
{
    free(command->name);
    *command = (struct clone_command){0};
}

static int check_name(const char *what, const char *name, size_t length, size_t longest, struct error *err)
{
    const char *reason = NULL;
    if (length > longest)
        return error_set(err, ENAMETOOLONG, "the %s's name has %zu bytes; at most %zu can be", what, length,
                         longest);
    if (!name_is_legal(name, length, &reason))
        return error_set(err, EINVAL,
                         "the %s's name %s; a name is UTF-8 without slashes and control characters, and "
                         "begins with neither a dot nor a hyphen",
                         what, reason);
    return 0;
}

int snapshot_name_check(const char *name, size_t length, struct error *err)
{
    return check_name("snapshot", name, length, NAME_BYTES_MAX, err);
}

int domain_name_check(const char *name, size_t length, struct error *err)
{
    return check_name("domain", name, length, NAME_BYTES_MAX - strlen(DEFINITION_ENDING), err);
}

/* Is it UTF-8, and without control characters other than those of `allowed`? */
static bool is_plain(const char *bytes, size_t length, const char *allowed)
{
    for (size_t at = 0, step; at < length; at += step) {
        uint32_t code;
        step = utf8_decode(bytes + at, length - at, &code);
        if (step == 0)
            return false;
        bool control = code < 0x20 || (code >= 0x7f && code < 0xa0);
        if (control && (code == 0 || code >= 0x7f || !strchr(allowed, (int)code)))
            return false;
    }
    return true;
}

int description_check(const char *description, size_t length, struct error *err)
{
    if (length > DESCRIPTION_BYTES_MAX)
        return error_set(err, EINVAL, "the description has %zu bytes; at most %d can be", length,
                         DESCRIPTION_BYTES_MAX);
    if (!is_plain(description, length, "\n\t"))
        return error_set(err, EINVAL,
                         "the description must be UTF-8, without control characters other than tab and "
                         "newline");
    return 0;
}

static int check_path(const char *option, const char *path, struct error *err)
{
    size_t length = strlen(path);
    if (*path != '/')
        return error_set(err, EINVAL, "%s must be an absolute path, one that begins with a slash", option);
    if (length >= PATH_MAX)
        return error_set(err, ENAMETOOLONG, "the path of %s has %zu bytes; at most %d can be", option, length,
                         PATH_MAX - 1);
    if (!is_plain(path, length, ""))
        return error_set(err, EINVAL, "the path of %s must be UTF-8 without control characters", option);
    if (path[length - 1] == '/')
        return error_set(err, EINVAL, "the path of %s ends with a slash; it must be a file's", option);
    const char *file = strrchr(path, '/') + 1;
    if (strcmp(file, ".") == 0 || strcmp(file, "..") == 0)
        return error_set(err, EINVAL, "the path of %s is a directory's; it must be a file's", option);
    return 0;
}

static int check_disk(const struct create_disk *disk, struct error *err)
{
    const char *reason = NULL;
    int rc = 0;
    if (!name_is_legal(disk->target, strlen(disk->target), &reason))
        return error_set(err, EINVAL, "the target of a disk %s; it is a name such as vda", reason);
    if (disk->path && disk->choice != DISK_EXTERNAL)
        return error_set(err, EINVAL,
                         "disk %s has a path, which only an external snapshot needs: "
                         "disk=%s:external:PATH",
                         disk->target, disk->target);
    if (disk->mirror && (disk->choice == DISK_NO || disk->choice == DISK_INTERNAL))
        return error_set(err, EINVAL,
                         "disk %s can't have a mirror: that is a second copy of a new overlay, so it needs "
                         "disk=%s:external",
                         disk->target, disk->target);
    if (disk->path)
        rc = check_path("disk=", disk->path, err);
    if (rc == 0 && disk->mirror)
        rc = check_path("mirror=", disk->mirror, err);
    return rc;
}

/* Is one of disk i's files that of a disk before it, or its own other one? */
static const char *path_of_another(const struct create_command *command, size_t i)
{
    const char *mine[] = {command->disks[i].path, command->disks[i].mirror};
    for (size_t m = 0; m < 2; m++) {
        if (!mine[m])
            continue;
        if (command->memory_file && strcmp(mine[m], command->memory_file) == 0)
            return mine[m];
        for (size_t j = 0; j <= i; j++) {
            const struct create_disk *other = &command->disks[j];
            if (j < i && other->path && strcmp(mine[m], other->path) == 0)
                return mine[m];
            if ((j < i || m == 0) && other->mirror && strcmp(mine[m], other->mirror) == 0)
                return mine[m];
        }
    }
    return NULL;
}

int create_command_check(const struct create_command *command, struct error *err)
{
    int rc = 0;
    if (command->name)
        rc = snapshot_name_check(command->name, strlen(command->name), err);
    if (rc == 0 && command->description)
        rc = description_check(command->description, strlen(command->description), err);
    if (rc == 0 && command->memory_file && command->memory != MEMORY_EXTERNAL)
        rc = error_set(err, EINVAL,
                       "memory-file names a file, which only external memory needs: add memory=external");
    if (rc == 0 && command->memory_file)
        rc = check_path("memory-file=", command->memory_file, err);
    for (size_t i = 0; rc == 0 && i < command->disk_count; i++) {
        const char *target = command->disks[i].target;
        rc = check_disk(&command->disks[i], err);
        for (size_t j = 0; rc == 0 && j < i; j++)
            if (strcmp(target, command->disks[j].target) == 0)
                rc = error_set(err, EINVAL, "disk %s is named twice; each disk once", target);
        const char *twice = rc == 0 ? path_of_another(command, i) : NULL;
        if (twice)
            rc =
                error_set(err, EINVAL, "the file %.200s is named twice; each needs a file of its own", twice);
    }
    return rc;
}

int create_command_check_defaults(const struct create_command *command, struct error *err)
{
    const char *what = command->name             ? "a name"
                       : command->memory_file    ? "memory-file="
                       : command->reuse_external ? "reuse-external"
                                                 : NULL;
    for (size_t i = 0; i < command->disk_count && !what; i++)
        what = command->disks[i].mirror ? "mirror=" : command->disks[i].path ? "a path in disk=" : NULL;
    if (what)
        return error_set(err, EINVAL,
                         "%s can't stand in the defaults: it is good for one snapshot only; write it to "
                         "`create`",
                         what);
    return 0;
}

const char *delete_kind_name(enum delete_kind kind)
{
    static const char *const names[DELETE_KIND_COUNT] = {
        [DELETE_ONE] = "1",
        [DELETE_CHILDREN] = "children",
        [DELETE_CHILDREN_ONLY] = "children-only",
        [DELETE_MERGE] = "merge",
        [DELETE_MERGE_FORCE] = "merge-force",
        [DELETE_DISCARD] = "discard",
        [DELETE_DISCARD_FORCE] = "discard-force",
    };
    return names[kind];
}

const char *disk_choice_name(enum disk_choice choice)
{
    static const char *const names[] = {
        [DISK_OMITTED] = "omitted",
        [DISK_NO] = "no",
        [DISK_INTERNAL] = "internal",
        [DISK_EXTERNAL] = "external",
    };
    return names[choice];
}

void power_command_done(struct power_command *command)
{
    free(command->snapshot);
    *command = (struct power_command){0};
}

const char *power_verb_name(enum power_verb verb)
{
    static const char *const names[] = {
        [POWER_START] = "start", [POWER_SHUTDOWN] = "shutdown", [POWER_DESTROY] = "destroy",
        [POWER_PAUSE] = "pause", [POWER_RESUME] = "resume",     [POWER_RESET] = "reset",
    };
    return names[verb];
}
