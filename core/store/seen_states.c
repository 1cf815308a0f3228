// SPDX-License-Identifier: LGPL-2.1-or-later
/* The state files that were read; see seen_states.h. */
#include "store/seen_states.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "store/store.h"

void seen_states_init(struct seen_states *seen)
{
    *seen = (struct seen_states){.directory = -1};
    pthread_mutex_init(&seen->lock, NULL);
}

void seen_states_done(struct seen_states *seen)
{
    if (seen->directory >= 0)
        close(seen->directory);
    free(seen->read.states);
    free(seen->shown.states);
    pthread_mutex_destroy(&seen->lock);
}

static int compare(const void *left, const void *right)
{
    const struct seen_state *a = left, *b = right;
    return a->serial < b->serial ? -1 : a->serial > b->serial;
}

void seen_states_set(struct seen_states *seen, struct seen_state *states, size_t count, int directory)
{
    int ours = directory >= 0 ? fcntl(directory, F_DUPFD_CLOEXEC, 0) : -1;
    if (count)
        qsort(states, count, sizeof *states, compare);
    pthread_mutex_lock(&seen->lock);
    struct seen_state *old = seen->read.states;
    int old_directory = seen->directory;
    seen->read = (struct seen_list){.states = states, .count = count};
    seen->directory = ours;
    pthread_mutex_unlock(&seen->lock);
    free(old);
    if (old_directory >= 0)
        close(old_directory);
}

void seen_states_show(struct seen_states *seen)
{
    pthread_mutex_lock(&seen->lock);
    size_t count = seen->read.count;
    struct seen_state *copy = calloc(count ? count : 1, sizeof *copy);
    if (copy) {
        if (count)
            memcpy(copy, seen->read.states, count * sizeof *copy);
        free(seen->shown.states);
        seen->shown = (struct seen_list){.states = copy, .count = count};
    }
    pthread_mutex_unlock(&seen->lock);
}

static bool is_same(const struct file_identity *a, const struct file_identity *b)
{
    return file_identity_same_file(a, b) && file_identity_same_content(a, b);
}

static bool have(struct seen_states *seen, const struct seen_list *list, uint64_t serial,
                 const struct file_identity *file)
{
    const struct seen_state wanted = {.serial = serial};
    pthread_mutex_lock(&seen->lock);
    const struct seen_state *found =
        list->count ? bsearch(&wanted, list->states, list->count, sizeof wanted, compare) : NULL;
    bool same = found && is_same(&found->file, file);
    pthread_mutex_unlock(&seen->lock);
    return same;
}

bool seen_states_have(struct seen_states *seen, uint64_t serial, const struct file_identity *file)
{
    return have(seen, &seen->read, serial, file);
}

/* No file is looked at while the lock is held. -1: there is none, or no descriptor to be had. */
static int take_directory(struct seen_states *seen, const struct seen_list *list, size_t *count)
{
    pthread_mutex_lock(&seen->lock);
    int directory = seen->directory >= 0 ? fcntl(seen->directory, F_DUPFD_CLOEXEC, 0) : -1;
    *count = list->count;
    pthread_mutex_unlock(&seen->lock);
    return directory;
}

bool seen_states_are_known(struct seen_states *seen)
{
    pthread_mutex_lock(&seen->lock);
    bool known = seen->directory >= 0;
    pthread_mutex_unlock(&seen->lock);
    return known;
}

bool seen_states_moved(struct seen_states *seen, bool shown)
{
    const struct seen_list *list = shown ? &seen->shown : &seen->read;
    size_t count, found = 0;
    struct stat stat;
    cleanup_close int known = take_directory(seen, list, &count);
    if (known < 0)
        return false;
    if (fstat(known, &stat) == 0 && stat.st_nlink == 0)
        return true;
    cleanup_close int fd = openat(known, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cleanup_closedir DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    if (!directory)
        return false;
    steal_fd(&fd);
    for (const struct dirent *entry; (entry = readdir(directory));) {
        uint64_t serial = seen_states_serial(entry->d_name);
        if (serial == 0 || fstatat(known, entry->d_name, &stat, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        const struct file_identity now = file_identity_of(&stat);
        if (!have(seen, list, serial, &now))
            return true;
        found++;
    }
    return found != count;
}

/* By opening it: on a network that asks the server what it is now. */
bool seen_state_moved(struct seen_states *seen, uint64_t serial)
{
    char name[32];
    size_t count;
    struct stat stat;
    cleanup_close int directory = take_directory(seen, &seen->shown, &count);
    snprintf(name, sizeof name, "%" PRIu64 ".json", serial);
    cleanup_close int fd =
        directory < 0 ? -1 : openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &stat) < 0)
        return false;
    const struct file_identity now = file_identity_of(&stat);
    return !have(seen, &seen->shown, serial, &now);
}

uint64_t seen_states_serial(const char *name)
{
    char again[32];
    uint64_t serial;
    if (sscanf(name, "%15" SCNu64, &serial) != 1 || serial >= SERIAL_HASHED)
        return 0;
    snprintf(again, sizeof again, "%" PRIu64 ".json", serial);
    return strcmp(name, again) == 0 ? serial : 0;
}
