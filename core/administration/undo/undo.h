// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What a change does to files, written down in the journal before it is done, so that it can be undone when
 * it fails or its process is killed: each kind of trace is a step there, and the undoing of each can be
 * repeated and does nothing where there is no trace.
 *
 * The first step, "commit", names the domain whose state file tells whether it has happened: it has if that
 * state is this operation's.
 */
#pragma once

#include <stdint.h>
#include <sys/stat.h>

#include "administration/inside.h"
#include "base/image_format.h"
#include "hypervisor/memory_save.h"
#include "image/new_file.h"
#include "store/journal.h"

struct change;
struct qmp;

/* A list that grows; all strings are copied. Where memory runs out, undo_begin tells. */
struct undo_list {
    struct journal_step *steps;
    size_t count;
    bool failed;
};

/* A file that was made under the temporary name and gets the final one (absolute path). */
void undo_add_file(struct undo_list *list, const char *directory, const char *temporary_name,
                   const char *final_name, const struct new_file_mark *mark);

/* The same of a file for saved memory, which gets its final name only when it is whole. */
void undo_add_memory(struct undo_list *list, const char *directory, const char *temporary_name,
                     const char *final_name, const struct new_file_mark *mark);

/*
 * The guest is stopped for a moment, or its memory saved: what was before, and is to be again; with
 * `stays_stopped` only if the operation is undone.
 */
void undo_add_stop(struct undo_list *list, const struct memory_save_before *before, bool stays_stopped);

/* An internal snapshot that the image at the absolute path, open as `fd`, gets, and did not have. */
void undo_add_internal(struct undo_list *list, const char *path, const char *tag, int fd);

/* The image goes back to another internal snapshot; what it held is kept in the one of this tag. */
void undo_add_point(struct undo_list *list, const char *path, const char *tag, int fd);

/*
 * The domain runs in the QEMU whose monitor this is now, and the agent at the other path (empty: none) may
 * have been told to freeze its file systems. A disk goes on in an overlay, which is as `file` says before it
 * is written to, instead of in `below`, an image of this format.
 */
void undo_add_running(struct undo_list *list, const char *monitor, const char *agent);
void undo_add_overlay(struct undo_list *list, const char *path, const char *below, enum image_format format,
                      const struct stat *file);

/* A disk of the running domain is to go on in the layer `lower`, on which its active one, `upper`, lies. */
void undo_add_pivot(struct undo_list *list, const char *upper, const char *lower);
/* The guest stands still for a moment, and is to run on. */
void undo_add_resume(struct undo_list *list);

/* The state of a new domain. */
void undo_add_domain(struct undo_list *list, uint64_t domain);

void undo_list_done(struct undo_list *list);

/*
 * Writes the operation `change->operation` of the change's domain into the journal; `committed_by` is the
 * domain whose state tells. Errors: as journal_begin.
 */
int undo_begin(struct change *change, const char *kind, uint64_t committed_by, const struct undo_list *list,
               struct error *err);

/* The same for what is no change of a domain that somebody asked for. */
int undo_begin_for(struct administration *administration, const struct domain *domain, uint64_t operation,
                   const char *kind, const struct undo_list *list, struct journal_operation **journal,
                   struct error *err);

/*
 * Ends an operation of undo_begin_for: what has happened is concluded in the QEMU of `qmp`, what has not is
 * undone. False: it is logged, and undo_again is to be tried.
 */
bool undo_end(struct administration *administration, struct journal_operation *journal, struct qmp *qmp,
              bool is_committed);

/*
 * Ends the operation of a change, if it has begun one: it has happened, or what was done is undone. False
 * where that can't be done: it is logged, and undo_again is to be tried; until that has succeeded nothing may
 * be done to the domain.
 */
bool undo_or_finish(struct change *change);

/* The domain, which is held in the catalog, stays so until undo_again has succeeded: nobody sees half a
 * change. */
void undo_keep_held(struct administration *administration, uint64_t domain);

/*
 * Tries again to end an operation of the domain that could not be ended when it should have been. To be
 * called by whoever owns the domain's lane, so that it is no operation under way. 0 also where there is none;
 * else nothing may be done to the domain.
 */
int undo_again(struct administration *administration, uint64_t domain, struct error *err);

/* All operations that the journal has: settles each. For the start. */
void undo_settle(struct administration *administration);
