// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Starting domains, and what else is asked of the QEMUs that run them.
 *
 * A start goes through the lane of its domain as every change does, and holds the domain in the catalog: so
 * nothing changes its images while they are told to QEMU, which locks them then.
 */
#include <errno.h>
#include <string.h>

#include "administration/change.h"
#include "administration/mirror/mirror.h"
#include "administration/request/start.h"
#include "administration/undo/resume.h"
#include "base/cleanup.h"
#include "base/log.h"

#define BORROW_MS 10000
#define ANSWER_MS 10000
#define DEATH_MS  10000

static void drop_machine(struct machine **machine)
{
    machine_unref(*machine);
}

#define cleanup_machine cleanup(drop_machine)

static int answer(struct outcome *outcome, const char *text, struct error *err)
{
    outcome->text = strdup(text);
    return outcome->text ? 0 : error_set(err, ENOMEM, "out of memory");
}

/* ---- Starting ---- */

static int refuse_running(struct machine *machine, const char *name, struct error *err)
{
    struct machine_report report;
    machine_report(machine, &report);
    if (report.contact == MACHINE_CONNECTED)
        return error_set(err, EBUSY, "%s is %s already", name, run_state_name(report.state));
    if (report.contact == MACHINE_SILENT)
        return error_set(err, EBUSY, "%s has a QEMU already: %s", name, report.problem);
    return 0;
}

struct power {
    struct change change;
    struct start start;
};

static void power_done(struct power *power)
{
    start_done(&power->start);
    change_end(&power->change);
}

/* It goes back to the snapshot, and runs then. */
static int start_from(struct administration *administration, struct work *work, struct machine *machine,
                      struct outcome *outcome, struct error *err)
{
    struct request *asked = work->request;
    struct request request = {.kind = REQUEST_REVERT,
                              .domain = asked->domain,
                              .revert = {.state = REVERT_RUNNING},
                              .may_launch = true}; /* power is for nobody else */
    struct catalog *catalog = catalog_service_get(administration->catalog);
    const struct catalog_entry *entry = catalog_find_serial(catalog, asked->domain);
    const struct snapshot *snapshot =
        entry ? domain_find_snapshot(entry->domain, asked->power.snapshot) : NULL;
    request.snapshot = snapshot ? snapshot->serial : 0;
    int r = entry ? refuse_running(machine, entry->domain->name, err) : 0;
    catalog_put(catalog);
    if (r == 0 && !request.snapshot)
        r = error_set(err, ENOENT, "there is no snapshot %s", asked->power.snapshot);
    if (r < 0)
        return r;
    work->request = &request;
    r = carry_out_revert(administration, work, outcome, err);
    work->request = asked;
    return r;
}

static int power_start(struct administration *administration, struct work *work, struct machine *machine,
                       struct outcome *outcome, struct error *err)
{
    cleanup(power_done) struct power power = {0};
    if (work->request->power.snapshot)
        return start_from(administration, work, machine, outcome, err);
    int r = change_begin(administration, work, work->request->domain, &power.change, err);
    if (r < 0)
        return r;
    const struct domain *domain = power.change.domain;
    if (!domain->launch)
        return start_refuse_foreign(domain, err);
    const struct start_spec spec = {
        .disks = domain->disks, .disk_count = domain->disk_count, .launch = domain->launch};
    r = refuse_running(machine, domain->name, err);
    if (r == 0)
        r = mirror_refuse(domain, NULL, err);
    if (r == 0)
        r = start_prepare(&power.start, &power.change, machine, &spec, err);
    if (r == 0)
        r = start_launch(&power.start, err);
    if (r < 0)
        return r;
    administration_event(administration, work->request->domain, "started");
    if (!power.start.changed)
        return answer(outcome, "started", err);
    log_warning("%s was started on %s, which was changed by someone else since it was frozen", domain->name,
                power.start.changed);
    return answer(outcome, "started, on a layer that was changed by someone else since it was frozen", err);
}

/* ---- Ending at once ---- */

static int ask_to_quit(struct machine *machine, struct error *err)
{
    struct qmp *qmp;
    int r = machine_borrow(machine, BORROW_MS, &qmp, NULL, err);
    if (r < 0)
        return r;
    machine_expect_end(machine);
    r = run_state_quit(qmp, ANSWER_MS, err);
    machine_return(machine, qmp);
    return r == 0 ? machine_await_off(machine, DEATH_MS, err) : r;
}

