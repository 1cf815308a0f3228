// SPDX-License-Identifier: LGPL-2.1-or-later
/* See guest.h. */
#include "machine/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "hypervisor/qmp_message.h"
#include "machine/runtime.h"

#define BOOT_ID_BYTES 36
#define RECORD_FORMAT "vmsnapfs guest 1\npid %ld\nstarted %" PRIu64 "\nboot %s\n"
#define RECORD_SCAN   "vmsnapfs guest 1\npid %ld\nstarted %" SCNu64 "\nboot %36s"
#define LOG_BYTES_MAX ((off_t)1 << 20)
#define SAID_BYTES    2048

static char *path_in(const char *directory, const char *name)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s", directory, name) < 0 ? NULL : path;
}

static ssize_t read_small(const char *path, char *text, size_t size)
{
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t length = fd < 0 ? -1 : read(fd, text, size - 1);
    text[length > 0 ? length : 0] = '\0';
    return length;
}

static void read_boot_id(char id[BOOT_ID_BYTES + 1])
{
    read_small("/proc/sys/kernel/random/boot_id", id, BOOT_ID_BYTES + 1);
    if (!*id)
        snprintf(id, BOOT_ID_BYTES + 1, "unknown");
}

/* ---- Finding ---- */

static int read_record(const char *directory, pid_t *pid, uint64_t *started, struct error *err)
{
    char text[256], boot[BOOT_ID_BYTES + 1], now[BOOT_ID_BYTES + 1];
    long number;
    cleanup_free char *path = path_in(directory, "record");
    if (!path)
        return error_set(err, ENOMEM, "out of memory");
    if (read_small(path, text, sizeof text) < 0)
        return errno == ENOENT ? -ESRCH : error_set(err, EIO, "%s: %m", path);
    if (sscanf(text, RECORD_SCAN, &number, started, boot) != 3 || number <= 0 || number > INT_MAX)
        return error_set(err, EIO, "%s can't be understood", path);
    read_boot_id(now);
    if (strcmp(boot, now) != 0)
        return -ESRCH;
    *pid = (pid_t)number;
    return 0;
}

static struct guest *make_guest(const char *directory)
{
    struct guest *guest = calloc(1, sizeof *guest);
    if (!guest)
        return NULL;
    guest->process.pidfd = -1;
    guest->directory = strdup(directory);
    guest->monitor = path_in(directory, "monitor");
    if (guest->directory && guest->monitor)
        return guest;
    guest_free(guest);
    return NULL;
}

/* One that ends in good order removes its sockets. */
static enum guest_trace find_trace(const char *directory)
{
    cleanup_free char *monitor = path_in(directory, "monitor");
    return monitor && access(monitor, F_OK) == 0 ? GUEST_KILLED : GUEST_ENDED;
}

/* `*recorded`: there is, or was, one. Changes nothing. */
static int look(const char *directory, struct guest **guest, bool *recorded, struct error *err)
{
    pid_t pid = 0;
    uint64_t started = 0;
    struct stat found;
    *recorded = false;
    if (lstat(directory, &found) < 0)
        return errno == ENOENT ? -ESRCH : error_set(err, errno, "%s: %m", directory);
    if (!runtime_is_ours(directory))
        return error_set(err, EPERM, "%s is not ours alone", directory);
    int rc = read_record(directory, &pid, &started, err);
    *recorded = rc == 0;
    struct guest *made = NULL;
    if (rc == 0 && !(made = make_guest(directory)))
        return error_set(err, ENOMEM, "out of memory");
    if (rc == 0)
        rc = lasting_find(pid, started, &made->process, NULL);
    if (rc == 0) {
        *guest = made;
        return 0;
    }
    guest_free(made);
    return rc;
}

int guest_find(const char *directory, struct guest **guest, enum guest_trace *trace, struct error *err)
{
    bool recorded;
    *trace = GUEST_NO_TRACE;
    int rc = look(directory, guest, &recorded, err);
    if (rc != -ESRCH)
        return rc;
    if (recorded)
        *trace = find_trace(directory);
    runtime_remove(directory);
    return -ESRCH;
}

bool guest_is_there(const char *directory)
{
    struct guest *guest = NULL;
    bool recorded, found = look(directory, &guest, &recorded, NULL) == 0;
    guest_free(guest);
    return found;
}

void guest_sweep(const char *directory)
{
    struct guest *guest = NULL;
    enum guest_trace trace;
    struct error why;
    if (guest_find(directory, &guest, &trace, &why) == 0)
        guest_free(guest);
}

/* ---- Starting ---- */

