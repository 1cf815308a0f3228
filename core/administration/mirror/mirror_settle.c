// SPDX-License-Identifier: LGPL-2.1-or-later
/* What has become of copies: after a crash, when their QEMU has ended, when their job has failed; see
 * mirror.h. */
#include <errno.h>

#include "administration/mirror/mirror.h"
#include "administration/mirror/mirror_watch.h"
#include "base/cleanup.h"
#include "hypervisor/block_mirror.h"
#include "hypervisor/image_locks.h"

#define MOVE_MS    10000
#define ROUNDS_MAX 1000 /* each ends a copy, or brings it further */

static bool has_mirrors(struct administration *administration, uint64_t domain)
{
    struct catalog *catalog = catalog_service_get(administration->catalog);
    const struct catalog_entry *entry = catalog_find_serial(catalog, domain);
    bool has = false;
    for (size_t i = 0; entry && !entry->snapshot && i < entry->domain->disk_count; i++)
        has |= entry->domain->disks[i].mirror != NULL;
    catalog_put(catalog);
    return has;
}

/* There is no QEMU: is that sure? A domain may have lost what its definition said of its QEMU. */
static int check_off(const struct mirroring *mirroring, const struct state_mirror *mirror, struct error *err)
{
    const struct disk *disk;
    int r = mirroring_disk(mirroring, mirror->position, &disk, NULL);
    image_locks_forget();
    if ((r == 0 && disk->active && !disk->active->remote &&
         image_locks_written(disk->active->identity.device, disk->active->identity.inode)) ||
        image_locks_written(mirror->device, mirror->inode))
        return error_set(err, EBUSY,
                         "a QEMU that can't be asked has a disk of %s open for writing, or its copy",
                         mirroring->change.domain->name);
    return 0;
}

/* Told to move, and whether it did was not heard: now it does, or the copy goes. */
static int move_again(struct mirroring *mirroring, unsigned position, struct error *err)
{
    const struct running *running = &mirroring->running;
    const struct state_mirror *mirror = state_find_mirror(mirroring->change.state, position);
    const struct qmp_job_watch watch = {.timeout_ms = running->engine.timeout_ms, .stall_ms = MOVE_MS};
    struct mirror_names names;
    struct error why = {0};
    bool has_moved = false;
    mirror_name(mirror->operation, position, &names);
    block_mirror_pivot(&running->engine, names.job, names.node, &watch, &why);
    int r = mirror_has_moved(running, mirror, &has_moved, err);
    if (r < 0)
        return r;
    return has_moved ? mirror_finish_pivot(mirroring, position, err)
                     : mirror_drop(mirroring, position, "it was interrupted on the way to it", err);
}

/* The guest does not write to the copy itself. `*is_settled`: there is nothing to do. */
static int settle_job(struct mirroring *mirroring, struct state_mirror *mirror, bool *is_settled,
                      struct error *err)
{
    struct administration *administration = mirroring->change.administration;
    const struct running *running = &mirroring->running;
    const unsigned position = mirror->position;
    struct qmp_job_report report = {0};
    struct mirror_names names;
    mirror_name(mirror->operation, position, &names);
    int r = qmp_job_look(running->qmp, names.job, running->engine.timeout_ms, &report, err);
    if (r < 0 && r != -ENOENT)
        return r;
    bool is_there = r == 0, is_over = !is_there || report.is_over;
    if (mirror->phase == MIRROR_ENDS && is_over && !report.problem[0]) {
        if (is_there)
            qmp_job_dismiss(running->qmp, names.job, running->engine.timeout_ms, NULL);
        r = block_flush(&running->engine, names.node, NULL, NULL); /* it may have been closed before */
        return qmp_is_dead(running->qmp) ? error_set(err, EIO, "its QEMU has ended")
                                         : mirror_keep(mirroring, position, err);
    }
    if (mirror->phase == MIRROR_ENDS)
        return mirror_drop(mirroring, position,
                           report.problem[0] ? report.problem : "it was interrupted on the way to its end",
                           err);
    if (is_over)
        return mirror_drop(mirroring, position,
                           report.problem[0] ? report.problem
                           : is_there        ? "somebody else has ended its job"
                                             : "its job was not begun, or somebody else has ended it",
                           err);
    if (mirror->phase == MIRROR_PIVOTS)
        return move_again(mirroring, position, err);
    if (mirrors_is_cancelled(administration->mirrors, mirroring->change.serial, mirror->operation, position))
        return mirror_drop(mirroring, position, "it was cancelled", err);
    if (!mirror->resumes) {
        *is_settled = true;
        return 0;
    }
    r = mirror_resume(running, err);
    mirror->resumes = false;
    return r < 0 ? r : mirror_save(&mirroring->change, err);
}

static int settle_one(struct mirroring *mirroring, struct state_mirror *mirror, bool *is_settled,
                      struct error *err)
{
    const struct running *running = &mirroring->running;
    const unsigned position = mirror->position;
    bool has_moved = false;
    int r;
    if (!running_is_active(running)) {
        r = check_off(mirroring, mirror, err);
        if (r < 0)
            return r;
        return mirror->phase == MIRROR_PIVOTED
                   ? mirror_end_pivot(mirroring, position, err)
                   : mirror_drop(mirroring, position, "the domain has ended", err);
    }
    if (mirror->phase == MIRROR_PIVOTED)
        return mirror_end_pivot(mirroring, position, err);
    r = mirror_has_moved(running, mirror, &has_moved, err);
    if (r < 0)
        return r;
    return has_moved ? mirror_finish_pivot(mirroring, position, err)
                     : settle_job(mirroring, mirror, is_settled, err);
}

/* One of them at a time, since what is done to it changes what is known of the domain. */
static int settle_next(struct administration *administration, uint64_t domain, bool *is_settled,
                       struct error *err)
{
    cleanup(mirroring_end) struct mirroring mirroring = {0};
    int r = mirroring_begin(administration, NULL, domain, &mirroring, err);
    if (r < 0)
        return r;
    struct state_domain *state = mirroring.change.state;
    *is_settled = true;
    for (size_t i = 0; i < state->mirror_count; i++) {
        bool is_fine = false;
        r = settle_one(&mirroring, &state->mirrors[i], &is_fine, err);
        if (r < 0 || !is_fine) {
            *is_settled = false;
            return r;
        }
    }
    return 0;
}

int mirror_settle(struct administration *administration, uint64_t domain, struct error *err)
{
    bool is_settled = false;
    int r = 0;
    for (unsigned round = 0; r == 0 && !is_settled && round < ROUNDS_MAX; round++) {
        if (!has_mirrors(administration, domain))
            return 0;
        r = settle_next(administration, domain, &is_settled, err);
    }
    return r < 0 ? (error_prefix(err, "a copy can't be settled yet"), r) : 0;
}
