// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * See memory_save.h. From before anything else is changed in QEMU until after all of it is as it was, the
 * capability pause-before-switchover is on: memory_save_recover goes by that.
 */
#include "hypervisor/memory_save.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/monotonic.h"
#include "format/json_parse.h"
#include "hypervisor/deadline.h"
#include "hypervisor/qmp_arguments.h"
#include "hypervisor/run_state.h"

#define LIVE_WITHOUT_KVM_MAJOR 9

#define BANDWIDTH (INT64_C(1) << 40) /* a file or pipe takes it as fast as it can */

static int ask_for_kvm(struct qmp *qmp, int timeout_ms, bool *enabled, struct error *err)
{
    cleanup_json struct json_object *reply = NULL;
    int rc = qmp_command(qmp, "query-kvm", NULL, timeout_ms, &reply, err);
    if (rc < 0)
        return rc;
    struct json_object *value = NULL;
    if (json_object_is_type(reply, json_type_object))
        json_object_object_get_ex(reply, "enabled", &value);
    *enabled = json_object_is_type(value, json_type_boolean) && json_object_get_boolean(value);
    return 0;
}

/* One that was only saved (QEMU 10.0) is called like one that was migrated, but has its disks. */
static int check_not_elsewhere(struct qmp *qmp, const struct run_state_answer *now, int timeout_ms,
                               struct error *err)
{
    bool has_disks = true;
    int rc = 0;
    if (strcmp(now->word, "postmigrate") == 0)
        rc = run_state_has_disks(qmp, timeout_ms, &has_disks, err);
    if (rc < 0)
        return rc;
    return has_disks ? 0 : error_set(err, EBUSY, "the domain was migrated, and may run elsewhere");
}

int memory_save_look(struct qmp *qmp, int timeout_ms, struct memory_save_before *before, struct error *err)
{
    struct run_state_answer answer;
    int rc = run_state_query(qmp, timeout_ms, &answer, err);
    if (rc < 0)
        return rc;
    if (answer.state == RUN_STATE_CRASHED)
        return error_set(err, EIO, "the domain has crashed; QEMU calls its state \"%s\"", answer.word);
    if (answer.state != RUN_STATE_RUNNING && answer.state != RUN_STATE_PAUSED)
        return error_set(err, EBUSY, "the domain is %s; its memory can't be saved",
                         run_state_name(answer.state));
    rc = check_not_elsewhere(qmp, &answer, timeout_ms, err);
    if (rc < 0)
        return rc;
    struct memory_save_before made = {.running = answer.running};
    bool kvm = true;
    if (qmp_version(qmp).major < LIVE_WITHOUT_KVM_MAJOR)
        rc = ask_for_kvm(qmp, timeout_ms, &kvm, err);
    if (rc < 0)
        return rc;
    made.loses_pages = !kvm;
    rc = migration_settings_query(qmp, timeout_ms, &made.settings, err);
    if (rc == 0)
        *before = made;
    return rc;
}

int memory_save_size(struct qmp *qmp, int timeout_ms, uint64_t *bytes, struct error *err)
{
    static const char *const parts[] = {"base-memory", "plugged-memory"};
    cleanup_json struct json_object *reply = NULL;
    int rc = qmp_command(qmp, "query-memory-size-summary", NULL, timeout_ms, &reply, err);
    if (rc < 0)
        return rc;
    *bytes = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        *bytes += json_number_in(reply, parts[i]);
    return 0;
}

/* `state` is the one that it is in. */
static int let_go_on(struct qmp *qmp, const char *state, int timeout_ms, struct error *err)
{
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&arguments, "state", state);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    return qmp_command(qmp, "migrate-continue", arguments, timeout_ms, NULL, err);
}

/*
 * Has a migration that is under way leave off, and waits for that. `*answer` is the state then. (QEMU says
 * that a migration is over, and only then makes an end of its "finish-migrate". And one that is told to leave
 * off at the very moment in which it begins to pause misses that (7.2), and pauses, until it is told to go
 * on.)
 */
