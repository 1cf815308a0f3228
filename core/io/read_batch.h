// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Reading several runs of files at once: one io_uring submission for all of them.
 *
 * Each thread has a small ring of its own, made when it first needs one and freed when it ends. Where the
 * kernel gives none (a seccomp filter, kernel.io_uring_disabled), the runs are read one after the other.
 * Any thread may call.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct read_run {
    int fd;
    uint64_t offset; /* in the file */
    void *buffer;
    size_t length; /* bytes */
    size_t done;   /* out: bytes that came; less than `length` only with an error */
    int result;    /* out: 0; -ENODATA where the file ended before; what reading gave */
};

/* Reads every run, whatever the others come to, and fills in `done` and `result` of each. Returns 0 if all
 * came to their full length, else the result of the first that did not. */
int read_batch(struct read_run *runs, size_t count);
