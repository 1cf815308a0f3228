// SPDX-License-Identifier: LGPL-2.1-or-later
/* See qemu_img.h. */
#include "hypervisor/qemu_img.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "format/json_parse.h"
#include "helper/sandbox.h"
#include "hypervisor/qmp_arguments.h"
#include "hypervisor/qmp_message.h"

#define MEMORY_BYTES           ((size_t)1 << 30)
#define BACKING_NAME_BYTES_MAX 1023 /* QEMU's docs/interop/qcow2.txt */
#define LOOK_MS                100

/* The image's graph as a file name of QEMU's: a file and qcow2, and nothing that the image names. */
static int make_name(const char *path, struct text *name)
{
    struct json_object *file = json_object_new_object();
    qmp_add_string(&file, "driver", "file");
    qmp_add_string(&file, "filename", path);
    cleanup_json struct json_object *graph = json_object_new_object();
    qmp_add_string(&graph, "driver", "qcow2");
    qmp_add(&graph, "file", file);
    if (!graph || json_object_object_add(graph, "backing", NULL) < 0)
        return -ENOMEM;
    text_printf(
        name, "json:%s",
        json_object_to_json_string_ext(graph, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    return name->failed ? -ENOMEM : 0;
}

/* What it said, without the graph that it names its image by. */
static void clean_said(const char *said, const char *graph, const char *path, struct text *clean)
{
    const char *found;
    while ((found = strstr(said, graph))) {
        text_append(clean, said, (size_t)(found - said));
        text_append_string(clean, path);
        said = found + strlen(graph);
    }
    text_append_string(clean, said);
}

static int judge(const struct helper_process *process, const struct qemu_img *image, const char *graph,
                 const char *said, struct error *err)
{
    siginfo_t status = {0};
    if (waitid(P_PID, (id_t)process->pid, &status, WEXITED | WNOHANG | WNOWAIT) < 0 || status.si_pid == 0)
        return error_set(err, ETIMEDOUT, "%s: qemu-img did not end within %d ms and was killed", image->path,
                         image->timeout_ms);
    if (status.si_code == CLD_EXITED && status.si_status == 0)
        return 0;
    if (status.si_code != CLD_EXITED)
        return error_set(err, EIO, "%s: qemu-img was ended by signal %d", image->path, status.si_status);
    cleanup_text struct text text = {0};
    clean_said(said, graph, image->path, &text);
    char clean[ERROR_TEXT_MAX / 2];
    qmp_clean_text(text.failed || !text.data ? "" : text.data, clean, sizeof clean);
    return error_set(err, qmp_errno(NULL, clean), "%s: %s", image->path, *clean ? clean : "qemu-img failed");
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void await_end(const struct helper_process *process, int timeout_ms)
{
    int64_t deadline = now_ms() + timeout_ms, left;
    struct pollfd poll_fd = {.fd = process->pidfd, .events = POLLIN};
    while ((left = deadline - now_ms()) > 0 && poll(&poll_fd, 1, left < LOOK_MS ? (int)left : LOOK_MS) <= 0)
        continue;
}

static int run(const struct qemu_img *image, const char *const *argv, const char *graph, struct error *err)
{
    const char *const write_paths[] = {image->path, NULL};
    const struct sandbox_spec spec = {.argv = argv, .write_paths = write_paths, .memory_bytes = MEMORY_BYTES};
    struct helper_process process;
    int rc = sandbox_start(&spec, &process, err);
    if (rc < 0)
        return rc;
    await_end(&process, image->timeout_ms);
    char said[ERROR_TEXT_MAX * 4];
    sandbox_stderr(&process, said, sizeof said);
    rc = judge(&process, image, graph, said, err);
    sandbox_end(&process, 0);
    return rc;
}

static int flush(const char *path, struct error *err)
{
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 || fsync(fd) < 0 ? error_set(err, errno, "%s can't be flushed: %m", path) : 0;
}

int qemu_img_apply(const struct qemu_img *image, const char *id, struct error *err)
{
    if (!*id || id[strspn(id, "0123456789")])
        return error_set(err, EINVAL, "%s: not a snapshot's id", image->path);
    cleanup_text struct text name = {0};
    if (make_name(image->path, &name) < 0)
        return error_set(err, ENOMEM, "out of memory");
    const char *const argv[] = {"qemu-img", "snapshot", "-q", "-a", id, name.data, NULL};
    int rc = run(image, argv, name.data, err);
    return rc < 0 ? rc : flush(image->path, err);
}

int qemu_img_name_backing(const struct qemu_img *image, const char *backing_name, const char *backing_format,
                          struct error *err)
{
    if (!*backing_name || !*backing_format)
        return error_set(err, EINVAL, "%s: a backing file needs a name and a format", image->path);
    if (strlen(backing_name) > BACKING_NAME_BYTES_MAX)
        return error_set(err, ENAMETOOLONG, "%s: the name of its backing file has more than %d bytes",
                         image->path, BACKING_NAME_BYTES_MAX);
    cleanup_text struct text name = {0};
    if (make_name(image->path, &name) < 0)
        return error_set(err, ENOMEM, "out of memory");
    const char *const argv[] = {"qemu-img",     "rebase", "-q",         "-u",      "-F",
                                backing_format, "-b",     backing_name, name.data, NULL};
    int rc = run(image, argv, name.data, err);
    return rc < 0 ? rc : flush(image->path, err);
}
