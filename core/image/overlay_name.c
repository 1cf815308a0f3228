// SPDX-License-Identifier: LGPL-2.1-or-later
/* See overlay_name.h. */
#include "image/overlay_name.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/endings.h"

#define STEM_BYTES_MAX 160 /* of a name that has to be cut, so that the snapshot's is seen, too */
#define TRIES_MAX      100

static bool is_plain(char byte)
{
    return (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') ||
           byte == '.' || byte == '_' || byte == '-';
}

/* As many of the bytes as fit, without a character of UTF-8 that is cut in the middle. */
static size_t cut_length(const char *bytes, size_t length, size_t most)
{
    if (length <= most)
        return length;
    while (most > 0 && ((unsigned char)bytes[most] & 0xc0) == 0x80)
        most--;
    return most;
}

/* "STEM.SNAPSHOT", within the limit. False where that is not the snapshot's name as it is, or it must not end
 * like that. */
static bool make_plain_name(const char *below, const char *snapshot, char name[OVERLAY_NAME_SIZE])
{
    size_t stem = (size_t)(ending_start(below) - below), length = strlen(snapshot);
    bool is_whole = stem + 1 + length <= OVERLAY_NAME_BYTES_MAX;
    size_t used = is_whole ? stem : cut_length(below, stem, STEM_BYTES_MAX);
    memcpy(name, below, used);
    name[used++] = '.';
    bool is_same = true;
    for (size_t i = 0; i < length && used < OVERLAY_NAME_BYTES_MAX; i++) {
        bool plain = is_plain(snapshot[i]);
        is_same &= plain;
        if (plain || i == 0 || is_plain(snapshot[i - 1]))
            name[used++] = plain ? snapshot[i] : '_';
    }
    name[used] = '\0';
    return is_whole && is_same && length > 0 && ending_of(name) == ENDING_MEANINGLESS &&
           name[used - 1] != '.';
}

/* 0 where nobody has the name, -EEXIST where somebody has. */
static int look(int directory, const char *name, const char *const *taken, size_t taken_count)
{
    for (size_t i = 0; i < taken_count; i++)
        if (strcmp(name, taken[i]) == 0)
            return -EEXIST;
    struct stat file;
    if (fstatat(directory, name, &file, AT_SYMLINK_NOFOLLOW) == 0)
        return -EEXIST;
    return errno == ENOENT ? 0 : -errno;
}

int overlay_name_choose(int directory, const char *below, const char *snapshot, uint64_t serial,
                        const char *const *taken, size_t taken_count, char name[OVERLAY_NAME_SIZE],
                        struct error *err)
{
    char made[OVERLAY_NAME_SIZE];
    int rc = make_plain_name(below, snapshot, made) ? look(directory, made, taken, taken_count) : -EEXIST;
    size_t length = strlen(made);
    for (unsigned i = 0; rc == -EEXIST && i < TRIES_MAX; i++) {
        int written = snprintf(made + length, sizeof made - length, "~%" PRIu64, serial);
        if (i > 0)
            snprintf(made + length + written, sizeof made - length - (size_t)written, "-%u", i);
        rc = look(directory, made, taken, taken_count);
    }
    if (rc < 0)
        return error_set(err, -rc, "%s: there is no name for an overlay of it: %s", below, strerror(-rc));
    memcpy(name, made, sizeof made);
    return 0;
}
