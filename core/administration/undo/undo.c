// SPDX-License-Identifier: LGPL-2.1-or-later
/* Undoing what was not finished; see undo.h. */
#include "administration/undo/undo.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "administration/change.h"
#include "administration/reclaim/reclaimer.h"
#include "administration/running.h"
#include "administration/thaws.h"
#include "administration/undo/resume.h"
#include "administration/undo/undo_image.h"
#include "administration/undo/undo_pivot.h"
#include "administration/undo/undo_running.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "catalog/catalog_hold.h"
#include "image/overlay_file.h"

/* ---- The list ---- */

static void add(struct undo_list *list, const char *type, const struct journal_argument *arguments,
                size_t count)
{
    struct journal_step *grown = realloc(list->steps, (list->count + 1) * sizeof *grown);
    struct journal_argument *copy = calloc(count, sizeof *copy);
    if (grown)
        list->steps = grown;
    if (!grown || !copy) {
        list->failed = true;
        free(copy);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        copy[i] = arguments[i];
        if (arguments[i].string && !(copy[i].string = strdup(arguments[i].string)))
            list->failed = true;
    }
    grown[list->count++] = (struct journal_step){type, copy, count};
}

static void add_file(struct undo_list *list, const char *type, const char *directory,
                     const char *temporary_name, const char *final_name, const struct new_file_mark *mark)
{
    const struct journal_argument arguments[] = {
        {.string = directory},    {.string = temporary_name}, {.string = final_name},
        {.number = mark->device}, {.number = mark->inode},    {.number = mark->made_ns},
    };
    add(list, type, arguments, 6);
}

void undo_add_file(struct undo_list *list, const char *directory, const char *temporary_name,
                   const char *final_name, const struct new_file_mark *mark)
{
    add_file(list, "file", directory, temporary_name, final_name, mark);
}

void undo_add_memory(struct undo_list *list, const char *directory, const char *temporary_name,
                     const char *final_name, const struct new_file_mark *mark)
{
    add_file(list, "memory", directory, temporary_name, final_name, mark);
}

void undo_add_stop(struct undo_list *list, const struct memory_save_before *before, bool stays_stopped)
{
    const struct journal_argument arguments[] = {
        {.number = before->running},
        {.number = before->loses_pages},
        {.number = before->settings.events},
        {.number = before->settings.pause_before_switchover},
        {.number = (uint64_t)before->settings.max_bandwidth},
        {.number = stays_stopped},
    };
    add(list, "stop", arguments, 6);
}

static void add_tag(struct undo_list *list, const char *type, const char *path, const char *tag, int fd)
{
    struct qcow2_table_mark mark = qcow2_table_mark(fd);
    const struct journal_argument arguments[] = {
        {.string = path}, {.string = tag}, {.number = mark.count}, {.number = mark.offset}};
    add(list, type, arguments, mark.count == QCOW2_TABLE_UNKNOWN ? 2 : 4);
}

void undo_add_internal(struct undo_list *list, const char *path, const char *tag, int fd)
{
    add_tag(list, "internal", path, tag, fd);
}

void undo_add_point(struct undo_list *list, const char *path, const char *tag, int fd)
{
    add_tag(list, "point", path, tag, fd);
}

void undo_add_domain(struct undo_list *list, uint64_t domain)
{
    const struct journal_argument arguments[] = {{.number = domain}};
    add(list, "domain", arguments, 1);
}

void undo_add_running(struct undo_list *list, const char *monitor, const char *agent)
{
    const struct file_identity socket = thaws_identify(monitor);
    const struct journal_argument arguments[] = {
        {.string = monitor},           {.string = agent},
        {.number = socket.inode},      {.number = (uint64_t)socket.mtime_sec},
        {.number = socket.mtime_nsec},
    };
    add(list, "running", arguments, 5);
}

void undo_add_overlay(struct undo_list *list, const char *path, const char *below, enum image_format format,
                      const struct stat *file)
{
    const struct journal_argument arguments[] = {
        {.string = path},
        {.string = below},
        {.string = image_format_name(format)},
        {.number = file->st_ino},
        {.number = (uint64_t)file->st_size},
        {.number = (uint64_t)file->st_mtim.tv_sec},
        {.number = (uint64_t)file->st_mtim.tv_nsec},
    };
    add(list, "overlay", arguments, 7);
}

