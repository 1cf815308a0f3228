// SPDX-License-Identifier: LGPL-2.1-or-later
/* Where a machine's QEMU comes from: found by a visit, or launched; see machine.h. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "hypervisor/qmp_message.h"
#include "hypervisor/unix_socket.h"
#include "machine/machine_inside.h"

#define CANCEL_LOOK_MS 200
#define KILL_MS        10000

/* ---- Visits ---- */

/* Has the thread take care of a QEMU that was found: a guest, or a socket that was connected. Both are taken
 * over, also where nothing comes of it. */
static bool take_care(struct machine *machine, struct guest *guest, int fd)
{
    pthread_mutex_lock(&machine->lock);
    bool taken = machine->thread_state == THREAD_NONE && !machine->is_stopping;
    if (taken) {
        machine->guest = guest;
        machine->socket = fd;
        machine->report.contact = MACHINE_UNKNOWN;
        taken = machine_start_thread_locked(machine) == 0;
        if (!taken) {
            machine->guest = NULL;
            machine->socket = -1;
        }
    }
    pthread_mutex_unlock(&machine->lock);
    if (taken)
        return true;
    guest_free(guest);
    if (fd >= 0)
        close(fd);
    return false;
}

/* A guest that was started by a mount before this one. */
static bool visit_guest(struct machine *machine)
{
    struct guest *guest = NULL;
    enum guest_trace trace = GUEST_NO_TRACE;
    struct error why = {0};
    if (!machine->directory)
        return false;
    int rc = guest_find(machine->directory, &guest, &trace, &why);
    if (rc == 0)
        return take_care(machine, guest, -1);
    if (rc != -ESRCH)
        log_error("%s: %s", machine->name, why.text);
    if (trace == GUEST_KILLED) {
        machine_publish_idle(machine, MACHINE_OFF, RUN_STATE_CRASHED, "its QEMU ended while nobody looked");
        return true;
    }
    return false;
}

void machine_visit(struct machine *machine)
{
    machine_join(machine);
    pthread_mutex_lock(&machine->lock);
    bool idle = machine->thread_state == THREAD_NONE && !machine->is_stopping && !machine->is_launching;
    bool look = idle && !machine->has_looked;
    bool is_ours = machine->guest;
    cleanup_free char *path = machine->monitor ? strdup(machine->monitor) : NULL;
    pthread_mutex_unlock(&machine->lock);
    if (is_ours && machine->directory)
        guest_shorten_log(machine->directory);
    bool found = look && visit_guest(machine);
    pthread_mutex_lock(&machine->lock);
    machine->has_looked |= look;
    pthread_mutex_unlock(&machine->lock);
    if (!idle || found)
        return;
    struct error why = {.code = ENOENT};
    int fd = -1;
    if (path && unix_socket_connect(path, machine->name, 0, &fd, &why) == 0) {
        take_care(machine, NULL, fd);
        return;
    }
    struct machine_report before;
    machine_report(machine, &before);
    if (why.code != ENOENT && why.code != ECONNREFUSED)
        machine_publish_idle(machine, MACHINE_SILENT, RUN_STATE_SHUTOFF, why.text);
    else if (before.contact != MACHINE_OFF)
        machine_publish_idle(machine, MACHINE_OFF, RUN_STATE_SHUTOFF, NULL);
}

/* ---- Starting and ending ---- */

int machine_monitors(const struct machine *machine, char *monitors[3], struct error *err)
{
    if (!machine->directory)
        return error_set(err, EOPNOTSUPP,
                         "there is no private directory for the sockets of %s: set XDG_RUNTIME_DIR",
                         machine->name);
    return guest_monitors(machine->directory, monitors) < 0 ? error_set(err, ENOMEM, "out of memory") : 0;
}

void machine_expect_end(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    machine->end_expected = true;
    pthread_mutex_unlock(&machine->lock);
}

void machine_forget_end(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    machine->end_expected = false;
    pthread_mutex_unlock(&machine->lock);
}

int machine_kill(struct machine *machine, struct error *err)
{
    pthread_mutex_lock(&machine->lock);
    machine->end_expected = true;
    bool is_ours = machine->guest;
    int rc = is_ours ? lasting_signal(&machine->guest->process, SIGKILL) : 0;
    pthread_mutex_unlock(&machine->lock);
    if (!is_ours)
        return error_set(err, EOPNOTSUPP, "the QEMU of %s was not started here", machine->name);
    return rc < 0 && rc != -ESRCH
               ? error_set(err, -rc, "the QEMU of %s can't be killed: %s", machine->name, strerror(-rc))
               : 0;
}

bool machine_is_ours(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    bool is_ours = machine->guest;
    pthread_mutex_unlock(&machine->lock);
    return is_ours;
}

bool machine_was_started_with(struct machine *machine, char *const *launch)
{
    pthread_mutex_lock(&machine->lock);
    bool same = machine->guest && guest_was_started_with(machine->guest, launch);
    pthread_mutex_unlock(&machine->lock);
    return same;
}

