// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The journal: what is being done to a domain, so that whoever starts after a crash can undo or complete it.
 *
 * An operation of a domain is one file, SOURCE/.vmsnapfs/journal/N.json with the domain's serial N, from
 * before its first step until it is settled; so a domain has at most one, and a damaged file still tells
 * whose it is. The file is replaced whole (replace_file.h): after a power cut during any call it reads as
 * before that call or as after it. What steps mean is the caller's matter. How one is used:
 *
 *     journal_begin       all steps are known
 *       step 0, journal_advance(0), step 1, journal_advance(1), …      each step can be repeated
 *     journal_conclude    the result, before it is replied
 *     journal_finish      after the reply, and all steps
 *
 * With the step at the commit point advanced over, the operation is committed: it is completed. Before, it is
 * undone: journal_conclude with an error, and only when that has succeeded, undo the step `next`, which
 * may have begun, and those before it, the last one first; then journal_finish. So also at start, for what
 * journal_open found (journal_is_committed tells which way).
 *
 * A call that fails leaves the operation in memory as it was. On disk it may read as before or after the
 * call, so repeat the call, or conclude; where that fails too, do nothing more to the domain: the next start
 * settles it. Errors: what open, write, fsync, rename and unlink give (ENOSPC, EIO, …), EROFS in a read-only
 * journal, EINVAL where the order above does not allow the call, ENOMEM.
 *
 * Any thread may call; one thread at a time for one operation. The store's lock is held, so that nobody else
 * writes.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "store/file_calls.h"

struct journal;
struct journal_operation;

/* A string of any bytes but zero, or, where that is NULL, a number. */
struct journal_argument {
    const char *string;
    uint64_t number;
};

struct journal_step {
    const char *type; /* a word: a-z, 0-9, hyphens */
    struct journal_argument *arguments;
    size_t argument_count;
};

struct journal_record {
    uint64_t domain;  /* its serial, from the counter */
    const char *uuid; /* of the domain; may be NULL */
    uint64_t serial;  /* of the operation, for the caller */
    const char *kind; /* a word */
    struct {
        uint64_t mount, id; /* of the FUSE request that asked for it; zeros where none did */
    } request;
    struct journal_step *steps;
    size_t step_count; /* at least 1 */
    size_t commit;     /* index of the step that, once advanced over, makes it committed */

    /* The journal's own; journal_begin does not look at them. */
    size_t next; /* the first step that is not surely done; step_count at the end */
    bool is_concluded;
    int code; /* the result: 0 or a positive errno */
    uint64_t value;
};

/* A file that is there and can't be used: it stays, and nothing may be done to its domain. */
struct journal_damage {
    uint64_t domain;
    bool is_newer; /* nothing is wrong with it, but we can't read it */
    char why[ERROR_TEXT_MAX];
};

/*
 * Reads the journal in `directory` (borrowed; store_journal_directory, -1 for an empty one that is only
 * read). Files that can't be used are no error, see journal_damage. With `calls` NULL the kernel's are used;
 * they must live as long as the journal. What was read is durable first, unless it is only read. Errors: EIO,
 * ENOMEM.
 */
int journal_open(int directory, bool read_only, const struct file_calls *calls, struct journal **journal,
                 struct error *err);

/* Frees it and its operations in memory. Nothing is lost on disk. May be NULL. */
void journal_close(struct journal *journal);

/* What journal_open could not use, `*count` of them, borrowed. */
const struct journal_damage *journal_damage(const struct journal *journal, size_t *count);

/*
 * The operations that are not finished: the `index`th, or NULL. Just after journal_open, those that a start
 * has to settle. Each that is begun or finished moves the others.
 */
struct journal_operation *journal_operation_at(struct journal *journal, size_t index);

/* The unfinished operation that this request asked for, or NULL. */
struct journal_operation *journal_find_request(struct journal *journal, uint64_t mount, uint64_t id);

/* As it is in memory; borrowed, changed by the calls below. */
const struct journal_record *journal_operation_record(const struct journal_operation *operation);

/* To be completed (true) or undone (false)? */
bool journal_is_committed(const struct journal_record *record);

/*
 * Writes the operation with all steps; it is durable when this returns. `record` is copied. `*operation`
 * belongs to the journal. Errors also: EBUSY, the domain has one that is not finished; EIO, its file is
 * damaged; EINVAL, E2BIG for what is no operation or over a limit of journal_json.h. After a failure none has
 * begun; if its file can't be taken away again, nothing begins in any domain until that has succeeded, and a
 * start finds it with no step done.
 */
int journal_begin(struct journal *journal, const struct journal_record *record,
                  struct journal_operation **operation, struct error *err);

/* Step `step`, which must be `next`, is done. Not after a conclusion with an error. */
int journal_advance(struct journal_operation *operation, size_t step, struct error *err);

/*
 * All steps are done, as something durable besides the journal tells, so that this need not be: it is not
 * written, and journal_finish is to follow, which does not wait for the removal either. After a power cut the
 * operation may be there again, as it was before this call, and that other thing has to tell still; until
 * journal_begin, of any operation, or journal_flush has succeeded. Not after a conclusion with an error.
 * EINVAL.
 */
int journal_complete(struct journal_operation *operation, struct error *err);

/*
 * Records the result for a request that is sent again: `code` 0, only when committed, or a positive errno,
 * only when not; `value` as the caller likes. Can't be changed afterwards.
 */
int journal_conclude(struct journal_operation *operation, int code, uint64_t value, struct error *err);

/*
 * Removes and frees the operation: all its steps are done, or it was concluded with an error and undone. On
 * failure it stays, and can only be finished again.
 */
int journal_finish(struct journal_operation *operation, struct error *err);

/* Makes all removals durable. */
int journal_flush(struct journal *journal, struct error *err);
