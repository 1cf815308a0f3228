// SPDX-License-Identifier: LGPL-2.1-or-later
/* Temporary files of killed processes; see leftovers.h. */
#include "administration/leftovers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "store/store.h"

/* In directories that another store may use as well, only what is surely nobody's any more. */
#define OLD_SECONDS (24 * 3600)

/* As overlay_name_temporary makes them. */
static bool is_temporary(const char *name)
{
    unsigned long long serial, index;
    int used = 0;
    return sscanf(name, ".vmsnapfs-%15llu-%6llu%n", &serial, &index, &used) == 2 && !name[used];
}

static void clean(const char *path, bool is_ours)
{
    cleanup_closedir DIR *directory = opendir(path);
    if (!directory)
        return;
    for (struct dirent *entry; (entry = readdir(directory));) {
        struct stat stat;
        if (!is_temporary(entry->d_name) ||
            fstatat(dirfd(directory), entry->d_name, &stat, AT_SYMLINK_NOFOLLOW) < 0 ||
            !S_ISREG(stat.st_mode) || stat.st_nlink != 1 ||
            (!is_ours && stat.st_mtim.tv_sec > time(NULL) - OLD_SECONDS))
            continue;
        if (unlinkat(dirfd(directory), entry->d_name, 0) == 0)
            log_info("%s/%s, which an interrupted operation left, is removed", path, entry->d_name);
    }
}

void leftovers_remove(struct administration *administration)
{
    const char *source = locate_source(administration->options.locate);
    const size_t length = strlen(source);
    cleanup(state_paths_free) char **paths = NULL;
    struct catalog *catalog = catalog_service_get(administration->catalog);
    for (const char *const *root = locate_roots(administration->options.locate); *root; root++)
        state_paths_add(&paths, *root);
    for (size_t i = 0; i < catalog->domain_count; i++)
        for (size_t j = 0; j < catalog->domains[i]->layer_count; j++) {
            const struct layer *layer = catalog->domains[i]->layers[j];
            const char *slash = layer->remote ? NULL : strrchr(layer->path, '/');
            cleanup_free char *path = slash ? strndup(layer->path, (size_t)(slash - layer->path)) : NULL;
            if (path && *path)
                state_paths_add(&paths, path);
        }
    catalog_put(catalog);
    for (char **path = paths; path && *path; path++)
        clean(*path, strncmp(*path, source, length) == 0 && (!(*path)[length] || (*path)[length] == '/'));
}
