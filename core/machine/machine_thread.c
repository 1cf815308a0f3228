// SPDX-License-Identifier: LGPL-2.1-or-later
/* The thread that keeps the connection to a QEMU, while there is one; see machine.h. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "format/json_parse.h"
#include "hypervisor/qmp_arguments.h"
#include "hypervisor/qmp_message.h"
#include "hypervisor/unix_socket.h"
#include "machine/machine_inside.h"

/* The greeting of one that is there comes at once. Who has told that it does not come waits on for longer, in
 * the queue of a monitor that another client has. */
#define GREETING_MS      5000
#define LATE_GREETING_MS 60000

#define RETRY_FIRST_MS  100
#define RETRY_MAX_MS    8000
#define LAUNCH_RETRY_MS 10
#define ENDING_MS       2000 /* a QEMU that ends closes its monitor first */

/* ---- Events ---- */

static void tell_event(struct machine *machine, const char *name, struct json_object *data)
{
    char clean[ERROR_TEXT_MAX / 2];
    if (strcmp(name, "POWERDOWN") == 0) {
        machine_tell(machine, "its guest was asked to shut down");
    } else if (strcmp(name, "RESET") == 0) {
        machine_tell(machine, "was reset");
    } else if (strcmp(name, "GUEST_PANICKED") == 0) {
        machine_tell(machine, "its guest panicked");
    } else if (strcmp(name, "WATCHDOG") == 0) {
        machine_tell(machine, "its watchdog ran out");
    } else if (strcmp(name, "BLOCK_IO_ERROR") == 0) {
        const char *node = json_string_in(data, "node-name"), *device = json_string_in(data, "device"),
                   *reason = json_string_in(data, "reason");
        qmp_clean_text(node && *node ? node : device ? device : "a disk", clean, 64);
        size_t used = strlen(clean);
        snprintf(clean + used, sizeof clean - used, ": ");
        qmp_clean_text(reason ? reason : "failed", clean + used + 2, sizeof clean - used - 2);
        machine_tell(machine, "an access to a disk failed: %s", clean);
    }
}

/* True if the state may be another one now. */
static bool heed(struct machine *machine, struct json_object *event)
{
    static const char *const telling[] = {
        "STOP",   "RESUME",         "SHUTDOWN",          "RESET",        "MIGRATION",     "SUSPEND",
        "WAKEUP", "GUEST_PANICKED", "GUEST_CRASHLOADED", "SUSPEND_DISK", "BLOCK_IO_ERROR"};
    struct json_object *data = NULL;
    const char *name = json_string_in(event, "event");
    json_object_object_get_ex(event, "data", &data);
    if (!name)
        return false;
    if (strcmp(name, "SHUTDOWN") == 0)
        machine->guest_is_off = true;
    if (strcmp(name, "RESET") == 0 || strcmp(name, "RESUME") == 0)
        machine->guest_is_off = false;
    tell_event(machine, name, data);
    for (size_t i = 0; i < sizeof telling / sizeof *telling; i++)
        if (strcmp(name, telling[i]) == 0)
            return true;
    return false;
}

/* Hears all that was said. 1 where it was asked for its state upon that: more may have been said meanwhile,
 * and was taken from the socket with the answer. A negative errno where the connection is dead. */
static int drain(struct machine *machine, struct error *err)
{
    bool ask = false;
    uint64_t lost = qmp_events_lost(machine->qmp);
    for (;;) {
        cleanup_json struct json_object *event = NULL;
        int rc = qmp_event_wait(machine->qmp, NULL, NULL, 0, &event, err);
        if (rc == -ETIMEDOUT && !qmp_is_dead(machine->qmp))
            break;
        if (rc < 0)
            return rc;
        ask |= heed(machine, event);
    }
    if (!ask && lost == qmp_events_lost(machine->qmp))
        return 0;
    if (machine->guest_is_off) { /* who asks it now would mostly be cut off */
        machine_publish(machine, MACHINE_CONNECTED, RUN_STATE_SHUTTING_DOWN, NULL);
        return 0;
    }
    int rc = machine_look(machine, machine->qmp, NULL, err);
    return rc < 0 ? rc : 1;
}

/* ---- The connection ---- */

static bool is_stopping(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    bool result = machine->is_stopping;
    pthread_mutex_unlock(&machine->lock);
    return result;
}

static void rest(struct machine *machine, int qmp_socket, int timeout_ms)
{
    struct pollfd fds[] = {{.fd = machine->wake, .events = POLLIN},
                           {.fd = qmp_socket, .events = POLLIN},
                           {.fd = machine->guest ? machine->guest->process.pidfd : -1, .events = POLLIN}};
    uint64_t count;
    poll(fds, 3, timeout_ms);
    while (read(machine->wake, &count, sizeof count) < 0 && errno == EINTR)
        continue;
}

