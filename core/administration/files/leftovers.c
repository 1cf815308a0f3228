// SPDX-License-Identifier: LGPL-2.1-or-later
/* Temporary files of killed processes; see leftovers.h. */
#include "administration/files/leftovers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "administration/files/temporary.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "catalog/catalog_hold.h"
#include "store/store.h"

/* As when overlays of others are searched for (strangers.c): what lies deeper is not found there, either. */
#define DEPTH_MAX 16

/* ---- Which ---- */

/* Of an operation that is not settled yet. */
static int note_needed(struct administration *administration)
{
    const struct journal_operation *operation;
    int r = 0;
    for (size_t i = 0; r == 0 && (operation = journal_operation_at(administration->journal, i)); i++) {
        const struct journal_record *record = journal_operation_record(operation);
        for (size_t j = 0; r == 0 && j < record->step_count; j++)
            for (size_t k = 0; r == 0 && k < record->steps[j].argument_count; k++)
                if (record->steps[j].arguments[k].string)
                    r = state_paths_add(&administration->needed, record->steps[j].arguments[k].string);
    }
    return r;
}

static bool is_leftover(const struct administration *administration, const char *name)
{
    uint64_t operation;
    return temporary_is_ours(administration, name, &operation) &&
           operation < administration->first_operation && !state_paths_have(administration->needed, name);
}

static void remove_one(int directory, const char *name, const char *path)
{
    struct stat stat;
    if (fstatat(directory, name, &stat, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(stat.st_mode) &&
        stat.st_nlink == 1 && unlinkat(directory, name, 0) == 0)
        log_info("%s/%s, which an interrupted operation left, is removed", path, name);
}

/* ---- Where ---- */

static void clean(const struct administration *administration, const char *path)
{
    cleanup_closedir DIR *directory = opendir(path);
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        if (is_leftover(administration, entry->d_name))
            remove_one(dirfd(directory), entry->d_name, path);
}

static int add_directories(struct administration *administration, char ***paths)
{
    struct catalog *catalog = catalog_service_get(administration->catalog);
    int r = 0;
    for (const char *const *root = locate_roots(administration->options.locate); r == 0 && *root; root++)
        r = state_paths_add(paths, *root);
    for (size_t i = 0; i < catalog->domain_count; i++)
        for (size_t j = 0; r == 0 && j < catalog->domains[i]->layer_count; j++) {
            const struct layer *layer = catalog->domains[i]->layers[j];
            const char *slash = layer->remote ? NULL : strrchr(layer->path, '/');
            cleanup_free char *path = slash ? strndup(layer->path, (size_t)(slash - layer->path)) : NULL;
            if (path && *path)
                r = state_paths_add(paths, path);
        }
    catalog_put(catalog);
    return r;
}

void leftovers_remove(struct administration *administration)
{
    cleanup(state_paths_free) char **paths = NULL;
    struct error why = {0};
    if (note_needed(administration) < 0 || add_directories(administration, &paths) < 0 ||
        catalog_next_serial(administration->catalog, &administration->first_operation, &why) < 0) {
        administration->first_operation = 0; /* none is known to be one */
        log_warning("what interrupted operations have left stays for now: %s",
                    why.code ? why.text : "out of memory");
    }
    for (char **path = paths; path && *path; path++)
        clean(administration, *path);
}

static bool is_stopping(struct administration *administration)
{
    pthread_mutex_lock(&administration->lock);
    bool stopping = administration->is_stopping;
    pthread_mutex_unlock(&administration->lock);
    return stopping;
}

/* Takes over the descriptor. What is mounted below, maybe by ourselves, is not even looked at. */
static void clean_below(struct administration *administration, int fd, const char *path, unsigned depth)
{
    cleanup_closedir DIR *directory = fdopendir(fd);
    if (!directory) {
        close(fd);
        return;
    }
    for (struct dirent *entry; !is_stopping(administration) && (entry = readdir(directory));) {
        if (is_leftover(administration, entry->d_name))
            remove_one(dirfd(directory), entry->d_name, path);
        if (entry->d_type != DT_DIR || depth == DEPTH_MAX || strcmp(entry->d_name, ".") == 0 ||
            strcmp(entry->d_name, "..") == 0 || strcmp(entry->d_name, ".vmsnapfs") == 0)
            continue;
        const struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
                                     .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS};
        int below = (int)syscall(SYS_openat2, dirfd(directory), entry->d_name, &how, sizeof how);
        cleanup_free char *name = NULL;
        if (below >= 0 && asprintf(&name, "%s/%s", path, entry->d_name) < 0)
            name = NULL;
        if (name)
            clean_below(administration, below, name, depth + 1);
        else if (below >= 0)
            close(below);
    }
}

void leftovers_remove_below(struct administration *administration)
{
    for (const char *const *root = locate_roots(administration->options.locate); *root; root++) {
        int fd = open(*root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0)
            clean_below(administration, fd, *root, 0);
    }
}
