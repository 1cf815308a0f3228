// SPDX-License-Identifier: LGPL-2.1-or-later
/* Counters about the service, shown in .vmsnapfs/stats. Any thread may add; nothing is locked. */
#pragma once

#include <stdint.h>

#include "base/text.h"

enum stat_counter {
    STAT_READS,                /* read requests that reached the daemon */
    STAT_READ_BYTES,           /* bytes that they were answered with */
    STAT_READ_ERRORS,          /* those answered with an error */
    STAT_PASSTHROUGH_OPENS,    /* opens that the kernel reads by itself */
    STAT_DISKS_OPEN,           /* frozen disks open now */
    STAT_MAP_HITS,             /* map regions found in the cache */
    STAT_MAP_MISSES,           /* map regions resolved */
    STAT_CLUSTER_HITS,         /* decompressed clusters found in the cache */
    STAT_CLUSTER_MISSES,       /* clusters decompressed */
    STAT_CACHE_BYTES,          /* memory that maps and clusters hold now */
    STAT_HELPERS_RUNNING,      /* helper programs (qemu-nbd) running now */
    STAT_SCANS,                /* times that the source was searched */
    STAT_STORED_AHEAD_BYTES,   /* stored in the kernel's cache before they were asked for */
    STAT_DROPPED_BEHIND_BYTES, /* page cache given back behind long sequential reads */
    STAT_COUNT,
};

void stats_add(enum stat_counter counter, int64_t amount);
uint64_t stats_get(enum stat_counter counter);

/* Appends a "name value\n" line for each counter. */
void stats_render(struct text *text);
