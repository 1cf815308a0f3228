// SPDX-License-Identifier: LGPL-2.1-or-later
/* See memory_load.h. */
#include "hypervisor/memory_load.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/monotonic.h"
#include "hypervisor/migration.h"
#include "hypervisor/run_state.h"

/* How far a file was read: QEMU shares our offset. */
static void look_at_offset(int fd, uint64_t *done, uint64_t *total)
{
    struct stat attributes;
    off_t offset = lseek(fd, 0, SEEK_CUR);
    *done = *total = 0;
    if (offset < 0 || fstat(fd, &attributes) < 0 || !S_ISREG(attributes.st_mode))
        return;
    *done = (uint64_t)offset;
    *total = (uint64_t)attributes.st_size;
}

static int await_end(struct qmp *qmp, int fd, const struct qmp_job_watch *watch, struct error *err)
{
    int64_t stall_ms = watch->stall_ms ? watch->stall_ms : QMP_JOB_STALL_MS;
    int64_t moved_at = monotonic_ms();
    uint64_t done, total, done_before = 0;
    for (;;) {
        struct migration_status status;
        int rc = migration_query(qmp, watch->timeout_ms, &status, err);
        if (rc < 0)
            return rc;
        look_at_offset(fd, &done, &total);
        bool go_on = !watch->progress || watch->progress(watch->opaque, done, total);
        if (status.phase == MIGRATION_COMPLETED)
            return 0;
        if (status.phase == MIGRATION_FAILED)
            return migration_failure(&status, err);
        if (!go_on)
            return error_set(err, ECANCELED, "loading the memory was cancelled");
        if (done != done_before || total == 0)
            moved_at = monotonic_ms();
        done_before = done;
        if (monotonic_ms() - moved_at >= stall_ms)
            return error_set(err, ETIMEDOUT, "loading the memory did not move for %lld ms",
                             (long long)stall_ms);
        migration_await_change(qmp);
    }
}

int memory_load(struct qmp *qmp, int fd, const struct qmp_job_watch *watch, struct error *err)
{
    struct run_state_answer answer;
    int rc = run_state_query_status(qmp, watch->timeout_ms, &answer, err);
    if (rc < 0)
        return rc;
    if (strcmp(answer.word, "inmigrate") != 0)
        return error_set(err, EINVAL, "this QEMU waits for no memory; its state is \"%s\"", answer.word);
    struct migration_settings settings;
    rc = migration_settings_query(qmp, watch->timeout_ms, &settings, err);
    if (rc < 0)
        return rc;
    settings.events = true; /* the process is ours, and nothing suffers by it later */
    rc = migration_settings_apply(qmp, &settings, watch->timeout_ms, err);
    if (rc == 0)
        rc = migration_start(qmp, "migrate-incoming", fd, watch->timeout_ms, err);
    if (rc == 0)
        rc = await_end(qmp, fd, watch, err);
    if (rc == 0) /* -S has it stop, but it is asked for all the same: it may not run before it is told */
        rc = run_state_stop(qmp, watch->timeout_ms, err);
    if (rc == 0)
        rc = run_state_activate_disks(qmp, watch->timeout_ms, err);
    return rc == -EOPNOTSUPP ? 0 : rc; /* it had them active as soon as all was loaded */
}
