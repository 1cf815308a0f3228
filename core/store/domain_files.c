// SPDX-License-Identifier: LGPL-2.1-or-later
/* See domain_files.h. */
#include "store/domain_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "store/json_fields.h"
#include "store/replace_file.h"
#include "store/store.h"

void domain_file_name(char name[DOMAIN_FILE_NAME_SIZE], uint64_t domain, const char *ending)
{
    snprintf(name, DOMAIN_FILE_NAME_SIZE, "%" PRIu64 "%s", domain, ending);
}

int domain_file_read(int directory, uint64_t domain, const char *ending, const struct json_limits *limits,
                     struct json_object **document, struct error *err)
{
    char name[DOMAIN_FILE_NAME_SIZE];
    cleanup_free char *bytes = NULL;
    cleanup_json struct json_object *read = NULL;
    size_t length = 0;
    domain_file_name(name, domain, ending);
    if (directory < 0 || (faccessat(directory, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT))
        return -ENOENT;
    int r = replace_file_read(directory, name, limits->bytes, &bytes, &length, err);
    if (r == -ENOENT) /* it was there a moment ago, and nobody else removes it: not to be taken for none */
        r = error_set(err, EIO, "%s", strerror(ENOENT));
    if (r == 0)
        r = json_parse(bytes, length, limits, JSON_STANDARD, &read, err);
    if (r < 0)
        return r;
    struct json_fields fields = {.err = err};
    uint64_t found = json_fields_number(&fields, read, "domain", SERIAL_HASHED - 1);
    if (fields.failed)
        return fields.failed;
    if (found != domain)
        return error_set(err, EINVAL, "it is of another domain");
    *document = steal_pointer(read);
    return 0;
}

int domain_file_remove(int directory, uint64_t domain, const char *ending, struct error *err)
{
    char name[DOMAIN_FILE_NAME_SIZE];
    domain_file_name(name, domain, ending);
    if (directory < 0)
        return 0;
    if (unlinkat(directory, name, 0) < 0)
        return errno == ENOENT ? 0 : error_set(err, errno, "%s: %m", name);
    return fsync(directory) < 0 ? error_set(err, errno, "%s: %m", name) : 0;
}

int domain_files_list(int directory, const char *ending, uint64_t **domains, size_t *count)
{
    *domains = NULL;
    *count = 0;
    cleanup_close int fd = directory < 0 ? -1 : openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return 0;
    cleanup_closedir DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir)
        return -EIO;
    steal_fd(&fd);
    for (struct dirent *entry; (entry = readdir(dir));) {
        uint64_t domain;
        int used = 0;
        if (sscanf(entry->d_name, "%15" SCNu64 "%n", &domain, &used) != 1 ||
            strcmp(entry->d_name + used, ending) != 0)
            continue;
        uint64_t *grown = realloc(*domains, (*count + 1) * sizeof *grown);
        if (!grown) {
            free(*domains);
            *domains = NULL;
            return -ENOMEM;
        }
        *domains = grown;
        grown[(*count)++] = domain;
    }
    return 0;
}