static int leave_off(struct qmp *qmp, int timeout_ms, struct run_state_answer *answer, struct error *err)
{
    int64_t deadline = deadline_in(timeout_ms);
    for (;;) {
        struct migration_status status;
        int rc = migration_query(qmp, timeout_ms, &status, err);
        if (rc == 0)
            rc = run_state_query_status(qmp, timeout_ms, answer, err);
        if (rc < 0)
            return rc;
        bool under_way = migration_is_under_way(&status);
        if (!under_way && strcmp(answer->word, "finish-migrate") != 0)
            return 0;
        if (deadline_left_ms(deadline) == 0)
            return qmp_give_up(qmp, ETIMEDOUT, "saving its memory does not come to its end", err);
        if (status.phase == MIGRATION_CANCELLING)
            let_go_on(qmp, "cancelling", timeout_ms, NULL);
        else if (under_way)
            qmp_command(qmp, "migrate_cancel", NULL, timeout_ms, NULL, NULL);
        if (under_way)
            migration_await_change(qmp);
        else
            poll(NULL, 0, 1);
    }
}

static int run_as_before(struct qmp *qmp, const struct memory_save_before *before,
                         const struct run_state_answer *now, int timeout_ms, struct error *err)
{
    /* Of these the guest is the cause. */
    if (now->state == RUN_STATE_CRASHED || now->state == RUN_STATE_SHUTTING_DOWN)
        return 0;
    bool migrated = strcmp(now->word, "postmigrate") == 0;
    int rc = 0;
    if (migrated && !before->running) {
        rc = run_state_activate_disks(qmp, timeout_ms, err);
        if (rc != -EOPNOTSUPP)
            return rc;
        rc = 0;
    }
    if (!now->running && (before->running || migrated))
        rc = run_state_continue(qmp, timeout_ms, err);
    /* Whatever became of continuing it, which only gave it its disks back: it must not run on. */
    if (!before->running && (now->running || migrated)) {
        int stopped = run_state_stop(qmp, timeout_ms, rc < 0 ? NULL : err);
        rc = rc < 0 ? rc : stopped;
    }
    return rc;
}

static int put_back(struct qmp *qmp, const struct memory_save_before *before, int timeout_ms,
                    struct error *err)
{
    struct run_state_answer now;
    int rc = leave_off(qmp, timeout_ms, &now, err);
    if (rc == 0)
        rc = run_as_before(qmp, before, &now, timeout_ms, err);
    return rc < 0 ? rc : migration_settings_apply(qmp, &before->settings, timeout_ms, err);
}

/* A paused domain that was saved before, and has only been given its disks back, can't be migrated again
 * (QEMU 10.0) until it has run for an instant. Where that fails, it may run. */
static int end_earlier_save(struct qmp *qmp, int timeout_ms, struct error *err)
{
    struct run_state_answer now;
    int rc = run_state_query_status(qmp, timeout_ms, &now, err);
    if (rc < 0 || strcmp(now.word, "postmigrate") != 0)
        return rc;
    rc = check_not_elsewhere(qmp, &now, timeout_ms, err);
    if (rc == 0)
        rc = run_state_continue(qmp, timeout_ms, err);
    return rc < 0 ? rc : run_state_stop(qmp, timeout_ms, err);
}

/* Settings that could not be applied may be so in part. */
static bool are_left(struct qmp *qmp, const struct migration_settings *before, int timeout_ms)
{
    struct migration_settings now;
    return migration_settings_query(qmp, timeout_ms, &now, NULL) < 0 ||
           now.pause_before_switchover != before->pause_before_switchover;
}

int memory_save_begin(struct qmp *qmp, const struct memory_save_spec *spec,
                      const struct memory_save_before *before, struct memory_save *save, struct error *err)
{
    const struct migration_settings settings = {
        .events = true, .pause_before_switchover = true, .max_bandwidth = BANDWIDTH};
    bool set = false, stopped = false, may_run = false;
    struct error why = {0}, undone = {0};
    int rc = migration_settings_apply(qmp, &settings, spec->timeout_ms, &why);
    set = rc == 0 || (!qmp_is_dead(qmp) && are_left(qmp, &before->settings, spec->timeout_ms));
    if (rc == 0 && before->running && (!spec->live || before->loses_pages)) {
        rc = run_state_stop(qmp, spec->timeout_ms, &why);
        stopped = rc == 0;
    }
    if (rc == 0 && !before->running) {
        rc = end_earlier_save(qmp, spec->timeout_ms, &why);
        may_run = rc < 0;
    }
    if (rc == 0)
        rc = migration_start(qmp, "migrate", spec->fd, spec->timeout_ms, &why);
    if (rc == 0) {
        *save = (struct memory_save){
            .qmp = qmp,
            .before = *before,
            .passes_max = spec->passes_max ? spec->passes_max : MEMORY_SAVE_PASSES,
            .timeout_ms = spec->timeout_ms,
        };
        return 0;
    }
    /* A migration of somebody else's may be why: it is none of ours to cancel. */
    if (stopped)
        run_state_continue(qmp, spec->timeout_ms, &undone);
    if (may_run)
        run_state_stop(qmp, spec->timeout_ms, &undone);
    if (set && !undone.code)
        migration_settings_apply(qmp, &before->settings, spec->timeout_ms, &undone);
    if (!undone.code)
        return error_set(err, why.code, "%s", why.text);
    struct error both;
    error_set(&both, why.code, "%.250s; and then: %.250s", why.text, undone.text);
    return qmp_give_up(qmp, why.code, both.text, err);
}

