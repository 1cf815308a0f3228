// SPDX-License-Identifier: LGPL-2.1-or-later
/* Undoing what was not finished; see undo.h. */
#include "administration/undo.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "administration/change.h"
#include "administration/undo_image.h"
#include "base/cleanup.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "hypervisor/overlay_file.h"

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

void undo_add_file(struct undo_list *list, const char *directory, const char *temporary_name,
                   const char *final_name, dev_t device, ino_t inode)
{
    const struct journal_argument arguments[] = {
        {.string = directory}, {.string = temporary_name}, {.string = final_name},
        {.number = device},    {.number = inode},
    };
    add(list, "file", arguments, 5);
}

void undo_add_internal(struct undo_list *list, const char *path, const char *tag)
{
    const struct journal_argument arguments[] = {{.string = path}, {.string = tag}};
    add(list, "internal", arguments, 2);
}

void undo_add_point(struct undo_list *list, const char *path, const char *tag)
{
    const struct journal_argument arguments[] = {{.string = path}, {.string = tag}};
    add(list, "point", arguments, 2);
}

void undo_add_domain(struct undo_list *list, uint64_t domain)
{
    const struct journal_argument arguments[] = {{.number = domain}};
    add(list, "domain", arguments, 1);
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

int undo_begin(struct change *change, const char *kind, uint64_t committed_by, const struct undo_list *list,
               struct error *err)
{
    struct journal_argument domain = {.number = committed_by};
    cleanup_free struct journal_step *steps = calloc(list->count + 1, sizeof *steps);
    if (!steps || list->failed)
        return error_set(err, ENOMEM, "out of memory");
    steps[0] = (struct journal_step){"commit", &domain, 1};
    if (list->count)
        memcpy(steps + 1, list->steps, list->count * sizeof *steps);
    const struct journal_record record = {
        .domain = change->domain->serial,
        .uuid = change->domain->uuid,
        .serial = change->operation,
        .kind = kind,
        .steps = steps,
        .step_count = list->count + 1,
        .commit = list->count,
    };
    crash_point("made");
    int r = journal_begin(change->administration->journal, &record, &change->journal, err);
    crash_point("journaled");
    return r;
}

/* ---- Undoing ---- */

static int undo_file(const struct journal_argument *arguments, struct error *err)
{
    cleanup_close int directory = open(arguments[0].string, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return errno == ENOENT ? 0 : error_set(err, errno, "%s: %m", arguments[0].string);
    return overlay_file_undo(directory, arguments[1].string, arguments[2].string, (dev_t)arguments[3].number,
                             (ino_t)arguments[4].number, err);
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

static int undo_step(struct administration *administration, const struct journal_step *step,
                     struct error *err)
{
    const struct journal_argument *arguments = step->arguments;
    if (strcmp(step->type, "commit") == 0)
        return 0;
    if (strcmp(step->type, "file") == 0 && has_arguments(step, "sssnn"))
        return undo_file(arguments, err);
    if (strcmp(step->type, "internal") == 0 && has_arguments(step, "ss"))
        return undo_image_internal(arguments[0].string, arguments[1].string, err);
    if (strcmp(step->type, "point") == 0 && has_arguments(step, "ss"))
        return undo_image_point(arguments[0].string, arguments[1].string, err);
    if (strcmp(step->type, "domain") == 0 && has_arguments(step, "n"))
        return store_remove(administration->options.store, arguments[0].number, err);
    return error_set(err, EINVAL, "the journal has a step of the unknown kind '%s'", step->type);
}

static int undo_all(struct administration *administration, const struct journal_record *record,
                    bool images_are_untouched, struct error *err)
{
    int r = 0;
    for (size_t i = record->step_count; r == 0 && i-- > 0;) {
        if (images_are_untouched && strcmp(record->steps[i].type, "internal") == 0)
            continue;
        r = undo_step(administration, &record->steps[i], err);
        crash_point("undone");
    }
    return r;
}

/* It has happened, or what was done is undone. Where that can't be done the next start tries again. */
static void settle(struct administration *administration, struct journal_operation *operation,
                   bool is_committed, bool images_are_untouched)
{
    struct error why = {0};
    const struct journal_record *record = journal_operation_record(operation);
    int r;
    if (is_committed) {
        r = journal_complete(operation, &why);
    } else {
        r = record->is_concluded ? 0 : journal_conclude(operation, ECANCELED, 0, &why);
        if (r == 0)
            r = undo_all(administration, record, images_are_untouched, &why);
    }
    crash_point("finishing");
    if (r == 0)
        r = journal_finish(operation, &why);
    if (r < 0)
        log_error(
            "the operation '%s' of the domain with serial number %" PRIu64
            " could not be %s: %s; the next mount tries again, and until then the domain can't be changed",
            record->kind, record->domain, is_committed ? "concluded" : "undone", why.text);
}

void undo_or_finish(struct change *change)
{
    struct journal_operation *operation = steal_pointer(change->journal);
    if (operation)
        settle(change->administration, operation, change->is_committed, change->images_are_untouched);
}

/* ---- At start ---- */

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

void undo_settle(struct administration *administration)
{
    struct journal_operation *operation;
    for (size_t i = 0; (operation = journal_operation_at(administration->journal, i));) {
        const struct journal_record *record = journal_operation_record(operation);
        struct error why;
        int happened = has_happened(administration, record, &why);
        if (happened < 0) {
            log_error("the operation '%s' of the domain with serial number %" PRIu64
                      " can't be settled, so that domain can't be changed: %s",
                      record->kind, record->domain, why.text);
            i++;
            continue;
        }
        log_info("the operation '%s' of the domain with serial number %" PRIu64 " was interrupted: it is %s",
                 record->kind, record->domain, happened ? "concluded" : "undone");
        settle(administration, operation, happened, false);
        if (journal_operation_at(administration->journal, i) == operation)
            i++;
    }
}
