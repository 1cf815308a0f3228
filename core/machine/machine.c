// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * See machine.h.
 *
 * The connection belongs to the thread, or, while `lent`, to the borrower; so each is used by one thread at a
 * time. What may wait in it for long is ended from outside by shutting down `cut`, another descriptor of the
 * same socket.
 */
#include "machine/machine.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "format/json_parse.h"
#include "hypervisor/image_locks.h"
#include "hypervisor/qmp_arguments.h"
#include "hypervisor/qmp_message.h"
#include "hypervisor/unix_socket.h"
#include "machine/guest.h"

/* The greeting of one that is there comes at once. Who has told that it does not come waits on for longer, in
 * the queue of a monitor that another client has. */
#define GREETING_MS      5000
#define LATE_GREETING_MS 60000

#define RETRY_FIRST_MS 100
#define RETRY_MAX_MS   8000
#define ENDING_MS      2000 /* a QEMU that ends closes its monitor first */

/* From its start until it answers: storage that is slow to open images takes most of it. */
#define LAUNCH_MS       60000
#define LAUNCH_RETRY_MS 10
#define CANCEL_LOOK_MS  200
#define KILL_MS         10000

enum thread_state { THREAD_NONE, THREAD_RUNS, THREAD_OVER };

struct machine {
    _Atomic unsigned references;
    uint64_t domain;
    char *name;
    char *directory; /* NULL: no guest of ours can be */
    bool read_only;
    machine_changed *tell;
    void *opaque;
    int wake; /* eventfd */

    pthread_mutex_t lock; /* a leaf; protects what follows */
    pthread_cond_t moved; /* anything of it has changed */
    struct machine_report report;
    char *monitor; /* of a QEMU that others run; NULL: none */
    int socket;    /* that a visit has connected, for the thread; -1: none */
    int cut;       /* -1: no connection */
    unsigned wanted;
    bool lent, taken; /* the connection is to be had; somebody has it */
    bool is_stopping, is_launching;
    bool end_expected;   /* of the QEMU that is there now */
    bool has_looked;     /* for a guest that a predecessor left us */
    struct guest *guest; /* that we started; changed only by the thread, while one runs */
    enum thread_state thread_state;
    pthread_t thread; /* unless THREAD_NONE */

    /* The thread's, or the borrower's. */
    struct qmp *qmp;
    bool was_connected;
    bool guest_is_off; /* its QEMU said so, and is about to end, or has */
};

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static struct timespec deadline_in(int ms)
{
    struct timespec deadline;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += ms / 1000;
    deadline.tv_nsec += (long)(ms % 1000) * 1000000;
    if (deadline.tv_nsec >= 1000000000) {
        deadline.tv_sec++;
        deadline.tv_nsec -= 1000000000;
    }
    return deadline;
}

/* ---- Telling ---- */

__attribute__((format(printf, 2, 3))) static void tell(struct machine *machine, const char *format, ...)
{
    char line[ERROR_TEXT_MAX + 64];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (machine->tell)
        machine->tell(machine->opaque, machine->domain, line);
}

static void publish(struct machine *machine, enum machine_contact contact, enum run_state state,
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
            tell(machine, "does not answer: %s", problem);
    } else if (contact == MACHINE_CONNECTED || machine->was_connected || state == RUN_STATE_CRASHED) {
        tell(machine, "state: %s%s%s", run_state_name(state), problem ? ": " : "", problem ? problem : "");
    } else if (machine->tell) {
        machine->tell(machine->opaque, machine->domain, NULL);
    }
}

void machine_report(struct machine *machine, struct machine_report *report)
{
    pthread_mutex_lock(&machine->lock);
    *report = machine->report;
    pthread_mutex_unlock(&machine->lock);
}

/* ---- Asking ---- */

static const char *string_in(struct json_object *object, const char *key)
{
    struct json_object *value;
    return json_object_object_get_ex(object, key, &value) ? json_string_of(value) : NULL;
}

int machine_look(struct machine *machine, struct qmp *qmp, enum run_state *state, struct error *err)
{
    struct run_state_answer answer;
    int rc = run_state_query(qmp, MACHINE_ANSWER_MS, &answer, err);
    if (rc < 0) /* who answers this wrong answers everything wrong */
        return qmp_is_dead(qmp) ? rc : qmp_give_up(qmp, -rc, err ? err->text : "it tells no state", NULL);
    if (machine->guest_is_off && answer.state != RUN_STATE_CRASHED)
        answer.state = RUN_STATE_SHUTTING_DOWN;
    publish(machine, MACHINE_CONNECTED, answer.state, NULL);
    if (state)
        *state = answer.state;
    return 0;
}