/* A guest that changes its memory as fast as it is copied is stopped. */
static int end_the_chase(struct memory_save *save, const struct migration_status *status, struct error *err)
{
    if (status->phase != MIGRATION_ACTIVE || status->passes <= save->passes_max)
        return 0;
    int rc = run_state_stop(save->qmp, save->timeout_ms, err);
    if (rc == 0)
        save->passes_max = UINT64_MAX;
    return rc;
}

static int check_phase(const struct migration_status *status, enum migration_phase wanted, struct error *err)
{
    switch (status->phase) {
    case MIGRATION_FAILED:
        return migration_failure(status, err);
    case MIGRATION_NONE:
    case MIGRATION_CANCELLING:
    case MIGRATION_CANCELLED:
        return error_set(err, EBUSY, "somebody else has cancelled saving the memory");
    case MIGRATION_SWITCHING:
    case MIGRATION_COMPLETED:
        return wanted == MIGRATION_COMPLETED
                   ? 0
                   : error_set(err, EBUSY, "somebody else has let saving the memory go on to its end");
    default:
        return 0;
    }
}

static int await_phase(struct memory_save *save, enum migration_phase wanted,
                       const struct qmp_job_watch *watch, struct error *err)
{
    int64_t stall_ms = watch->stall_ms ? watch->stall_ms : QMP_JOB_STALL_MS;
    int64_t moved_at = monotonic_ms();
    struct migration_status status, before = {0};
    for (;;) {
        int rc = migration_query(save->qmp, watch->timeout_ms, &status, err);
        if (rc == 0)
            rc = check_phase(&status, wanted, err);
        if (rc < 0)
            return rc;
        bool go_on =
            !watch->progress || watch->progress(watch->opaque, status.done_bytes, status.total_bytes);
        if (status.phase == wanted)
            return 0;
        if (!go_on)
            return error_set(err, ECANCELED, "saving the memory was cancelled");
        rc = end_the_chase(save, &status, err);
        if (rc < 0)
            return rc;
        if (status.phase != before.phase || status.done_bytes != before.done_bytes)
            moved_at = monotonic_ms();
        before = status;
        if (monotonic_ms() - moved_at >= stall_ms)
            return error_set(err, ETIMEDOUT, "saving the memory did not move for %lld ms",
                             (long long)stall_ms);
        migration_await_change(save->qmp);
    }
}

int memory_save_copy(struct memory_save *save, const struct qmp_job_watch *watch, struct error *err)
{
    return await_phase(save, MIGRATION_PRE_SWITCHOVER, watch, err);
}

int memory_save_finish(struct memory_save *save, const struct qmp_job_watch *watch, struct error *err)
{
    int rc = let_go_on(save->qmp, "pre-switchover", watch->timeout_ms, err);
    return rc < 0 ? rc : await_phase(save, MIGRATION_COMPLETED, watch, err);
}

int memory_save_resume(struct memory_save *save, struct error *err)
{
    return put_back(save->qmp, &save->before, save->timeout_ms, err);
}

int memory_save_cancel(struct memory_save *save, struct error *err)
{
    return put_back(save->qmp, &save->before, save->timeout_ms, err);
}

int memory_save_recover(struct qmp *qmp, const struct memory_save_before *before, int timeout_ms,
                        struct error *err)
{
    struct migration_settings now;
    int rc = migration_settings_query(qmp, timeout_ms, &now, err);
    if (rc < 0)
        return rc;
    /* Off: nothing was begun, or all was over; what goes on is somebody else's. */
    return now.pause_before_switchover ? put_back(qmp, before, timeout_ms, err) : 0;
}
