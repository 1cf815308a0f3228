// SPDX-License-Identifier: LGPL-2.1-or-later
/* What is asked of a machine; see machine.h. */
#include "machine/machine.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/monotonic.h"
#include "hypervisor/image_locks.h"
#include "machine/machine_inside.h"

/* ---- Telling ---- */

void machine_tell(struct machine *machine, const char *format, ...)
{
    char line[ERROR_TEXT_MAX + 64];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (machine->tell)
        machine->tell(machine->opaque, machine->domain, line);
}

/* With `idle`, nothing where a thread has come, or comes, that knows better. */
static void publish(struct machine *machine, bool idle, enum machine_contact contact, enum run_state state,
                    const char *problem)
{
    /* What qmp.h says begins with the name, which stands before it here anyway. */
    size_t prefix = strlen(machine->name);
    if (problem && strncmp(problem, machine->name, prefix) == 0 && strncmp(problem + prefix, ": ", 2) == 0)
        problem += prefix + 2;
    /* Before anybody can know: its locks are gone, too. */
    if (contact == MACHINE_OFF)
        image_locks_forget();
    pthread_mutex_lock(&machine->lock);
    if (idle && (machine->thread_state != THREAD_NONE || machine->is_launching)) {
        pthread_mutex_unlock(&machine->lock);
        return;
    }
    const struct machine_report before = machine->report;
    struct machine_report *report = &machine->report;
    report->contact = contact;
    report->state = state;
    snprintf(report->problem, sizeof report->problem, "%s", problem ? problem : "");
    bool is_new = before.contact != contact || before.state != state;
    pthread_cond_broadcast(&machine->moved);
    pthread_mutex_unlock(&machine->lock);
    if (!is_new || contact == MACHINE_UNKNOWN)
        return;
    if (contact == MACHINE_SILENT) {
        if (before.contact != MACHINE_SILENT)
            log_warning("%s does not answer: %s", machine->name, problem);
        if (before.contact != MACHINE_SILENT)
            machine_tell(machine, "does not answer: %s", problem);
    } else if (contact == MACHINE_CONNECTED || machine->was_connected || state == RUN_STATE_CRASHED) {
        machine_tell(machine, "state: %s%s%s", run_state_name(state), problem ? ": " : "",
                     problem ? problem : "");
    } else if (machine->tell) {
        machine->tell(machine->opaque, machine->domain, NULL);
    }
}

void machine_publish(struct machine *machine, enum machine_contact contact, enum run_state state,
                     const char *problem)
{
    publish(machine, false, contact, state, problem);
}

void machine_publish_idle(struct machine *machine, enum machine_contact contact, enum run_state state,
                          const char *problem)
{
    publish(machine, true, contact, state, problem);
}

void machine_report(struct machine *machine, struct machine_report *report)
{
    pthread_mutex_lock(&machine->lock);
    *report = machine->report;
    report->is_there = machine->guest && report->contact != MACHINE_OFF;
    bool looked = machine->has_looked;
    pthread_mutex_unlock(&machine->lock);
    if (!looked && machine->directory)
        report->is_there = guest_is_there(machine->directory);
}

/* ---- Asking ---- */

int machine_look(struct machine *machine, struct qmp *qmp, enum run_state *state, struct error *err)
{
    struct run_state_answer answer;
    int rc = run_state_query(qmp, MACHINE_ANSWER_MS, &answer, err);
    if (rc < 0) /* who answers this wrong answers everything wrong */
        return qmp_is_dead(qmp) ? rc : qmp_give_up(qmp, -rc, err ? err->text : "it tells no state", NULL);
    if (machine->guest_is_off && answer.state != RUN_STATE_CRASHED)
        answer.state = RUN_STATE_SHUTTING_DOWN;
    machine_publish(machine, MACHINE_CONNECTED, answer.state, NULL);
    if (state)
        *state = answer.state;
    return 0;
}

/* ---- Letting go ---- */

/* With the lock held. What waits in the connection fails, unless it is somebody's. */
static void cut_locked(struct machine *machine)
{
    if (machine->cut >= 0 && !machine->lent)
        shutdown(machine->cut, SHUT_RDWR);
}

void machine_wake(struct machine *machine)
{
    if (write(machine->wake, &(uint64_t){1}, sizeof(uint64_t)) < 0 && errno != EAGAIN)
        log_error("waking a thread: %s", strerror(errno));
}

int machine_set_monitor(struct machine *machine, const char *path)
{
    char *copy = path ? strdup(path) : NULL;
    if (path && !copy)
        return -ENOMEM;
    pthread_mutex_lock(&machine->lock);
    bool same = path && machine->monitor ? strcmp(path, machine->monitor) == 0 : !path && !machine->monitor;
    if (!same) {
        char *old = machine->monitor;
        machine->monitor = copy;
        copy = old;
        cut_locked(machine);
    }
    pthread_mutex_unlock(&machine->lock);
    free(copy);
    return 0;
}