void undo_add_pivot(struct undo_list *list, const char *upper, const char *lower)
{
    const struct journal_argument arguments[] = {{.string = upper}, {.string = lower}};
    add(list, "pivot", arguments, 2);
}

void undo_add_resume(struct undo_list *list)
{
    const struct journal_argument arguments[] = {{.number = 1}};
    add(list, "resume", arguments, 1);
}

void undo_list_done(struct undo_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        for (size_t j = 0; j < list->steps[i].argument_count; j++)
            free((char *)list->steps[i].arguments[j].string);
        free(list->steps[i].arguments);
    }
    free(list->steps);
    *list = (struct undo_list){0};
}

static int begin(struct administration *administration, const struct domain *domain, uint64_t operation,
                 const char *kind, uint64_t committed_by, const struct undo_list *list,
                 struct journal_operation **journal, struct error *err)
{
    struct journal_argument commit = {.number = committed_by};
    cleanup_free struct journal_step *steps = calloc(list->count + 1, sizeof *steps);
    if (!steps || list->failed)
        return error_set(err, ENOMEM, "out of memory");
    steps[0] = (struct journal_step){"commit", &commit, 1};
    if (list->count)
        memcpy(steps + 1, list->steps, list->count * sizeof *steps);
    const struct journal_record record = {
        .domain = domain->serial,
        .uuid = domain->uuid,
        .serial = operation,
        .kind = kind,
        .steps = steps,
        .step_count = list->count + 1,
        .commit = list->count,
    };
    crash_point("made");
    int r = journal_begin(administration->journal, &record, journal, err);
    crash_point("journaled");
    return r;
}

int undo_begin(struct change *change, const char *kind, uint64_t committed_by, const struct undo_list *list,
               struct error *err)
{
    return begin(change->administration, change->domain, change->operation, kind, committed_by, list,
                 &change->journal, err);
}

int undo_begin_for(struct administration *administration, const struct domain *domain, uint64_t operation,
                   const char *kind, const struct undo_list *list, struct journal_operation **journal,
                   struct error *err)
{
    return begin(administration, domain, operation, kind, domain->serial, list, journal, err);
}

/* ---- Undoing ---- */

