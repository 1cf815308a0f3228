// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What lies in the source; see scan.h.
 *
 * The order matters: definitions first, since what one calls raw must not be opened as qcow2 afterwards; then
 * the images of the directory; then, from image to image, what they stand on.
 */
#include "catalog/scan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/endings.h"
#include "base/stats.h"
#include "catalog/scan_definition.h"
#include "catalog/scan_foreign.h"
#include "catalog/scan_images.h"

/* A regular file, told without touching what may be our own mount point: where the directory does not say, by
 * statx, which is told to ask no file system for anything that the kernel does not know. */
static bool is_regular(int directory, const struct dirent *entry)
{
    if (entry->d_type != DT_UNKNOWN)
        return entry->d_type == DT_REG;
    struct statx found;
    return statx(directory, entry->d_name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC,
                 STATX_TYPE, &found) == 0 &&
           S_ISREG(found.stx_mode);
}

static int compare_string(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

struct names {
    char **list;
    size_t count;
};

static void names_done(struct names *names)
{
    for (size_t i = 0; i < names->count; i++)
        free(names->list[i]);
    free(names->list);
}

/* The regular files of a directory, sorted. */
static int read_names(int directory, struct names *names)
{
    cleanup_close int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cleanup_closedir DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir)
        return -errno;
    steal_fd(&fd);
    size_t capacity = 0;
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(dir);
        if (!entry)
            break;
        if (entry->d_name[0] == '.' || !is_regular(directory, entry))
            continue;
        if (names->count == capacity) {
            capacity = capacity ? capacity * 2 : 128;
            char **grown = realloc(names->list, capacity * sizeof *grown);
            if (!grown)
                return -ENOMEM;
            names->list = grown;
        }
        names->list[names->count] = strdup(entry->d_name);
        if (!names->list[names->count])
            return -ENOMEM;
        names->count++;
    }
    if (errno)
        return -errno;
    if (names->count)
        qsort(names->list, names->count, sizeof *names->list, compare_string);
    return 0;
}

/* Is the directory listed already, or is it the source? */
static bool has_directory(const struct scan *scan, const char *path)
{
    bool found = strcmp(path, scan->source) == 0;
    for (size_t i = 0; i < scan->directory_count; i++)
        found |= strcmp(path, scan->directories[i].path) == 0;
    return found;
}

/* Is the file of this directory named as virsh names an overlay of a disk that a definition names:
 * web1.snap1, where there is web1.qcow2? */
static bool is_beside_disk(const struct scan *scan, const char *directory, const char *name)
{
    size_t length = strlen(directory);
    for (size_t i = 0; i < scan->definition_count; i++)
        for (char **source = scan->definitions[i].sources; source && *source; source++) {
            const char *disk = *source + length + 1;
            if (strncmp(*source, directory, length) != 0 || (*source)[length] != '/' || strchr(disk, '/'))
                continue;
            size_t stem = (size_t)(ending_start(disk) - disk);
            if (strncmp(name, disk, stem) == 0 && name[stem] == '.')
                return true;
        }
    return false;
}

/*
 * Overlays lie beside what they were put on. So the directory of a disk that a definition names elsewhere is
 * listed too: for overlays only, and only where their places may be read anyway.
 */