void machine_stop(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    machine->is_stopping = true;
    cut_locked(machine);
    pthread_cond_broadcast(&machine->moved);
    pthread_mutex_unlock(&machine->lock);
    machine_wake(machine);
}

/* ---- Borrowing ---- */

static int refuse_locked(const struct machine *machine, struct error *err)
{
    if (machine->is_stopping)
        return error_set(err, EINTR, "%s is being let go of", machine->name);
    if (machine->report.contact == MACHINE_OFF)
        return error_set(err, ESRCH, "%s is not running", machine->name);
    if (machine->report.contact == MACHINE_SILENT)
        return error_set(err, ETIMEDOUT, "%s", machine->report.problem);
    return 0;
}

int machine_borrow(struct machine *machine, int timeout_ms, struct qmp **qmp, enum run_state *state,
                   struct error *err)
{
    struct timespec deadline = monotonic_in(timeout_ms);
    pthread_mutex_lock(&machine->lock);
    machine->wanted++;
    int rc = refuse_locked(machine, err), code = 0;
    if (rc == 0)
        machine_wake(machine);
    while (rc == 0 && code == 0 && (!machine->lent || machine->taken)) {
        code = pthread_cond_timedwait(&machine->moved, &machine->lock, &deadline);
        rc = refuse_locked(machine, err);
    }
    machine->wanted--;
    if (rc == 0 && (!machine->lent || machine->taken))
        rc = error_set(err, ETIMEDOUT, "%s: something else is being done in its QEMU", machine->name);
    if (rc == 0)
        machine->taken = true;
    pthread_cond_broadcast(&machine->moved);
    pthread_mutex_unlock(&machine->lock);
    if (rc < 0)
        return rc;
    rc = machine_look(machine, machine->qmp, state, err);
    if (rc < 0)
        machine_return(machine, machine->qmp);
    else
        *qmp = machine->qmp;
    return rc;
}

void machine_return(struct machine *machine, struct qmp *qmp)
{
    (void)qmp;
    pthread_mutex_lock(&machine->lock);
    machine->lent = machine->taken = false;
    pthread_cond_broadcast(&machine->moved);
    pthread_mutex_unlock(&machine->lock);
    machine_wake(machine);
}

int machine_await_off(struct machine *machine, int timeout_ms, struct error *err)
{
    struct timespec deadline = monotonic_in(timeout_ms);
    int code = 0;
    pthread_mutex_lock(&machine->lock);
    while (code == 0 && machine->report.contact != MACHINE_OFF && !machine->is_stopping)
        code = pthread_cond_timedwait(&machine->moved, &machine->lock, &deadline);
    bool off = machine->report.contact == MACHINE_OFF;
    pthread_mutex_unlock(&machine->lock);
    return off ? 0 : error_set(err, ETIMEDOUT, "%s has not ended within %d ms", machine->name, timeout_ms);
}

/* ---- Making and ending ---- */

struct machine *machine_new(const struct machine_options *options)
{
    struct machine *machine = calloc(1, sizeof *machine);
    char *name = strdup(options->name);
    char *directory = options->directory ? strdup(options->directory) : NULL;
    int wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (!machine || !name || (options->directory && !directory) || wake_fd < 0) {
        free(machine);
        free(name);
        free(directory);
        if (wake_fd >= 0)
            close(wake_fd);
        return NULL;
    }
    machine->references = 1;
    machine->domain = options->domain;
    machine->name = name;
    machine->directory = directory;
    machine->tell = options->changed;
    machine->opaque = options->opaque;
    machine->wake = wake_fd;
    machine->socket = machine->cut = -1;
    pthread_mutex_init(&machine->lock, NULL);
    monotonic_cond_init(&machine->moved);
    return machine;
}

struct machine *machine_ref(struct machine *machine)
{
    atomic_fetch_add(&machine->references, 1);
    return machine;
}

void machine_unref(struct machine *machine)
{
    if (!machine || atomic_fetch_sub(&machine->references, 1) != 1)
        return;
    machine_stop(machine);
    pthread_mutex_lock(&machine->lock);
    while (machine->thread_state == THREAD_RUNS)
        pthread_cond_wait(&machine->moved, &machine->lock);
    pthread_mutex_unlock(&machine->lock);
    machine_join(machine);
    if (machine->socket >= 0)
        close(machine->socket);
    close(machine->wake);
    pthread_cond_destroy(&machine->moved);
    pthread_mutex_destroy(&machine->lock);
    free(machine->monitor);
    free(machine->directory);
    free(machine->name);
    free(machine);
}

uint64_t machine_domain(const struct machine *machine)
{
    return machine->domain;
}