/* ---- Events ---- */

static void tell_event(struct machine *machine, const char *name, struct json_object *data)
{
    char clean[ERROR_TEXT_MAX / 2];
    if (strcmp(name, "POWERDOWN") == 0) {
        tell(machine, "its guest was asked to shut down");
    } else if (strcmp(name, "RESET") == 0) {
        tell(machine, "was reset");
    } else if (strcmp(name, "GUEST_PANICKED") == 0) {
        tell(machine, "its guest panicked");
    } else if (strcmp(name, "WATCHDOG") == 0) {
        tell(machine, "its watchdog ran out");
    } else if (strcmp(name, "BLOCK_IO_ERROR") == 0) {
        const char *node = string_in(data, "node-name"), *device = string_in(data, "device"),
                   *reason = string_in(data, "reason");
        qmp_clean_text(node && *node ? node : device ? device : "a disk", clean, 64);
        size_t used = strlen(clean);
        snprintf(clean + used, sizeof clean - used, ": ");
        qmp_clean_text(reason ? reason : "failed", clean + used + 2, sizeof clean - used - 2);
        tell(machine, "an access to a disk failed: %s", clean);
    }
}

/* True if the state may be another one now. */
static bool heed(struct machine *machine, struct json_object *event)
{
    static const char *const telling[] = {
        "STOP",   "RESUME",         "SHUTDOWN",          "RESET",        "MIGRATION",     "SUSPEND",
        "WAKEUP", "GUEST_PANICKED", "GUEST_CRASHLOADED", "SUSPEND_DISK", "BLOCK_IO_ERROR"};
    struct json_object *data = NULL;
    const char *name = string_in(event, "event");
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

/* Hears all that was said. A negative errno where the connection is dead. */
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
        publish(machine, MACHINE_CONNECTED, RUN_STATE_SHUTTING_DOWN, NULL);
        return 0;
    }
    return machine_look(machine, machine->qmp, NULL, err);
}

/* ---- The thread ---- */

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
        publish(machine, MACHINE_UNKNOWN, last.state, NULL);
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

static int connect_to(struct machine *machine, bool late, struct error *err)
{
    int fd = -1;
    int rc = dial(machine, &fd, err);
    if (rc == 0)
        rc = qmp_take(&fd, machine->name, late ? LATE_GREETING_MS : GREETING_MS, &machine->qmp, err);
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
    if (!machine->read_only)
        guest_bury(machine->guest);
    pthread_mutex_lock(&machine->lock);
    struct guest *guest = steal_pointer(machine->guest);
    pthread_mutex_unlock(&machine->lock);
    guest_free(guest);
    if (crashed)
        log_warning("%s: %s", machine->name, text);
    publish(machine, MACHINE_OFF, crashed ? RUN_STATE_CRASHED : RUN_STATE_SHUTOFF, problem ? text : NULL);
}

/* ---- The thread's life ---- */

