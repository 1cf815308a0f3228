// SPDX-License-Identifier: LGPL-2.1-or-later
/* See storage_daemon.h. */
#include "hypervisor/storage_daemon.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "format/json_parse.h"
#include "helper/sandbox.h"
#include "hypervisor/deadline.h"
#include "hypervisor/qmp_arguments.h"
#include "hypervisor/qmp_message.h"

#define PROGRAM         "qemu-storage-daemon"
#define EXPLAIN_WAIT_MS 1000 /* between its end of the connection being closed and its own end */
#define NODE_NAME_MAX   31
#define LEAVE_PAUSE_NS  100000 /* between two looks whether it has closed its images */
#define SAID_BYTES      4096   /* of what it wrote before its end */

_Static_assert(SANDBOX_FIRST_FD == 3, "what the storage daemon is told");
_Static_assert(STORAGE_DAEMON_FIRST_FD == SANDBOX_FIRST_FD + 1, "the monitor's is the first");

struct storage_daemon {
    struct helper_process process;
    int socket; /* its monitor's, until `qmp` has it; -1 then */
    struct qmp *qmp;
    struct json_object *nodes; /* name: the options that it was opened with */
    char failed[NODE_NAME_MAX + 1];
    bool is_ending; /* it has been asked to */
};

/* ---- nodes ---- */

bool block_node_name_is_legal(const char *name)
{
    size_t length = strlen(name);
    if (length == 0 || length > NODE_NAME_MAX)
        return false;
    for (size_t i = 0; i < length; i++) {
        char byte = name[i];
        bool letter = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
        if (!letter && (i == 0 || !byte || !strchr("0123456789-._", byte)))
            return false;
    }
    return true;
}

static bool is_any_of(const char *word, const char *const *words)
{
    while (*words && strcmp(word, *words) != 0)
        words++;
    return *words;
}

static bool names_a_node(struct json_object *value)
{
    const char *name = json_string_of(value);
    return name && block_node_name_is_legal(name);
}

/* Returns what is not spelled out, or NULL. */
static const char *find_fault(struct json_object *node)
{
    static const char *const protocols[] = {"file", "host_device", NULL};
    static const char *const with_backing[] = {"qcow2", "qcow", "qed", "vmdk", NULL};
    static const char *const without_backing[] = {"raw", "vpc", "vhdx", "vdi", "parallels", NULL};
    struct json_object *value;
    const char *driver = json_string_in(node, "driver");
    const char *filename = json_string_in(node, "filename");
    if (!driver)
        return "has no driver";
    if (is_any_of(driver, protocols))
        return filename && *filename == '/' ? NULL : "has no absolute file name";
    bool has_backing = is_any_of(driver, with_backing);
    if (!has_backing && !is_any_of(driver, without_backing))
        return "has a driver that is not used here";
    if (!json_object_object_get_ex(node, "file", &value) || !names_a_node(value))
        return "does not say by name which node its file is";
    if (json_object_object_get_ex(node, "data-file", &value) && !names_a_node(value))
        return "does not say by name which node its data file is";
    if (has_backing &&
        (!json_object_object_get_ex(node, "backing", &value) || (value && !names_a_node(value))))
        return "does not say by name which node its backing file is, or null";
    return NULL;
}

static int check_node(struct json_object *node, const char **name, struct error *err)
{
    *name = json_object_is_type(node, json_type_object) ? json_string_in(node, "node-name") : NULL;
    if (!*name || !block_node_name_is_legal(*name))
        return error_set(err, EINVAL, "a block node without a legal name");
    const char *fault = find_fault(node);
    return fault ? error_set(err, EINVAL, "the block node %s %s", *name, fault) : 0;
}

/* A copy: the caller may go on with his. */
static int remember_node(struct storage_daemon *daemon, const char *name, struct json_object *node,
                         struct error *err)
{
    struct json_object *copy = NULL;
    if (json_object_deep_copy(node, &copy, NULL) == 0 &&
        json_object_object_add(daemon->nodes, name, copy) == 0)
        return 0;
    json_object_put(copy);
    return error_set(err, ENOMEM, "out of memory");
}

