// SPDX-License-Identifier: LGPL-2.1-or-later
/* See qemu_img_run.h. */
#include "hypervisor/qemu_img_run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/monotonic.h"
#include "base/text.h"
#include "helper/sandbox.h"
#include "hypervisor/qmp_message.h"

#define SAID_BYTES_MAX                                                                                       \
    (256U << 10) /* more than a graph and a sentence about it, and 100 lines of progress                     \
                  */

enum outcome { ENDED, CANCELED, TIMED_OUT, STALLED };

/* What it said that was no progress, and how far it has come. */
struct listener {
    struct text said;
    unsigned percent;
};

/*
 * Progress is "    (12.34/100%)", each over the last by a carriage return. It comes whole: it is one write of
 * a few bytes to a pipe.
 */
static void listen_to(struct listener *listener, const struct helper_process *process)
{
    char buffer[4096];
    for (;;) {
        sandbox_stderr(process, buffer, sizeof buffer);
        if (!*buffer)
            return;
        for (char *rest = buffer, *part; (part = strsep(&rest, "\r"));) {
            const char *number = part + strspn(part, " ");
            if (*number == '(' && strstr(number, "/100%)"))
                listener->percent = (unsigned)strtoul(number + 1, NULL, 10);
            else if (listener->said.length < SAID_BYTES_MAX)
                text_append_string(&listener->said, part);
        }
    }
}

/* What it has used of the cpu, in ticks (proc(5), /proc/pid/stat); the same again where that can't be told.
 */
static uint64_t ticks_of(pid_t pid, uint64_t before)
{
    char path[32], text[1024];
    unsigned long long user, system;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    text[length < 0 ? 0 : length] = '\0';
    const char *fields = strrchr(text, ')');
    if (!fields ||
        sscanf(fields + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system) != 2)
        return before;
    return user + system;
}

struct stall {
    uint64_t ticks;
    int64_t since;
};

/* A copy of a huge disk tells nothing for minutes; one that does nothing for so long waits for ever. */
static bool is_stalled(struct stall *stall, const struct helper_process *process, int stall_ms)
{
    int64_t now = monotonic_ms();
    if (!stall_ms || now - stall->since < stall_ms)
        return false;
    uint64_t ticks = ticks_of(process->pid, stall->ticks);
    bool same = ticks == stall->ticks;
    *stall = (struct stall){.ticks = ticks, .since = now};
    return same;
}

static enum outcome await_end(const struct qemu_img_run *run, const struct helper_process *process,
                              struct listener *listener)
{
    struct stall stall = {.ticks = UINT64_MAX, .since = monotonic_ms()};
    int64_t deadline = run->timeout_ms < 0 ? INT64_MAX : monotonic_ms() + run->timeout_ms;
    struct pollfd poll_fd = {.fd = process->pidfd, .events = POLLIN};
    for (;;) {
        int64_t left = deadline - monotonic_ms();
        int wait_ms = left < 0 ? 0 : left < QEMU_IMG_LOOK_MS ? (int)left : QEMU_IMG_LOOK_MS;
        bool has_ended = poll(&poll_fd, 1, wait_ms) > 0;
        listen_to(listener, process);
        if (has_ended)
            return ENDED;
        if (left <= 0)
            return TIMED_OUT;
        if (is_stalled(&stall, process, run->stall_ms))
            return STALLED;
        if (run->progress && !run->progress(run->opaque, listener->percent))
            return CANCELED;
    }
}

static void replace(struct text *text, const struct qemu_img_word *word)
{
    const char *from = text->data ? text->data : "", *found;
    if (!*word->from || !strstr(from, word->from))
        return;
    struct text made = {0};
    while ((found = strstr(from, word->from))) {
        text_append(&made, from, (size_t)(found - from));
        text_append_string(&made, word->to);
        from = found + strlen(word->from);
    }
    text_append_string(&made, from);
    text_done(text);
    *text = made;
}

/* What comes after the first that went wrong goes wrong because of it, and need not say why. And what it may
 * not do is delete the file, which is ours to do. */
static int errno_of_lines(const char *said)
{
    cleanup_free char *lines = strdup(said);
    char *rest = NULL;
    for (char *line = lines ? strtok_r(lines, "\n", &rest) : NULL; line; line = strtok_r(NULL, "\n", &rest)) {
        int code = strstr(line, "Error when deleting file") ? EIO : qmp_errno(NULL, line);
        if (code != EIO || strstr(line, "Input/output error"))
            return code;
    }
    return EIO;
}

static int judge(const struct qemu_img_run *run, const struct helper_process *process, struct text *said,
                 struct error *err)
{
    siginfo_t status = {0};
    if (waitid(P_PID, (id_t)process->pid, &status, WEXITED | WNOHANG | WNOWAIT) < 0 || status.si_pid == 0)
        return error_set(err, EIO, "%s: how qemu-img ended is not known", run->name);
    /* What can't be written when it closes an image, it says, and ends as if all were well. */
    bool is_written = said->failed || !said->data || !strstr(said->data, "Failed to flush");
    if (status.si_code == CLD_EXITED && status.si_status == 0 && is_written)
        return 0;
    if (status.si_code != CLD_EXITED)
        return error_set(err, EIO, "%s: qemu-img was ended by signal %d", run->name, status.si_status);
    for (size_t i = 0; i < run->word_count; i++)
        replace(said, &run->words[i]);
    const char *words = said->failed || !said->data ? "" : said->data;
    char clean[ERROR_TEXT_MAX / 2];
    qmp_clean_text(words, clean, sizeof clean);
    return error_set(err, errno_of_lines(words), "%s: %s", run->name, *clean ? clean : "qemu-img failed");
}

int qemu_img_run(const struct qemu_img_run *run, struct error *err)
{
    const struct sandbox_spec spec = {.argv = run->argv,
                                      .write_paths = run->write_paths,
                                      .pass_fds = run->pass_fds,
                                      .pass_fd_count = run->pass_fd_count,
                                      .take_stdout = run->progress != NULL,
                                      .memory_bytes = run->memory_bytes};
    struct helper_process process;
    int rc = sandbox_start(&spec, &process, err);
    if (rc < 0)
        return rc;
    struct listener listener = {0};
    switch (await_end(run, &process, &listener)) {
    case ENDED:
        rc = judge(run, &process, &listener.said, err);
        break;
    case CANCELED:
        rc = error_set(err, ECANCELED, "%s: cancelled", run->name);
        break;
    case STALLED:
        rc = error_set(err, ETIMEDOUT, "%s: qemu-img did nothing for %d s and was killed", run->name,
                       run->stall_ms / 1000);
        break;
    case TIMED_OUT:
        rc = error_set(err, ETIMEDOUT, "%s: qemu-img did not end within %d ms and was killed", run->name,
                       run->timeout_ms);
        break;
    }
    text_done(&listener.said);
    sandbox_end(&process, 0);
    return rc;
}
