// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A layer of file_calls over a directory that knows what a power cut would leave there. Include unit.h first.
 *
 * Everything is done to the directory itself, too. Of a file, what was not flushed may be lost, torn, zeros
 * or another file's old bytes; each name of the directory leads, by itself, to whatever it led to at any time
 * since the directory was last flushed. The power can be cut during any call, which is then done or not, or
 * in part; a call can be made to fail; and any write may be a short one.
 */
#pragma once

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/file_calls.h"

#define CUT_NAMES   32
#define CUT_FILES   4096
#define CUT_HISTORY 64
#define CUT_NEVER   (-1L)

struct cut_file {
    char *bytes;
    size_t length;
    bool is_flushed;
};

struct cut_name {
    char name[256];
    int history[CUT_HISTORY]; /* files that it led to since the last flush, -1 for none; the last one is now
                               */
    size_t count;
};

struct power_cut {
    struct file_calls calls; /* to be used */
    int directory;           /* the real one */
    uint64_t random;
    long call;     /* how many there were */
    long cut_at;   /* the power goes at this call, or CUT_NEVER */
    long fail_at;  /* this call fails, or CUT_NEVER */
    bool fails_on; /* and all after it */
    int code;      /* with this errno */
    bool is_off;   /* the power is gone: nothing is done any more */
    struct cut_file files[CUT_FILES];
    int file_count;
    struct cut_name names[CUT_NAMES];
    size_t name_count;
    int fds[1024]; /* files that descriptors lead to */
};

static inline unsigned cut_random(struct power_cut *cut, unsigned below)
{
    cut->random = cut->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)(cut->random >> 33) % below;
}

static inline struct cut_name *cut_name(struct power_cut *cut, const char *name)
{
    for (size_t i = 0; i < cut->name_count; i++)
        if (strcmp(cut->names[i].name, name) == 0)
            return &cut->names[i];
    assert_true(cut->name_count < CUT_NAMES);
    struct cut_name *made = &cut->names[cut->name_count++];
    *made = (struct cut_name){.history = {-1}, .count = 1};
    snprintf(made->name, sizeof made->name, "%s", name);
    return made;
}

static inline int cut_now(const struct cut_name *name)
{
    return name->history[name->count - 1];
}

static inline void cut_lead(struct cut_name *name, int file)
{
    assert_true(name->count < CUT_HISTORY);
    name->history[name->count++] = file;
}

/* What becomes of a call: done, failed (errno is set), or the power goes, with it done or not. */
enum cut_fate { CUT_DONE, CUT_FAILED, CUT_OFF_DONE, CUT_OFF_LOST };

static inline enum cut_fate cut_fate(struct power_cut *cut)
{
    errno = EIO;
    if (cut->is_off)
        return CUT_FAILED;
    long call = cut->call++;
    if (call == cut->cut_at) {
        cut->is_off = true;
        return cut_random(cut, 2) ? CUT_OFF_DONE : CUT_OFF_LOST;
    }
    if (cut->fail_at != CUT_NEVER && (cut->fails_on ? call >= cut->fail_at : call == cut->fail_at)) {
        errno = cut->code;
        return CUT_FAILED;
    }
    return CUT_DONE;
}

static inline int cut_result(enum cut_fate fate, int result)
{
    if (fate == CUT_DONE)
        return result;
    errno = fate == CUT_FAILED ? errno : EIO;
    return -1;
}

static inline int cut_open(void *layer, int directory, const char *name)
{
    struct power_cut *cut = layer;
    enum cut_fate fate = cut_fate(cut);
    if (fate == CUT_FAILED || fate == CUT_OFF_LOST)
        return cut_result(fate, -1);
    int fd = file_calls_system.open(NULL, directory, name);
    assert_in_range(fd, 0, 1023);
    struct cut_name *leads = cut_name(cut, name);
    int file = cut_now(leads);
    if (file < 0) {
        assert_true(cut->file_count < CUT_FILES);
        file = cut->file_count++;
        cut_lead(leads, file);
    }
    free(cut->files[file].bytes);
    cut->files[file] = (struct cut_file){0}; /* that it was emptied is not flushed either */
    cut->fds[fd] = file;
    if (fate == CUT_OFF_DONE)
        close(fd);
    return cut_result(fate, fd);
}

static inline ssize_t cut_write(void *layer, int fd, const void *bytes, size_t length)
{
    struct power_cut *cut = layer;
    enum cut_fate fate = cut_fate(cut);
    if (fate == CUT_FAILED || fate == CUT_OFF_LOST)
        return cut_result(fate, -1);
    if (length > 1 && cut_random(cut, 4) == 0)
        length = 1 + cut_random(cut, (unsigned)length - 1);
    assert_int_equal(write(fd, bytes, length), length);
    struct cut_file *file = &cut->files[cut->fds[fd]];
    file->bytes = realloc(file->bytes, file->length + length);
    memcpy(file->bytes + file->length, bytes, length);
    file->length += length;
    file->is_flushed = false;
    return cut_result(fate, (int)length);
}

