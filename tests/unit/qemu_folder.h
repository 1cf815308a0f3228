// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A temporary folder with images, made and judged by the real qemu-img and qemu-io: what the tests of
 * hypervisor/ on image files share. Each is one program with one folder.
 */
#pragma once

#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "must.h"

#define LONG_MS 600000

static char folder[] = "/tmp/test_vmsnapfs.XXXXXX";

static inline const char *in_folder(const char *name)
{
    static char paths[32][128];
    static unsigned next;
    char *path = paths[next++ % 32];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

/* Runs a shell line in the folder, and returns its status. */
static inline __attribute__((format(printf, 1, 2))) int status_of(const char *format, ...)
{
    cleanup_free char *line = NULL, *command = NULL;
    va_list arguments;
    va_start(arguments, format);
    assert_true(vasprintf(&line, format, arguments) > 0);
    va_end(arguments);
    assert_true(asprintf(&command, "cd %s && { %s; } >log 2>&1", folder, line) > 0);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* What must succeed. In the line, failures of all but the last part count only with && between them. */
#define run(...)                                                                                             \
    do {                                                                                                     \
        if (status_of(__VA_ARGS__) != 0) {                                                                   \
            print_log();                                                                                     \
            fail_msg("failed: " __VA_ARGS__);                                                                \
        }                                                                                                    \
    } while (0)

static inline void print_log(void)
{
    char line[256];
    cleanup_fclose FILE *file = fopen(in_folder("log"), "re");
    while (file && fgets(line, sizeof line, file))
        print_error("%s", line);
}

static inline int open_image_file(const char *name, int flags)
{
    int fd = open(in_folder(name), flags | O_CLOEXEC);
    if (fd < 0)
        fail_msg("%s: %s", name, strerror(errno));
    return fd;
}

/* Leaks are no damage: qemu-img check gives 3 for them. */
static inline void assert_undamaged(const char *image)
{
    int status = status_of("qemu-img check -f qcow2 %s", image);
    if (status != 0 && status != 3) {
        print_log();
        fail_msg("qemu-img check gives %d for %s", status, image);
    }
}

/* The same length and bytes; `format` is the image's. */
static inline void assert_reads_as(const char *image, const char *format, const char *raw)
{
    if (status_of("qemu-img convert -f %s -O raw %s read.raw && cmp read.raw %s", format, image, raw) != 0)
        fail_msg("%s reads otherwise than %s", image, raw);
}

/* A small generator of our own, so that a printed seed brings the same run back. */
static uint64_t random_state;

static inline uint64_t random_below(uint64_t bound)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state * UINT64_C(2685821657736338717) >> 20) % bound;
}

/* From SEED in the environment, or the clock; says which. */
static inline void random_begin(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const char *given = getenv("SEED");
    uint64_t seed =
        given ? strtoull(given, NULL, 10) : (uint64_t)now.tv_sec * 1000003 + (uint64_t)now.tv_nsec;
    random_state = seed ? seed : 1;
    print_message("SEED=%llu\n", (unsigned long long)seed);
}

/* 77 where QEMU's programs are not installed; else 0, and the folder is there. */
static inline int folder_make(void)
{
    if (system("command -v qemu-img >/dev/null && command -v qemu-io >/dev/null && "
               "command -v qemu-storage-daemon >/dev/null") != 0) {
        fprintf(stderr, "qemu-img, qemu-io and qemu-storage-daemon are not installed\n");
        return 77;
    }
    return mkdtemp(folder) ? 0 : 1;
}

/* For tests that take the folder open: a group's setup and teardown. */
static int folder_fd __attribute__((unused)) = -1;

static inline int folder_remove(void **state)
{
    char line[128];
    snprintf(line, sizeof line, "rm -rf %s", folder);
    return system(line);
}

static inline int folder_open(void **state)
{
    folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return folder_fd < 0;
}

static inline int folder_close_and_remove(void **state)
{
    close(folder_fd);
    return folder_remove(state);
}
