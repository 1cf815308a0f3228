// SPDX-License-Identifier: LGPL-2.1-or-later
/* See undo_running.h. */
#include "administration/undo/undo_running.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "administration/files/images.h"
#include "administration/thaws.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "catalog/discover.h"
#include "hypervisor/block_snapshot.h"
#include "hypervisor/image_locks.h"
#include "hypervisor/layer_nodes.h"
#include "hypervisor/memory_save.h"
#include "hypervisor/run_state.h"
#include "hypervisor/running_disks.h"

#define ANSWER_MS         5000
#define RUNNING_ARGUMENTS 5 /* of the step "running" */

/* ---- What the journal says ---- */

static const struct journal_step *find_step(const struct journal_record *record, const char *type)
{
    for (size_t i = 0; i < record->step_count; i++)
        if (strcmp(record->steps[i].type, type) == 0)
            return &record->steps[i];
    return NULL;
}

/* Has it as many arguments, the first `strings` of them strings? Files rot. */
static bool has_arguments(const struct journal_step *step, size_t strings, size_t count)
{
    if (step->argument_count != count)
        return false;
    for (size_t i = 0; i < count; i++)
        if ((step->arguments[i].string != NULL) != (i < strings))
            return false;
    return true;
}

/* The monitor and the agent, and, since it is written, the identity of the monitor's socket; NULL where the
 * journal does not tell. */
static const struct journal_step *running_step(const struct journal_record *record)
{
    const struct journal_step *step = find_step(record, "running");
    return step && (has_arguments(step, 2, RUNNING_ARGUMENTS) || has_arguments(step, 2, 2)) ? step : NULL;
}

/* ---- Its QEMU ---- */

bool undo_is_running(const struct journal_record *record)
{
    return find_step(record, "running");
}

static int connect_by_path(const char *path, struct undo_running *running, struct error *err)
{
    int r = *path ? qmp_connect(path, "QEMU", ANSWER_MS, &running->qmp, err) : -ENOENT;
    return r == -ENOENT || r == -ECONNREFUSED || r == -ECONNRESET ? 0 : r;
}

int undo_running_begin(struct administration *administration, const struct journal_record *record,
                       struct undo_running *running, struct error *err)
{
    const struct journal_step *step = running_step(record);
    *running = (struct undo_running){0};
    running->machine = machines_get(administration->options.machines, record->domain);
    if (!running->machine)
        return step ? connect_by_path(step->arguments[0].string, running, err) : 0;
    int r = machine_borrow(running->machine, ANSWER_MS, &running->qmp, NULL, err);
    return r == -ESRCH ? 0 : r;
}

void undo_running_end(struct undo_running *running)
{
    if (running->machine && running->qmp)
        machine_return(running->machine, running->qmp);
    else
        qmp_free(running->qmp);
    machine_unref(running->machine);
    *running = (struct undo_running){0};
}

void undo_running_thaw(struct administration *administration, const struct journal_record *record)
{
    const struct journal_step *step = running_step(record);
    if (!step || !*step->arguments[1].string)
        return;
    const bool is_identified = step->argument_count == RUNNING_ARGUMENTS;
    const struct thaw_owed owed = {
        .domain = record->domain,
        .agent = (char *)step->arguments[1].string,
        .monitor = (char *)step->arguments[0].string,
        .socket = {.inode = is_identified ? step->arguments[2].number : 0,
                   .mtime_sec = is_identified ? (int64_t)step->arguments[3].number : 0,
                   .mtime_nsec = is_identified ? (uint32_t)step->arguments[4].number : 0},
    };
    thaws_owe(administration->thaws, &owed);
}

int undo_running_resume(const struct undo_running *running, struct error *err)
{
    struct run_state_answer answer;
    int r = running->qmp ? run_state_query_status(running->qmp, ANSWER_MS, &answer, err) : 0;
    if (r < 0 || !running->qmp || answer.state != RUN_STATE_PAUSED)
        return r;
    return run_state_continue(running->qmp, ANSWER_MS, err);
}

/* ---- Its guest ---- */

int undo_running_go_on(const struct undo_running *running, const struct journal_record *record,
                       bool has_happened, struct error *err)
{
    const struct journal_step *step = find_step(record, "stop");
    struct run_state_answer now;
    if (!step || !running->qmp)
        return 0;
    if (!has_arguments(step, 0, 6))
        return error_set(err, EINVAL, "the journal does not say whether the guest ran");
    const struct journal_argument *was = step->arguments;
    const struct memory_save_before before = {
        .running = was[0].number && !(has_happened && was[5].number),
        .loses_pages = was[1].number,
        .settings = {.events = was[2].number,
                     .pause_before_switchover = was[3].number,
                     .max_bandwidth = (int64_t)was[4].number},
    };
    int r = memory_save_recover(running->qmp, &before, ANSWER_MS, err);
    if (r == 0 && before.running)
        r = run_state_query_status(running->qmp, ANSWER_MS, &now, err);
    /* Stopped by us, and not by what the guest has done. */
    if (r == 0 && before.running && strcmp(now.word, "paused") == 0)
        r = run_state_continue(running->qmp, ANSWER_MS, err);
    return r;
}