void machine_last_words(struct machine *machine, char *text, size_t size)
{
    pthread_mutex_lock(&machine->lock);
    snprintf(text, size, "%s", machine->last_words);
    pthread_mutex_unlock(&machine->lock);
}

/* Waits until it answers. */
static int await_answer(struct machine *machine, machine_cancelled *cancelled, void *opaque,
                        struct error *err)
{
    int64_t end = monotonic_ms() + LAUNCH_MS;
    struct machine_report report;
    bool give_up = false, stopping = false;
    pthread_mutex_lock(&machine->lock);
    while (machine->report.contact != MACHINE_CONNECTED && machine->thread_state == THREAD_RUNS &&
           !stopping && !give_up && monotonic_ms() < end) {
        struct timespec deadline = monotonic_in(CANCEL_LOOK_MS);
        pthread_cond_timedwait(&machine->moved, &machine->lock, &deadline);
        stopping = machine->is_stopping;
        pthread_mutex_unlock(&machine->lock);
        give_up = cancelled && cancelled(opaque);
        pthread_mutex_lock(&machine->lock);
    }
    report = machine->report;
    pthread_mutex_unlock(&machine->lock);
    if (report.contact == MACHINE_CONNECTED)
        return 0;
    if (give_up || stopping)
        return error_set(err, EINTR, "it was cancelled, and its QEMU ended");
    if (report.contact == MACHINE_OFF)
        return error_set(err, qmp_errno(NULL, report.problem), "%s does not start: %s", machine->name,
                         report.problem);
    return error_set(err, ETIMEDOUT, "the QEMU of %s did not answer within %d s, and was ended: %s",
                     machine->name, LAUNCH_MS / 1000, report.problem);
}

/* One that was begun, and is not wanted: nothing of it stays. */
static bool end_guest(const char *directory, struct guest *guest)
{
    struct pollfd ended = {.fd = guest->process.pidfd, .events = POLLIN};
    siginfo_t status;
    lasting_signal(&guest->process, SIGKILL);
    if (poll(&ended, 1, KILL_MS) > 0 && lasting_has_ended(&guest->process, &status)) {
        guest_bury(guest);
        return true;
    }
    log_error("%s: its process %ld does not end", directory, (long)guest->process.pid);
    return false;
}

int machine_end_guest(const char *directory, struct error *err)
{
    struct guest *guest = NULL;
    enum guest_trace trace;
    int rc = guest_find(directory, &guest, &trace, err);
    if (rc == 0 && !end_guest(directory, guest))
        rc = error_set(err, ETIMEDOUT, "process %ld does not end", (long)guest->process.pid);
    guest_free(guest);
    return rc == -ESRCH ? 0 : rc;
}

static int launch(struct machine *machine, char *const *argv, const char *working,
                  machine_cancelled *cancelled, void *opaque, struct error *err)
{
    struct guest *guest = NULL;
    enum guest_trace trace;
    int rc = guest_find(machine->directory, &guest, &trace, err);
    if (rc == 0) {
        take_care(machine, guest, -1);
        return error_set(err, EBUSY, "%s is running", machine->name);
    }
    if (rc == -ESRCH)
        rc = guest_start(machine->directory, (const char *const *)argv, working, &guest, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&machine->lock);
    bool stopping = machine->is_stopping;
    machine->guest = stopping ? NULL : guest;
    machine->report = (struct machine_report){.contact = MACHINE_UNKNOWN};
    int code = stopping ? -EINTR : machine_start_thread_locked(machine);
    if (code < 0)
        machine->guest = NULL;
    pthread_mutex_unlock(&machine->lock);
    if (code < 0) {
        end_guest(machine->directory, guest);
        guest_free(guest);
        return error_set(err, -code, "%s can't be watched: %s", machine->name, strerror(-code));
    }
    rc = await_answer(machine, cancelled, opaque, err);
    if (rc < 0 && machine_kill(machine, NULL) == 0)
        machine_await_off(machine, KILL_MS, NULL);
    return rc;
}

int machine_launch(struct machine *machine, char *const *argv, const char *working,
                   machine_cancelled *cancelled, void *opaque, struct error *err)
{
    /* The thread of one that has just ended is about to. */
    pthread_mutex_lock(&machine->lock);
    while (machine->thread_state == THREAD_RUNS && machine->report.contact == MACHINE_OFF)
        pthread_cond_wait(&machine->moved, &machine->lock);
    pthread_mutex_unlock(&machine->lock);
    machine_join(machine);
    pthread_mutex_lock(&machine->lock);
    bool busy = machine->thread_state != THREAD_NONE || machine->is_launching || machine->is_stopping;
    if (!busy)
        machine->is_launching = machine->has_looked = true;
    pthread_mutex_unlock(&machine->lock);
    if (busy)
        return error_set(err, EBUSY, "%s is running", machine->name);
    int rc = launch(machine, argv, working, cancelled, opaque, err);
    pthread_mutex_lock(&machine->lock);
    machine->is_launching = false;
    pthread_mutex_unlock(&machine->lock);
    return rc;
}