int guest_monitors(const char *directory, char *monitors[3])
{
    char *first = path_in(directory, "monitor"), *second = path_in(directory, "monitor-2");
    if (!first || !second) {
        free(first);
        free(second);
        return -ENOMEM;
    }
    monitors[0] = first;
    monitors[1] = second;
    monitors[2] = NULL;
    return 0;
}

static int write_record(void *opaque, const struct lasting_process *process, struct error *err)
{
    const struct guest *guest = opaque;
    char boot[BOOT_ID_BYTES + 1], text[256];
    cleanup_free char *temporary = path_in(guest->directory, "record.new");
    cleanup_free char *path = path_in(guest->directory, "record");
    if (!temporary || !path)
        return error_set(err, ENOMEM, "out of memory");
    read_boot_id(boot);
    int length = snprintf(text, sizeof text, RECORD_FORMAT, (long)process->pid, process->started, boot);
    cleanup_close int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, text, (size_t)length) != length || rename(temporary, path) < 0)
        return error_set(err, errno, "%s can't be written: %m", path);
    return 0;
}

/* The process itself may be another program by then: a script's last command. */
static int write_command(const char *directory, const char *const *argv, struct error *err)
{
    cleanup_free char *path = path_in(directory, "command");
    FILE *file = path ? fopen(path, "wxe") : NULL;
    for (const char *const *word = argv; file && *word; word++)
        fwrite(*word, 1, strlen(*word) + 1, file);
    bool failed = !file || ferror(file);
    if (file && fclose(file) != 0)
        failed = true;
    return failed ? error_set(err, errno, "%s can't be written: %m", path ? path : directory) : 0;
}

bool guest_was_started_with(const struct guest *guest, char *const *words)
{
    cleanup_free char *path = path_in(guest->directory, "command");
    cleanup_fclose FILE *file = path ? fopen(path, "re") : NULL;
    bool same = file;
    for (char *const *word = words; same && *word; word++)
        for (size_t i = 0, length = strlen(*word) + 1; same && i < length; i++)
            same = fgetc(file) == (unsigned char)(*word)[i];
    return same;
}

int guest_start(const char *directory, const char *const *argv, const char *working, struct guest **guest,
                struct error *err)
{
    int rc = runtime_make(directory, err);
    if (rc < 0)
        return rc;
    struct guest *made = make_guest(directory);
    cleanup_free char *log = path_in(directory, "log");
    if (!made || !log) {
        guest_free(made);
        runtime_remove(directory);
        return error_set(err, ENOMEM, "out of memory");
    }
    cleanup_close int output = open(log, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
    const struct lasting_spec spec = {.argv = argv, .directory = working, .output_fd = output};
    rc =
        output < 0 ? error_set(err, errno, "%s can't be made: %m", log) : write_command(directory, argv, err);
    if (rc == 0)
        rc = lasting_start(&spec, write_record, made, &made->process, err);
    if (rc < 0) {
        guest_bury(made);
        guest_free(made);
        return rc;
    }
    *guest = made;
    return 0;
}

/* ---- What it says ---- */

void guest_said(const struct guest *guest, char *text, size_t size)
{
    char bytes[SAID_BYTES + 1];
    *text = '\0';
    cleanup_free char *path = path_in(guest->directory, "log");
    cleanup_close int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
    off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    off_t begin = end > SAID_BYTES ? end - SAID_BYTES : 0;
    ssize_t length = end < 0 ? -1 : pread(fd, bytes, SAID_BYTES, begin);
    if (length <= 0)
        return;
    while (length > 0 && bytes[length - 1] == '\n')
        length--;
    bytes[length] = '\0';
    /* Whole lines, as many of the last ones as there is room for. */
    const char *from = begin > 0 ? strchr(bytes, '\n') : bytes;
    const char *next;
    from = from ? from + (begin > 0) : bytes;
    while (strlen(from) >= size && (next = strchr(from, '\n')))
        from = next + 1;
    for (char *at = bytes; *at; at++)
        if (*at == '\n')
            *at = ' ';
    qmp_clean_text(from, text, size);
}

void guest_shorten_log(const char *directory)
{
    struct stat found;
    cleanup_free char *path = path_in(directory, "log");
    if (path && lstat(path, &found) == 0 && S_ISREG(found.st_mode) && found.st_size > LOG_BYTES_MAX &&
        runtime_is_ours(directory) && truncate(path, 0) < 0)
        return; /* the next visit tries again */
}

/* ---- The end ---- */

void guest_bury(const struct guest *guest)
{
    runtime_remove(guest->directory);
}

void guest_free(struct guest *guest)
{
    if (!guest)
        return;
    lasting_close(&guest->process);
    free(guest->directory);
    free(guest->monitor);
    free(guest);
}
