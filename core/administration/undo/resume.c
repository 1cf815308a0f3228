// SPDX-License-Identifier: LGPL-2.1-or-later
/* See resume.h. */
#include "administration/undo/resume.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "administration/change.h"
#include "administration/memory/memory_back.h"
#include "administration/request/start.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "hypervisor/memory_save.h"

#define ANSWER_MS 20000

struct resumption {
    struct administration *administration;
    struct restart restart;
    struct change change;
    struct machine *machine;
    struct start start;
    bool has_happened; /* the operation */
    bool keeps_memory; /* that was put aside, and could not be loaded: people may */
    enum restart_state wanted;
};

static void resumption_done(struct resumption *resumption)
{
    start_done(&resumption->start);
    change_end(&resumption->change);
    machine_unref(resumption->machine);
    restart_done(&resumption->restart);
}

/* ---- The end of it ---- */

int resume_note_run(struct administration *administration, struct restart *restart, struct error *err)
{
    restart->has_run = true;
    return store_save_restart(administration->options.store, restart, err);
}

int resume_forget(struct administration *administration, const struct restart *restart, struct error *err)
{
    if (restart->memory && unlink(restart->memory) < 0 && errno != ENOENT)
        return error_set(err, errno, "%s: %m", restart->memory);
    return store_remove_restart(administration->options.store, restart->domain, err);
}

/* ---- Where its QEMU is there ---- */

/* With its memory; now it runs if it is to. */
static int let_run(struct resumption *resumption, struct error *err)
{
    int r = resume_note_run(resumption->administration, &resumption->restart, err);
    struct machine_report report;
    if (r < 0)
        return r;
    crash_point("noted");
    machine_report(resumption->machine, &report);
    if (resumption->wanted == RESTART_RUNNING && report.state == RUN_STATE_PAUSED)
        r = start_continue(resumption->machine, err);
    return r;
}

/* Of saving its memory nothing is left over in it. */
static int recover(const struct restart *restart, struct qmp *qmp, struct error *err)
{
    const struct memory_save_before before = {
        .running = restart->before == RESTART_RUNNING,
        .settings = {.events = restart->events,
                     .pause_before_switchover = restart->pause_before_switchover,
                     .max_bandwidth = (int64_t)restart->bandwidth},
    };
    return restart->memory ? memory_save_recover(qmp, &before, ANSWER_MS, err) : 0;
}

/* 0: it goes on; 1: there is none, or it was of no use and has ended. */
static int try_present(struct resumption *resumption, struct error *err)
{
    struct qmp *qmp;
    struct run_state_answer answer;
    int r = machine_borrow(resumption->machine, ANSWER_MS, &qmp, NULL, err);
    if (r == -ESRCH)
        return 1;
    if (r < 0)
        return r;
    r = run_state_query_status(qmp, ANSWER_MS, &answer, err);
    bool waits_for_memory = r == 0 && strcmp(answer.word, "inmigrate") == 0;
    if (r == 0 && !waits_for_memory && !resumption->has_happened)
        r = recover(&resumption->restart, qmp, err);
    if (r == 0)
        r = machine_look(resumption->machine, qmp, NULL, err);
    machine_return(resumption->machine, qmp);
    if (r == 0 && waits_for_memory) {
        r = start_take_back(resumption->machine, err);
        return r < 0 ? r : 1;
    }
    return r < 0 ? r : let_run(resumption, err);
}

/* ---- Where it is not ---- */

