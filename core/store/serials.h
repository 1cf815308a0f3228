// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The counter of serial numbers. Numbers are reserved on disk in blocks before the first of a block is given,
 * so that none is given twice, whenever the process is killed; what was left of a block is lost, which does
 * not matter with 2^47 of them.
 */
#pragma once

#include <stdint.h>

#include "base/error.h"

struct serials {
    int directory;     /* borrowed; holds the file "serials" */
    uint64_t next;     /* the next one to give */
    uint64_t reserved; /* the first that is not reserved on disk; >= next */
};

/*
 * Reads the counter. A missing or damaged file is no error: `*found` tells, and counting then begins at 1,
 * unless serials_skip is told of numbers that are in use.
 */
int serials_init(struct serials *serials, int directory, int *found, struct error *err);

/* The number is in use: give only greater ones. Hashed numbers (SERIAL_HASHED) are passed over. */
void serials_skip(struct serials *serials, uint64_t used);

/* ENOSPC, EIO and others of replace_file; EOVERFLOW. */
int serials_next(struct serials *serials, uint64_t *serial, struct error *err);
