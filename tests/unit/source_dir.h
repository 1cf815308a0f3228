// SPDX-License-Identifier: LGPL-2.1-or-later
/* A temporary directory to be a source, and commands that fill it. Include unit.h first. */
#pragma once

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The directory of the test that runs; set by source_dir_setup. Mode 0755. */
static char source_dir[64];

/* Runs a command line in the directory; it must succeed. */
__attribute__((format(printf, 1, 2), unused)) static void run(const char *format, ...)
{
    char command[4096];
    int length = snprintf(command, sizeof command, "cd %s && ", source_dir);
    va_list args;
    va_start(args, format);
    vsnprintf(command + length, sizeof command - (size_t)length, format, args);
    va_end(args);
    if (system(command) != 0)
        fail_msg("failed: %s", command);
}

__attribute__((unused)) static int source_dir_setup(void **state)
{
    /* In memory: many tests wait for the disk hundreds of times. */
    strcpy(source_dir,
           access("/dev/shm", W_OK) == 0 ? "/dev/shm/vmsnapfs-unit-XXXXXX" : "/tmp/vmsnapfs-unit-XXXXXX");
    umask(022);
    return mkdtemp(source_dir) && chmod(source_dir, 0755) == 0 ? 0 : -1;
}

__attribute__((unused)) static int source_dir_teardown(void **state)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", source_dir);
    return system(command);
}