int storage_daemon_add_node(struct storage_daemon *daemon, struct json_object *node, int timeout_ms,
                            struct error *err)
{
    const char *name;
    int rc = check_node(node, &name, err);
    if (rc < 0)
        return rc;
    rc = qmp_command(daemon->qmp, "blockdev-add", node, timeout_ms, NULL, err);
    return rc < 0 ? rc : remember_node(daemon, name, node, err);
}

int storage_daemon_delete_node(struct storage_daemon *daemon, const char *node_name, int timeout_ms,
                               struct error *err)
{
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add_string(&arguments, "node-name", node_name);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    int rc = qmp_command(daemon->qmp, "blockdev-del", arguments, timeout_ms, NULL, err);
    if (rc == 0)
        json_object_object_del(daemon->nodes, node_name);
    return rc;
}

int storage_daemon_flush(struct storage_daemon *daemon, const char *node_name, const char *backing,
                         int timeout_ms, struct error *err)
{
    struct json_object *node, *value;
    if (!json_object_object_get_ex(daemon->nodes, node_name, &node))
        return error_set(err, ENODEV, PROGRAM ": there is no node %s", node_name);
    struct json_object *options = json_object_new_object();
    json_object_object_foreach(node, key, member)
    {
        if (member && strcmp(key, "backing") != 0 && strcmp(key, "read-only") != 0)
            qmp_add(&options, key, json_object_get(member));
    }
    if (options && json_object_object_get_ex(node, "backing", &value) &&
        json_object_object_add(options, "backing", backing ? json_object_new_string(backing) : NULL) < 0) {
        json_object_put(options);
        options = NULL;
    }
    qmp_add_bool(&options, "read-only", false); /* as a job that writes to it has made it */
    struct json_object *list = json_object_new_array();
    qmp_append(&list, options);
    cleanup_json struct json_object *arguments = json_object_new_object();
    qmp_add(&arguments, "options", list);
    if (!arguments)
        return error_set(err, ENOMEM, "out of memory");
    return qmp_command(daemon->qmp, "blockdev-reopen", arguments, timeout_ms, NULL, err);
}

/* ---- beginning and end ---- */

/* How it ended, once it has; `*status` as waitid gives it. False while it runs. */
static bool await_end(const struct helper_process *process, int timeout_ms, siginfo_t *status)
{
    struct pollfd poll_fd = {.fd = process->pidfd, .events = POLLIN};
    int ready;
    do
        ready = poll(&poll_fd, 1, timeout_ms);
    while (ready < 0 && errno == EINTR);
    *status = (siginfo_t){0};
    if (ready <= 0)
        return false;
    /* Its end has come; where it is traced, it is ours to look at when the tracer has seen it. */
    return waitid(P_PID, (id_t)process->pid, status, WEXITED | WNOWAIT) == 0 && status->si_pid > 0;
}

/* How it ended, or that it did not, and what it had to say. */
static void tell_end(bool ended, const siginfo_t *status, const char *said, char *text, size_t size)
{
    char clean[ERROR_TEXT_MAX / 4];
    qmp_clean_text(said, clean, sizeof clean);
    const char *colon = *clean ? ": " : "";
    if (!ended)
        snprintf(text, size, "it still runs%s%s", colon, clean);
    else if (status->si_code == CLD_EXITED)
        snprintf(text, size, "it ended with status %d%s%s", status->si_status, colon, clean);
    else
        snprintf(text, size, "it was ended by signal %d%s%s", status->si_status, colon, clean);
}

/* The same as qmp_explain wants it. */
static void explain_end(void *opaque, char *text, size_t size)
{
    const struct storage_daemon *daemon = opaque;
    siginfo_t status;
    char said[ERROR_TEXT_MAX / 2];
    bool ended = await_end(&daemon->process, EXPLAIN_WAIT_MS, &status);
    sandbox_stderr(&daemon->process, said, sizeof said);
    tell_end(ended, &status, said, text, size);
}