/* ---- Has it happened? ---- */

static bool stands_on_something(const struct block_nodes *nodes, const struct stat *overlay)
{
    for (size_t i = 0; i < nodes->count; i++)
        if (nodes->nodes[i].depth > 0 && block_node_is_file(&nodes->nodes[i], overlay))
            return true;
    return false;
}

/* Does the QEMU still write to what the overlay was to be put on? 0, or why not. */
static int is_where_it_was(const struct block_engine *engine, const struct journal_argument *was,
                           struct error *err)
{
    struct running_disk disk = {
        .target = was[0].string, .path = was[1].string, .format = image_format_from_name(was[2].string)};
    cleanup_close int fd = open(was[1].string, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return error_set(err, errno, "%s: %m", was[1].string);
    disk.fd = fd;
    int r = running_disks_find(engine, &disk, 1, err);
    running_disks_done(&disk, 1);
    return r;
}

/* 1: the QEMU's disk goes on in the overlay; 0: in the file where it was. Anything else is not known here. */
static int ask(const struct undo_running *running, const struct journal_argument *was,
               const struct stat *overlay, struct error *err)
{
    const struct block_engine engine = {.qmp = running->qmp, .timeout_ms = ANSWER_MS};
    struct block_nodes nodes;
    int r = block_nodes_query_depths(&engine, &nodes, err);
    if (r < 0)
        return r;
    bool has_moved = stands_on_something(&nodes, overlay);
    block_nodes_done(&nodes);
    return has_moved ? 1 : is_where_it_was(&engine, was, err);
}

/* Of one overlay; was it written to, where no QEMU can be asked? */
static int ask_of(const struct undo_running *running, const struct journal_argument *was, struct error *err)
{
    struct stat now;
    if (lstat(was[0].string, &now) < 0)
        return errno == ENOENT ? 0 : error_set(err, errno, "%s: %m", was[0].string);
    if (now.st_ino != was[3].number)
        return 0;
    bool is_written = (uint64_t)now.st_size != was[4].number ||
                      (uint64_t)now.st_mtim.tv_sec != was[5].number ||
                      (uint64_t)now.st_mtim.tv_nsec != was[6].number;
    image_locks_forget();
    if (!running->qmp && image_locks_written(now.st_dev, now.st_ino))
        return error_set(err, EBUSY, "%s is open for writing, and its QEMU can't be asked", was[0].string);
    int r = running->qmp ? ask(running, was, &now, err) : is_written;
    if (r == 0 && is_written)
        return error_set(
            err, EBUSY,
            "%s was written to after the snapshot, and yet a QEMU writes to what it stands on, %s: "
            "end that one",
            was[0].string, was[1].string);
    return r;
}

/* They came in one transaction, so each that is in use tells for all; a guest need not have written to each.
 */
int undo_running_has_happened(const struct undo_running *running, const struct journal_record *record,
                              struct error *err)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < record->step_count; i++) {
        const struct journal_step *step = &record->steps[i];
        if (strcmp(step->type, "overlay") != 0)
            continue;
        r = has_arguments(step, 3, 7)
                ? ask_of(running, step->arguments, err)
                : error_set(err, EINVAL, "the journal does not say which overlay there was to be");
    }
    return r;
}

/* ---- Completing ---- */

/* What could not be known before it had happened: as what the layer was frozen. */
static int fill_layer(const char *source, struct state_frozen *frozen, struct error *err)
{
    cleanup_free char *path = path_from_store(source, frozen->layer);
    struct stat file;
    if (!path)
        return error_set(err, ENOMEM, "out of memory");
    if (stat(path, &file) < 0)
        return error_set(err, errno, "%s: %m", path);
    frozen->layer_identity = file_identity_of(&file);
    return 0;
}

static int fill_internal(const char *path, const char *tag, struct state_frozen *frozen, struct error *err)
{
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return error_set(err, errno, "%s: %m", path);
    const struct image_info *info;
    int r = image_read_info(fd, path, &info, err);
    if (r < 0)
        return r;
    const struct internal_snapshot *made = image_find_tag(info, tag);
    char *id = made ? strdup(made->id) : NULL;
    if (id) {
        free(frozen->internal_id);
        frozen->internal_id = id;
        frozen->l1_table_offset = made->l1_table_offset;
        frozen->date_sec = made->date_sec;
        frozen->date_nsec = made->date_nsec;
    }
    image_info_unref(info);
    return id ? 0 : error_set(err, EIO, "%s: the internal snapshot %s is not there", path, tag);
}

