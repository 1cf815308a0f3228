// SPDX-License-Identifier: LGPL-2.1-or-later
/* Where a program is; see program.h. */
#include "helper/program.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *package_of(const char *program)
{
    if (strcmp(program, "qemu-nbd") == 0 || strcmp(program, "qemu-img") == 0)
        return "qemu-utils";
    if (strcmp(program, "qemu-storage-daemon") == 0)
        return "qemu-system-common";
    return NULL;
}

static bool is_program(const char *path)
{
    struct stat file;
    return stat(path, &file) == 0 && S_ISREG(file.st_mode) && access(path, X_OK) == 0;
}

int program_find(const char *name, char **program, struct error *err)
{
    char *found = NULL;
    const char *path = getenv("PATH");
    if (*name == '/' && is_program(name))
        found = realpath(name, NULL);
    /* The working directory, as an empty or relative entry means it, is not searched. */
    for (const char *folder = path ? path : PROGRAM_DEFAULT_PATH; *folder && *name != '/' && !found;) {
        char candidate[PATH_MAX];
        size_t length = strcspn(folder, ":");
        int written = snprintf(candidate, sizeof candidate, "%.*s/%s", (int)length, folder, name);
        if (*folder == '/' && written > 0 && (size_t)written < sizeof candidate && is_program(candidate))
            found = realpath(candidate, NULL);
        folder += length + (folder[length] == ':');
    }
    if (found) {
        *program = found;
        return 0;
    }
    const char *package = package_of(name);
    if (package)
        return error_set(err, ENOENT, "%s is not installed (package %s)", name, package);
    return error_set(err, ENOENT, "%s is not installed", name);
}
