// SPDX-License-Identifier: LGPL-2.1-or-later
/* Letting go of a copy; see mirror.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "administration/mirror/mirror.h"
#include "administration/mirror/mirror_watch.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "hypervisor/block_mirror.h"

/* The file is to stay, with what the disk holds at this instant. */
static int detach(struct mirroring *mirroring, unsigned position, struct error *err)
{
    struct change *change = &mirroring->change;
    const struct running *running = &mirroring->running;
    struct state_mirror *mirror = state_find_mirror(change->state, position);
    const struct qmp_job_watch watch = {.timeout_ms = running->engine.timeout_ms};
    struct mirror_names names;
    struct error why = {0};
    mirror_name(mirror->operation, position, &names);
    mirror->phase = MIRROR_ENDS;
    int r = mirror_save(change, err);
    if (r < 0)
        return r;
    crash_point("mirror-ends");
    r = block_mirror_detach(&running->engine, names.job, names.node, &watch, &why);
    crash_point("mirror-detached");
    if (r == 0)
        return mirror_keep(mirroring, position, err);
    error_set(err, why.code, "the copy could not be brought to its end, and is dropped: %s", why.text);
    struct error again;
    if (!qmp_is_dead(running->qmp) && mirror_drop(mirroring, position, why.text, &again) < 0)
        log_error("%s: the copy can't be dropped yet: %s", change->domain->name, again.text);
    return r;
}

int carry_out_abort(struct administration *administration, struct work *work, struct outcome *outcome,
                    struct error *err)
{
    cleanup(mirroring_end) struct mirroring mirroring;
    const unsigned position = work->request->disk;
    struct state_mirror *mirror;
    struct mirror_names names;
    struct qmp_job_report report = {0};
    int r = mirroring_begin(administration, work, work->request->domain, &mirroring, err);
    if (r == 0)
        r = mirroring_find(&mirroring, position, &mirror, err);
    if (r < 0)
        return r;
    if (mirror->phase != MIRROR_COPIES || !running_is_active(&mirroring.running))
        return error_set(err, EBUSY,
                         "what was begun with the copy has to be settled first; that is under way");
    mirror_name(mirror->operation, position, &names);
    r = qmp_job_look(mirroring.running.qmp, names.job, mirroring.running.engine.timeout_ms, &report, err);
    if (r < 0 && r != -ENOENT)
        return r;
    bool is_whole = r == 0 && report.is_ready;
    cleanup_free char *path = mirror_path(&mirroring.change, mirror);
    const bool is_made = mirror->is_made;
    r = is_whole ? detach(&mirroring, position, err)
                 : mirror_drop(&mirroring, position, "it was aborted before it was in step", err);
    mirrors_wake(administration->mirrors);
    if (r < 0)
        return r;
    if (asprintf(&outcome->text, "%s %s", path ? path : "the copy",
                 is_whole  ? "holds what the disk held at this instant"
                 : is_made ? "was not in step yet, and is removed"
                           : "was not in step yet: what it holds is of no use") < 0)
        outcome->text = NULL;
    return 0;
}