/* From where it was: with the memory that was put aside. */
static int launch_before(struct resumption *resumption, struct error *err)
{
    const struct domain *domain = resumption->change.domain;
    const struct restart *restart = &resumption->restart;
    if (!restart->memory || !restart->is_saved || !restart->launch)
        return error_set(err, EIO, "its QEMU has ended, and its memory was not saved");
    cleanup_close int fd = open(restart->memory, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return error_set(err, errno, "its memory, %s, can't be opened: %m", restart->memory);
    const struct start_spec spec = {.disks = domain->disks,
                                    .disk_count = domain->disk_count,
                                    .launch = restart->launch,
                                    .wait = START_INCOMING};
    int r = start_prepare(&resumption->start, &resumption->change, resumption->machine, &spec, err);
    if (r == 0)
        r = start_launch(&resumption->start, err);
    crash_point("relaunched");
    return r < 0 ? r : start_load(&resumption->start, fd, NULL, err);
}

/* To where it was to go: with the memory of the snapshot, if that has any. */
static int launch_after(struct resumption *resumption, struct error *err)
{
    const struct domain *domain = resumption->change.domain;
    const struct restart *restart = &resumption->restart;
    cleanup(memory_back_done) struct memory_back memory = MEMORY_BACK_NONE;
    const struct snapshot *snapshot = NULL;
    int r = restart->snapshot ? change_find(&resumption->change, restart->snapshot, &snapshot, err) : 0;
    if (r == 0 && snapshot)
        r = memory_back_find(&memory, &resumption->change, snapshot, err);
    if (r < 0)
        return r;
    const struct start_spec spec = {.disks = domain->disks,
                                    .disk_count = domain->disk_count,
                                    .launch = memory_back_launch(&memory, domain),
                                    .wait = memory_back_wait(&memory)};
    if (!spec.launch)
        return start_refuse_foreign(domain, err);
    r = start_prepare(&resumption->start, &resumption->change, resumption->machine, &spec, err);
    if (r == 0)
        r = start_launch(&resumption->start, err);
    crash_point("relaunched");
    return r < 0 ? r : memory_back_load(&memory, &resumption->start, err);
}

static int launch(struct resumption *resumption, struct error *err)
{
    if (resumption->restart.has_run)
        return error_set(err, EIO, "its QEMU has ended after it went on");
    int r = resumption->has_happened ? launch_after(resumption, err) : launch_before(resumption, err);
    crash_point("reloaded");
    if (r == 0)
        r = let_run(resumption, err);
    if (r < 0)
        start_take_back(resumption->machine, NULL);
    return r;
}

/* ---- All of it ---- */

static int go_on(struct resumption *resumption, struct error *err)
{
    struct administration *administration = resumption->administration;
    const struct restart *restart = &resumption->restart;
    int r = change_begin_resuming(administration, restart->domain, &resumption->change, err);
    if (r < 0)
        return r;
    resumption->has_happened = resumption->change.before->operation == restart->operation;
    resumption->wanted = resumption->has_happened ? restart->after : restart->before;
    resumption->machine = machines_get(administration->options.machines, restart->domain);
    struct error why = {0};
    if (resumption->machine) {
        r = try_present(resumption, err);
        if (r <= 0)
            return r;
    }
    if (resumption->wanted == RESTART_SHUTOFF)
        return 0;
    r = resumption->machine
            ? launch(resumption, &why)
            : error_set(&why, EOPNOTSUPP, "its definition does not say any more how it is run");
    if (r == -EINTR)
        return error_set(err, EINTR, "%s", why.text);
    if (r == 0)
        return 0;
    const char *kept = "";
    if (!resumption->has_happened && restart->memory && restart->is_saved && !restart->has_run &&
        access(restart->memory, F_OK) == 0) {
        kept = restart->memory;
        resumption->keeps_memory = true;
    }
    error_set(err, why.code, "%s stays shut off: %s%s%s", resumption->change.domain->name, why.text,
              *kept ? "; its memory is kept in " : "", kept);
    return 1;
}

int resume_pending(struct administration *administration, uint64_t domain, struct error *err)
{
    cleanup(resumption_done) struct resumption resumption = {.administration = administration};
    struct error why = {0};
    int r = store_read_restart(administration->options.store, domain, &resumption.restart, &why);
    if (r == -ENOENT)
        return 0;
    if (r < 0) { /* it is damaged: there is nothing to go on with */
        log_error("%s", why.text);
        administration_event(administration, domain, "stays as it is: %s", why.text);
        error_set(err, why.code, "%s", why.text);
        r = store_remove_restart(administration->options.store, domain, &why);
        return r < 0 ? error_set(err, why.code, "%s", why.text) : 1;
    }
    int went = go_on(&resumption, err);
    if (went < 0)
        return went;
    if (went > 0) {
        log_error("%s", err->text);
        administration_event(administration, domain, "%s", err->text);
    }
    r = resumption.keeps_memory ? store_remove_restart(administration->options.store, domain, &why)
                                : resume_forget(administration, &resumption.restart, &why);
    return r < 0 ? error_set(err, why.code, "%s", why.text) : went;
}

int resume_drop(struct administration *administration, uint64_t domain, struct error *err)
{
    struct restart restart = {0};
    int r = store_read_restart(administration->options.store, domain, &restart, err);
    if (r == 0)
        r = resume_forget(administration, &restart, err);
    restart_done(&restart);
    return r == -ENOENT ? 0 : r;
}

int resume_clear_way(struct administration *administration, uint64_t domain, uint64_t operation,
                     struct error *err)
{
    struct restart restart = {0};
    struct error why = {0};
    int r = store_read_restart(administration->options.store, domain, &restart, &why);
    if (r < 0 && r != -ENOENT)
        log_error("%s", why.text);
    bool is_its = r == 0 && restart.operation == operation;
    restart_done(&restart);
    return is_its ? machines_end_guest(administration->options.machines, domain, err) : 0;
}

/* ---- At start ---- */

static void answered(void *opaque, const struct request_result *result)
{
    if (result->code)
        log_error("a domain could not go on after an interrupted operation: %s", result->text);
}

void resume_all(struct administration *administration)
{
    cleanup_free uint64_t *domains = NULL;
    size_t count;
    if (store_list_restarts(administration->options.store, &domains, &count) < 0)
        log_error("which domains are to go on can't be read");
    for (size_t i = 0; i < count; i++) {
        struct request *request = calloc(1, sizeof *request);
        if (!request)
            return; /* they go on before their next change */
        *request = (struct request){.kind = REQUEST_RESUME,
                                    .domain = domains[i],
                                    .words = strdup("going on after an interruption"),
                                    .done = answered};
        administration_submit(administration, administration_number(administration), request);
    }
}