/* Takes the socket of a visit, or makes one, and shows it to who may want to cut it. */
static int dial(struct machine *machine, int *fd, struct error *err)
{
    pthread_mutex_lock(&machine->lock);
    *fd = steal_fd(&machine->socket);
    const char *monitor = machine->guest ? machine->guest->monitor : machine->monitor;
    cleanup_free char *path = monitor ? strdup(monitor) : NULL;
    pthread_mutex_unlock(&machine->lock);
    int rc = 0;
    if (*fd < 0)
        rc = path ? unix_socket_connect(path, machine->name, MACHINE_ANSWER_MS, fd, err)
                  : error_set(err, ENOENT, "its monitor is not known any more");
    if (rc < 0)
        return rc;
    int cut = dup(*fd);
    pthread_mutex_lock(&machine->lock);
    machine->cut = cut;
    bool stopping = machine->is_stopping;
    pthread_mutex_unlock(&machine->lock);
    if (cut >= 0 && !stopping)
        return 0;
    close(steal_fd(fd));
    return error_set(err, stopping ? ECANCELED : EMFILE, "no connection was made");
}

static void disconnect(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    int cut = steal_fd(&machine->cut);
    pthread_mutex_unlock(&machine->lock);
    if (cut >= 0)
        close(cut);
    qmp_free(machine->qmp);
    machine->qmp = NULL;
    struct machine_report last;
    machine_report(machine, &last);
    if (last.contact == MACHINE_CONNECTED)
        machine_publish(machine, MACHINE_UNKNOWN, last.state, NULL);
}

/* MIGRATION events come only where that is asked for; where it can't be, a migration is seen later. */
static int ask_for_events(struct qmp *qmp)
{
    struct json_object *capability = json_object_new_object(), *list = json_object_new_array();
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&capability, "capability", "events");
    qmp_add_bool(&capability, "state", true);
    qmp_append(&list, capability);
    qmp_add(&arguments, "capabilities", list);
    return arguments ? qmp_command(qmp, "migrate-set-capabilities", arguments, MACHINE_ANSWER_MS, NULL, NULL)
                     : -ENOMEM;
}

/* Nobody but a QEMU that ends closes it. */
static void explain_close(void *opaque, char *text, size_t size)
{
    snprintf(text, size, "its QEMU has ended");
}

static int connect_to(struct machine *machine, bool late, struct error *err)
{
    int fd = -1;
    int rc = dial(machine, &fd, err);
    if (rc == 0)
        rc = qmp_take(&fd, machine->name, late ? LATE_GREETING_MS : GREETING_MS, &machine->qmp, err);
    if (rc == 0)
        qmp_set_explain(machine->qmp, explain_close, NULL);
    if (rc == 0) {
        machine->guest_is_off = false;
        machine->was_connected = true;
        ask_for_events(machine->qmp);
        rc = machine_look(machine, machine->qmp, NULL, err);
    }
    if (rc < 0)
        disconnect(machine);
    return rc;
}

/* Gives the connection to who wants it, and waits until it is back. False where nobody does. */
static bool lend(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    bool wanted = machine->wanted && !machine->is_stopping;
    machine->lent = wanted;
    pthread_cond_broadcast(&machine->moved);
    while (machine->lent && (machine->taken || machine->wanted))
        pthread_cond_wait(&machine->moved, &machine->lock);
    machine->lent = false;
    pthread_mutex_unlock(&machine->lock);
    return wanted;
}

/* ---- The end of a guest of ours ---- */

static bool guest_has_ended(struct machine *machine, siginfo_t *status)
{
    return machine->guest && lasting_has_ended(&machine->guest->process, status);
}

/* Says why it ended, and returns whether that was a crash. */
static bool explain_end(struct machine *machine, const siginfo_t *status, bool launching, char *text,
                        size_t size)
{
    char said[ERROR_TEXT_MAX / 2];
    guest_said(machine->guest, said, sizeof said);
    const char *colon = *said ? ": " : "";
    if (status->si_pid == 0)
        snprintf(text, size, "its QEMU ended%s%s", colon, said);
    else if (status->si_code == CLD_EXITED)
        snprintf(text, size, "its QEMU ended with status %d%s%s", status->si_status, colon, said);
    else
        snprintf(text, size, "its QEMU was ended by signal %d%s%s", status->si_status, colon, said);
    pthread_mutex_lock(&machine->lock);
    bool expected = machine->end_expected;
    pthread_mutex_unlock(&machine->lock);
    bool in_order = machine->guest_is_off || expected || launching;
    if (status->si_pid != 0)
        return !in_order && (status->si_code != CLD_EXITED || status->si_status != 0);
    return !in_order && access(machine->guest->monitor, F_OK) == 0; /* it would have removed that */
}