/* Its command line, the nodes in it; the strings are the nodes'. To be freed. */
static const char **make_argv(const struct storage_daemon_spec *spec)
{
    const char **argv = calloc(2 * spec->node_count + 6, sizeof *argv);
    size_t count = 0;
    if (!argv)
        return NULL;
    argv[count++] = PROGRAM;
    for (size_t i = 0; i < spec->node_count; i++) {
        argv[count++] = "--blockdev";
        argv[count++] = json_object_to_json_string_ext(spec->nodes[i], JSON_C_TO_STRING_PLAIN);
        if (!argv[count - 1]) {
            free(argv);
            return NULL;
        }
    }
    argv[count++] = "--chardev";
    argv[count++] = "socket,id=monitor,fd=3";
    argv[count++] = "--monitor";
    argv[count++] = "chardev=monitor";
    return argv;
}

static int start_process(const struct storage_daemon_spec *spec, struct storage_daemon *daemon,
                         struct error *err)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return error_set(err, errno, "no socket for " PROGRAM ": %m");
    daemon->socket = ends[0];
    cleanup_close int theirs = ends[1];
    int rc = qmp_begin(ends[0], err);
    if (rc < 0)
        return rc;
    cleanup_free int *fds = calloc(spec->pass_fd_count + 1, sizeof *fds);
    cleanup_free const char **argv = make_argv(spec);
    if (!fds || !argv)
        return error_set(err, ENOMEM, "out of memory");
    fds[0] = theirs;
    if (spec->pass_fd_count)
        memcpy(fds + 1, spec->pass_fds, spec->pass_fd_count * sizeof *fds);
    const struct sandbox_spec sandbox = {
        .argv = argv,
        .read_paths = spec->read_paths,
        .write_paths = spec->write_paths,
        .pass_fds = fds,
        .pass_fd_count = spec->pass_fd_count + 1,
        .memory_bytes = spec->memory_bytes,
        .without_landlock = spec->without_landlock,
    };
    return sandbox_start(&sandbox, &daemon->process, err);
}

static int launch(const struct storage_daemon_spec *spec, struct storage_daemon *daemon, struct error *err)
{
    for (size_t i = 0; i < spec->node_count; i++) {
        const char *name;
        int rc = check_node(spec->nodes[i], &name, err);
        if (rc == 0)
            rc = remember_node(daemon, name, spec->nodes[i], err);
        if (rc < 0)
            return rc;
    }
    return start_process(spec, daemon, err);
}

int storage_daemon_launch(const struct storage_daemon_spec *spec, struct storage_daemon **daemon,
                          struct error *err)
{
    struct storage_daemon *made = calloc(1, sizeof *made);
    struct json_object *nodes = json_object_new_object();
    if (!made || !nodes) {
        free(made);
        json_object_put(nodes);
        return error_set(err, ENOMEM, "out of memory");
    }
    made->socket = -1;
    made->nodes = nodes;
    int rc = launch(spec, made, err);
    if (rc < 0) {
        storage_daemon_stop(made, 0, NULL);
        return rc;
    }
    *daemon = made;
    return 0;
}

/*
 * Did it end over a node of its command line? QEMU (7.2) then writes "PROGRAM: --blockdev NODE: TEXT", in a
 * line of its own. Points to the text, ended, and notes the node; NULL: it did not.
 */
static char *find_refusal(struct storage_daemon *daemon, char *said)
{
    static const char prefix[] = PROGRAM ": --blockdev ";
    char *line = strstr(said, prefix);
    if (!line)
        return NULL;
    line += sizeof prefix - 1;
    line[strcspn(line, "\n")] = '\0';
    json_object_object_foreach(daemon->nodes, name, node)
    {
        const char *text = json_object_to_json_string_ext(node, JSON_C_TO_STRING_PLAIN);
        size_t length = text ? strlen(text) : 0;
        if (length > 0 && strncmp(line, text, length) == 0 && strncmp(line + length, ": ", 2) == 0) {
            snprintf(daemon->failed, sizeof daemon->failed, "%s", name);
            return line + length + 2;
        }
    }
    return NULL;
}

/* It did not come up, as `failure` says: why? */
static int explain_start(struct storage_daemon *daemon, const struct error *failure, struct error *err)
{
    siginfo_t status;
    char said[SAID_BYTES], clean[ERROR_TEXT_MAX / 2], why[ERROR_TEXT_MAX / 2];
    bool ended = await_end(&daemon->process, EXPLAIN_WAIT_MS, &status);
    sandbox_stderr(&daemon->process, said, sizeof said);
    const char *refusal = ended ? find_refusal(daemon, said) : NULL;
    if (refusal) {
        qmp_clean_text(refusal, clean, sizeof clean);
        return error_set(err, qmp_errno("GenericError", refusal), "%s", clean);
    }
    tell_end(ended, &status, said, why, sizeof why);
    return error_set(err, failure->code, "%s: %s", failure->text, why);
}