static int undo_file(const struct undo_running *running, const struct journal_step *step, struct error *err)
{
    const struct journal_argument *arguments = step->arguments;
    const struct new_file_mark mark = {.device = arguments[3].number,
                                       .inode = arguments[4].number,
                                       .made_ns = step->argument_count > 5 ? arguments[5].number : 0};
    cleanup_free char *path = NULL;
    if (asprintf(&path, "%s/%s", arguments[0].string, arguments[2].string) < 0)
        return path = NULL, error_set(err, ENOMEM, "out of memory");
    undo_running_close(running, path, (ino_t)arguments[4].number);
    cleanup_close int directory = open(arguments[0].string, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return errno == ENOENT ? 0 : error_set(err, errno, "%s: %m", arguments[0].string);
    return overlay_file_undo(directory, arguments[1].string, arguments[2].string, &mark, err);
}

/* Are they as many strings (s) and numbers (n) as `kinds` says? The file is ours, but files rot. */
static bool has_arguments(const struct journal_step *step, const char *kinds)
{
    if (step->argument_count != strlen(kinds))
        return false;
    for (size_t i = 0; i < step->argument_count; i++)
        if ((kinds[i] == 's') != (step->arguments[i].string != NULL))
            return false;
    return true;
}

/* Where a QEMU has the image open, it does it. */
static int undo_internal(const struct undo_running *running, const struct journal_argument *arguments,
                         const struct qcow2_table_mark *mark, struct error *err)
{
    int r = undo_running_internal(running, arguments[0].string, arguments[1].string, err);
    return r == -ENODEV ? undo_image_internal(arguments[0].string, arguments[1].string, mark, err) : r;
}

static int undo_step(struct administration *administration, const struct undo_running *running,
                     const struct journal_step *step, struct error *err)
{
    const struct journal_argument *arguments = step->arguments;
    if (strcmp(step->type, "commit") == 0 || strcmp(step->type, "running") == 0 ||
        strcmp(step->type, "stop") == 0)
        return 0;
    if (strcmp(step->type, "overlay") == 0) {
        if (has_arguments(step, "sssnnnn"))
            undo_running_close(running, arguments[0].string, (ino_t)arguments[3].number);
        return 0;
    }
    if (strcmp(step->type, "pivot") == 0 && has_arguments(step, "ss"))
        return undo_pivot_back(running, err);
    if (strcmp(step->type, "resume") == 0)
        return undo_running_resume(running, err);
    if ((strcmp(step->type, "file") == 0 || strcmp(step->type, "memory") == 0) &&
        (has_arguments(step, "sssnnn") || has_arguments(step, "sssnn")))
        return undo_file(running, step, err);
    bool has_mark = has_arguments(step, "ssnn");
    struct qcow2_table_mark mark = {QCOW2_TABLE_UNKNOWN, 0};
    if (has_mark)
        mark = (struct qcow2_table_mark){arguments[2].number, arguments[3].number};
    if (strcmp(step->type, "internal") == 0 && (has_mark || has_arguments(step, "ss")))
        return undo_internal(running, arguments, &mark, err);
    if (strcmp(step->type, "point") == 0 && (has_mark || has_arguments(step, "ss")))
        return undo_image_point(arguments[0].string, arguments[1].string, &mark, err);
    if (strcmp(step->type, "domain") == 0 && has_arguments(step, "n"))
        return store_remove(administration->options.store, arguments[0].number, err);
    return error_set(err, EINVAL, "the journal has a step of the unknown kind '%s'", step->type);
}

static int undo_all(struct administration *administration, const struct undo_running *running,
                    const struct journal_record *record, bool images_are_untouched, struct error *err)
{
    int r = 0;
    for (size_t i = record->step_count; r == 0 && i-- > 0;) {
        if (images_are_untouched && strcmp(record->steps[i].type, "internal") == 0)
            continue;
        r = undo_step(administration, running, &record->steps[i], err);
        crash_point("undone");
    }
    return r;
}

/* Has it happened? Negative where that can't be told. */
static int has_happened(struct administration *administration, const struct journal_record *record,
                        struct error *err)
{
    const struct journal_step *commit = &record->steps[0];
    if (record->is_concluded && record->code)
        return 0;
    if (strcmp(commit->type, "commit") != 0 || !has_arguments(commit, "n"))
        return error_set(err, EINVAL, "its first step is not known");
    struct state_domain *state = NULL;
    int r = store_read(administration->options.store, commit->arguments[0].number, &state, err);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return r;
    r = state->operation == record->serial;
    state_domain_free(state);
    return r;
}

/* ---- Domains that stay as they are shown ---- */

void undo_keep_held(struct administration *administration, uint64_t domain)
{
    pthread_mutex_lock(&administration->lock);
    uint64_t *grown =
        realloc(administration->held, (administration->held_count + 1) * sizeof *administration->held);
    if (grown) {
        administration->held = grown;
        grown[administration->held_count++] = domain;
    } /* else it is held as long as we live */
    pthread_mutex_unlock(&administration->lock);
}

static bool forget_held(struct administration *administration, uint64_t domain)
{
    bool found = false;
    pthread_mutex_lock(&administration->lock);
    for (size_t i = 0; i < administration->held_count && !found; i++)
        if (administration->held[i] == domain) {
            administration->held[i] = administration->held[--administration->held_count];
            found = true;
        }
    pthread_mutex_unlock(&administration->lock);
    return found;
}

/* ---- The end ---- */

struct ending {
    bool is_committed;
    bool images_are_untouched;
    const struct undo_running *running; /* NULL: it is reached where it is needed */
};

static int undo_reaching(struct administration *administration, const struct journal_record *record,
                         const struct ending *ending, struct error *err)
{
    if (ending->running || !undo_is_running(record)) {
        static const struct undo_running none = {0};
        return undo_all(administration, ending->running ? ending->running : &none, record,
                        ending->images_are_untouched, err);
    }
    struct undo_running running;
    int r = undo_running_begin(administration, record, &running, err);
    if (r == 0)
        r = undo_running_go_on(&running, record, false, err);
    if (r == 0)
        r = undo_all(administration, &running, record, ending->images_are_untouched, err);
    undo_running_end(&running);
    return r;
}

/* A disk that goes on in another layer has not yet done so when the state is saved: only what is so. */
static bool has_pivot(const struct journal_record *record)
{
    for (size_t i = 0; i < record->step_count; i++)
        if (strcmp(record->steps[i].type, "pivot") == 0)
            return true;
    return false;
}

/* A guest that could not be told to go on after its snapshot, as the connection was lost just then, is. */
static int conclude(struct administration *administration, const struct undo_running *running,
                    const struct journal_record *record, struct error *err)
{
    return has_pivot(record) ? undo_pivot_conclude(administration, running, record, err)
                             : undo_running_go_on(running, record, true, err);
}

static int conclude_reaching(struct administration *administration, const struct journal_record *record,
                             const struct ending *ending, struct error *err)
{
    if (ending->running)
        return has_pivot(record) ? conclude(administration, ending->running, record, err) : 0;
    if (!undo_is_running(record))
        return 0;
    struct undo_running running;
    int r = undo_running_begin(administration, record, &running, err);
    if (r == 0)
        r = conclude(administration, &running, record, err);
    undo_running_end(&running);
    return r;
}

/* Each part of it can have been done already. */
static int end_operation(struct administration *administration, struct journal_operation *operation,
                         const struct ending *ending, struct error *err)
{
    const struct journal_record *record = journal_operation_record(operation);
    int r = 0;
    if (ending->is_committed) {
        /* First, so that who tries the rest again knows. */
        if (!journal_is_committed(record))
            r = journal_complete(operation, err);
        if (r == 0)
            r = conclude_reaching(administration, record, ending, err);
    } else {
        r = record->is_concluded ? 0 : journal_conclude(operation, ECANCELED, 0, err);
        if (r == 0)
            r = resume_clear_way(administration, record->domain, record->serial, err);
        if (r == 0)
            r = undo_reaching(administration, record, ending, err);
    }
    if (r == 0 && undo_is_running(record))
        store_remove_next(administration->options.store, record->domain);
    crash_point("finishing");
    return r < 0 ? r : journal_finish(operation, err);
}

static bool settle(struct administration *administration, struct journal_operation *operation,
                   const struct ending *ending)
{
    struct error why = {0};
    if (end_operation(administration, operation, ending, &why) == 0)
        return true;
    const struct journal_record *record = journal_operation_record(operation);
    log_error("the operation '%s' of the domain with serial number %" PRIu64
              " could not be %s: %s; that is tried again, and until then the domain can't be changed",
              record->kind, record->domain, ending->is_committed ? "concluded" : "undone", why.text);
    reclaimer_wake(administration->reclaimer);
    return false;
}

bool undo_or_finish(struct change *change)
{
    struct journal_operation *operation = steal_pointer(change->journal);
    if (!operation)
        return true;
    if (change->is_beyond_undoing && !change->is_committed) {
        log_error(
            "the operation '%s' of %s has happened, or may have, and its result could not be saved; that is "
            "tried again, and until then the domain can't be changed",
            journal_operation_record(operation)->kind, change->domain->name);
        reclaimer_wake(change->administration->reclaimer);
        return false;
    }
    /* Over a connection that was lost nobody can tell the guest to go on. Over a new one it is asked what it
     * does, as after a crash of ours, and so it is where it refused; if in vain, it is tried again later. */
    bool is_left = change->running && change->running->qmp &&
                   (change->guest_is_left || qmp_is_dead(change->running->qmp));
    if (is_left)
        running_return(change->running);
    const struct undo_running running = {.qmp = change->running ? change->running->qmp : NULL};
    const struct ending ending = {.is_committed = change->is_committed,
                                  .images_are_untouched = change->images_are_untouched,
                                  .running = is_left ? NULL : &running};
    return settle(change->administration, operation, &ending);
}

bool undo_end(struct administration *administration, struct journal_operation *journal, struct qmp *qmp,
              bool is_committed)
{
    const struct undo_running running = {.qmp = qmp};
    const struct ending ending = {.is_committed = is_committed, .running = &running};
    return settle(administration, journal, &ending);
}

/* Of an operation on a running domain that has happened, the state follows. */
static int complete(struct administration *administration, const struct journal_record *record,
                    struct error *err)
{
    struct error why;
    int r = undo_running_complete(administration, record, err);
    if (r < 0 || !administration->catalog)
        return r;
    struct state_domain *state;
    r = store_read(administration->options.store, record->domain, &state, err);
    if (r < 0)
        return r;
    if (catalog_show(administration->catalog, state, NULL, &why) < 0)
        log_warning("%s is not shown as it is yet: %s", state->name, why.text);
    state_domain_free(state);
    return 0;
}

/* Beyond undoing, though its state is not saved? Negative where that can't be told now. */
static int has_run_on(struct administration *administration, const struct journal_record *record,
                      struct error *err)
{
    if (!undo_is_running(record) || (record->is_concluded && record->code))
        return 0;
    struct undo_running running;
    int r = undo_running_begin(administration, record, &running, err);
    if (r == 0)
        r = undo_running_has_happened(&running, record, err);
    if (r > 0) {
        int went_on = undo_running_go_on(&running, record, true, err);
        r = went_on < 0 ? went_on : r;
    }
    undo_running_end(&running);
    return r;
}

int undo_again(struct administration *administration, uint64_t domain, struct error *err)
{
    struct journal_operation *operation = journal_find_domain(administration->journal, domain);
    if (!operation)
        return 0;
    const struct journal_record *record = journal_operation_record(operation);
    bool is_committed = journal_is_committed(record);
    int happened = is_committed ? 1 : has_happened(administration, record, err), r = happened;
    if (happened > 0 && has_pivot(record))
        is_committed = true;
    if (happened > 0 && !is_committed) /* it was told as failed, and what is in memory is the state before */
        r = error_set(err, EIO, "only the next mount can tell what has become of it");
    if (happened == 0)
        r = has_run_on(administration, record, err);
    if (happened == 0 && r > 0) {
        is_committed = true;
        r = complete(administration, record, err);
    }
    const struct ending ending = {.is_committed = is_committed};
    if (r >= 0)
        r = end_operation(administration, operation, &ending, err);
    if (r < 0) {
        error_prefix(err, "the last operation of the domain is not %s yet",
                     is_committed ? "concluded" : "undone");
        return r;
    }
    log_info("the last operation of the domain with serial number %" PRIu64 " is %s now", domain,
             is_committed ? "concluded" : "undone");
    if (forget_held(administration, domain))
        catalog_release(administration->catalog, domain);
    return 0;
}

/* ---- At start ---- */

/* As has_happened, and what has to be completed is. */
static int tell(struct administration *administration, const struct journal_record *record, struct error *err)
{
    int happened = has_happened(administration, record, err);
    /* Once, here: as long as we live, who has frozen a guest sees to it that it is thawed (thaws.h). */
    if (happened <= 0)
        undo_running_thaw(administration, record);
    if (happened != 0)
        return happened;
    happened = has_run_on(administration, record, err);
    if (happened <= 0)
        return happened;
    int r = complete(administration, record, err);
    return r < 0 ? r : 1;
}

void undo_settle(struct administration *administration)
{
    struct journal_operation *operation;
    for (size_t i = 0; (operation = journal_operation_at(administration->journal, i));) {
        const struct journal_record *record = journal_operation_record(operation);
        struct error why;
        int happened = tell(administration, record, &why);
        if (happened < 0) {
            log_error("the operation '%s' of the domain with serial number %" PRIu64
                      " can't be settled, so that domain can't be changed: %s",
                      record->kind, record->domain, why.text);
            i++;
            continue;
        }
        log_info("the operation '%s' of the domain with serial number %" PRIu64 " was interrupted: it is %s",
                 record->kind, record->domain, happened ? "concluded" : "undone");
        const struct ending ending = {.is_committed = happened};
        settle(administration, operation, &ending);
        if (journal_operation_at(administration->journal, i) == operation)
            i++;
    }
}