static bool is_path(const char *source, const char *stored, const char *path)
{
    size_t length = strlen(source);
    return *stored == '/' ? strcmp(stored, path) == 0
                          : strncmp(path, source, length) == 0 && path[length] == '/' &&
                                strcmp(path + length + 1, stored) == 0;
}

static int fill(const char *source, const struct journal_record *record, struct state_frozen *frozen,
                struct error *err)
{
    if (!frozen->internal)
        return fill_layer(source, frozen, err);
    for (size_t i = 0; i < record->step_count; i++) {
        const struct journal_step *step = &record->steps[i];
        if (strcmp(step->type, "internal") == 0 && step->argument_count >= 2 && step->arguments[0].string &&
            step->arguments[1].string && is_path(source, frozen->layer, step->arguments[0].string))
            return fill_internal(step->arguments[0].string, step->arguments[1].string, frozen, err);
    }
    return error_set(err, EINVAL, "the journal does not say which internal snapshot %s has got",
                     frozen->layer);
}

/* Is it there, whole? Else the snapshot is one of disks alone. */
static int fill_memory(const char *source, const struct journal_record *record, struct state_domain *next,
                       struct state_snapshot *snapshot, struct error *err)
{
    const struct journal_step *step = find_step(record, "memory");
    cleanup_free char *path = NULL;
    struct stat file;
    if (!snapshot->memory.path)
        return 0;
    if (!step || step->argument_count < 5 || !(path = path_from_store(source, snapshot->memory.path)))
        return error_set(err, step ? ENOMEM : EINVAL, "where the memory was saved can't be told");
    if (lstat(path, &file) == 0 && file.st_ino == step->arguments[4].number) {
        snapshot->memory.identity = file_identity_of(&file);
        return 0;
    }
    log_warning("snapshot %s of %s has no memory: vmsnapfs was killed before it was saved whole",
                snapshot->name, next->name);
    cleanup_free char *temporary = NULL;
    if (asprintf(&temporary, "%s/%s", step->arguments[0].string, step->arguments[1].string) < 0)
        return temporary = NULL, error_set(err, ENOMEM, "out of memory");
    if (unlink(temporary) < 0 && errno != ENOENT)
        return error_set(err, errno, "%s: %m", temporary);
    state_paths_remove(next->made, snapshot->memory.path);
    free(snapshot->memory.path);
    snapshot->memory = (struct state_memory){0};
    snapshot->consistency = CONSISTENCY_CRASH;
    return 0;
}

static void drop_state(struct state_domain **state)
{
    state_domain_free(*state);
}

int undo_running_complete(struct administration *administration, const struct journal_record *record,
                          struct error *err)
{
    const char *source = locate_source(administration->options.locate);
    cleanup(drop_state) struct state_domain *next = NULL;
    int r = store_read_next(administration->options.store, record->domain, &next, err);
    if (r == 0 && next->operation != record->serial)
        r = error_set(err, EINVAL, "what was written down is another operation's");
    /* The new snapshot is the one of the greatest number. */
    struct state_snapshot *newest = NULL;
    for (size_t i = 0; r == 0 && i < next->snapshot_count; i++)
        if (!newest || next->snapshots[i].serial > newest->serial)
            newest = &next->snapshots[i];
    for (size_t i = 0; r == 0 && newest && i < newest->frozen_count; i++)
        r = fill(source, record, &newest->frozen[i], err);
    if (r == 0 && newest)
        r = fill_memory(source, record, next, newest, err);
    if (r == 0)
        r = store_save(administration->options.store, next, err);
    if (r == 0)
        store_remove_next(administration->options.store, record->domain);
    return r;
}

/* ---- Undoing in an image that is open there ---- */

void undo_running_close(const struct undo_running *running, const char *path, ino_t inode)
{
    struct stat file;
    struct error why;
    if (!running->qmp || qmp_is_dead(running->qmp))
        return;
    const struct block_engine engine = {.qmp = running->qmp, .timeout_ms = ANSWER_MS};
    if (lstat(path, &file) == 0 && file.st_ino == inode && layer_nodes_close(&engine, &file, path, &why) < 0)
        log_warning("what was to use %s is undone, and yet its QEMU has it open: %s", path, why.text);
}

int undo_running_internal(const struct undo_running *running, const char *path, const char *tag,
                          struct error *err)
{
    if (!running->qmp)
        return -ENODEV;
    const struct block_engine engine = {.qmp = running->qmp, .timeout_ms = ANSWER_MS};
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return errno == ENOENT ? 0 : error_set(err, errno, "%s: %m", path);
    struct running_disk disk = {.target = "", .path = path, .fd = fd, .format = IMAGE_FORMAT_QCOW2};
    struct error why;
    int r = running_disks_find(&engine, &disk, 1, &why);
    if (r == 0)
        r = block_snapshot_delete(&engine, disk.node, NULL, tag, err);
    else if (r != -ENODEV)
        error_set(err, -r, "%s", why.text);
    running_disks_done(&disk, 1);
    return r == -ENOENT ? 0 : r;
}