static void bury_guest(struct machine *machine, const siginfo_t *status, bool launching)
{
    char text[ERROR_TEXT_MAX];
    bool crashed = explain_end(machine, status, launching, text, sizeof text);
    bool problem = crashed || launching;
    char said[sizeof machine->last_words];
    guest_said(machine->guest, said, sizeof said);
    guest_bury(machine->guest);
    pthread_mutex_lock(&machine->lock);
    struct guest *guest = steal_pointer(machine->guest);
    memcpy(machine->last_words, said, sizeof said);
    pthread_mutex_unlock(&machine->lock);
    guest_free(guest);
    if (crashed)
        log_warning("%s: %s", machine->name, text);
    machine_publish(machine, MACHINE_OFF, crashed ? RUN_STATE_CRASHED : RUN_STATE_SHUTOFF,
                    problem ? text : NULL);
}

/* ---- The thread's life ---- */

/* Who borrowed it, and waited for the end of a migration, has taken the events that told of that. */
static int look_at_migration(struct machine *machine, struct error *err)
{
    struct machine_report last;
    machine_report(machine, &last);
    return last.contact == MACHINE_CONNECTED && last.state == RUN_STATE_MIGRATING
               ? machine_look(machine, machine->qmp, NULL, err)
               : 0;
}

/* Until the connection is dead, or the machine is to stop. */
static void serve(struct machine *machine, struct error *err)
{
    int heard;
    while (!is_stopping(machine) && (heard = drain(machine, err)) >= 0)
        if (lend(machine)) {
            if (!qmp_is_dead(machine->qmp) && look_at_migration(machine, err) < 0)
                return;
        } else if (!heard) {
            rest(machine, qmp_fd(machine->qmp), -1);
            if (machine->guest && lasting_is_over(&machine->guest->process))
                break;
        }
}

/* There is nobody to connect to any more, where others ran it. */
static void publish_gone(struct machine *machine, int code)
{
    /* One that ends in good order removes its socket. */
    pthread_mutex_lock(&machine->lock);
    bool expected = machine->end_expected;
    pthread_mutex_unlock(&machine->lock);
    bool crashed = machine->was_connected && !machine->guest_is_off && !expected && code == ECONNREFUSED;
    machine_publish(machine, MACHINE_OFF, crashed ? RUN_STATE_CRASHED : RUN_STATE_SHUTOFF,
                    crashed ? "its QEMU ended without being asked to" : NULL);
}

/* Tries to be connected, for as long as there is a QEMU. */
static void keep_connected(struct machine *machine, bool launching)
{
    int retry = launching ? LAUNCH_RETRY_MS : RETRY_FIRST_MS;
    int64_t patient_until = launching ? monotonic_ms() + LAUNCH_MS : 0;
    bool late = false;
    siginfo_t status;
    while (!is_stopping(machine)) {
        struct error why = {0};
        bool lost = false;
        if (connect_to(machine, late, &why) == 0) {
            late = launching = false;
            serve(machine, &why);
            disconnect(machine);
            patient_until = monotonic_ms() + ENDING_MS;
            retry = RETRY_FIRST_MS;
            lost = why.code != ETIMEDOUT;
        }
        if (is_stopping(machine))
            return;
        if (guest_has_ended(machine, &status)) {
            bury_guest(machine, &status, launching);
            return;
        }
        if (lost)
            continue;
        if (!machine->guest && (why.code == ENOENT || why.code == ECONNREFUSED)) {
            publish_gone(machine, why.code);
            return;
        }
        bool patient = monotonic_ms() <= patient_until;
        if (why.code == ETIMEDOUT || !patient) {
            machine_publish(machine, MACHINE_SILENT, RUN_STATE_SHUTOFF, why.text);
            late = true;
        }
        rest(machine, -1, retry);
        retry = retry * 2 < RETRY_MAX_MS ? retry * 2 : patient ? retry : RETRY_MAX_MS;
        if (patient && retry > RETRY_FIRST_MS)
            retry = RETRY_FIRST_MS;
    }
}

static void *thread_run(void *opaque)
{
    struct machine *machine = opaque;
    pthread_mutex_lock(&machine->lock);
    bool launching = machine->is_launching;
    pthread_mutex_unlock(&machine->lock);
    keep_connected(machine, launching);
    pthread_mutex_lock(&machine->lock);
    struct guest *guest = steal_pointer(machine->guest);
    machine->thread_state = THREAD_OVER;
    pthread_cond_broadcast(&machine->moved);
    pthread_mutex_unlock(&machine->lock);
    guest_free(guest);
    return NULL;
}

void machine_join(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    bool over = machine->thread_state == THREAD_OVER;
    pthread_t thread = machine->thread;
    if (over)
        machine->thread_state = THREAD_NONE;
    pthread_mutex_unlock(&machine->lock);
    if (over)
        pthread_join(thread, NULL);
}

int machine_start_thread_locked(struct machine *machine)
{
    machine->was_connected = machine->guest_is_off = machine->end_expected = false;
    int code = pthread_create(&machine->thread, NULL, thread_run, machine);
    if (code == 0)
        machine->thread_state = THREAD_RUNS;
    return -code;
}