/* Until the connection is dead, or the machine is to stop. */
static void serve(struct machine *machine, struct error *err)
{
    while (!is_stopping(machine) && drain(machine, err) == 0)
        if (!lend(machine)) {
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
    publish(machine, MACHINE_OFF, crashed ? RUN_STATE_CRASHED : RUN_STATE_SHUTOFF,
            crashed ? "its QEMU ended without being asked to" : NULL);
}

/* Tries to be connected, for as long as there is a QEMU. */
static void keep_connected(struct machine *machine, bool launching)
{
    int retry = launching ? LAUNCH_RETRY_MS : RETRY_FIRST_MS;
    int64_t patient_until = launching ? now_ms() + LAUNCH_MS : 0;
    bool late = false;
    siginfo_t status;
    while (!is_stopping(machine)) {
        struct error why = {0};
        bool lost = false;
        if (connect_to(machine, late, &why) == 0) {
            late = launching = false;
            serve(machine, &why);
            disconnect(machine);
            patient_until = now_ms() + ENDING_MS;
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
        bool patient = now_ms() <= patient_until;
        if (why.code == ETIMEDOUT || !patient) {
            publish(machine, MACHINE_SILENT, RUN_STATE_SHUTOFF, why.text);
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

/* Frees the thread that has ended, if there is one. */
static void join(struct machine *machine)
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

/* With the lock held. */
static int start_thread_locked(struct machine *machine)
{
    machine->was_connected = machine->guest_is_off = machine->end_expected = false;
    int code = pthread_create(&machine->thread, NULL, thread_run, machine);
    if (code == 0)
        machine->thread_state = THREAD_RUNS;
    return -code;
}

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
        taken = start_thread_locked(machine) == 0;
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

/* A guest that was started by a mount before this one, or beside a mount that only reads. */
static bool visit_guest(struct machine *machine)
{
    struct guest *guest = NULL;
    enum guest_trace trace = GUEST_NO_TRACE;
    struct error why = {0};
    if (!machine->directory)
        return false;
    int rc = guest_find(machine->directory, machine->read_only, &guest, &trace, &why);
    if (rc == 0)
        return take_care(machine, guest, -1);
    if (rc != -ESRCH)
        log_error("%s: %s", machine->name, why.text);
    if (trace == GUEST_KILLED && !machine->read_only) {
        publish(machine, MACHINE_OFF, RUN_STATE_CRASHED, "its QEMU ended while nobody looked");
        return true;
    }
    return false;
}

void machine_visit(struct machine *machine)
{
    join(machine);
    pthread_mutex_lock(&machine->lock);
    bool idle = machine->thread_state == THREAD_NONE && !machine->is_stopping && !machine->is_launching;
    bool look = idle && (!machine->has_looked || machine->read_only);
    bool is_ours = machine->guest;
    machine->has_looked |= look;
    cleanup_free char *path = machine->monitor ? strdup(machine->monitor) : NULL;
    pthread_mutex_unlock(&machine->lock);
    if (is_ours && machine->directory && !machine->read_only)
        guest_shorten_log(machine->directory);
    if (!idle || (look && visit_guest(machine)))
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
        publish(machine, MACHINE_SILENT, RUN_STATE_SHUTOFF, why.text);
    else if (before.contact != MACHINE_OFF)
        publish(machine, MACHINE_OFF, RUN_STATE_SHUTOFF, NULL);
}

/* With the lock held. What waits in the connection fails, unless it is somebody's. */
static void cut_locked(struct machine *machine)
{
    if (machine->cut >= 0 && !machine->lent)
        shutdown(machine->cut, SHUT_RDWR);
}

static void wake(struct machine *machine)
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
    wake(machine);
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
    struct timespec deadline = deadline_in(timeout_ms);
    pthread_mutex_lock(&machine->lock);
    machine->wanted++;
    int rc = refuse_locked(machine, err), code = 0;
    if (rc == 0)
        wake(machine);
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
    wake(machine);
}

int machine_await_off(struct machine *machine, int timeout_ms, struct error *err)
{
    struct timespec deadline = deadline_in(timeout_ms);
    int code = 0;
    pthread_mutex_lock(&machine->lock);
    while (code == 0 && machine->report.contact != MACHINE_OFF && !machine->is_stopping)
        code = pthread_cond_timedwait(&machine->moved, &machine->lock, &deadline);
    bool off = machine->report.contact == MACHINE_OFF;
    pthread_mutex_unlock(&machine->lock);
    return off ? 0 : error_set(err, ETIMEDOUT, "%s has not ended within %d ms", machine->name, timeout_ms);
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

/* Waits until it answers. */
static int await_answer(struct machine *machine, machine_cancelled *cancelled, void *opaque,
                        struct error *err)
{
    int64_t end = now_ms() + LAUNCH_MS;
    struct machine_report report;
    bool give_up = false, stopping = false;
    pthread_mutex_lock(&machine->lock);
    while (machine->report.contact != MACHINE_CONNECTED && machine->thread_state == THREAD_RUNS &&
           !stopping && !give_up && now_ms() < end) {
        struct timespec deadline = deadline_in(CANCEL_LOOK_MS);
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
static void end_guest(const char *directory, struct guest *guest)
{
    struct pollfd ended = {.fd = guest->process.pidfd, .events = POLLIN};
    siginfo_t status;
    lasting_signal(&guest->process, SIGKILL);
    if (poll(&ended, 1, KILL_MS) > 0 && lasting_has_ended(&guest->process, &status))
        guest_bury(guest);
    else
        log_error("%s: its process %ld does not end", directory, (long)guest->process.pid);
}

static int launch(struct machine *machine, char *const *argv, const char *working,
                  machine_cancelled *cancelled, void *opaque, struct error *err)
{
    struct guest *guest = NULL;
    enum guest_trace trace;
    int rc = guest_find(machine->directory, false, &guest, &trace, err);
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
    int code = stopping ? -EINTR : start_thread_locked(machine);
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
    join(machine);
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
    machine->read_only = options->read_only;
    machine->tell = options->changed;
    machine->opaque = options->opaque;
    machine->wake = wake_fd;
    machine->socket = machine->cut = -1;
    pthread_mutex_init(&machine->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&machine->moved, &attributes);
    pthread_condattr_destroy(&attributes);
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
    join(machine);
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
