// SPDX-License-Identifier: LGPL-2.1-or-later
/* See undo_pivot.h. */
#include "administration/undo/undo_pivot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "administration/running.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "catalog/catalog_hold.h"
#include "catalog/discover.h"
#include "hypervisor/block_pivot.h"
#include "hypervisor/layer_nodes.h"

#define ANSWER_MS 5000

/* Of the step: upper and lower layer. NULL: there is no such step. */
static const struct journal_argument *arguments_of(const struct journal_record *record)
{
    for (size_t i = 0; i < record->step_count; i++) {
        const struct journal_step *step = &record->steps[i];
        if (strcmp(step->type, "pivot") == 0 && step->argument_count == 2 && step->arguments[0].string &&
            step->arguments[1].string)
            return step->arguments;
    }
    return NULL;
}

/* What a job that is there comes to. A failure of it is no error here: it is asked where the disk is. */
static int end_job(const struct block_engine *engine, struct error *err)
{
    const struct qmp_job_watch watch = {.timeout_ms = engine->timeout_ms, .stall_ms = engine->timeout_ms};
    enum qmp_job_state state;
    int r = qmp_job_wait(engine->qmp, RUNNING_MERGE_JOB, &watch, &state, err);
    if (r == 0 && state == QMP_JOB_WAITING)
        r = block_pivot_switch(engine, RUNNING_MERGE_JOB, err);
    else if (r == 0)
        r = qmp_job_abort(engine->qmp, RUNNING_MERGE_JOB, engine->timeout_ms, err);
    return r < 0 && qmp_is_dead(engine->qmp) ? r : 0;
}

/* Is the file a guest's disk? Not where it is gone. */
static int is_disk(const struct block_engine *engine, const char *path, bool *is, struct error *err)
{
    struct stat file;
    *is = false;
    if (stat(path, &file) < 0)
        return errno == ENOENT ? 0 : error_set(err, errno, "%s: %m", path);
    return layer_nodes_is_disk(engine, &file, is, NULL, err);
}

static void remove_hidden(struct state_domain *state, const char *path)
{
    size_t kept = 0;
    for (size_t i = 0; i < state->hidden_count; i++)
        if (!state->hidden[i].internal && strcmp(state->hidden[i].layer, path) == 0)
            state_frozen_done(&state->hidden[i]);
        else
            state->hidden[kept++] = state->hidden[i];
    state->hidden_count = kept;
}

/* A layer that nobody sees, and that would else be taken for another program's. */
static int hide(struct state_domain *state, const struct state_disk *disk, const char *lower,
                const struct file_identity *identity)
{
    const struct state_frozen record = {.target = disk->target,
                                        .position = disk->position,
                                        .layer = (char *)lower,
                                        .layer_identity = *identity,
                                        .allocated = ALLOCATED_UNKNOWN,
                                        .is_settled = true};
    struct state_frozen *grown = realloc(state->hidden, (state->hidden_count + 1) * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    state->hidden = grown;
    int r = state_frozen_copy(&record, &grown[state->hidden_count]);
    state->hidden_count += r == 0;
    return r;
}

/* The state follows a disk that did not switch over: the lower layer is below it, as it was. */
static int follow_back(struct administration *administration, const struct block_engine *engine,
                       const struct journal_record *record, const struct journal_argument *layers,
                       struct error *err)
{
    const char *source = locate_source(administration->options.locate);
    const char *upper = path_in_store(source, layers[0].string),
               *lower = path_in_store(source, layers[1].string);
    struct state_domain *state;
    struct stat file;
    int r = running_end_leftover(engine, err);
    if (r == 0 && stat(layers[1].string, &file) < 0)
        r = error_set(err, errno, "%s: %m", layers[1].string);
    if (r == 0)
        r = store_read(administration->options.store, record->domain, &state, err);
    if (r < 0)
        return r;
    const struct file_identity identity = file_identity_of(&file);
    remove_hidden(state, upper);
    for (size_t i = 0; r == 0 && i < state->disk_count; i++) {
        struct state_disk *disk = &state->disks[i];
        if (!disk->active || strcmp(disk->active, lower) != 0)
            continue;
        char *copy = strdup(upper);
        if (!copy || hide(state, disk, lower, &identity) < 0) {
            free(copy);
            r = error_set(err, ENOMEM, "out of memory");
        } else {
            free(disk->active), disk->active = copy;
        }
    }
    if (r == 0)
        r = store_save(administration->options.store, state, err);
    struct error why;
    if (r == 0 && administration->catalog && catalog_show(administration->catalog, state, NULL, &why) < 0)
        log_warning("%s is not shown as it is yet: %s", state->name, why.text);
    if (r == 0)
        log_warning("%s: its disk was to go on in %s, and goes on in %s", state->name, lower, upper);
    state_domain_free(state);
    return r;
}

int undo_pivot_conclude(struct administration *administration, const struct undo_running *running,
                        const struct journal_record *record, struct error *err)
{
    const struct journal_argument *layers = arguments_of(record);
    if (!layers || !running->qmp)
        return 0;
    const struct block_engine engine = {.qmp = running->qmp, .timeout_ms = ANSWER_MS};
    bool is_upper = false, is_lower = false;
    int r = end_job(&engine, err);
    if (r == 0)
        r = is_disk(&engine, layers[1].string, &is_lower, err);
    if (r == 0 && !is_lower)
        r = is_disk(&engine, layers[0].string, &is_upper, err);
    if (r < 0 || is_lower)
        return r;
    if (!is_upper)
        return error_set(err, EBUSY, "the QEMU that runs has its disk neither in %s nor in %s",
                         layers[0].string, layers[1].string);
    return follow_back(administration, &engine, record, layers, err);
}

int undo_pivot_back(const struct undo_running *running, struct error *err)
{
    if (!running->qmp)
        return 0;
    const struct block_engine engine = {.qmp = running->qmp, .timeout_ms = ANSWER_MS};
    return running_end_leftover(&engine, err);
}
