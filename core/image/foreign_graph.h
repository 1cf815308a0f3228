// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What QEMU is told about a foreign image: a block graph in which every file is one that was opened and
 * checked here, and is named by its descriptor.
 *
 * Nothing is left to QEMU's guesses. The format is the one that we were told; `backing` is spelled out or
 * null; and the descriptor of a .vmdk, which names other files, is replaced by one that we write, so that it
 * does not matter what becomes of the real one, or of those names, afterwards.
 *
 * One thing is read twice, by us and by QEMU: the header of a sparse .vmdk extent. Who writes to the image in
 * between can make QEMU follow names after all. Then the sandbox stands: it reaches the files of this image
 * and the system's libraries, which anybody may read.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "base/file_identity.h"
#include "image/layer_reader.h"

#define FOREIGN_PARENTS_MAX 32 /* VMware's own limit is 32 files in a chain */

struct foreign_graph {
    char *json;
    int *fds; /* its files: those in the graph are /proc/self/fd/(NBD_HELPER_FIRST_FD + i) */
    struct file_identity *identities;
    bool *watched; /* not those that we made */
    size_t count;
};

/*
 * Makes the graph of the image of `request`, open as `fd`, which becomes fds[0] and is taken over on success
 * only. Errors: EPERM for what is not allowed to be read; EOPNOTSUPP for what stands on other images in a way
 * that QEMU does not follow, and for encrypted images; EINVAL, E2BIG, ENOENT, EIO, ENOMEM.
 */
int foreign_graph_build(const struct layer_request *request, int fd, struct foreign_graph *graph,
                        struct error *err);
void foreign_graph_done(struct foreign_graph *graph);

/* 0 while all its files are as they were when the graph was built; else -EIO. */
int foreign_graph_check(const struct foreign_graph *graph);
