// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The file that a snapshot's memory is saved to: under a temporary name until it is whole and durable, so
 * that whoever finds the final one after a crash knows that it is.
 */
#pragma once

#include "administration/change.h"
#include "administration/undo/undo.h"
#include "image/overlay_name.h"
#include "io/compression_pipe.h"

struct memory_file {
    char *directory_path, *path; /* `path` is the final one, absolute */
    int directory, fd;           /* -1: not open */
    enum memory_compression compression;
    struct compression_pipe *pipe;
    bool is_made;
    char temporary[OVERLAY_NAME_SIZE];
    char final[OVERLAY_NAME_SIZE];
};

#define MEMORY_FILE_NONE ((struct memory_file){.directory = -1, .fd = -1})

/*
 * Where it is to lie and what it is called: `path` (absolute) as a person said, or, where that is NULL, in
 * the source, after the domain and the snapshot. `index` tells it from other new files of the operation.
 * Errors: EEXIST; EPERM for a place where it could not be read; EINVAL, ENAMETOOLONG for a name that would
 * mean something else.
 */
int memory_file_plan(struct memory_file *file, const struct change *change, const char *path,
                     const char *snapshot, enum memory_compression compression, size_t index,
                     struct error *err);

/* Makes it, empty, under its temporary name; then it can be noted. */
int memory_file_make(struct memory_file *file, struct error *err);
void memory_file_note(const struct memory_file *file, struct undo_list *list);

/*
 * `*fd` is what the memory is to be written to, to be closed by the caller, also where it comes to nothing.
 */
int memory_file_open(struct memory_file *file, int *fd, struct error *err);

/* Bytes in it by now. */
uint64_t memory_file_size(const struct memory_file *file);

/* All was written: makes it durable, and gives it its name. Errors: ENOSPC, EIO, EEXIST. */
int memory_file_publish(struct memory_file *file, struct error *err);

/* Nothing more is to be written, whoever still wants to. `why` is as of compression_pipe_abort. */
void memory_file_abort(struct memory_file *file, struct error *why);

/* As the store is to know it; before it was published, without what it was saved as. -ENOMEM. */
int memory_file_record(const struct memory_file *file, const struct change *change,
                       struct state_memory *record, struct error *err);

/* Closes everything. A file that never got its name is removed. */
void memory_file_done(struct memory_file *file);