static int power_destroy(struct administration *administration, struct machine *machine,
                         struct outcome *outcome, struct error *err)
{
    struct error why = {0};
    int r = ask_to_quit(machine, &why);
    if (r == -ESRCH)
        return error_set(err, EINVAL, "%s", why.text);
    if (r < 0 && machine_kill(machine, err) == 0)
        r = machine_await_off(machine, DEATH_MS, &why);
    if (r < 0)
        return error_set(err, why.code, "%s", why.text);
    if (resume_drop(administration, machine_domain(machine), &why) < 0)
        log_error("%s", why.text);
    if (mirror_settle(administration, machine_domain(machine), &why) < 0)
        log_info("%s", why.text); /* before the next start, then */
    return answer(outcome, "ended", err);
}

/* ---- What is asked of one that runs ---- */

/* Refuses what can't be done in this state. */
static int check_state(enum power_verb verb, enum run_state state, struct error *err)
{
    const char *name = run_state_name(state);
    switch (state) {
    case RUN_STATE_SHUTTING_DOWN:
    case RUN_STATE_MIGRATING:
        return error_set(err, EBUSY, "the domain is %s; only destroy can be done now", name);
    case RUN_STATE_CRASHED:
        return verb == POWER_RESET
                   ? 0
                   : error_set(err, EINVAL, "the domain has crashed; it can be reset or destroyed");
    case RUN_STATE_RUNNING:
        return verb == POWER_RESUME ? error_set(err, EINVAL, "the domain is running already") : 0;
    case RUN_STATE_PAUSED:
        return verb == POWER_PAUSE ? error_set(err, EINVAL, "the domain is paused already") : 0;
    case RUN_STATE_SHUTOFF:
        break;
    }
    return error_set(err, EINVAL, "the domain is not running");
}

static int send(struct qmp *qmp, enum power_verb verb, enum run_state state, struct error *err)
{
    int r;
    switch (verb) {
    case POWER_SHUTDOWN:
        return run_state_power_down(qmp, ANSWER_MS, err);
    case POWER_PAUSE:
        return run_state_stop(qmp, ANSWER_MS, err);
    case POWER_RESUME:
        return run_state_continue(qmp, ANSWER_MS, err);
    case POWER_RESET:
        r = run_state_reset(qmp, ANSWER_MS, err);
        return r == 0 && state == RUN_STATE_CRASHED ? run_state_continue(qmp, ANSWER_MS, err) : r;
    default:
        return error_set(err, EINVAL, "no such command");
    }
}

/* `was_paused`: it has been let run meanwhile, which is no error. */
static int power_ask(struct machine *machine, enum power_verb verb, bool was_paused, struct outcome *outcome,
                     struct error *err)
{
    static const char *const said[POWER_VERB_COUNT] = {
        [POWER_SHUTDOWN] = "the guest was asked to shut down; when it does is its own affair",
        [POWER_PAUSE] = "paused",
        [POWER_RESUME] = "resumed",
        [POWER_RESET] = "reset",
    };
    struct qmp *qmp;
    enum run_state state;
    int r = machine_borrow(machine, BORROW_MS, &qmp, &state, err);
    if (r == -ESRCH)
        return error_set(err, EINVAL, "the domain is not running");
    if (r < 0)
        return r;
    bool is_done = verb == POWER_RESUME && was_paused && state == RUN_STATE_RUNNING;
    r = is_done ? 0 : check_state(verb, state, err);
    if (r == 0 && !is_done)
        r = send(qmp, verb, state, err);
    if (r == 0)
        r = machine_look(machine, qmp, NULL, err);
    machine_return(machine, qmp);
    return r < 0 ? r : answer(outcome, said[verb], err);
}

/* A guest that stands still while it is not known in which of two files its disk goes on must not write to
 * it. */
static int power_resume(struct administration *administration, struct machine *machine,
                        struct outcome *outcome, struct error *err)
{
    struct machine_report before;
    machine_report(machine, &before);
    int r = mirror_settle(administration, machine_domain(machine), err);
    return r < 0 ? r : power_ask(machine, POWER_RESUME, before.state == RUN_STATE_PAUSED, outcome, err);
}

/* ---- All of it ---- */

int carry_out_power(struct administration *administration, struct work *work, struct outcome *outcome,
                    struct error *err)
{
    const struct request *request = work->request;
    cleanup_machine struct machine *machine = machines_get(administration->options.machines, request->domain);
    if (!machine)
        return error_set(err, EOPNOTSUPP,
                         "nothing is known of the QEMU that runs this domain: its definition, which must be "
                         "trusted, has neither launch nor qmp");
    switch (request->power.verb) {
    case POWER_START:
        return power_start(administration, work, machine, outcome, err);
    case POWER_DESTROY:
        return power_destroy(administration, machine, outcome, err);
    case POWER_RESUME:
        return power_resume(administration, machine, outcome, err);
    default:
        return power_ask(machine, request->power.verb, false, outcome, err);
    }
}