static inline int cut_fsync(void *layer, int fd)
{
    struct power_cut *cut = layer;
    enum cut_fate fate = cut_fate(cut);
    if (fate == CUT_DONE || fate == CUT_OFF_DONE)
        cut->files[cut->fds[fd]].is_flushed = true;
    return cut_result(fate, 0);
}

static inline int cut_rename(void *layer, int directory, const char *from, const char *to)
{
    struct power_cut *cut = layer;
    enum cut_fate fate = cut_fate(cut);
    if (fate == CUT_FAILED || fate == CUT_OFF_LOST)
        return cut_result(fate, -1);
    assert_int_equal(file_calls_system.rename(NULL, directory, from, to), 0);
    cut_lead(cut_name(cut, to), cut_now(cut_name(cut, from)));
    cut_lead(cut_name(cut, from), -1);
    return cut_result(fate, 0);
}

static inline int cut_unlink(void *layer, int directory, const char *name)
{
    struct power_cut *cut = layer;
    enum cut_fate fate = cut_fate(cut);
    if (fate == CUT_FAILED || fate == CUT_OFF_LOST)
        return cut_result(fate, -1);
    int r = file_calls_system.unlink(NULL, directory, name);
    if (r == 0)
        cut_lead(cut_name(cut, name), -1);
    return fate == CUT_DONE ? r : cut_result(fate, 0);
}

static inline int cut_fsync_directory(void *layer, int directory)
{
    struct power_cut *cut = layer;
    enum cut_fate fate = cut_fate(cut);
    for (size_t i = 0; (fate == CUT_DONE || fate == CUT_OFF_DONE) && i < cut->name_count; i++) {
        struct cut_name *name = &cut->names[i];
        name->history[0] = cut_now(name);
        name->count = 1;
    }
    return cut_result(fate, 0);
}

static inline void power_cut_done(struct power_cut *cut)
{
    for (int i = 0; i < cut->file_count; i++) {
        free(cut->files[i].bytes);
        cut->files[i].bytes = NULL;
    }
    cut->file_count = 0;
}

/* Begins anew with what is in the directory, all of it flushed. */
static inline void power_cut_on(struct power_cut *cut)
{
    power_cut_done(cut);
    cut->name_count = 0;
    cut->call = 0;
    cut->cut_at = cut->fail_at = CUT_NEVER;
    cut->is_off = false;
    DIR *dir = fdopendir(openat(cut->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.')
            continue;
        struct cut_file *file = &cut->files[cut->file_count];
        int fd = openat(cut->directory, entry->d_name, O_RDONLY | O_CLOEXEC);
        file->length = (size_t)lseek(fd, 0, SEEK_END);
        file->bytes = malloc(file->length + 1);
        assert_int_equal(pread(fd, file->bytes, file->length, 0), file->length);
        file->is_flushed = true;
        close(fd);
        cut_name(cut, entry->d_name)->history[0] = cut->file_count++;
    }
    closedir(dir);
}

static inline void power_cut_init(struct power_cut *cut, int directory, uint64_t seed)
{
    memset(cut, 0, sizeof *cut);
    cut->calls =
        (struct file_calls){cut, cut_open, cut_write, cut_fsync, cut_rename, cut_unlink, cut_fsync_directory};
    cut->directory = directory;
    cut->random = seed * 2 + 1;
    power_cut_on(cut);
}

/* What may be found where a file's bytes were not flushed. */
static inline void cut_tear(struct power_cut *cut, const struct cut_file *file, int fd)
{
    size_t kept = file->length ? cut_random(cut, (unsigned)file->length + 1) : 0;
    char filler = '\0';
    switch (cut_random(cut, 5)) {
    case 0: /* nothing */
        return;
    case 1: /* everything */
        kept = file->length;
        break;
    case 2: /* a part */
        assert_int_equal(write(fd, file->bytes, kept), kept);
        return;
    case 3: /* the right length, but not all bytes */
        filler = (char)cut_random(cut, 256);
        break;
    default: /* zeros */
        kept = 0;
        break;
    }
    assert_int_equal(write(fd, file->bytes, kept), kept);
    for (; kept < file->length; kept++)
        assert_int_equal(write(fd, &filler, 1), 1);
}

/* Fills the directory with what a power cut now may leave, and begins anew with that. */
static inline void power_cut_strike(struct power_cut *cut)
{
    for (size_t i = 0; i < cut->name_count; i++) {
        struct cut_name *name = &cut->names[i];
        unlinkat(cut->directory, name->name, 0);
        int choice = name->history[cut_random(cut, (unsigned)name->count)];
        if (choice < 0)
            continue;
        const struct cut_file *file = &cut->files[choice];
        int fd = openat(cut->directory, name->name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        if (file->is_flushed)
            assert_int_equal(write(fd, file->bytes, file->length), file->length);
        else
            cut_tear(cut, file, fd);
        close(fd);
    }
    power_cut_on(cut);
}