int storage_daemon_await(struct storage_daemon *daemon, int timeout_ms, struct error *err)
{
    struct error why = {0};
    int rc = qmp_take_begun(&daemon->socket, PROGRAM, timeout_ms, &daemon->qmp, &why);
    if (rc < 0)
        return explain_start(daemon, &why, err);
    qmp_set_explain(daemon->qmp, explain_end, daemon);
    return 0;
}

const char *storage_daemon_failed_node(const struct storage_daemon *daemon)
{
    return daemon->failed;
}

int storage_daemon_start(const struct storage_daemon_spec *spec, struct storage_daemon **daemon,
                         struct error *err)
{
    struct storage_daemon *made;
    int rc = storage_daemon_launch(spec, &made, err);
    if (rc < 0)
        return rc;
    rc = storage_daemon_await(made, spec->timeout_ms, err);
    if (rc < 0) {
        storage_daemon_stop(made, spec->timeout_ms, NULL);
        return rc;
    }
    *daemon = made;
    return 0;
}

struct qmp *storage_daemon_qmp(struct storage_daemon *daemon)
{
    return daemon->qmp;
}

pid_t storage_daemon_pid(const struct storage_daemon *daemon)
{
    return daemon->process.pid;
}

void storage_daemon_begin_stop(struct storage_daemon *daemon, int timeout_ms)
{
    if (daemon->is_ending || !daemon->qmp || qmp_is_dead(daemon->qmp))
        return;
    /* It may close the connection before its answer has gone out; how it ends is what counts. */
    qmp_set_explain(daemon->qmp, NULL, NULL);
    qmp_send_last(daemon->qmp, "quit", timeout_ms, NULL);
    daemon->is_ending = true;
}

static int quit(struct storage_daemon *daemon, int timeout_ms, struct error *err)
{
    storage_daemon_begin_stop(daemon, timeout_ms);
    bool asked = daemon->is_ending;
    siginfo_t status;
    if (!await_end(&daemon->process, asked ? timeout_ms : 0, &status))
        return error_set(err, ETIMEDOUT, PROGRAM " did not end within %d ms and was killed", timeout_ms);
    if (asked && status.si_code == CLD_EXITED && status.si_status == 0)
        return 0;
    char why[ERROR_TEXT_MAX / 2];
    explain_end(daemon, why, sizeof why);
    return error_set(err, EIO, PROGRAM ": %s", why);
}

/* Its process is gone, or left. */
static void free_daemon(struct storage_daemon *daemon)
{
    qmp_free(daemon->qmp);
    if (daemon->socket >= 0)
        close(daemon->socket);
    json_object_put(daemon->nodes);
    free(daemon);
}

int storage_daemon_stop(struct storage_daemon *daemon, int timeout_ms, struct error *err)
{
    if (!daemon)
        return 0;
    int rc = daemon->process.pid > 0 ? quit(daemon, timeout_ms, err) : 0;
    sandbox_end(&daemon->process, 0);
    free_daemon(daemon);
    return rc;
}

bool storage_daemon_leave(struct storage_daemon *daemon, bool (*is_open)(void *opaque), void *opaque,
                          int timeout_ms)
{
    const struct timespec pause = {.tv_nsec = LEAVE_PAUSE_NS};
    int64_t deadline = deadline_in(timeout_ms);
    bool is_closed = false, is_running = sandbox_running(&daemon->process);
    /* In this order: what has ended between two looks has no image open at the second. */
    while (daemon->is_ending && !(is_closed = !is_open(opaque)) && is_running && monotonic_ms() < deadline) {
        nanosleep(&pause, NULL);
        is_running = sandbox_running(&daemon->process);
    }
    if (is_closed || !is_running)
        sandbox_leave(&daemon->process);
    else
        sandbox_end(&daemon->process, 0);
    free_daemon(daemon);
    return is_closed;
}
