// SPDX-License-Identifier: LGPL-2.1-or-later
/* A real QEMU for tests, without KVM and without a guest but its BIOS, that ends with the test. */
#pragma once

#include "qemu_folder.h"

#include <json-c/json.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "format/json_parse.h"
#include "hypervisor/block_nodes.h"
#include "hypervisor/qmp.h"

#define QEMU_ARGUMENTS_MAX 64

struct qemu_process {
    pid_t pid;
    struct block_engine engine;
};

/* 77 where it is not installed. */
static inline int qemu_process_need(void)
{
    if (system("command -v qemu-system-x86_64 >/dev/null") == 0)
        return 0;
    fprintf(stderr, "qemu-system-x86_64 is not installed\n");
    return 77;
}

/* Starts it with these arguments besides the machine; NULL-terminated. What it says goes to the file "said".
 */
static inline void qemu_process_start(struct qemu_process *qemu, const char *const *arguments)
{
    static const char *const common[] = {
        "qemu-system-x86_64",
        "-accel",
        "tcg",
        "-m",
        "32",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-chardev",
        "socket,id=monitor,fd=3",
        "-mon",
        "chardev=monitor,mode=control",
    };
    const char *all[QEMU_ARGUMENTS_MAX] = {0};
    size_t count = 0;
    for (size_t i = 0; i < sizeof common / sizeof *common; i++)
        all[count++] = common[i];
    for (size_t i = 0; arguments && arguments[i] && count + 1 < QEMU_ARGUMENTS_MAX; i++)
        all[count++] = arguments[i];
    int ends[2];
    assert_return_code(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), errno);
    int said = open(in_folder("said"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(said >= 0);
    qemu->pid = fork();
    if (qemu->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (dup2(said, 1) < 0 || dup2(said, 2) < 0 || dup2(ends[1], 3) < 0 || fcntl(3, F_SETFD, 0) < 0)
            _exit(126);
        execvp(all[0], (char *const *)all);
        _exit(127);
    }
    assert_true(qemu->pid > 0);
    close(ends[1]);
    close(said);
    qemu->engine = (struct block_engine){.timeout_ms = LONG_MS};
    must(qmp_take(&ends[0], "qemu", LONG_MS, &qemu->engine.qmp, &why));
}

static inline void qemu_process_kill(struct qemu_process *qemu)
{
    qmp_free(qemu->engine.qmp);
    qemu->engine.qmp = NULL;
    kill(qemu->pid, SIGKILL);
    assert_int_equal(waitpid(qemu->pid, NULL, 0), qemu->pid);
}

/* A command in JSON, with single quotes for double ones; what it returned is the caller's. */
static inline __attribute__((format(printf, 3, 4))) struct json_object *
qemu_process_do(const struct qemu_process *qemu, const char *command, const char *format, ...)
{
    cleanup_free char *text = NULL;
    va_list list;
    va_start(list, format);
    assert_true(vasprintf(&text, format, list) >= 0);
    va_end(list);
    for (char *at = text; *at; at++)
        if (*at == '\'')
            *at = '"';
    cleanup_json struct json_object *arguments = json_tokener_parse(text);
    assert_non_null(arguments);
    struct json_object *reply = NULL;
    must(qmp_command(qemu->engine.qmp, command, arguments, LONG_MS, &reply, &why));
    return reply;
}

/* Writes a byte `pattern` into a node, or with "-d DEVICE" as that device of a guest's would. */
static inline void qemu_process_write(const struct qemu_process *qemu, const char *node, int pattern,
                                      long long offset, long long length)
{
    cleanup_json struct json_object *said = qemu_process_do(
        qemu, "human-monitor-command", "{'command-line': 'qemu-io %s \\u0022write -P %d %lld %lld\\u0022'}",
        node, pattern, offset, length);
    assert_string_equal(json_object_get_string(said), "");
}

/*
 * A byte of the machine's state besides its disks, which no BIOS uses (in the clock's memory), stands for the
 * memory of a guest: it goes wherever that goes. The domain has to be stopped.
 */
static inline void qemu_process_set_memory(const struct qemu_process *qemu, int value)
{
    json_object_put(qemu_process_do(qemu, "human-monitor-command", "{'command-line': 'o /b 0x70 0x50'}"));
    json_object_put(
        qemu_process_do(qemu, "human-monitor-command", "{'command-line': 'o /b 0x71 %d'}", value));
}

static inline int qemu_process_memory(const struct qemu_process *qemu)
{
    json_object_put(qemu_process_do(qemu, "human-monitor-command", "{'command-line': 'o /b 0x70 0x50'}"));
    cleanup_json struct json_object *said =
        qemu_process_do(qemu, "human-monitor-command", "{'command-line': 'i /b 0x71'}");
    const char *value = strstr(json_object_get_string(said), "= ");
    assert_non_null(value);
    return (int)strtol(value + 2, NULL, 16);
}
