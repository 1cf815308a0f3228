// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What giving space back does to files that the QEMU of a running domain has open: that QEMU does it. Paths
 * are those of layers of the world. Inside of reclaim_work.h, beside reclaim_files.h.
 *
 * A file that is in the chains of several QEMUs is written to by none of them. Of those that are known, that
 * is counted here; whoever else has it open holds QEMU's lock on it, upon which the QEMU that is asked can't
 * write to it either: EBUSY.
 */
#pragma once

#include "administration/inside.h"
#include "administration/world.h"
#include "hypervisor/block_nodes.h"
#include "hypervisor/block_pivot.h"
#include "machine/machine.h"

/* One QEMU, whose monitor is ours until reclaim_hosts_end. */
struct reclaim_host {
    const struct domain *domain; /* borrowed from the catalog */
    struct machine *machine;
    struct qmp *qmp;
    struct block_engine engine;
    struct block_nodes nodes; /* as of the beginning */
};

struct reclaim_hosts {
    struct administration *administration;
    struct reclaim_host *list;
    size_t count;
};

/*
 * Reaches the QEMUs of those of these domains that run, and ends jobs that a predecessor has left there, with
 * what these have left open for writing. Errors: EBUSY where one does not answer, or is being migrated, or is
 * ending: later.
 */
int reclaim_hosts_begin(struct administration *administration, const struct catalog *catalog,
                        const uint64_t *domains, size_t count, struct reclaim_hosts *hosts,
                        struct error *err);
void reclaim_hosts_end(struct reclaim_hosts *hosts);

/*
 * After a step that failed: ends what goes on of it, and has the QEMUs open frozen layers for reading only.
 * False: they may be written to still, as a connection was lost, or the job did not end, or the journal has
 * it, or one could not be opened anew.
 */
bool reclaim_hosts_give_up(struct reclaim_hosts *hosts);

/*
 * The one that has these layers open (`into` may be NULL); `*host` is NULL where none has either. Errors:
 * EBUSY where several have, or it has only one of both.
 */
int reclaim_hosts_find(struct reclaim_hosts *hosts, const struct world *world, const char *path,
                       const char *into, struct reclaim_host **host, struct error *err);

/* Has each close what it has open of the layer. EBUSY: one uses it. */
int reclaim_hosts_close(struct reclaim_hosts *hosts, const struct world *world, const char *path,
                        struct error *err);

/* Is the layer the active one of a disk of the host's domain? */
bool reclaim_host_is_active(const struct reclaim_host *host, const char *path);

/* The layer that lies on it in a chain of the host's domain; NULL: none. */
const char *reclaim_host_overlay(const struct reclaim_host *host, const char *path);

/* As reclaim_drop. EBUSY also where it has the file open for reading. */
int reclaim_host_drop(struct reclaim_host *host, struct administration *administration,
                      const struct world *world, const char *path, const struct internal_snapshot *internal,
                      struct error *err);

/*
 * As reclaim_merge_down of a layer that is not active, and then has what lies on it in the host stand on
 * `lower`. `copied` is called in between, as block_merge.h says.
 */
int reclaim_host_merge_down(struct reclaim_host *host, struct administration *administration,
                            const struct world *world, struct work *work, const char *upper,
                            const char *lower, int (*copied)(void *opaque, struct error *err), void *opaque,
                            struct error *err);

/* As reclaim_merge_up. */
int reclaim_host_merge_up(struct reclaim_host *host, struct administration *administration,
                          const struct world *world, struct work *work, const char *upper, struct error *err);

/*
 * Brings `lower` in step with `upper`, the active layer of a disk, and holds the disk (block_pivot.h);
 * `in_step` is called before it is held, and an error of it gives the job up. After an error the disk goes on
 * in `upper`.
 */
int reclaim_host_hold(struct reclaim_host *host, struct administration *administration,
                      const struct world *world, struct work *work, const char *upper, const char *lower,
                      int (*in_step)(void *opaque, struct error *err), void *opaque, struct error *err);

/* Does a disk of the guest lie in the layer now? False also where that can't be told. */
bool reclaim_host_has_disk(struct reclaim_host *host, struct administration *administration,
                           const struct world *world, const char *path);
