// SPDX-License-Identifier: LGPL-2.1-or-later
/* Counters about the service; see stats.h. */
#include "base/stats.h"

#include <stdatomic.h>

static _Atomic uint64_t counters[STAT_COUNT];

static const char *const names[STAT_COUNT] = {
    [STAT_READS] = "reads",
    [STAT_READ_BYTES] = "read_bytes",
    [STAT_READ_ERRORS] = "read_errors",
    [STAT_PASSTHROUGH_OPENS] = "passthrough_opens",
    [STAT_DISKS_OPEN] = "disks_open",
    [STAT_MAP_HITS] = "map_hits",
    [STAT_MAP_MISSES] = "map_misses",
    [STAT_CLUSTER_HITS] = "cluster_hits",
    [STAT_CLUSTER_MISSES] = "cluster_misses",
    [STAT_CACHE_BYTES] = "cache_bytes",
    [STAT_HELPERS_RUNNING] = "helpers_running",
    [STAT_SCANS] = "scans",
    [STAT_STORED_AHEAD_BYTES] = "stored_ahead_bytes",
    [STAT_DROPPED_BEHIND_BYTES] = "dropped_behind_bytes",
};

void stats_add(enum stat_counter counter, int64_t amount)
{
    atomic_fetch_add_explicit(&counters[counter], (uint64_t)amount, memory_order_relaxed);
}

uint64_t stats_get(enum stat_counter counter)
{
    return atomic_load_explicit(&counters[counter], memory_order_relaxed);
}

void stats_render(struct text *text)
{
    for (enum stat_counter counter = 0; counter < STAT_COUNT; counter++)
        text_printf(text, "%s %llu\n", names[counter], (unsigned long long)stats_get(counter));
}