static int list_beside(struct scan *scan, const struct scan *before, const char *disk)
{
    cleanup_free char *path = strndup(disk, (size_t)(strrchr(disk, '/') - disk));
    if (!path)
        return -ENOMEM;
    if (has_directory(scan, path))
        return 0;
    cleanup_close int fd = open(*path ? path : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat stat, source;
    if (fd < 0)
        scan_note_unread(scan, before, -errno);
    if (fd < 0 || fstat(fd, &stat) < 0 || fstat(scan->directory, &source) < 0 ||
        (stat.st_dev == source.st_dev && stat.st_ino == source.st_ino))
        return 0; /* the disk could be opened; that is all that is needed */
    struct scan_directory *grown = realloc(scan->directories, (scan->directory_count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    scan->directories = grown;
    grown[scan->directory_count++] =
        (struct scan_directory){.path = steal_pointer(path), .ctime = stat.st_ctim};
    const char *directory = grown[scan->directory_count - 1].path;

    cleanup(names_done) struct names names = {0};
    int r = read_names(fd, &names);
    if (r < 0) {
        scan_note_unread(scan, before, r);
        return r == -ENOMEM ? r : 0;
    }
    for (size_t i = 0; r == 0 && i < names.count; i++)
        if (ending_of(names.list[i]) == ENDING_MEANINGLESS && is_beside_disk(scan, directory, names.list[i]))
            r = scan_images_add_candidate(scan, before, directory, names.list[i]);
    return r;
}

/* Is it a disk that a definition names, and that could not be opened just now? What it is has been said. */
static bool is_unopened_disk(const struct scan *scan, const char *name)
{
    size_t length = strlen(scan->source) + 1;
    for (size_t i = 0; i < scan->definition_count; i++) {
        const struct scan_definition *definition = &scan->definitions[i];
        for (size_t j = 0; definition->is_good && definition->sources[j]; j++)
            if (definition->chains[j].count == 0 && strlen(definition->sources[j]) > length &&
                strncmp(definition->sources[j], scan->source, length - 1) == 0 &&
                strcmp(definition->sources[j] + length, name) == 0)
                return true;
    }
    return false;
}

/* The images that the store knows, wherever they lie: a name that a person gave an overlay may have any
 * ending. */
static int open_known(struct scan *scan, const struct scan *before, enum image_format format,
                      char *const *known)
{
    int r = 0;
    for (; r == 0 && known && *known; known++) {
        struct scan_image *image = NULL;
        struct error why;
        r = scan_images_open(scan, before, NULL, *known, format, &image, &why);
    }
    return r;
}

static int scan_names(struct scan *scan, const struct scan *before, const struct names *names,
                      const struct scan_scope *scope, struct notices *notices)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < names->count; i++) {
        enum ending ending = ending_of(names->list[i]);
        if (ending == ENDING_DEFINITION)
            r = scan_definition_add(scan, before, names->list[i], notices);
        else if (ending == ENDING_OTHER_DEFINITION)
            notices_add(notices, LOG_LEVEL_INFO, "%s/%s: this version reads no definitions of this kind",
                        scan->source, names->list[i]);
    }
    for (size_t i = 0; r == 0 && i < scan->definition_count; i++)
        r = scan_definition_open(scan, before, &scan->definitions[i]);
    if (r == 0) /* as definitions do, they come before whatever could be taken for something else */
        r = open_known(scan, before, IMAGE_FORMAT_RAW, scope->raw);
    for (size_t i = 0; r == 0 && i < names->count; i++) {
        enum ending ending = ending_of(names->list[i]);
        if ((ending == ENDING_QCOW2 || ending == ENDING_MEANINGLESS) &&
            !is_unopened_disk(scan, names->list[i]))
            r = scan_images_add_candidate(scan, before, scan->source, names->list[i]);
    }
    for (size_t i = 0; r == 0 && i < scan->definition_count; i++)
        for (size_t j = 0; r == 0 && scan->definitions[i].is_good && scan->definitions[i].sources[j]; j++)
            if (scan->definitions[i].chains[j].count && !scan->definitions[i].chains[j].images[0]->is_remote)
                r = list_beside(scan, before, scan->definitions[i].sources[j]);
    if (r == 0)
        r = open_known(scan, before, IMAGE_FORMAT_QCOW2, scope->known);
    if (r == 0)
        r = scan_images_resolve(scan, before);
    for (size_t i = 0; r == 0 && i < scan->definition_count; i++)
        r = scan_definition_follow(scan, before, &scan->definitions[i]);
    return r == 0 ? scan_foreign_sizes(scan, before) : r;
}

static bool same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

/* Whatever the clock of a file server says, nothing has changed since the last scan, which is a while ago. */
static bool is_settled(const struct scan *scan, const struct scan *before)
{
    if (!before || !same_time(scan->directory_ctime, before->directory_ctime) ||
        scan->directory_count != before->directory_count)
        return false;
    for (size_t i = 0; i < scan->directory_count; i++)
        if (strcmp(scan->directories[i].path, before->directories[i].path) != 0 ||
            !same_time(scan->directories[i].ctime, before->directories[i].ctime))
            return false;
    return before->is_settled || scan->started_at > before->started_at + 1;
}

/* Those of the names that are there. */
static int take_names(int directory, char *const *wanted, struct names *names)
{
    size_t count = 0;
    while (wanted[count])
        count++;
    names->list = calloc(count + 1, sizeof *names->list);
    if (!names->list)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        struct stat stat;
        if (fstatat(directory, wanted[i], &stat, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(stat.st_mode))
            continue;
        names->list[names->count] = strdup(wanted[i]);
        if (!names->list[names->count])
            return -ENOMEM;
        names->count++;
    }
    return 0;
}

int scan_new(const struct locate *locate, int directory, const struct scan *before,
             const struct scan_scope *scope, struct notices *notices, struct scan **scan, struct error *err)
{
    static const struct scan_scope everything;
    scope = scope ? scope : &everything;
    struct stat stat;
    if (fstat(directory, &stat) < 0)
        return error_set(err, errno, "%s: %s", locate_source(locate), strerror(errno));
    struct scan *made = calloc(1, sizeof *made);
    if (!made)
        return error_set(err, ENOMEM, "%s", strerror(ENOMEM));
    made->locate = locate;
    made->source = locate_source(locate);
    made->directory = directory;
    made->directory_ctime = stat.st_ctim;
    made->started_at = time(NULL);
    made->by_identity = calloc(SCAN_BUCKETS, sizeof *made->by_identity);
    stats_add(STAT_SCANS, 1);

    cleanup(names_done) struct names names = {0};
    int r = !made->by_identity ? -ENOMEM
            : scope->names     ? take_names(directory, scope->names, &names)
                               : read_names(directory, &names);
    if (r == 0)
        r = scan_names(made, before, &names, scope, notices);
    if (r == 0) {
        scan_mark_prepared(made);
        scan_mark_restless(made);
    }
    if (r < 0) {
        scan_free(made);
        return error_set(err, -r, "%s: %s", locate_source(locate), strerror(-r));
    }
    made->is_settled = is_settled(made, before);
    *scan = made;
    return 0;
}

void scan_free(struct scan *scan)
{
    if (!scan)
        return;
    for (size_t i = 0; i < scan->definition_count; i++)
        scan_definition_done(&scan->definitions[i]);
    for (size_t i = 0; i < scan->image_count; i++)
        scan_image_free(scan->images[i]);
    for (size_t i = 0; i < scan->absent_count; i++)
        free(scan->absent[i].path);
    for (size_t i = 0; i < scan->directory_count; i++)
        free(scan->directories[i].path);
    free(scan->definitions);
    free(scan->directories);
    free(scan->images);
    free(scan->absent);
    free(scan->by_identity);
    free(scan);
}
