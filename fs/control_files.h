// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Control files that are open: what a reader of each is shown, the documents that were begun in them, and in
 * which of them a command runs.
 *
 * While a command runs in a control file, a second opener for writing waits. Nothing here waits: who must is
 * remembered, and called when the file is free. Any thread; no call is made with a lock held.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"
#include "operation/command_document.h"

struct control_files;

/* Somebody who waits for a control file, in the caller's memory. */
struct control_waiter {
    struct control_waiter *next;
    uint64_t node;
    /* The file is free: 0, or -ECANCELED: nobody is let in any more. The waiter is the callee's again. */
    void (*ready)(struct control_waiter *waiter, int result);
};

struct control_files *control_files_new(void); /* NULL where memory ran out */
void control_files_free(struct control_files *files);

/* ---- The gate ---- */

/* 0: no command runs there, the caller may go on. -EINPROGRESS: the waiter waits, and will be called, unless
 * it gives up first. -ECANCELED after control_files_end. Without a waiter (NULL): -EBUSY. */
int control_files_enter(struct control_files *files, uint64_t node, struct control_waiter *waiter);

/* True if it still waited, and does no more; false if it was called or is being called. */
bool control_files_give_up(struct control_files *files, struct control_waiter *waiter);

/* A command begins to run in the file. */
void control_files_begin(struct control_files *files, uint64_t node);

/* It ended; what it came to is remembered as the last result of this file. Lets in those who wait, if no
 * other one runs. The text is taken over. */
void control_files_finish(struct control_files *files, uint64_t node, struct text *result);

/* Sends away who waits, and whoever comes. */
void control_files_end(struct control_files *files);

/* Appends the last result of the file; nothing if there was none. The last few hundred are kept. */
void control_files_last_result(struct control_files *files, uint64_t node, struct text *text);

/* ---- Open files ---- */

/* Takes over the text that is read, and gives a handle, never 0; 0 where memory ran out. */
uint64_t control_files_open(struct control_files *files, struct text *text);

/* Closes it. `*missing` is set to what is missing in a document that was begun there, or NULL. Static. */
void control_files_close(struct control_files *files, uint64_t handle, const char **missing);

/*
 * What was written to a file that takes documents, up to offset `stop`. 0 and in `*document`, which is empty
 * before and the caller's then: words as they are, or all of a document that is complete with this piece.
 * -EAGAIN if more is to come, or only blanks came after a document. Errors, with a sentence: E2BIG, EINVAL,
 * EBADF, ENOMEM; what was begun is forgotten then, and whatever else is written before the file is closed is
 * refused the same way: it would be the rest of a document, and must not be taken for words.
 */
int control_files_add(struct control_files *files, uint64_t handle, const char *bytes, size_t length,
                      uint64_t stop, struct text *document, struct error *err);

/* One of those who have the file open closes it. True if a document is complete with that; then as above, and
 * `*stop` is where its last piece ended. */
bool control_files_flush(struct control_files *files, uint64_t handle, struct text *document, uint64_t *stop);

/* From now on this is what is read: what the command came to that was written up to offset `end`. Taken over.
 */
void control_files_answer(struct control_files *files, uint64_t handle, struct text *text, uint64_t end);

/*
 * Copies up to `size` bytes at `offset`; returns how many; -EBADF. Who goes on where his write ended (a shell
 * that has the file open for both) is given the answer from its beginning, as is who begins at 0.
 */
int64_t control_files_read(struct control_files *files, uint64_t handle, uint64_t offset, void *buffer,
                           size_t size);
